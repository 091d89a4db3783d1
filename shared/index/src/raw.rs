//! Raw vectors, lent by whoever stores them, and the exact score of a row.

use redkite_types::MetricType;

use crate::error::{Error, Result};
use crate::kernel::{Kernels, kernels};

/// The user's vectors as they were inserted; the index borrows them to score exactly.
///
/// # Correctness
/// Row `i` must be the row `i` that the index was built from, unchanged, for as long as the index
/// is searched; `row` must return `dim` values and be cheap (no decoding, no IO it can avoid).
pub trait RawVectors: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Values in a row.
    fn dim(&self) -> usize;
    /// One row.
    ///
    /// # Panics
    /// May panic when `row >= rows()`.
    fn row(&self, row: u32) -> &[f32];
}

/// Raw vectors in one row-major slice.
///
/// # Shapes
/// `[rows, dim]`.
#[derive(Clone, Copy, Debug)]
pub struct RawSlice<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> RawSlice<'a> {
    /// Takes a row-major `[rows, dim]` slice.
    ///
    /// # Errors
    /// `DimMismatch` when the slice is not a whole number of rows; the caller's fault.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::DimMismatch {
                expected: dim,
                actual: values.len(),
            });
        }
        Ok(Self { values, dim })
    }
}

impl RawVectors for RawSlice<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    fn dim(&self) -> usize {
        self.dim
    }

    #[inline]
    fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.dim..][..self.dim]
    }
}

/// Checks that a vector has the dimension and only finite values.
pub(crate) fn check_query(query: &[f32], dim: usize) -> Result<()> {
    if query.len() != dim {
        return Err(Error::DimMismatch {
            expected: dim,
            actual: query.len(),
        });
    }
    if query.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(Error::NotFinite {
            what: "the query".to_owned(),
        })
    }
}

/// `1 / |row|`, or 0 for a row without direction. Summed in f64 and in order, so that every
/// processor gets the same bits.
pub(crate) fn inverse_norm(row: &[f32]) -> f32 {
    let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
    if square > 0.0 {
        (1.0 / square.sqrt()) as f32
    } else {
        0.0
    }
}

/// Scores rows exactly against one query, as Milvus reports them.
///
/// For ordering it uses keys, where smaller is always nearer: the score itself for L2, the negated
/// score otherwise.
pub(crate) struct ExactScorer<'a> {
    query: &'a [f32],
    metric: MetricType,
    query_inverse_norm: f32,
    kernels: &'static Kernels,
}

impl<'a> ExactScorer<'a> {
    pub(crate) fn new(metric: MetricType, query: &'a [f32]) -> Self {
        let query_inverse_norm = match metric {
            MetricType::Cosine => inverse_norm(query),
            MetricType::L2 | MetricType::Ip => 1.0,
        };
        Self {
            query,
            metric,
            query_inverse_norm,
            kernels: kernels(),
        }
    }

    /// The ordering key of a row; `row_inverse_norm` matters for cosine only.
    #[inline]
    pub(crate) fn key(&self, row: &[f32], row_inverse_norm: f32) -> f32 {
        match self.metric {
            MetricType::L2 => (self.kernels.l2_f32)(self.query, row),
            MetricType::Ip => -(self.kernels.ip_f32)(self.query, row),
            MetricType::Cosine => {
                let product = (self.kernels.ip_f32)(self.query, row);
                -(product * self.query_inverse_norm * row_inverse_norm).clamp(-1.0, 1.0)
            }
        }
    }
}

/// The score Milvus reports for an ordering key, and back: the mapping is its own inverse.
#[inline]
pub(crate) fn flip(metric: MetricType, key: f32) -> f32 {
    // `0.0 - key` rather than `-key`: no user should see a score of minus zero.
    if metric.larger_is_nearer() {
        0.0 - key
    } else {
        key
    }
}
