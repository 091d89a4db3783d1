//! Blocks of 4-bit codes: a table of 16 bytes lies in each lane of a register, and one shuffle looks
//! up 16 codes in it.
//!
//! Looked-up bytes are added as 16-bit numbers as they lie: `all` gathers even rows plus 256 times
//! the odd ones, `odd` the odd ones alone, and what is left of `all` without `odd` are the even ones.
//! That is exact modulo 65,536, at two additions for 16 codes.
//!
//! # Source
//! André, Kermarrec, Le Scouarnec 2015, "Cache locality is not enough", §4, for the tables in
//! registers.

use core::arch::x86_64::*;

use super::{BLOCK_ROWS, BlockQuery, LINE_BYTES};

/// Undoes the sharing of `all` and puts the rows of two halves in order: rows 0 to 7, and 8 to 15.
#[target_feature(enable = "avx2")]
#[inline]
fn in_order(all: __m128i, odd: __m128i) -> [__m128i; 2] {
    let even = _mm_sub_epi16(all, _mm_slli_epi16::<8>(odd));
    [_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd)]
}

#[target_feature(enable = "avx2")]
#[inline]
fn fold_avx2(sum: __m256i) -> __m128i {
    _mm_add_epi16(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    )
}

/// # Safety
/// Needs AVX-512F and BW; block and tables equally many whole lines.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
pub(super) unsafe fn score_block_avx512(
    block: &[u8],
    query: &BlockQuery<'_>,
    add: &[f32; BLOCK_ROWS],
    keys: &mut [f32; BLOCK_ROWS],
) -> u32 {
    let low = _mm512_set1_epi8(15);
    let mut all = [_mm512_setzero_si512(); 2];
    let mut odd = [_mm512_setzero_si512(); 2];
    let mut at = 0;
    while at < block.len() {
        // SAFETY: by the contract whole lines from `at` lie inside both.
        let (codes, table) = unsafe {
            (
                _mm512_loadu_si512(block.as_ptr().add(at).cast()),
                _mm512_loadu_si512(query.tables.as_ptr().add(at).cast()),
            )
        };
        let halves = [
            _mm512_and_si512(codes, low),
            _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low),
        ];
        for (half, codes) in halves.into_iter().enumerate() {
            let found = _mm512_shuffle_epi8(table, codes);
            all[half] = _mm512_add_epi16(all[half], found);
            odd[half] = _mm512_add_epi16(odd[half], _mm512_srli_epi16::<8>(found));
        }
        at += LINE_BYTES;
    }
    let fold = |sum: __m512i| {
        let upper = _mm512_extracti64x4_epi64::<1>(sum);
        fold_avx2(_mm256_add_epi16(_mm512_castsi512_si256(sum), upper))
    };
    let (base, step) = (_mm512_set1_ps(query.base), _mm512_set1_ps(query.step));
    let limit = _mm512_set1_ps(query.limit);
    let mut wanted = 0;
    for half in 0..2 {
        let [first, second] = in_order(fold(all[half]), fold(odd[half]));
        let sums = _mm512_cvtepu16_epi32(_mm256_set_m128i(second, first));
        let scaled = _mm512_mul_ps(step, _mm512_cvtepi32_ps(sums));
        // SAFETY: 16 values from 0 or 16 on lie inside both arrays of 32.
        let key = unsafe {
            let add = _mm512_loadu_ps(add.as_ptr().add(16 * half));
            let key = _mm512_add_ps(base, _mm512_add_ps(add, scaled));
            _mm512_storeu_ps(keys.as_mut_ptr().add(16 * half), key);
            key
        };
        let mask = _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(key, limit);
        wanted |= u32::from(mask) << (16 * half);
    }
    wanted
}

/// # Safety
/// Needs AVX2; block and tables equally many whole lines.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn score_block_avx2(
    block: &[u8],
    query: &BlockQuery<'_>,
    add: &[f32; BLOCK_ROWS],
    keys: &mut [f32; BLOCK_ROWS],
) -> u32 {
    let low = _mm256_set1_epi8(15);
    let mut all = [_mm256_setzero_si256(); 2];
    let mut odd = [_mm256_setzero_si256(); 2];
    let mut at = 0;
    while at < block.len() {
        // SAFETY: by the contract whole lines from `at` lie inside both, and 32 bytes are half of one.
        let (codes, table) = unsafe {
            (
                _mm256_loadu_si256(block.as_ptr().add(at).cast()),
                _mm256_loadu_si256(query.tables.as_ptr().add(at).cast()),
            )
        };
        let halves = [
            _mm256_and_si256(codes, low),
            _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low),
        ];
        for (half, codes) in halves.into_iter().enumerate() {
            let found = _mm256_shuffle_epi8(table, codes);
            all[half] = _mm256_add_epi16(all[half], found);
            odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16::<8>(found));
        }
        at += LINE_BYTES / 2;
    }
    let (base, step) = (_mm256_set1_ps(query.base), _mm256_set1_ps(query.step));
    let limit = _mm256_set1_ps(query.limit);
    let mut wanted = 0;
    for half in 0..2 {
        let quarters = in_order(fold_avx2(all[half]), fold_avx2(odd[half]));
        for (quarter, sums) in quarters.into_iter().enumerate() {
            let at = 16 * half + 8 * quarter;
            let scaled = _mm256_mul_ps(step, _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums)));
            // SAFETY: 8 values from `at`, 24 at most, lie inside both arrays of 32.
            let key = unsafe {
                let add = _mm256_loadu_ps(add.as_ptr().add(at));
                let key = _mm256_add_ps(base, _mm256_add_ps(add, scaled));
                _mm256_storeu_ps(keys.as_mut_ptr().add(at), key);
                key
            };
            let mask = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NGT_UQ>(key, limit));
            wanted |= (mask as u32) << at;
        }
    }
    wanted
}
