//! Raw vectors, lent by whoever stores them, and the exact score of a row.

use std::fmt::Debug;
use std::io;

use half::{bf16, f16};
use redkite_types::MetricType;

use crate::buffer::AlignedBuffer;
use crate::error::{Error, Result};
use crate::kernel::{Kernels, LINE_BYTES, kernels, prefetch};

/// What the values of raw vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// IEEE 754 16-bit floats.
    F16,
    /// 16-bit floats with the exponent of 32-bit ones.
    Bf16,
    /// 8-bit signed integers.
    I8,
}

impl Element {
    /// Bytes of a value.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }
}

/// One raw vector, where it lies.
#[derive(Clone, Copy, Debug)]
pub enum RawRow<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE 754 16-bit floats.
    F16(&'a [f16]),
    /// 16-bit floats with the exponent of 32-bit ones.
    Bf16(&'a [bf16]),
    /// 8-bit signed integers.
    I8(&'a [i8]),
}

impl<'a> RawRow<'a> {
    /// The values in some bytes, which start on a cache line.
    pub(crate) fn of(element: Element, bytes: &'a [u8]) -> Self {
        match element {
            Element::F32 => Self::F32(bytemuck::cast_slice(bytes)),
            Element::F16 => Self::F16(bytemuck::cast_slice(bytes)),
            Element::Bf16 => Self::Bf16(bytemuck::cast_slice(bytes)),
            Element::I8 => Self::I8(bytemuck::cast_slice(bytes)),
        }
    }
}

impl RawRow<'_> {
    /// Writes as many values as `out` has room for, from number `start` on, widened to f32.
    pub(crate) fn widen_from(self, start: usize, out: &mut [f32]) {
        let place = start..start + out.len();
        match self {
            Self::F32(row) => out.copy_from_slice(&row[place]),
            Self::F16(row) => fill(out, row[place].iter().map(|value| value.to_f32())),
            Self::Bf16(row) => fill(out, row[place].iter().map(|value| value.to_f32())),
            Self::I8(row) => fill(out, row[place].iter().map(|value| f32::from(*value))),
        }
    }

    /// Writes the row as its metric compares it, widened: cosine normalises it.
    pub(crate) fn normalised(self, metric: MetricType, out: &mut [f32]) {
        self.widen_from(0, out);
        if metric == MetricType::Cosine {
            let inverse = self.inverse_norm();
            out.iter_mut().for_each(|value| *value *= inverse);
        }
    }

    /// Whether no value is infinite or no number.
    pub(crate) fn is_finite(self) -> bool {
        match self {
            Self::F32(row) => row.iter().all(|value| value.is_finite()),
            Self::F16(row) => row.iter().all(|value| value.is_finite()),
            Self::Bf16(row) => row.iter().all(|value| value.is_finite()),
            Self::I8(_) => true,
        }
    }

    /// As [`inverse_norm`]: the same bits as of the values widened to f32.
    pub(crate) fn inverse_norm(self) -> f32 {
        match self {
            Self::F32(row) => inverse_norm(row),
            Self::F16(row) => inverse_root(row, f16::to_f64),
            Self::Bf16(row) => inverse_root(row, bf16::to_f64),
            Self::I8(row) => inverse_root(row, f64::from),
        }
    }

    /// Asks for the first cache lines.
    #[inline]
    pub(crate) fn prefetch(self, lines: usize) {
        let bytes: &[u8] = match self {
            Self::F32(row) => bytemuck::cast_slice(row),
            Self::F16(row) => bytemuck::cast_slice(row),
            Self::Bf16(row) => bytemuck::cast_slice(row),
            Self::I8(row) => bytemuck::cast_slice(row),
        };
        prefetch(&bytes[..bytes.len().min(lines * LINE_BYTES)]);
    }
}

/// Reads single rows of a column from the file that holds them.
///
/// A mapping of the file would show the same bytes. But the system brings in the pages around each row
/// that is looked at, so that after some searches the whole file counts as the process's memory, and
/// in pages of 4 KB nearly every row costs a walk through the processor's table of pages.
pub trait RowReader: Sync + Debug {
    /// Reads one row into `out`, which is as long as a row.
    ///
    /// # Errors
    /// The system's own · `WouldBlock` when the row is not in memory and the reader was made not to
    /// wait.
    fn read(&self, row: u32, out: &mut [u8]) -> io::Result<()>;
}

/// Room for one row that is read; starts on a cache line. Reused between rows.
#[derive(Default)]
pub struct RowRoom(Option<AlignedBuffer>);

impl RowRoom {
    /// So many bytes, of any value.
    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        let too_small = |buffer: &AlignedBuffer| buffer.as_ref().len() < len;
        if self.0.as_ref().is_none_or(too_small) {
            self.0 = Some(AlignedBuffer::zeroed(len));
        }
        let bytes = self
            .0
            .as_mut()
            .map_or(&mut [][..], |buffer| buffer.as_mut());
        &mut bytes[..len]
    }
}

