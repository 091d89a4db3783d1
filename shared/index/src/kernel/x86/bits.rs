//! Bit vectors.

use core::arch::x86_64::*;

use super::LINE_BYTES;

/// Calls `visit` with each 512 bits of both rows, the last padded with zeros.
///
/// # Safety
/// Needs AVX-512F and BW, and rows of equal length.
macro_rules! each_line {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $visit:expr) => {
        let len = $a.len();
        let mut i = 0;
        while i < len {
            let mask = match len - i {
                left if left >= LINE_BYTES => u64::MAX,
                left => (1u64 << left) - 1,
            };
            // SAFETY: the mask lets the loads touch only the bytes that both rows have at `i`.
            let ($x, $y) = unsafe {
                (
                    _mm512_maskz_loadu_epi8(mask, $a.as_ptr().add(i).cast()),
                    _mm512_maskz_loadu_epi8(mask, $b.as_ptr().add(i).cast()),
                )
            };
            $visit;
            i += LINE_BYTES;
        }
    };
}

/// # Safety
/// Needs AVX-512F, BW and VPOPCNTDQ, and rows of equal length.
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
pub(super) unsafe fn hamming_popcnt(a: &[u8], b: &[u8]) -> u32 {
    let mut sum = _mm512_setzero_si512();
    each_line!(a, b, |x, y| {
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
    });
    _mm512_reduce_add_epi64(sum) as u32
}

/// # Safety
/// Needs AVX-512F, BW and VPOPCNTDQ, and rows of equal length.
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
pub(super) unsafe fn common_bits_popcnt(a: &[u8], b: &[u8]) -> (u32, u32) {
    let mut sums = [_mm512_setzero_si512(); 2];
    each_line!(a, b, |x, y| {
        sums[0] = _mm512_add_epi64(sums[0], _mm512_popcnt_epi64(_mm512_and_si512(x, y)));
        sums[1] = _mm512_add_epi64(sums[1], _mm512_popcnt_epi64(_mm512_or_si512(x, y)));
    });
    let [both, either] = sums.map(|sum| _mm512_reduce_add_epi64(sum) as u32);
    (both, either)
}

/// Word by word with the `popcnt` instruction, which keeps up with AVX2's table look-ups.
///
/// # Safety
/// Needs POPCNT and rows of equal length.
#[target_feature(enable = "popcnt")]
pub(super) unsafe fn hamming_avx2(a: &[u8], b: &[u8]) -> u32 {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let words: u32 = a_words
        .iter()
        .zip(b_words)
        .map(|(x, y)| (u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y)).count_ones())
        .sum();
    let rest: u32 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(x, y)| (x ^ y).count_ones())
        .sum();
    words + rest
}

/// # Safety
/// Needs POPCNT and rows of equal length.
#[target_feature(enable = "popcnt")]
pub(super) unsafe fn common_bits_avx2(a: &[u8], b: &[u8]) -> (u32, u32) {
    let (mut both, mut either) = (0, 0);
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_words.iter().zip(b_words) {
        let (x, y) = (u64::from_le_bytes(*x), u64::from_le_bytes(*y));
        both += (x & y).count_ones();
        either += (x | y).count_ones();
    }
    for (x, y) in a_rest.iter().zip(b_rest) {
        both += (x & y).count_ones();
        either += (x | y).count_ones();
    }
    (both, either)
}
