//! AVX2 and AVX-512 kernels.
//!
//! Every public entry is a safe function that ends in a `#[target_feature]` one; the tables below are
//! only handed out by [`available`], after the processor was asked for exactly those features.

use core::arch::x86_64::*;

use super::{Kernels, LINE_BYTES};

static AVX512_VNNI: Kernels = Kernels {
    name: "avx512vnni",
    l2_f32: l2_f32_avx512_entry,
    ip_f32: ip_f32_avx512_entry,
    dot_rows: dot_rows_vnni_entry,
    dot_codes: dot_codes_vnni_entry,
};

static AVX512: Kernels = Kernels {
    name: "avx512",
    l2_f32: l2_f32_avx512_entry,
    ip_f32: ip_f32_avx512_entry,
    dot_rows: dot_rows_avx2_entry,
    dot_codes: dot_codes_avx2_entry,
};

static AVX2: Kernels = Kernels {
    name: "avx2",
    l2_f32: l2_f32_avx2_entry,
    ip_f32: ip_f32_avx2_entry,
    dot_rows: dot_rows_avx2_entry,
    dot_codes: dot_codes_avx2_entry,
};

/// The tables this processor can run, fastest first.
pub(super) fn available() -> Vec<&'static Kernels> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 =
        avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
    let mut found = Vec::new();
    if vnni {
        found.push(&AVX512_VNNI);
    }
    if avx512 {
        found.push(&AVX512);
    }
    if avx2 {
        found.push(&AVX2);
    }
    found
}

fn l2_f32_avx512_entry(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    // SAFETY: this table is only handed out after AVX-512F was detected; lengths are equal.
    unsafe { l2_f32_avx512(a, b) }
}

fn ip_f32_avx512_entry(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    // SAFETY: this table is only handed out after AVX-512F was detected; lengths are equal.
    unsafe { ip_f32_avx512(a, b) }
}

fn l2_f32_avx2_entry(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    // SAFETY: this table is only handed out after AVX2 and FMA were detected; lengths are equal.
    unsafe { l2_f32_avx2(a, b) }
}

fn ip_f32_avx2_entry(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    // SAFETY: this table is only handed out after AVX2 and FMA were detected; lengths are equal.
    unsafe { ip_f32_avx2(a, b) }
}

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

fn dot_rows_vnni_entry(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    check_rows(codes, stride, rows, query, out);
    // SAFETY: VNNI was detected before this table was handed out; `check_rows` proved that each row
    // lies inside the codes and that stride, query and results fit each other.
    unsafe { dot_rows_vnni(codes, stride, rows, query, out) }
}

fn dot_rows_avx2_entry(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    check_rows(codes, stride, rows, query, out);
    // SAFETY: AVX2 was detected before this table was handed out; `check_rows` proved that each row
    // lies inside the codes and that stride, query and results fit each other.
    unsafe { dot_rows_avx2(codes, stride, rows, query, out) }
}

fn dot_codes_vnni_entry(a: &[u8], b: &[u8]) -> i32 {
    assert_eq!(a.len(), b.len(), "rows of different strides");
    // SAFETY: VNNI was detected before this table was handed out; lengths are equal.
    unsafe { dot_codes_vnni(a, b) }
}

fn dot_codes_avx2_entry(a: &[u8], b: &[u8]) -> i32 {
    assert_eq!(a.len(), b.len(), "rows of different strides");
    // SAFETY: AVX2 was detected before this table was handed out; lengths are equal.
    unsafe { dot_codes_avx2(a, b) }
}

