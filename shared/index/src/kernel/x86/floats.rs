//! f32, f16 and bf16: the halves are widened to f32 as they are loaded.

use core::arch::x86_64::*;

use half::{bf16, f16};

use super::sum_f32_avx2;

/// One reduction with AVX-512: four independent sums over 64 values, then 16, then a masked rest.
macro_rules! reduce_avx512 {
    ($name:ident, $item:ty, $load:ident, |$sum:ident, $x:ident, $y:ident| $step:expr) => {
        /// # Safety
        /// Needs AVX-512F, BW and VL, and slices of equal length.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        pub(super) unsafe fn $name(a: &[$item], b: &[$item]) -> f32 {
            let step = |$sum: __m512, $x: __m512, $y: __m512| $step;
            let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
            let mut sums = [_mm512_setzero_ps(); 4];
            let mut i = 0;
            // SAFETY: each load reads 16 values at an offset that the loop condition keeps inside
            // both slices; the last, masked one touches only the `len - i` lanes that exist.
            unsafe {
                while i + 64 <= len {
                    for lane in 0..4 {
                        let x = $load(u16::MAX, a_start.add(i + 16 * lane));
                        let y = $load(u16::MAX, b_start.add(i + 16 * lane));
                        sums[lane] = step(sums[lane], x, y);
                    }
                    i += 64;
                }
                while i + 16 <= len {
                    let x = $load(u16::MAX, a_start.add(i));
                    let y = $load(u16::MAX, b_start.add(i));
                    sums[0] = step(sums[0], x, y);
                    i += 16;
                }
                if i < len {
                    let mask = (1u16 << (len - i)) - 1;
                    let x = $load(mask, a_start.add(i));
                    let y = $load(mask, b_start.add(i));
                    sums[1] = step(sums[1], x, y);
                }
            }
            let low = _mm512_add_ps(sums[0], sums[1]);
            let high = _mm512_add_ps(sums[2], sums[3]);
            _mm512_reduce_add_ps(_mm512_add_ps(low, high))
        }
    };
}

macro_rules! l2_avx512 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_avx512!($name, $item, $load, |sum, x, y| {
            let difference = _mm512_sub_ps(x, y);
            _mm512_fmadd_ps(difference, difference, sum)
        });
    };
}

macro_rules! ip_avx512 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_avx512!($name, $item, $load, |sum, x, y| _mm512_fmadd_ps(x, y, sum));
    };
}

l2_avx512!(l2_f32_avx512, f32, f32_512);
ip_avx512!(ip_f32_avx512, f32, f32_512);
l2_avx512!(l2_f16_avx512, f16, f16_512);
ip_avx512!(ip_f16_avx512, f16, f16_512);
l2_avx512!(l2_bf16_avx512, bf16, bf16_512);
ip_avx512!(ip_bf16_avx512, bf16, bf16_512);

/// # Safety
/// The values of the mask's lanes are inside one allocation; needs the features.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn f32_512(mask: u16, from: *const f32) -> __m512 {
    // SAFETY: by the contract.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

/// # Safety
/// As [`f32_512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn f16_512(mask: u16, from: *const f16) -> __m512 {
    // SAFETY: by the contract.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
}

/// # Safety
/// As [`f32_512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn bf16_512(mask: u16, from: *const bf16) -> __m512 {
    // SAFETY: by the contract.
    let halves = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
    // A bf16 is the upper half of the f32 of the same value.
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// The processor's own product of pairs of bf16, which reads 32 values at a time.
///
/// # Safety
/// Needs AVX-512F, BW and BF16, and slices of equal length.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn ip_bf16_dot(a: &[bf16], b: &[bf16]) -> f32 {
    let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut i = 0;
    // SAFETY: whole loads end inside both slices by the loop condition, the masked one touches only
    // the lanes that exist; the transmutes name the same 64 bytes by another type.
    unsafe {
        let load = |mask: u32, from: *const bf16| {
            core::mem::transmute::<__m512i, __m512bh>(_mm512_maskz_loadu_epi16(mask, from.cast()))
        };
        while i + 32 <= len {
            let (x, y) = (
                load(u32::MAX, a_start.add(i)),
                load(u32::MAX, b_start.add(i)),
            );
            let lane = i / 32 % 2;
            sums[lane] = _mm512_dpbf16_ps(sums[lane], x, y);
            i += 32;
        }
        if i < len {
            let mask = (1u32 << (len - i)) - 1;
            let (x, y) = (load(mask, a_start.add(i)), load(mask, b_start.add(i)));
            sums[0] = _mm512_dpbf16_ps(sums[0], x, y);
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// One reduction with AVX2: four independent sums over 32 values, then 8, then one by one.
macro_rules! reduce_avx2 {
    (
        $name:ident, $item:ty, $load:ident,
        |$sum:ident, $x:ident, $y:ident| $step:expr, |$p:ident, $q:ident| $term:expr
    ) => {
        /// # Safety
        /// Needs AVX2, FMA, F16C and slices of equal length.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name(a: &[$item], b: &[$item]) -> f32 {
            let step = |$sum: __m256, $x: __m256, $y: __m256| $step;
            let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
            let mut sums = [_mm256_setzero_ps(); 4];
            let mut i = 0;
            // SAFETY: each load reads 8 values at an offset that the loop condition keeps inside
            // both slices.
            unsafe {
                while i + 32 <= len {
                    for lane in 0..4 {
                        let x = $load(a_start.add(i + 8 * lane));
                        let y = $load(b_start.add(i + 8 * lane));
                        sums[lane] = step(sums[lane], x, y);
                    }
                    i += 32;
                }
                while i + 8 <= len {
                    let (x, y) = ($load(a_start.add(i)), $load(b_start.add(i)));
                    sums[0] = step(sums[0], x, y);
                    i += 8;
                }
            }
            let low = _mm256_add_ps(sums[0], sums[1]);
            let high = _mm256_add_ps(sums[2], sums[3]);
            let mut total = sum_f32_avx2(_mm256_add_ps(low, high));
            for (p, q) in a[i..].iter().zip(&b[i..]) {
                let ($p, $q) = (f32::from(*p), f32::from(*q));
                total += $term;
            }
            total
        }
    };
}

macro_rules! l2_avx2 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_avx2!(
            $name,
            $item,
            $load,
            |sum, x, y| {
                let difference = _mm256_sub_ps(x, y);
                _mm256_fmadd_ps(difference, difference, sum)
            },
            |p, q| (p - q) * (p - q)
        );
    };
}

macro_rules! ip_avx2 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_avx2!(
            $name,
            $item,
            $load,
            |sum, x, y| _mm256_fmadd_ps(x, y, sum),
            |p, q| p * q
        );
    };
}

l2_avx2!(l2_f32_avx2, f32, f32_256);
ip_avx2!(ip_f32_avx2, f32, f32_256);
l2_avx2!(l2_f16_avx2, f16, f16_256);
ip_avx2!(ip_f16_avx2, f16, f16_256);
l2_avx2!(l2_bf16_avx2, bf16, bf16_256);
ip_avx2!(ip_bf16_avx2, bf16, bf16_256);

/// # Safety
/// Eight values can be read; needs the feature.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn f32_256(from: *const f32) -> __m256 {
    // SAFETY: by the contract.
    unsafe { _mm256_loadu_ps(from) }
}

/// # Safety
/// As [`f32_256`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn f16_256(from: *const f16) -> __m256 {
    // SAFETY: by the contract.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
}

/// # Safety
/// As [`f32_256`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn bf16_256(from: *const bf16) -> __m256 {
    // SAFETY: by the contract.
    let halves = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
}
