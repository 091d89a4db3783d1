//! Distance kernels: the only place of the workspace with `unsafe`.
//!
//! Each kernel exists once per instruction set and once in plain Rust ([`scalar`], the twin that the
//! property tests compare against). The set is chosen once, at run time, by what the processor says
//! it can do; nothing depends on compile flags.

mod map;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod shared;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use half::{bf16, f16};

pub use map::map_file;
pub(crate) use shared::SharedNumbers;

/// Codes are padded to, and aligned at, this many bytes: one cache line and one AVX-512 register.
pub(crate) const LINE_BYTES: usize = 64;

/// One implementation of every kernel.
///
/// All of them are safe to call with any slices; those that take two vectors need equal lengths and
/// panic otherwise. Sums of int8 vectors and of codes are exact up to 32,768 dimensions.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Name for logs and benchmarks.
    pub(crate) name: &'static str,
    /// Squared Euclidean distance of two f32 vectors.
    pub(crate) l2_f32: fn(&[f32], &[f32]) -> f32,
    /// Inner product of two f32 vectors.
    pub(crate) ip_f32: fn(&[f32], &[f32]) -> f32,
    /// Squared Euclidean distance of two f16 vectors, summed in f32.
    pub(crate) l2_f16: fn(&[f16], &[f16]) -> f32,
    /// Inner product of two f16 vectors, summed in f32.
    pub(crate) ip_f16: fn(&[f16], &[f16]) -> f32,
    /// Squared Euclidean distance of two bf16 vectors, summed in f32.
    pub(crate) l2_bf16: fn(&[bf16], &[bf16]) -> f32,
    /// Inner product of two bf16 vectors, summed in f32.
    pub(crate) ip_bf16: fn(&[bf16], &[bf16]) -> f32,
    /// Squared Euclidean distance of two int8 vectors.
    pub(crate) l2_i8: fn(&[i8], &[i8]) -> i32,
    /// Inner product of two int8 vectors.
    pub(crate) ip_i8: fn(&[i8], &[i8]) -> i32,
    /// Bits that differ.
    pub(crate) hamming: fn(&[u8], &[u8]) -> u32,
    /// Bits that both have, and bits that at least one has: Jaccard's distance is
    /// `1 − both / either`.
    pub(crate) common_bits: fn(&[u8], &[u8]) -> (u32, u32),
    /// `Σ a·b` of unsigned codes and a signed query, for each listed row of a code matrix.
    pub(crate) dot_rows: DotRows,
    /// The same together with each row's own length, where that takes no longer than to wait for a number that is
    /// kept of each row: on processors that multiply whole lines at once.
    pub(crate) dots_and_squares: Option<DotsAndSquares>,
    /// The same of one half of each code, for rows whose halves lie apart.
    pub(crate) dot_halves: DotHalves,
    /// `Σ a·(b − 128)` of two rows of unsigned codes.
    pub(crate) dot_codes: fn(&[u8], &[u8]) -> i32,
    /// Keys of a block of rows of 4-bit codes, looked up in tables that lie in registers.
    pub(crate) score_block: ScoreBlock,
}

/// Rows in a block of 4-bit codes.
pub(crate) const BLOCK_ROWS: usize = 32;

/// Codes of a block come in groups of this many parts: one cache line.
pub(crate) const PARTS_ALIGN: usize = 4;

/// What the rows of a block are compared with.
///
/// The key of row `i` is `base + (add[i] + step · Σ table[part][code of the part])`, computed in f32
/// in just this order, with the sum exact modulo 65,536: so every kernel gives the same bits.
pub(crate) struct BlockQuery<'a> {
    /// `[parts, 16]`, as many parts as the block has.
    pub(crate) tables: &'a [u8],
    pub(crate) base: f32,
    pub(crate) step: f32,
    /// Keys above this one are not wanted.
    pub(crate) limit: f32,
}

