//! int8 vectors: widened to 16 bits, multiplied and added in pairs to 32.

use core::arch::x86_64::*;

use super::sum_i32_avx2;

/// One reduction with AVX-512: two independent sums over 64 values, then a masked rest.
macro_rules! reduce_avx512 {
    ($name:ident, $features:literal, |$sum:ident, $x:ident, $y:ident| $step:expr) => {
        /// # Safety
        /// Needs the features and slices of equal length.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(a: &[i8], b: &[i8]) -> i32 {
            let step = |$sum: __m512i, $x: __m512i, $y: __m512i| $step;
            let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
            let mut sums = [_mm512_setzero_si512(); 2];
            let mut i = 0;
            // SAFETY: each load reads 32 values at an offset that the loop condition keeps inside
            // both slices; the last, masked one touches only the `len - i` lanes that exist.
            unsafe {
                let load = |mask: u32, from: *const i8| {
                    _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, from))
                };
                while i + 32 <= len {
                    let x = load(u32::MAX, a_start.add(i));
                    let y = load(u32::MAX, b_start.add(i));
                    let lane = i / 32 % 2;
                    sums[lane] = step(sums[lane], x, y);
                    i += 32;
                }
                if i < len {
                    let mask = (1u32 << (len - i)) - 1;
                    let (x, y) = (load(mask, a_start.add(i)), load(mask, b_start.add(i)));
                    sums[0] = step(sums[0], x, y);
                }
            }
            _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
        }
    };
}

reduce_avx512!(
    l2_i8_vnni,
    "avx512f,avx512bw,avx512vl,avx512vnni",
    |sum, x, y| {
        let difference = _mm512_sub_epi16(x, y);
        _mm512_dpwssd_epi32(sum, difference, difference)
    }
);
reduce_avx512!(
    ip_i8_vnni,
    "avx512f,avx512bw,avx512vl,avx512vnni",
    |sum, x, y| _mm512_dpwssd_epi32(sum, x, y)
);
reduce_avx512!(l2_i8_avx512, "avx512f,avx512bw,avx512vl", |sum, x, y| {
    let difference = _mm512_sub_epi16(x, y);
    _mm512_add_epi32(sum, _mm512_madd_epi16(difference, difference))
});
reduce_avx512!(ip_i8_avx512, "avx512f,avx512bw,avx512vl", |sum, x, y| {
    _mm512_add_epi32(sum, _mm512_madd_epi16(x, y))
});

/// One reduction with AVX2: two independent sums over 32 values, then one by one.
macro_rules! reduce_avx2 {
    ($name:ident, |$x:ident, $y:ident| $pairs:expr, |$p:ident, $q:ident| $term:expr) => {
        /// # Safety
        /// Needs AVX2 and slices of equal length.
        #[target_feature(enable = "avx2")]
        pub(super) unsafe fn $name(a: &[i8], b: &[i8]) -> i32 {
            let pairs = |$x: __m256i, $y: __m256i| $pairs;
            let mut sums = [_mm256_setzero_si256(); 2];
            let (a_chunks, a_rest) = a.as_chunks::<16>();
            let (b_chunks, b_rest) = b.as_chunks::<16>();
            for (i, (x, y)) in a_chunks.iter().zip(b_chunks).enumerate() {
                // SAFETY: both chunks are 16 bytes long.
                let (x, y) = unsafe {
                    (
                        _mm_loadu_si128(x.as_ptr().cast()),
                        _mm_loadu_si128(y.as_ptr().cast()),
                    )
                };
                let products = pairs(_mm256_cvtepi8_epi16(x), _mm256_cvtepi8_epi16(y));
                sums[i % 2] = _mm256_add_epi32(sums[i % 2], products);
            }
            let rest: i32 = a_rest
                .iter()
                .zip(b_rest)
                .map(|(p, q)| {
                    let ($p, $q) = (i32::from(*p), i32::from(*q));
                    $term
                })
                .sum();
            sum_i32_avx2(_mm256_add_epi32(sums[0], sums[1])) + rest
        }
    };
}

reduce_avx2!(
    l2_i8_avx2,
    |x, y| {
        let difference = _mm256_sub_epi16(x, y);
        _mm256_madd_epi16(difference, difference)
    },
    |p, q| (p - q) * (p - q)
);
reduce_avx2!(ip_i8_avx2, |x, y| _mm256_madd_epi16(x, y), |p, q| p * q);
