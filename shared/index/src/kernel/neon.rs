//! NEON kernels, which every 64-bit Arm processor can run.

use core::arch::aarch64::*;

use half::{bf16, f16};

use super::{BLOCK_ROWS, BlockQuery, Kernels, check_block, scalar};

pub(super) const KERNELS: Kernels = Kernels {
    name: "neon",
    l2_f32,
    ip_f32,
    l2_f16,
    ip_f16,
    l2_bf16,
    ip_bf16,
    l2_i8,
    ip_i8,
    hamming,
    common_bits,
    dot_rows,
    dots_and_squares: None,
    // The plain one: there is none by hand yet.
    dot_halves: scalar::dot_halves,
    dot_codes,
    score_block,
};

/// One reduction to f32: four independent sums over 16 values, then one by one.
macro_rules! reduce_f32 {
    (
        $name:ident, $item:ty, $load:ident,
        |$sum:ident, $x:ident, $y:ident| $step:expr, |$p:ident, $q:ident| $term:expr
    ) => {
        fn $name(a: &[$item], b: &[$item]) -> f32 {
            assert_eq!(a.len(), b.len(), "vectors of different dimensions");
            let (a_chunks, a_rest) = a.as_chunks::<16>();
            let (b_chunks, b_rest) = b.as_chunks::<16>();
            // SAFETY: NEON is part of the architecture; each load reads 4 of a chunk's 16 values.
            let mut total = unsafe {
                let step = |$sum: float32x4_t, $x: float32x4_t, $y: float32x4_t| $step;
                let mut sums = [vdupq_n_f32(0.0); 4];
                for (x, y) in a_chunks.iter().zip(b_chunks) {
                    for lane in 0..4 {
                        let x = $load(x.as_ptr().add(4 * lane));
                        let y = $load(y.as_ptr().add(4 * lane));
                        sums[lane] = step(sums[lane], x, y);
                    }
                }
                let low = vaddq_f32(sums[0], sums[1]);
                vaddvq_f32(vaddq_f32(low, vaddq_f32(sums[2], sums[3])))
            };
            for (p, q) in a_rest.iter().zip(b_rest) {
                let ($p, $q) = (f32::from(*p), f32::from(*q));
                total += $term;
            }
            total
        }
    };
}

macro_rules! l2_f32 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_f32!(
            $name,
            $item,
            $load,
            |sum, x, y| {
                let difference = vsubq_f32(x, y);
                vfmaq_f32(sum, difference, difference)
            },
            |p, q| (p - q) * (p - q)
        );
    };
}

macro_rules! ip_f32 {
    ($name:ident, $item:ty, $load:ident) => {
        reduce_f32!(
            $name,
            $item,
            $load,
            |sum, x, y| vfmaq_f32(sum, x, y),
            |p, q| p * q
        );
    };
}

l2_f32!(l2_f32, f32, f32_128);
ip_f32!(ip_f32, f32, f32_128);
l2_f32!(l2_f16, f16, f16_128);
ip_f32!(ip_f16, f16, f16_128);
l2_f32!(l2_bf16, bf16, bf16_128);
ip_f32!(ip_bf16, bf16, bf16_128);

/// # Safety
/// Four values can be read.
#[inline]
unsafe fn f32_128(from: *const f32) -> float32x4_t {
    // SAFETY: by the contract.
    unsafe { vld1q_f32(from) }
}

/// # Safety
/// As [`f32_128`].
#[inline]
unsafe fn f16_128(from: *const f16) -> float32x4_t {
    // SAFETY: by the contract; widening is part of NEON, only arithmetic of f16 is not.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))) }
}

/// # Safety
/// As [`f32_128`].
#[inline]
unsafe fn bf16_128(from: *const bf16) -> float32x4_t {
    // SAFETY: by the contract; a bf16 is the upper half of the f32 of the same value.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
}

