//! AVX2 and AVX-512 kernels.
//!
//! Every entry of a table is a safe function that checks its arguments and ends in a
//! `#[target_feature]` one; a table is only handed out by [`available`], after the processor was asked
//! for exactly the features that its functions need.
//!
//! Halves are widened and summed in f32. AVX512-FP16 multiplies and adds them as they are, so its sums
//! have 11 bits: of a few hundred dimensions that is no distance any more, and the comparison with the
//! scalar twin would fail. AVX512-BF16 sums in f32 and is used for products; for L2 there is nothing in
//! it, since the difference of two bf16 is none, and `|a|² + |b|² − 2ab` of near rows is all rounding.

mod bits;
mod blocks;
mod codes;
mod floats;
mod int8;

use core::arch::x86_64::*;

use half::{bf16, f16};

use super::{BLOCK_ROWS, BlockQuery, Half, Kernels, LINE_BYTES, check_block};

/// The tables this processor can run, fastest first.
pub(super) fn available() -> Vec<Kernels> {
    let has_avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt");
    let has_avx512 = has_avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    let mut found = Vec::new();
    if has_avx512 {
        let mut newest = AVX512;
        if is_x86_feature_detected!("avx512vpopcntdq") {
            newest.hamming = hamming_popcnt;
            newest.common_bits = common_bits_popcnt;
        }
        if is_x86_feature_detected!("avx512bf16") {
            newest.ip_bf16 = ip_bf16_dot;
        }
        if is_x86_feature_detected!("avx512vnni") {
            newest.name = "avx512vnni";
            newest.l2_i8 = l2_i8_vnni;
            newest.ip_i8 = ip_i8_vnni;
            newest.dot_rows = dot_rows_vnni;
            newest.dots_and_squares = Some(dots_and_squares_vnni);
            newest.dot_halves = dot_halves_vnni;
            newest.dot_codes = dot_codes_vnni;
        }
        found.push(newest);
        found.push(AVX512);
    }
    if has_avx2 {
        found.push(AVX2);
    }
    found
}

/// What every processor with AVX-512F, BW and VL can run.
const AVX512: Kernels = Kernels {
    name: "avx512",
    l2_f32: l2_f32_avx512,
    ip_f32: ip_f32_avx512,
    l2_f16: l2_f16_avx512,
    ip_f16: ip_f16_avx512,
    l2_bf16: l2_bf16_avx512,
    ip_bf16: ip_bf16_avx512,
    l2_i8: l2_i8_avx512,
    ip_i8: ip_i8_avx512,
    score_block: score_block_avx512,
    ..AVX2
};

/// What every processor with AVX2, FMA, F16C and POPCNT can run.
const AVX2: Kernels = Kernels {
    name: "avx2",
    l2_f32: l2_f32_avx2,
    ip_f32: ip_f32_avx2,
    l2_f16: l2_f16_avx2,
    ip_f16: ip_f16_avx2,
    l2_bf16: l2_bf16_avx2,
    ip_bf16: ip_bf16_avx2,
    l2_i8: l2_i8_avx2,
    ip_i8: ip_i8_avx2,
    hamming: hamming_avx2,
    common_bits: common_bits_avx2,
    dot_rows: dot_rows_avx2,
    dots_and_squares: None,
    dot_halves: dot_halves_avx2,
    dot_codes: dot_codes_avx2,
    score_block: score_block_avx2,
};

/// The safe entry of a kernel of two vectors.
macro_rules! entry {
    ($name:ident, $module:ident, $item:ty => $out:ty) => {
        fn $name(a: &[$item], b: &[$item]) -> $out {
            assert_eq!(a.len(), b.len(), "vectors of different dimensions");
            // SAFETY: the tables that name this entry are only handed out after the features of the
            // kernel were detected; the lengths are equal.
            unsafe { $module::$name(a, b) }
        }
    };
}

