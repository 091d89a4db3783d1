//! Distance kernels: the only place of the workspace with `unsafe`.
//!
//! Each kernel exists once per instruction set and once in plain Rust ([`scalar`], the twin that the
//! property tests compare against). The set is chosen once, at run time, by what the processor says
//! it can do; nothing depends on compile flags.

mod map;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

pub use map::map_file;

/// Codes are padded to, and aligned at, this many bytes: one cache line and one AVX-512 register.
pub(crate) const LINE_BYTES: usize = 64;

/// One implementation of every kernel.
///
/// All of them are safe to call with any slices; those that take two vectors need equal lengths and
/// panic otherwise.
pub(crate) struct Kernels {
    /// Name for logs and benchmarks.
    pub(crate) name: &'static str,
    /// Squared Euclidean distance of two f32 vectors.
    pub(crate) l2_f32: fn(&[f32], &[f32]) -> f32,
    /// Inner product of two f32 vectors.
    pub(crate) ip_f32: fn(&[f32], &[f32]) -> f32,
    /// `Σ a·b` of unsigned codes and a signed query, for each listed row of a code matrix.
    pub(crate) dot_rows: DotRows,
    /// `Σ a·(b − 128)` of two rows of unsigned codes.
    pub(crate) dot_codes: fn(&[u8], &[u8]) -> i32,
}

/// `(codes, stride, rows, query, out)`: writes to `out[i]` the inner product of the query and the row
/// `rows[i]`, which starts at byte `rows[i] * stride`.
///
/// # Panics
/// When a row lies outside of the codes, `query.len() != stride` or `rows.len() != out.len()`.
pub(crate) type DotRows = fn(&[u8], usize, &[u32], &[i8], &mut [i32]);

/// The fastest kernels this processor can run.
pub(crate) fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| available()[0])
}

/// Every implementation this processor can run, fastest first; the scalar one is always last.
pub(crate) fn available() -> Vec<&'static Kernels> {
    let mut found: Vec<&'static Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    found.extend(x86::available());
    found.push(&scalar::KERNELS);
    found
}

/// Asks the processor to fetch the cache lines of `bytes`; never reads them.
#[inline(always)]
pub(crate) fn prefetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        let base = items.as_ptr().cast::<i8>();
        let mut offset = 0;
        while offset < size_of_val(items) {
            // SAFETY: SSE is part of the x86_64 baseline, and a prefetch of any address has no
            // effect but on the cache; the pointer stays inside the slice.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
                    base.add(offset),
                );
            }
            offset += LINE_BYTES;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}