/// The user's vectors as they were inserted; the index borrows them to score exactly.
///
/// # Correctness
/// Row `i` must be the row `i` that the index was built from, unchanged, for as long as the index
/// is searched; `row` must return `dim` values of the type that `element` says and be cheap (no
/// decoding, no IO it can avoid).
pub trait RawVectors: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Values in a row.
    fn dim(&self) -> usize;
    /// What the values are.
    fn element(&self) -> Element;
    /// One row, where it lies: for whoever looks at many of them, in order.
    ///
    /// # Panics
    /// May panic when `row >= rows()`.
    fn row(&self, row: u32) -> RawRow<'_>;

    /// Whether [`RawVectors::fetch`] reads rows from a file.
    fn is_read(&self) -> bool {
        false
    }

    /// One of a few rows all over the column: where it lies, or read into `room`.
    ///
    /// # Errors
    /// `Unread`, only if [`RawVectors::is_read`].
    ///
    /// # Panics
    /// As [`RawVectors::row`].
    #[inline]
    fn fetch<'a>(&'a self, row: u32, _room: &'a mut RowRoom) -> Result<RawRow<'a>> {
        Ok(self.row(row))
    }
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

    fn element(&self) -> Element {
        Element::F32
    }

    #[inline]
    fn row(&self, row: u32) -> RawRow<'_> {
        RawRow::F32(&self.values[row as usize * self.dim..][..self.dim])
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

/// `1 / |row|`, or 0 for a row without direction. Summed in f64 and in a fixed order, so that every
/// processor gets the same bits.
pub(crate) fn inverse_norm(row: &[f32]) -> f32 {
    inverse_root(row, f64::from)
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    out.iter_mut()
        .zip(values)
        .for_each(|(place, value)| *place = value);
}

/// Sums that are kept beside each other: one alone would wait for itself at every value.
const SUMS: usize = 8;

fn inverse_root<T: Copy>(row: &[T], widen: impl Fn(T) -> f64) -> f32 {
    let mut sums = [0f64; SUMS];
    let (chunks, rest) = row.as_chunks::<SUMS>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            let value = widen(*value);
            *sum += value * value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        let value = widen(*value);
        *sum += value * value;
    }
    let square: f64 = sums.iter().sum();
    if square > 0.0 {
        (1.0 / square.sqrt()) as f32
    } else {
        0.0
    }
}

/// A query in the type of the rows that it is compared with.
enum TypedQuery<'a> {
    F32(&'a [f32]),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    I8(Vec<i8>),
}

/// Scores rows exactly against one query, as Milvus reports them.
///
/// For ordering it uses keys, where smaller is always nearer: the score itself for L2, the negated
/// score otherwise.
pub(crate) struct ExactScorer<'a> {
    query: TypedQuery<'a>,
    metric: MetricType,
    query_inverse_norm: f32,
    kernels: &'static Kernels,
}

impl<'a> ExactScorer<'a> {
    /// Makes a query ready for rows of a type; it was given in that type, and so nothing is rounded.
    pub(crate) fn new(metric: MetricType, query: &'a [f32], element: Element) -> Self {
        let query_inverse_norm = match metric {
            MetricType::Cosine => inverse_norm(query),
            MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => 1.0,
        };
        let values = query.iter();
        Self {
            query: match element {
                Element::F32 => TypedQuery::F32(query),
                Element::F16 => TypedQuery::F16(values.map(|x| f16::from_f32(*x)).collect()),
                Element::Bf16 => TypedQuery::Bf16(values.map(|x| bf16::from_f32(*x)).collect()),
                Element::I8 => TypedQuery::I8(values.map(|x| *x as i8).collect()),
            },
            metric,
            query_inverse_norm,
            kernels: kernels(),
        }
    }

    /// The ordering key of a row; `row_inverse_norm` matters for cosine only.
    #[inline]
    pub(crate) fn key(&self, row: RawRow<'_>, row_inverse_norm: f32) -> f32 {
        match self.metric {
            MetricType::Ip => -self.product(row),
            MetricType::Cosine => {
                let product = self.product(row);
                -(product * self.query_inverse_norm * row_inverse_norm).clamp(-1.0, 1.0)
            }
            MetricType::L2 | MetricType::Hamming | MetricType::Jaccard => self.distance(row),
        }
    }

    #[inline]
    fn distance(&self, row: RawRow<'_>) -> f32 {
        match (&self.query, row) {
            (TypedQuery::F32(query), RawRow::F32(row)) => (self.kernels.l2_f32)(query, row),
            (TypedQuery::F16(query), RawRow::F16(row)) => (self.kernels.l2_f16)(query, row),
            (TypedQuery::Bf16(query), RawRow::Bf16(row)) => (self.kernels.l2_bf16)(query, row),
            (TypedQuery::I8(query), RawRow::I8(row)) => (self.kernels.l2_i8)(query, row) as f32,
            _ => other_type(),
        }
    }

    #[inline]
    fn product(&self, row: RawRow<'_>) -> f32 {
        match (&self.query, row) {
            (TypedQuery::F32(query), RawRow::F32(row)) => (self.kernels.ip_f32)(query, row),
            (TypedQuery::F16(query), RawRow::F16(row)) => (self.kernels.ip_f16)(query, row),
            (TypedQuery::Bf16(query), RawRow::Bf16(row)) => (self.kernels.ip_bf16)(query, row),
            (TypedQuery::I8(query), RawRow::I8(row)) => (self.kernels.ip_i8)(query, row) as f32,
            _ => other_type(),
        }
    }
}

/// A scorer is made for the type that its rows say they have.
#[cold]
fn other_type() -> f32 {
    debug_assert!(false, "rows are not of the type that they say");
    f32::INFINITY
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