entry!(l2_f32_avx512, floats, f32 => f32);
entry!(ip_f32_avx512, floats, f32 => f32);
entry!(l2_f32_avx2, floats, f32 => f32);
entry!(ip_f32_avx2, floats, f32 => f32);
entry!(l2_f16_avx512, floats, f16 => f32);
entry!(ip_f16_avx512, floats, f16 => f32);
entry!(l2_f16_avx2, floats, f16 => f32);
entry!(ip_f16_avx2, floats, f16 => f32);
entry!(l2_bf16_avx512, floats, bf16 => f32);
entry!(ip_bf16_avx512, floats, bf16 => f32);
entry!(ip_bf16_dot, floats, bf16 => f32);
entry!(l2_bf16_avx2, floats, bf16 => f32);
entry!(ip_bf16_avx2, floats, bf16 => f32);
entry!(l2_i8_vnni, int8, i8 => i32);
entry!(ip_i8_vnni, int8, i8 => i32);
entry!(l2_i8_avx512, int8, i8 => i32);
entry!(ip_i8_avx512, int8, i8 => i32);
entry!(l2_i8_avx2, int8, i8 => i32);
entry!(ip_i8_avx2, int8, i8 => i32);
entry!(hamming_popcnt, bits, u8 => u32);
entry!(hamming_avx2, bits, u8 => u32);
entry!(common_bits_popcnt, bits, u8 => (u32, u32));
entry!(common_bits_avx2, bits, u8 => (u32, u32));
entry!(dot_codes_vnni, codes, u8 => i32);
entry!(dot_codes_avx2, codes, u8 => i32);

fn check_rows(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &[i32]) {
    assert_eq!(query.len(), stride, "query is not padded to the stride");
    assert_eq!(
        stride % LINE_BYTES,
        0,
        "stride is not padded to a cache line"
    );
    assert_eq!(rows.len(), out.len(), "one result a row");
    let count = codes.len() / stride.max(1);
    let furthest = rows.iter().copied().max().unwrap_or(0) as usize;
    assert!(
        rows.is_empty() || furthest < count,
        "row {furthest} of {count}"
    );
}

fn dot_rows_vnni(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    check_rows(codes, stride, rows, query, out);
    // SAFETY: VNNI was detected before this table was handed out; `check_rows` proved that each row
    // lies inside the codes and that stride, query and results fit each other.
    unsafe { codes::dot_rows_vnni(codes, stride, rows, query, out) }
}

fn dots_and_squares_vnni(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    dots: &mut [i32],
    squares: &mut [i32],
) {
    check_rows(codes, stride, rows, query, dots);
    assert_eq!(rows.len(), squares.len(), "one square a row");
    // SAFETY: VNNI was detected before this table was handed out; `check_rows` proved that each row
    // lies inside the codes and that stride, query and results fit each other.
    unsafe { codes::dots_and_squares_vnni(codes, stride, rows, query, dots, squares) }
}

fn dot_rows_avx2(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    check_rows(codes, stride, rows, query, out);
    // SAFETY: AVX2 was detected before this table was handed out; `check_rows` proved that each row
    // lies inside the codes and that stride, query and results fit each other.
    unsafe { codes::dot_rows_avx2(codes, stride, rows, query, out) }
}

macro_rules! halves_entry {
    ($name:ident) => {
        fn $name(
            codes: &[u8],
            stride: usize,
            half: Half,
            rows: &[u32],
            query: &[i8],
            out: &mut [i32],
        ) {
            check_rows(codes, stride, rows, query, out);
            // SAFETY: the tables that name this entry are only handed out after the features of the kernel were
            // detected; `check_rows` proved that each row lies inside the codes and that stride, query and results
            // fit each other, and a half begins at most half a stride into its row.
            unsafe { codes::$name(&codes[half.offset(stride)..], stride, rows, query, out) }
        }
    };
}

halves_entry!(dot_halves_vnni);
halves_entry!(dot_halves_avx2);

macro_rules! block_entry {
    ($name:ident) => {
        fn $name(
            block: &[u8],
            query: &BlockQuery<'_>,
            add: &[f32; BLOCK_ROWS],
            keys: &mut [f32; BLOCK_ROWS],
        ) -> u32 {
            check_block(block, query);
            // SAFETY: the tables that name this entry are only handed out after the features of the
            // kernel were detected; block and tables are equally many whole lines.
            unsafe { blocks::$name(block, query, add, keys) }
        }
    };
}

block_entry!(score_block_avx512);
block_entry!(score_block_avx2);

#[target_feature(enable = "avx2")]
fn sum_f32_avx2(sum: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
}

#[target_feature(enable = "avx2")]
fn sum_i32_avx2(sum: __m256i) -> i32 {
    let half = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
    _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32::<1>(pair)))
}