/// One f32 reduction with AVX-512: four independent sums over 64 values, then 16, then a masked rest.
macro_rules! f32_avx512 {
    ($name:ident, |$sum:ident, $x:ident, $y:ident| $step:expr) => {
        /// # Safety
        /// Needs AVX-512F and slices of equal length.
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(a: &[f32], b: &[f32]) -> f32 {
            let step = |$sum: __m512, $x: __m512, $y: __m512| $step;
            let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
            let mut sums = [_mm512_setzero_ps(); 4];
            let mut i = 0;
            // SAFETY: each load reads 16 values at an offset that the loop condition keeps inside
            // both slices; the last, masked one touches only the `len - i` lanes that exist.
            unsafe {
                while i + 64 <= len {
                    for lane in 0..4 {
                        let x = _mm512_loadu_ps(a_start.add(i + 16 * lane));
                        let y = _mm512_loadu_ps(b_start.add(i + 16 * lane));
                        sums[lane] = step(sums[lane], x, y);
                    }
                    i += 64;
                }
                while i + 16 <= len {
                    let x = _mm512_loadu_ps(a_start.add(i));
                    let y = _mm512_loadu_ps(b_start.add(i));
                    sums[0] = step(sums[0], x, y);
                    i += 16;
                }
                if i < len {
                    let mask = (1u16 << (len - i)) - 1;
                    let x = _mm512_maskz_loadu_ps(mask, a_start.add(i));
                    let y = _mm512_maskz_loadu_ps(mask, b_start.add(i));
                    sums[1] = step(sums[1], x, y);
                }
            }
            let low = _mm512_add_ps(sums[0], sums[1]);
            let high = _mm512_add_ps(sums[2], sums[3]);
            _mm512_reduce_add_ps(_mm512_add_ps(low, high))
        }
    };
}

f32_avx512!(l2_f32_avx512, |sum, x, y| {
    let difference = _mm512_sub_ps(x, y);
    _mm512_fmadd_ps(difference, difference, sum)
});
f32_avx512!(ip_f32_avx512, |sum, x, y| _mm512_fmadd_ps(x, y, sum));

/// One f32 reduction with AVX2: four independent sums over 32 values, then 8, then one by one.
macro_rules! f32_avx2 {
    ($name:ident, |$sum:ident, $x:ident, $y:ident| $step:expr, |$p:ident, $q:ident| $term:expr) => {
        /// # Safety
        /// Needs AVX2, FMA and slices of equal length.
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $name(a: &[f32], b: &[f32]) -> f32 {
            let step = |$sum: __m256, $x: __m256, $y: __m256| $step;
            let (a_start, b_start, len) = (a.as_ptr(), b.as_ptr(), a.len());
            let mut sums = [_mm256_setzero_ps(); 4];
            let mut i = 0;
            // SAFETY: each load reads 8 values at an offset that the loop condition keeps inside
            // both slices.
            unsafe {
                while i + 32 <= len {
                    for lane in 0..4 {
                        let x = _mm256_loadu_ps(a_start.add(i + 8 * lane));
                        let y = _mm256_loadu_ps(b_start.add(i + 8 * lane));
                        sums[lane] = step(sums[lane], x, y);
                    }
                    i += 32;
                }
                while i + 8 <= len {
                    let x = _mm256_loadu_ps(a_start.add(i));
                    let y = _mm256_loadu_ps(b_start.add(i));
                    sums[0] = step(sums[0], x, y);
                    i += 8;
                }
            }
            let low = _mm256_add_ps(sums[0], sums[1]);
            let high = _mm256_add_ps(sums[2], sums[3]);
            let mut total = sum_f32_avx2(_mm256_add_ps(low, high));
            for ($p, $q) in a[i..].iter().zip(&b[i..]) {
                total += $term;
            }
            total
        }
    };
}

f32_avx2!(
    l2_f32_avx2,
    |sum, x, y| {
        let difference = _mm256_sub_ps(x, y);
        _mm256_fmadd_ps(difference, difference, sum)
    },
    |p, q| (p - q) * (p - q)
);
f32_avx2!(
    ip_f32_avx2,
    |sum, x, y| _mm256_fmadd_ps(x, y, sum),
    |p, q| p * q
);

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

/// Four rows at a time share each load of the query, and their sums hide each other's latency.
///
/// # Safety
/// Needs AVX-512F, AVX-512BW and VNNI; every row inside `codes`; `query.len() == stride`, a multiple
/// of 64; `out` as long as `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot_rows_vnni(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    let start = codes.as_ptr();
    let factors = query.as_ptr();
    let (quads, quad_rest) = rows.as_chunks::<4>();
    let (out_quads, out_rest) = out.as_chunks_mut::<4>();
    // SAFETY: by the contract every `row * stride + offset + 64` lies inside `codes`, and `offset +
    // 64` inside the query, because both are walked in whole lines up to the stride.
    unsafe {
        for (quad, dots) in quads.iter().zip(out_quads) {
            let at = quad.map(|row| start.add(row as usize * stride));
            let mut sums = [_mm512_setzero_si512(); 4];
            let mut offset = 0;
            while offset < stride {
                let factor = _mm512_loadu_si512(factors.add(offset).cast());
                for lane in 0..4 {
                    let code = _mm512_loadu_si512(at[lane].add(offset).cast());
                    sums[lane] = _mm512_dpbusd_epi32(sums[lane], code, factor);
                }
                offset += LINE_BYTES;
            }
            *dots = sums.map(|sum| _mm512_reduce_add_epi32(sum));
        }
        for (row, dot) in quad_rest.iter().zip(out_rest) {
            let at = start.add(*row as usize * stride);
            let mut sum = _mm512_setzero_si512();
            let mut offset = 0;
            while offset < stride {
                let factor = _mm512_loadu_si512(factors.add(offset).cast());
                let code = _mm512_loadu_si512(at.add(offset).cast());
                sum = _mm512_dpbusd_epi32(sum, code, factor);
                offset += LINE_BYTES;
            }
            *dot = _mm512_reduce_add_epi32(sum);
        }
    }
}

