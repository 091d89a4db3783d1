//! 8-bit codes, as the graph compares them.

use core::arch::x86_64::*;

use super::super::HALVES_BYTES;
use super::{LINE_BYTES, sum_i32_avx2};

/// Four rows at a time share each load of the query, and their sums hide each other's latency.
///
/// # Safety
/// Needs AVX-512F, AVX-512BW and VNNI; every row inside `codes`; `query.len() == stride`, a multiple
/// of 64; `out` as long as `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dot_rows_vnni(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    out: &mut [i32],
) {
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
            _mm_storeu_si128(dots.as_mut_ptr().cast(), sums_of_four(sums));
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

/// As [`dot_rows_vnni`], and the squared length of each row from the same registers. A row less than four is one
/// of the others again.
///
/// # Safety
/// As [`dot_rows_vnni`]; `dots` and `squares` as long as `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dots_and_squares_vnni(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    dots: &mut [i32],
    squares: &mut [i32],
) {
    let start = codes.as_ptr();
    let (quads, quad_rest) = rows.as_chunks::<4>();
    let (dot_quads, dots_rest) = dots.as_chunks_mut::<4>();
    let (square_quads, squares_rest) = squares.as_chunks_mut::<4>();
    let results = dot_quads.iter_mut().zip(square_quads);
    for (quad, (dots, squares)) in quads.iter().zip(results) {
        let at = quad.map(|row| start.wrapping_add(row as usize * stride));
        // SAFETY: each pointer is the start of a row of the stride inside `codes`, by the contract.
        unsafe { four_dots_and_squares(at, query, dots, squares) };
    }
    if let Some(first) = quad_rest.first() {
        let at = core::array::from_fn(|lane| {
            let row = quad_rest.get(lane).unwrap_or(first);
            start.wrapping_add(*row as usize * stride)
        });
        let mut four = [[0; 4]; 2];
        let [four_dots, four_squares] = &mut four;
        // SAFETY: as above.
        unsafe { four_dots_and_squares(at, query, four_dots, four_squares) };
        for (lane, (dot, square)) in dots_rest.iter_mut().zip(squares_rest).enumerate() {
            (*dot, *square) = (four[0][lane], four[1][lane]);
        }
    }
}

/// `Σ (a − 128)²` is `Σ a·(a − 128) − 128 Σ (a − 128)`, both of unsigned times signed bytes.
///
/// # Safety
/// Needs what [`dot_rows_vnni`] needs; as many bytes as the query has, whole lines, at each pointer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn four_dots_and_squares(
    at: [*const u8; 4],
    query: &[i8],
    out: &mut [i32; 4],
    out_squares: &mut [i32; 4],
) {
    let middle = _mm512_set1_epi8(i8::MIN);
    let ones = _mm512_set1_epi8(1);
    let mut dots = [_mm512_setzero_si512(); 4];
    let mut squares = [_mm512_setzero_si512(); 4];
    let mut levels = [_mm512_setzero_si512(); 4];
    let mut offset = 0;
    while offset < query.len() {
        // SAFETY: query and rows are walked in whole lines up to their end.
        unsafe {
            let factor = _mm512_loadu_si512(query.as_ptr().add(offset).cast());
            for lane in 0..4 {
                let code = _mm512_loadu_si512(at[lane].add(offset).cast());
                let level = _mm512_xor_si512(code, middle);
                dots[lane] = _mm512_dpbusd_epi32(dots[lane], code, factor);
                squares[lane] = _mm512_dpbusd_epi32(squares[lane], code, level);
                levels[lane] = _mm512_dpbusd_epi32(levels[lane], ones, level);
            }
        }
        offset += LINE_BYTES;
    }
    for (squares, levels) in squares.iter_mut().zip(levels) {
        *squares = _mm512_sub_epi32(*squares, _mm512_slli_epi32::<7>(levels));
    }
    // SAFETY: four numbers have room in each.
    unsafe {
        _mm_storeu_si128(out.as_mut_ptr().cast(), sums_of_four(dots));
        _mm_storeu_si128(out_squares.as_mut_ptr().cast(), sums_of_four(squares));
    }
}

/// The sum of each register, all four in half the steps of one after the other: of short rows this
/// is most of the work.
#[target_feature(enable = "avx512f")]
fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m128i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(
        _mm512_castsi512_si256(lanes),
        _mm512_extracti64x4_epi64::<1>(lanes),
    );
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}