/// The sum over pairs of int8: 16 at a time through `pairs`, then one by one through `term`.
macro_rules! reduce_i8 {
    (
        $name:ident, $item:ty,
        |$sum:ident, $x:ident, $y:ident| $pairs:expr, |$p:ident, $q:ident| $term:expr
    ) => {
        fn $name(a: &[$item], b: &[$item]) -> i32 {
            assert_eq!(a.len(), b.len(), "vectors of different dimensions");
            let (a_chunks, a_rest) = a.as_chunks::<16>();
            let (b_chunks, b_rest) = b.as_chunks::<16>();
            // SAFETY: NEON is part of the architecture; each load reads one chunk of 16 bytes.
            let total = unsafe {
                let pairs = |$sum: int32x4_t, $x: int8x16_t, $y: int8x16_t| $pairs;
                let mut sum = vdupq_n_s32(0);
                for (x, y) in a_chunks.iter().zip(b_chunks) {
                    let x = vld1q_s8(x.as_ptr().cast());
                    sum = pairs(sum, x, vld1q_s8(y.as_ptr().cast()));
                }
                vaddvq_s32(sum)
            };
            let rest: i32 = a_rest
                .iter()
                .zip(b_rest)
                .map(|(p, q)| {
                    let ($p, $q) = (i32::from(*p), i32::from(*q));
                    $term
                })
                .sum();
            total + rest
        }
    };
}

reduce_i8!(
    l2_i8,
    i8,
    |sum, x, y| {
        let low = vsubl_s8(vget_low_s8(x), vget_low_s8(y));
        let high = vsubl_high_s8(x, y);
        let sum = vmlal_s16(sum, vget_low_s16(low), vget_low_s16(low));
        let sum = vmlal_high_s16(sum, low, low);
        let sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(high));
        vmlal_high_s16(sum, high, high)
    },
    |p, q| (p - q) * (p - q)
);
reduce_i8!(
    ip_i8,
    i8,
    |sum, x, y| {
        let low = vmull_s8(vget_low_s8(x), vget_low_s8(y));
        vpadalq_s16(vpadalq_s16(sum, low), vmull_high_s8(x, y))
    },
    |p, q| p * q
);
// Σ a·(b − 128) with both signs flipped into the signed range: (a − 128)·(b − 128), and 128 (b − 128)
// added back, as one sum of b over a shift.
reduce_i8!(
    dot_codes,
    u8,
    |sum, x, y| {
        let flip = vdupq_n_s8(i8::MIN);
        let (x, y) = (veorq_s8(x, flip), veorq_s8(y, flip));
        let low = vmull_s8(vget_low_s8(x), vget_low_s8(y));
        let sum = vpadalq_s16(vpadalq_s16(sum, low), vmull_high_s8(x, y));
        vaddq_s32(sum, vshlq_n_s32::<7>(vpaddlq_s16(vpaddlq_s8(y))))
    },
    |p, q| p * (q - 128)
);

fn dot_rows(codes: &[u8], stride: usize, rows: &[u32], query: &[i8], out: &mut [i32]) {
    assert_eq!(query.len(), stride, "query is not padded to the stride");
    assert_eq!(rows.len(), out.len(), "one result a row");
    let factors: i32 = query.iter().map(|factor| i32::from(*factor)).sum();
    for (row, dot) in rows.iter().zip(out) {
        let row = &codes[*row as usize * stride..][..stride];
        *dot = dot_flipped(row, query) + 128 * factors;
    }
}

/// `Σ (code − 128)·factor`.
fn dot_flipped(row: &[u8], query: &[i8]) -> i32 {
    let (row_chunks, row_rest) = row.as_chunks::<16>();
    let (query_chunks, query_rest) = query.as_chunks::<16>();
    // SAFETY: NEON is part of the architecture; each load reads one chunk of 16 bytes.
    let total = unsafe {
        let flip = vdupq_n_s8(i8::MIN);
        let mut sum = vdupq_n_s32(0);
        for (code, factor) in row_chunks.iter().zip(query_chunks) {
            let code = veorq_s8(vld1q_s8(code.as_ptr().cast()), flip);
            let factor = vld1q_s8(factor.as_ptr());
            let low = vmull_s8(vget_low_s8(code), vget_low_s8(factor));
            sum = vpadalq_s16(vpadalq_s16(sum, low), vmull_high_s8(code, factor));
        }
        vaddvq_s32(sum)
    };
    let rest: i32 = row_rest
        .iter()
        .zip(query_rest)
        .map(|(code, factor)| (i32::from(*code) - 128) * i32::from(*factor))
        .sum();
    total + rest
}

