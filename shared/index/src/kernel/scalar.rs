//! The plain Rust twins: what the other kernels must agree with, and what runs where there is no
//! vector unit we know.

use super::Kernels;

pub(super) static KERNELS: Kernels = Kernels {
    name: "scalar",
    l2_f32,
    ip_f32,
    dot_rows,
    dot_codes,
};

/// Independent sums, so that the compiler may use whatever vector registers the baseline has.
const LANES: usize = 8;

fn fold(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    let mut sums = [0f32; LANES];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a_chunk, b_chunk) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += term(a_chunk[lane], b_chunk[lane]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| term(*x, *y)).sum();
    sums.iter().sum::<f32>() + tail
}

fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    fold(a, b, |x, y| (x - y) * (x - y))
}

fn ip_f32(a: &[f32], b: &[f32]) -> f32 {
    fold(a, b, |x, y| x * y)
}

fn dot_row(row: &[u8], query: &[i8]) -> i32 {
    row.iter()
        .zip(query)
        .map(|(code, factor)| i32::from(*code) * i32::from(*factor))
        .sum()
}

fn dot_rows(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    assert_eq!(query.len(), stride, "query is not padded to the stride");
    assert_eq!(rows.len(), out.len(), "one result a row");
    for (row, dot) in rows.iter().zip(out) {
        *dot = dot_row(&codes[*row as usize * stride..][..stride], query);
    }
}

fn dot_codes(a: &[u8], b: &[u8]) -> i32 {
    assert_eq!(a.len(), b.len(), "rows of different strides");
    a.iter()
        .zip(b)
        .map(|(x, y)| i32::from(*x) * (i32::from(*y) - 128))
        .sum()
}