/// The sum of each register, as [`sums_of_four`].
#[target_feature(enable = "avx2")]
fn sums_of_four_avx2([a, b, c, d]: [__m256i; 4]) -> __m128i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let lanes = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm_add_epi32(
        _mm256_castsi256_si128(lanes),
        _mm256_extracti128_si256::<1>(lanes),
    )
}

/// `vpmaddubsw` would saturate at 255·127·2, so both sides are widened to 16 bits first: the query
/// once for four rows.
///
/// # Safety
/// Needs AVX2; every row inside `codes`; `query.len() == stride`, a multiple of 64; `out` as long as
/// `rows`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot_rows_avx2(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    out: &mut [i32],
) {
    let start = codes.as_ptr();
    let factors = query.as_ptr();
    let (quads, quad_rest) = rows.as_chunks::<4>();
    let (out_quads, out_rest) = out.as_chunks_mut::<4>();
    // SAFETY: by the contract every `row * stride + offset + 16` lies inside `codes`, and `offset +
    // 16` inside the query, because both are walked in steps of 16 up to the stride, which is a
    // multiple of them.
    unsafe {
        for (quad, dots) in quads.iter().zip(out_quads) {
            let at = quad.map(|row| start.add(row as usize * stride));
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut offset = 0;
            while offset < stride {
                let factor = _mm256_cvtepi8_epi16(_mm_loadu_si128(factors.add(offset).cast()));
                for lane in 0..4 {
                    let code = _mm_loadu_si128(at[lane].add(offset).cast());
                    let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(code), factor);
                    sums[lane] = _mm256_add_epi32(sums[lane], products);
                }
                offset += 16;
            }
            _mm_storeu_si128(dots.as_mut_ptr().cast(), sums_of_four_avx2(sums));
        }
        for (row, dot) in quad_rest.iter().zip(out_rest) {
            let at = start.add(*row as usize * stride);
            let mut sum = _mm256_setzero_si256();
            let mut offset = 0;
            while offset < stride {
                let factor = _mm256_cvtepi8_epi16(_mm_loadu_si128(factors.add(offset).cast()));
                let code = _mm256_cvtepu8_epi16(_mm_loadu_si128(at.add(offset).cast()));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(code, factor));
                offset += 16;
            }
            *dot = sum_i32_avx2(sum);
        }
    }
}

/// Groups of half codes whose products are summed in 16 bits: each adds at most `2·2·15·128`.
const GROUPS_IN_16_BITS: usize = 4;

/// Two groups of half codes fill a register, and no sum overflows.
///
/// # Safety
/// Needs AVX-512F, AVX-512BW and VNNI; half a stride from `row * stride` on inside `codes` for every row;
/// `query.len() == stride`, a multiple of 64; `out` as long as `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dot_halves_vnni(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    out: &mut [i32],
) {
    let start = codes.as_ptr();
    let (quads, quad_rest) = rows.as_chunks::<4>();
    let (out_quads, out_rest) = out.as_chunks_mut::<4>();
    for (quad, dots) in quads.iter().zip(out_quads) {
        // SAFETY: by the contract; four numbers are written to four.
        unsafe {
            let at = quad.map(|row| start.add(row as usize * stride));
            let sums = half_sums_vnni(at, query);
            _mm_storeu_si128(dots.as_mut_ptr().cast(), sums_of_four(sums));
        }
    }
    for (row, dot) in quad_rest.iter().zip(out_rest) {
        // SAFETY: by the contract.
        let [sum] = unsafe { half_sums_vnni([start.add(*row as usize * stride)], query) };
        *dot = _mm512_reduce_add_epi32(sum);
    }
}