/// `(block, query, add, keys)`: writes the keys of a block's 32 rows and answers which of them, a bit
/// each, are not above the limit.
///
/// # Shapes
/// The block is `[parts, 16]` bytes: the low half of byte `i` of a part is the code of row `i`, the
/// high half that of row `16 + i`.
///
/// # Panics
/// When block and tables differ in length, or are not a whole number of cache lines.
pub(crate) type ScoreBlock =
    fn(&[u8], &BlockQuery<'_>, &[f32; BLOCK_ROWS], &mut [f32; BLOCK_ROWS]) -> u32;

fn check_block(block: &[u8], query: &BlockQuery<'_>) {
    assert_eq!(block.len(), query.tables.len(), "a table for every part");
    assert_eq!(
        block.len() % LINE_BYTES,
        0,
        "parts are padded to a cache line"
    );
}

/// `(codes, stride, rows, query, out)`: writes to `out[i]` the inner product of the query and the row
/// `rows[i]`, which starts at byte `rows[i] * stride`.
///
/// # Panics
/// When a row lies outside of the codes, `query.len() != stride` or `rows.len() != out.len()`.
pub(crate) type DotRows = fn(&[u8], usize, &[u32], &[i8], &mut [i32]);

/// `(codes, stride, rows, query, dots, squares)`: as [`DotRows`] with `dots` in place of `out`; besides, writes
/// `Σ (a − 128)²` of each row to `squares`.
///
/// # Panics
/// As [`DotRows`], and when `squares` is not as long as `rows`.
pub(crate) type DotsAndSquares = fn(&[u8], usize, &[u32], &[i8], &mut [i32], &mut [i32]);

/// Bytes of half codes that belong together: the low half of byte `i` is of dimension `i` of twice as many,
/// the high half of dimension `HALVES_BYTES + i`.
pub(crate) const HALVES_BYTES: usize = 32;

/// Which half of each code: the bits that say more, or the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    High,
    Low,
}

/// `(codes, stride, half, rows, query, out)`: as [`DotRows`], with the high or the low four bits of each code in
/// its place. A row has the high halves of all its codes first, then the low ones, in groups of
/// [`HALVES_BYTES`].
///
/// # Panics
/// As [`DotRows`].
pub(crate) type DotHalves = fn(&[u8], usize, Half, &[u32], &[i8], &mut [i32]);

impl Half {
    /// Where the half begins in a row.
    pub(crate) fn offset(self, stride: usize) -> usize {
        match self {
            Self::High => 0,
            Self::Low => stride / 2,
        }
    }
}

/// The fastest kernels this processor can run.
pub(crate) fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| available()[0])
}

/// Every implementation this processor can run, fastest first; the scalar one is always last.
pub(crate) fn available() -> Vec<Kernels> {
    let mut found: Vec<Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    found.extend(x86::available());
    #[cfg(target_arch = "aarch64")]
    found.extend([neon::KERNELS]);
    found.push(scalar::KERNELS);
    found
}

/// Asks the processor to fetch the cache lines of `items`; never reads them.
///
/// Into the second cache: those on their way into the first are few at once, and a walk asks for
/// dozens of rows before it reads one.
#[inline]
pub(crate) fn prefetch<T>(items: &[T]) {
    let lines = size_of_val(items).div_ceil(LINE_BYTES);
    prefetch_lines(items.as_ptr().cast(), lines);
}

/// As [`prefetch`], the first `len` bytes of each of the rows of a matrix, which start `offset` bytes into it. A row
/// that is not there is no error: nothing is read.
#[inline]
pub(crate) fn prefetch_rows(matrix: &[u8], stride: usize, offset: usize, len: usize, rows: &[u32]) {
    let start = matrix.as_ptr().wrapping_add(offset);
    let lines = len.div_ceil(LINE_BYTES);
    for row in rows {
        prefetch_lines(start.wrapping_add(*row as usize * stride), lines);
    }
}

/// As [`prefetch`], of the items with these numbers.
#[inline]
pub(crate) fn prefetch_each<T>(items: &[T], numbers: &[u32]) {
    for number in numbers {
        prefetch_lines(items.as_ptr().wrapping_add(*number as usize).cast(), 1);
    }
}

#[inline]
fn prefetch_lines(start: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        // SAFETY: SSE is part of the x86_64 baseline, and a prefetch of any address has no effect but on the cache.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(
                start.wrapping_add(line * LINE_BYTES).cast(),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, lines);
}
