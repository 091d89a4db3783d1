//! The plain Rust twins: what the other kernels must agree with, and what runs where there is no
//! vector unit we know.

use half::{bf16, f16};

use super::{BLOCK_ROWS, BlockQuery, HALVES_BYTES, Half, Kernels, check_block};

pub(super) const KERNELS: Kernels = Kernels {
    name: "scalar",
    l2_f32: l2::<f32>,
    ip_f32: ip::<f32>,
    l2_f16: l2::<f16>,
    ip_f16: ip::<f16>,
    l2_bf16: l2::<bf16>,
    ip_bf16: ip::<bf16>,
    l2_i8,
    ip_i8,
    hamming,
    common_bits,
    dot_rows,
    dots_and_squares: None,
    dot_halves,
    dot_codes,
    score_block,
};

/// Independent sums, so that the compiler may use whatever vector registers the baseline has.
const LANES: usize = 8;

fn fold<T: Copy + Into<f32>>(a: &[T], b: &[T], term: impl Fn(f32, f32) -> f32) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    let mut sums = [0f32; LANES];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a_chunk, b_chunk) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += term(a_chunk[lane].into(), b_chunk[lane].into());
        }
    }
    let tail: f32 = a_tail
        .iter()
        .zip(b_tail)
        .map(|(x, y)| term((*x).into(), (*y).into()))
        .sum();
    sums.iter().sum::<f32>() + tail
}

fn l2<T: Copy + Into<f32>>(a: &[T], b: &[T]) -> f32 {
    fold(a, b, |x, y| (x - y) * (x - y))
}

fn ip<T: Copy + Into<f32>>(a: &[T], b: &[T]) -> f32 {
    fold(a, b, |x, y| x * y)
}

fn pairs<'a, T: Copy>(a: &'a [T], b: &'a [T]) -> impl Iterator<Item = (T, T)> + 'a {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    a.iter().copied().zip(b.iter().copied())
}

fn l2_i8(a: &[i8], b: &[i8]) -> i32 {
    pairs(a, b)
        .map(|(x, y)| (i32::from(x) - i32::from(y)).pow(2))
        .sum()
}

fn ip_i8(a: &[i8], b: &[i8]) -> i32 {
    pairs(a, b).map(|(x, y)| i32::from(x) * i32::from(y)).sum()
}

fn hamming(a: &[u8], b: &[u8]) -> u32 {
    pairs(a, b).map(|(x, y)| (x ^ y).count_ones()).sum()
}

fn common_bits(a: &[u8], b: &[u8]) -> (u32, u32) {
    pairs(a, b).fold((0, 0), |(both, either), (x, y)| {
        (both + (x & y).count_ones(), either + (x | y).count_ones())
    })
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

/// No sum depends on another one within a group, so the compiler may use what vector registers there are.
pub(super) fn dot_halves(
    codes: &[u8],
    stride: usize,
    half: Half,
    rows: &[u32],
    query: &[i8],
    out: &mut [i32],
) {
    assert_eq!(query.len(), stride, "query is not padded to the stride");
    assert_eq!(rows.len(), out.len(), "one result a row");
    let (factors, _) = query.as_chunks::<{ 2 * HALVES_BYTES }>();
    for (row, dot) in rows.iter().zip(out) {
        let start = *row as usize * stride + half.offset(stride);
        let (groups, _) = codes[start..][..stride / 2].as_chunks::<HALVES_BYTES>();
        let group_dot = |(group, factors): (&[u8; HALVES_BYTES], &[i8; 2 * HALVES_BYTES])| {
            let (first, second) = factors.split_at(HALVES_BYTES);
            let low = group
                .iter()
                .zip(first)
                .map(|(byte, x)| i32::from(byte & 15) * i32::from(*x));
            let high = group
                .iter()
                .zip(second)
                .map(|(byte, x)| i32::from(byte >> 4) * i32::from(*x));
            low.sum::<i32>() + high.sum::<i32>()
        };
        *dot = groups.iter().zip(factors).map(group_dot).sum();
    }
}

fn dot_codes(a: &[u8], b: &[u8]) -> i32 {
    pairs(a, b)
        .map(|(x, y)| i32::from(x) * (i32::from(y) - 128))
        .sum()
}

fn score_block(
    block: &[u8],
    query: &BlockQuery<'_>,
    add: &[f32; BLOCK_ROWS],
    keys: &mut [f32; BLOCK_ROWS],
) -> u32 {
    check_block(block, query);
    let mut sums = [0u16; BLOCK_ROWS];
    let (parts, _) = block.as_chunks::<16>();
    let (tables, _) = query.tables.as_chunks::<16>();
    for (codes, table) in parts.iter().zip(tables) {
        for (i, code) in codes.iter().enumerate() {
            sums[i] = sums[i].wrapping_add(u16::from(table[usize::from(code & 15)]));
            sums[16 + i] = sums[16 + i].wrapping_add(u16::from(table[usize::from(code >> 4)]));
        }
    }
    let mut wanted = 0;
    for i in 0..BLOCK_ROWS {
        keys[i] = query.base + (add[i] + query.step * f32::from(sums[i]));
        // Not "below or equal": a key that is no number must not hide its row.
        let is_above = keys[i] > query.limit;
        wanted |= u32::from(!is_above) << i;
    }
    wanted
}