/// As [`half_sums`].
///
/// # Safety
/// Needs AVX-512F, AVX-512BW and VNNI; half as many bytes as the query has from each of `at` on; its length is a
/// multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn half_sums_vnni<const ROWS: usize>(
    at: [*const u8; ROWS],
    query: &[i8],
) -> [__m512i; ROWS] {
    let low_bits = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_si512(); ROWS];
    let (pairs, rest) = query.as_chunks::<{ 4 * HALVES_BYTES }>();
    let add = |sum, codes, [first, second]: [__m512i; 2]| {
        let low = _mm512_and_si512(codes, low_bits);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low_bits);
        _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, low, first), high, second)
    };
    for (number, pair) in pairs.iter().enumerate() {
        // SAFETY: two groups of factors are two registers long; by the contract each row has a register of codes
        // for them.
        unsafe {
            let one = _mm512_loadu_si512(pair.as_ptr().cast());
            let other = _mm512_loadu_si512(pair.as_ptr().add(LINE_BYTES).cast());
            // The first halves of both groups go with the low bits of their codes.
            let factors = [
                _mm512_shuffle_i64x2::<0x44>(one, other),
                _mm512_shuffle_i64x2::<0xee>(one, other),
            ];
            for lane in 0..ROWS {
                let codes = _mm512_loadu_si512(at[lane].add(number * LINE_BYTES).cast());
                sums[lane] = add(sums[lane], codes, factors);
            }
        }
    }
    if !rest.is_empty() {
        // SAFETY: what is left is one group, half a register of codes; others are not read.
        unsafe {
            let (one, none) = (
                _mm512_loadu_si512(rest.as_ptr().cast()),
                _mm512_setzero_si512(),
            );
            let factors = [
                _mm512_shuffle_i64x2::<0x44>(one, none),
                _mm512_shuffle_i64x2::<0xee>(one, none),
            ];
            for lane in 0..ROWS {
                let from = at[lane].add(pairs.len() * LINE_BYTES).cast();
                let codes = _mm512_maskz_loadu_epi8(u64::from(u32::MAX), from);
                sums[lane] = add(sums[lane], codes, factors);
            }
        }
    }
    sums
}

/// Half codes are so small that products of two of them, and the sums of a few, fit 16 bits.
///
/// # Safety
/// Needs AVX2; half a stride from `row * stride` on inside `codes` for every row; `query.len() == stride`, a
/// multiple of 64; `out` as long as `rows`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot_halves_avx2(
    codes: &[u8],
    stride: usize,
    rows: &[u32],
    query: &[i8],
    out: &mut [i32],
) {
    let start = codes.as_ptr();
    let (quads, quad_rest) = rows.as_chunks::<4>();
    let (out_quads, out_rest) = out.as_chunks_mut::<4>();
    for (quad, dots) in quads.iter().zip(out_quads) {
        // SAFETY: by the contract; four numbers are written to four.
        unsafe {
            let at = quad.map(|row| start.add(row as usize * stride));
            let sums = half_sums(at, query);
            _mm_storeu_si128(dots.as_mut_ptr().cast(), sums_of_four_avx2(sums));
        }
    }
    for (row, dot) in quad_rest.iter().zip(out_rest) {
        // SAFETY: by the contract.
        let [sum] = unsafe { half_sums([start.add(*row as usize * stride)], query) };
        *dot = sum_i32_avx2(sum);
    }
}

/// The partial sums of rows of half codes.
///
/// # Safety
/// Needs AVX2; half as many bytes as the query has from each of `at` on; its length is a multiple of 64.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_sums<const ROWS: usize>(at: [*const u8; ROWS], query: &[i8]) -> [__m256i; ROWS] {
    let (low_bits, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); ROWS];
    let mut offset = 0;
    for part in query.chunks(GROUPS_IN_16_BITS * 2 * HALVES_BYTES) {
        let mut words = [_mm256_setzero_si256(); ROWS];
        let (groups, _) = part.as_chunks::<{ 2 * HALVES_BYTES }>();
        for factors in groups {
            // SAFETY: a group of factors is twice a register long; by the contract each row has a register of
            // codes for it.
            unsafe {
                let first = _mm256_loadu_si256(factors.as_ptr().cast());
                let second = _mm256_loadu_si256(factors.as_ptr().add(HALVES_BYTES).cast());
                for lane in 0..ROWS {
                    let codes = _mm256_loadu_si256(at[lane].add(offset).cast());
                    let low = _mm256_and_si256(codes, low_bits);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_bits);
                    let low = _mm256_maddubs_epi16(low, first);
                    let high = _mm256_maddubs_epi16(high, second);
                    words[lane] = _mm256_add_epi16(words[lane], _mm256_add_epi16(low, high));
                }
            }
            offset += HALVES_BYTES;
        }
        for lane in 0..ROWS {
            sums[lane] = _mm256_add_epi32(sums[lane], _mm256_madd_epi16(words[lane], ones));
        }
    }
    sums
}

/// # Safety
/// Needs AVX-512F, AVX-512BW, VNNI and rows of equal length.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dot_codes_vnni(a: &[u8], b: &[u8]) -> i32 {
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
pub(super) unsafe fn dot_codes_avx2(a: &[u8], b: &[u8]) -> i32 {
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