/// Sums the ones of `op` over two rows.
macro_rules! count_bits {
    ($a:ident, $b:ident, $op:ident, $operator:tt) => {{
        let (a_chunks, a_rest) = $a.as_chunks::<16>();
        let (b_chunks, b_rest) = $b.as_chunks::<16>();
        // SAFETY: NEON is part of the architecture; each load reads one chunk of 16 bytes.
        let total = unsafe {
            let mut sum = vdupq_n_u32(0);
            for (x, y) in a_chunks.iter().zip(b_chunks) {
                let bits = $op(vld1q_u8(x.as_ptr()), vld1q_u8(y.as_ptr()));
                sum = vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(bits)));
            }
            vaddvq_u32(sum)
        };
        let rest = a_rest.iter().zip(b_rest).map(|(x, y)| (x $operator y).count_ones());
        total + rest.sum::<u32>()
    }};
}

fn hamming(a: &[u8], b: &[u8]) -> u32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    count_bits!(a, b, veorq_u8, ^)
}

fn common_bits(a: &[u8], b: &[u8]) -> (u32, u32) {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    (
        count_bits!(a, b, vandq_u8, &),
        count_bits!(a, b, vorrq_u8, |),
    )
}

fn score_block(
    block: &[u8],
    query: &BlockQuery<'_>,
    add: &[f32; BLOCK_ROWS],
    keys: &mut [f32; BLOCK_ROWS],
) -> u32 {
    check_block(block, query);
    let (parts, _) = block.as_chunks::<16>();
    let (tables, _) = query.tables.as_chunks::<16>();
    // SAFETY: NEON is part of the architecture; each load of codes and tables reads one chunk of 16
    // bytes, and 4 values from `8 * eighth + 4 * side`, 28 at most, lie inside both arrays of 32.
    unsafe {
        let low = vdupq_n_u8(15);
        // Rows 0 to 7, 8 to 15, 16 to 23, 24 to 31.
        let mut sums = [vdupq_n_u16(0); 4];
        for (codes, table) in parts.iter().zip(tables) {
            let (codes, table) = (vld1q_u8(codes.as_ptr()), vld1q_u8(table.as_ptr()));
            let first = vqtbl1q_u8(table, vandq_u8(codes, low));
            let second = vqtbl1q_u8(table, vshrq_n_u8::<4>(codes));
            sums[0] = vaddw_u8(sums[0], vget_low_u8(first));
            sums[1] = vaddw_high_u8(sums[1], first);
            sums[2] = vaddw_u8(sums[2], vget_low_u8(second));
            sums[3] = vaddw_high_u8(sums[3], second);
        }
        let (base, step) = (vdupq_n_f32(query.base), vdupq_n_f32(query.step));
        let limit = vdupq_n_f32(query.limit);
        let bits = vld1q_u32([1u32, 2, 4, 8].as_ptr());
        let mut wanted = 0;
        for (eighth, sum) in sums.into_iter().enumerate() {
            let sides = [vmovl_u16(vget_low_u16(sum)), vmovl_high_u16(sum)];
            for (side, sum) in sides.into_iter().enumerate() {
                let at = 8 * eighth + 4 * side;
                let scaled = vmulq_f32(step, vcvtq_f32_u32(sum));
                let key = vaddq_f32(base, vaddq_f32(vld1q_f32(add.as_ptr().add(at)), scaled));
                vst1q_f32(keys.as_mut_ptr().add(at), key);
                let kept = vbicq_u32(bits, vcgtq_f32(key, limit));
                wanted |= vaddvq_u32(kept) << at;
            }
        }
        wanted
    }
}