/// `vpmaddubsw` would saturate at 255·127·2, so both sides are widened to 16 bits first.
///
/// # Safety
/// Needs AVX2; every row inside `codes`; `query.len() == stride`, a multiple of 64; `out` as long as
/// `rows`.
#[target_feature(enable = "avx2")]
unsafe fn dot_rows_avx2(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    for (row, dot) in rows.iter().zip(out) {
        let row_start = *row as usize * stride;
        let mut sums = [_mm256_setzero_si256(); 2];
        let mut offset = 0;
        while offset < stride {
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the stride is a multiple of 64, so 32 bytes from `offset` lie inside the
                // query and, by the contract, inside the row.
                let (code, factor) = unsafe {
                    (
                        _mm_loadu_si128(codes.as_ptr().add(row_start + offset + 16 * lane).cast()),
                        _mm_loadu_si128(query.as_ptr().add(offset + 16 * lane).cast()),
                    )
                };
                let products =
                    _mm256_madd_epi16(_mm256_cvtepu8_epi16(code), _mm256_cvtepi8_epi16(factor));
                *sum = _mm256_add_epi32(*sum, products);
            }
            offset += 32;
        }
        *dot = sum_i32_avx2(_mm256_add_epi32(sums[0], sums[1]));
    }
}

/// # Safety
/// Needs AVX-512F, AVX-512BW, VNNI and rows of equal length.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot_codes_vnni(a: &[u8], b: &[u8]) -> i32 {
    let flip = _mm512_set1_epi8(i8::MIN);
    let mut sums = [_mm512_setzero_si512(); 2];
    let len = a.len();
    let mut i = 0;
    // SAFETY: whole lines end inside both rows; the last, masked loads touch only the bytes that
    // exist. Flipped zeros of masked lanes meet zeros of the other side.
    unsafe {
        while i + LINE_BYTES <= len {
            let x = _mm512_loadu_si512(a.as_ptr().add(i).cast());
            let y = _mm512_loadu_si512(b.as_ptr().add(i).cast());
            let lane = i / LINE_BYTES % 2;
            sums[lane] = _mm512_dpbusd_epi32(sums[lane], x, _mm512_xor_si512(y, flip));
            i += LINE_BYTES;
        }
        if i < len {
            let mask = (1u64 << (len - i)) - 1;
            let x = _mm512_maskz_loadu_epi8(mask, a.as_ptr().add(i).cast());
            let y = _mm512_maskz_loadu_epi8(mask, b.as_ptr().add(i).cast());
            sums[0] = _mm512_dpbusd_epi32(sums[0], x, _mm512_xor_si512(y, flip));
        }
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

/// # Safety
/// Needs AVX2 and rows of equal length.
#[target_feature(enable = "avx2")]
unsafe fn dot_codes_avx2(a: &[u8], b: &[u8]) -> i32 {
    let middle = _mm256_set1_epi16(128);
    let mut sum = _mm256_setzero_si256();
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        // SAFETY: both chunks are 16 bytes long.
        let (x, y) = unsafe {
            (
                _mm_loadu_si128(x.as_ptr().cast()),
                _mm_loadu_si128(y.as_ptr().cast()),
            )
        };
        let y = _mm256_sub_epi16(_mm256_cvtepu8_epi16(y), middle);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(x), y));
    }
    let rest: i32 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(x, y)| i32::from(*x) * (i32::from(*y) - 128))
        .sum();
    sum_i32_avx2(sum) + rest
}
