//! Columns of vectors as indexes and scans see them, and queries in the same types.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use redkite_types::{BitSet, ColumnData, DataType, MetricType, StopFlag, sparse};

use crate::{
    binary::{self, BinaryRows},
    error::{Error, Result},
    flat::{scan_raw_range, scan_raw_topk},
    index::Hit,
    params::{RangeBounds, SearchParams},
    raw::{Element, RawRow, RawVectors, RowReader, RowRoom},
    sparse::{self as postings, SparseRows},
};

/// The vectors of one column, lent by whoever stores them.
#[derive(Debug)]
pub enum ColumnRows<'a> {
    /// Vectors of numbers.
    Dense(DenseRows<'a>),
    /// Vectors of bits.
    Binary(BinaryRows<'a>),
    /// Vectors that are mostly zero.
    Sparse(SparseRows<'a>),
}

impl<'a> ColumnRows<'a> {
    /// The vectors of a column; `None` when it holds something else.
    pub fn of(data: &'a ColumnData) -> Option<Self> {
        match data {
            ColumnData::FloatVector { dim, values } => {
                Some(Self::Dense(DenseRows::new(Elements::F32(values), *dim)))
            }
            ColumnData::PackedVector { kind, dim, values } => match kind {
                DataType::BinaryVector => Some(Self::Binary(BinaryRows::new(values, *dim))),
                DataType::Float16Vector => Some(Self::Dense(DenseRows::new(
                    Elements::F16(typed(values)),
                    *dim,
                ))),
                DataType::BFloat16Vector => Some(Self::Dense(DenseRows::new(
                    Elements::Bf16(typed(values)),
                    *dim,
                ))),
                DataType::Int8Vector => Some(Self::Dense(DenseRows::new(
                    Elements::I8(bytemuck::cast_slice(values)),
                    *dim,
                ))),
                _ => None,
            },
            ColumnData::SparseVector(rows) => Some(Self::Sparse(SparseRows::new(rows))),
            ColumnData::Bool(_)
            | ColumnData::Int8(_)
            | ColumnData::Int16(_)
            | ColumnData::Int32(_)
            | ColumnData::Int64(_)
            | ColumnData::Float(_)
            | ColumnData::Double(_)
            | ColumnData::VarChar(_)
            | ColumnData::Json(_) => None,
        }
    }

    /// The same vectors, of which single ones are read by `reader`. Only dense ones are.
    #[must_use]
    pub fn read_by(self, reader: &'a dyn RowReader) -> Self {
        match self {
            Self::Dense(rows) => Self::Dense(DenseRows {
                reader: Some(reader),
                ..rows
            }),
            rows => rows,
        }
    }

    /// Compares every allowed row with every query; appends one list a query, best first. With a
    /// range in `params`, only what lies in it.
    ///
    /// # Errors
    /// `DimMismatch`, `NotFinite` for a query, `InvalidParameter` for an empty range (the caller's
    /// fault) · `Cancelled`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub fn scan(
        &self,
        queries: &Queries,
        metric: MetricType,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let range = params.range.as_ref();
        match (self, queries) {
            (Self::Dense(rows), Queries::Dense { values, dim }) => {
                check_dim(rows.dim, *dim)?;
                match range {
                    Some(range) => scan_raw_range(rows, metric, values, range, allow, k, stop, out),
                    None => scan_raw_topk(rows, metric, values, allow, k, stop, out),
                }
            }
            (Self::Binary(rows), Queries::Binary { bytes, dim }) => {
                check_dim(rows.dim(), *dim)?;
                if range.is_none() {
                    return binary::scan_together(rows, metric, bytes, allow, k, stop, out);
                }
                for query in bytes.chunks_exact(dim / 8) {
                    out.push(binary::scan(rows, metric, query, range, allow, k, stop)?);
                }
                Ok(())
            }
            (Self::Sparse(rows), Queries::Sparse(queries)) => {
                postings::scan(rows, queries, range, allow, k, stop, out)
            }
            (Self::Dense(_) | Self::Binary(_) | Self::Sparse(_), _) => Err(other_kind()),
        }
    }
}

fn check_dim(expected: usize, actual: usize) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::DimMismatch { expected, actual })
}

pub(crate) fn other_kind() -> Error {
    Error::invalid("the queries are not of the type of the field's vectors")
}

/// Vectors of numbers of any type, in one row-major slice.
///
/// # Shapes
/// `[rows, dim]`.
#[derive(Debug)]
pub struct DenseRows<'a> {
    values: Elements<'a>,
    dim: usize,
    /// Reads single rows, if they are not to be looked at where they lie.
    reader: Option<&'a dyn RowReader>,
}

#[derive(Debug)]
enum Elements<'a> {
    F32(&'a [f32]),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
    I8(&'a [i8]),
}

/// The values where they lie; copied only if they lie where the type may not.
fn typed<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => {
            let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
            let whole = size_of_val(values.as_slice());
            bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes[..whole]);
            Cow::Owned(values)
        }
    }
}

impl<'a> DenseRows<'a> {
    fn new(values: Elements<'a>, dim: usize) -> Self {
        Self {
            values,
            dim,
            reader: None,
        }
    }

    /// Some of the rows, one after the other, lent.
    ///
    /// # Panics
    /// When they are past the end.
    pub fn part(&self, rows: Range<usize>) -> DenseRows<'_> {
        let place = rows.start * self.dim..rows.end * self.dim;
        let values = match &self.values {
            Elements::F32(values) => Elements::F32(&values[place]),
            Elements::F16(values) => Elements::F16(Cow::Borrowed(&values[place])),
            Elements::Bf16(values) => Elements::Bf16(Cow::Borrowed(&values[place])),
            Elements::I8(values) => Elements::I8(&values[place]),
        };
        DenseRows::new(values, self.dim)
    }

    /// The values as f32, copied unless they are.
    pub fn widened(&self) -> Cow<'_, [f32]> {
        match &self.values {
            Elements::F32(values) => Cow::Borrowed(values),
            Elements::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Elements::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Elements::I8(values) => values.iter().map(|value| f32::from(*value)).collect(),
        }
    }
}

impl RawVectors for DenseRows<'_> {
    fn rows(&self) -> usize {
        let values = match &self.values {
            Elements::F32(values) => values.len(),
            Elements::F16(values) => values.len(),
            Elements::Bf16(values) => values.len(),
            Elements::I8(values) => values.len(),
        };
        values / self.dim.max(1)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn element(&self) -> Element {
        match &self.values {
            Elements::F32(_) => Element::F32,
            Elements::F16(_) => Element::F16,
            Elements::Bf16(_) => Element::Bf16,
            Elements::I8(_) => Element::I8,
        }
    }

    #[inline]
    fn row(&self, row: u32) -> RawRow<'_> {
        let start = row as usize * self.dim;
        let place = start..start + self.dim;
        match &self.values {
            Elements::F32(values) => RawRow::F32(&values[place]),
            Elements::F16(values) => RawRow::F16(&values[place]),
            Elements::Bf16(values) => RawRow::Bf16(&values[place]),
            Elements::I8(values) => RawRow::I8(&values[place]),
        }
    }

    fn is_read(&self) -> bool {
        self.reader.is_some()
    }

    #[inline]
    fn fetch<'a>(&'a self, row: u32, room: &'a mut RowRoom) -> Result<RawRow<'a>> {
        let Some(reader) = self.reader else {
            return Ok(self.row(row));
        };
        let element = self.element();
        let bytes = room.bytes(self.dim * element.bytes());
        let read = reader.read(row, bytes);
        read.map_err(|source| Error::Unread { row, source })?;
        Ok(RawRow::of(element, bytes))
    }
}

/// The pairs of a sparse vector, by dimension.
pub type SparseQuery = Vec<(u32, f32)>;

/// Query vectors of one search.
#[derive(Clone, Debug)]
pub enum Queries {
    /// `[nq, dim]` row-major, of the field's type widened to f32.
    Dense {
        /// The values.
        values: Arc<[f32]>,
        /// Values in a vector, at least one.
        dim: usize,
    },
    /// `[nq, dim / 8]` row-major.
    Binary {
        /// The bits.
        bytes: Bytes,
        /// Bits in a vector, a multiple of eight and at least that.
        dim: usize,
    },
    /// One a query.
    Sparse(Arc<[SparseQuery]>),
}

/// One query vector.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// Numbers.
    Dense(&'a [f32]),
    /// Bits.
    Binary(&'a [u8]),
    /// Pairs by dimension.
    Sparse(&'a [(u32, f32)]),
}

impl Queries {
    /// Queries of vectors of 32-bit floats.
    pub fn dense(values: impl Into<Arc<[f32]>>, dim: usize) -> Self {
        Self::Dense {
            values: values.into(),
            dim,
        }
    }

    /// Reads `nq` vectors of a type as they travel; `lengths` are those of sparse ones. `None` when
    /// the bytes are not so many whole vectors.
    pub fn decode(
        kind: DataType,
        dim: usize,
        nq: usize,
        bytes: &Bytes,
        lengths: &[u32],
    ) -> Option<Self> {
        if nq == 0 {
            return None;
        }
        if kind == DataType::SparseFloatVector {
            return Self::decode_sparse(nq, bytes, lengths);
        }
        let width = kind.vector_bytes(dim);
        if width == 0 || !lengths.is_empty() || Some(bytes.len()) != nq.checked_mul(width) {
            return None;
        }
        let values: Arc<[f32]> = match kind {
            DataType::FloatVector => {
                let (values, _) = bytes.as_chunks::<4>();
                values.iter().map(|x| f32::from_le_bytes(*x)).collect()
            }
            DataType::Float16Vector => {
                let (values, _) = bytes.as_chunks::<2>();
                let value = |x: &[u8; 2]| f16::from_le_bytes(*x).to_f32();
                values.iter().map(value).collect()
            }
            DataType::BFloat16Vector => {
                let (values, _) = bytes.as_chunks::<2>();
                let value = |x: &[u8; 2]| bf16::from_le_bytes(*x).to_f32();
                values.iter().map(value).collect()
            }
            DataType::Int8Vector => bytes.iter().map(|x| f32::from(*x as i8)).collect(),
            DataType::BinaryVector => {
                return Some(Self::Binary {
                    bytes: bytes.clone(),
                    dim,
                });
            }
            _ => return None,
        };
        Some(Self::Dense { values, dim })
    }

    fn decode_sparse(nq: usize, bytes: &[u8], lengths: &[u32]) -> Option<Self> {
        if lengths.len() != nq {
            return None;
        }
        let mut rest = bytes;
        let mut queries = Vec::with_capacity(nq);
        for length in lengths {
            let (query, behind) = rest.split_at_checked(*length as usize)?;
            rest = behind;
            queries.push(sparse::pairs(query).collect());
        }
        rest.is_empty().then(|| Self::Sparse(queries.into()))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        match self {
            Self::Dense { values, dim } => values.len() / (*dim).max(1),
            Self::Binary { bytes, dim } => bytes.len() / (dim / 8).max(1),
            Self::Sparse(queries) => queries.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers that are compared with each row, an estimate of the effort.
    pub fn values(&self) -> usize {
        match self {
            Self::Dense { values, .. } => values.len(),
            // A word of bits costs about as much as a number.
            Self::Binary { bytes, .. } => bytes.len().div_ceil(8),
            Self::Sparse(queries) => queries.iter().map(Vec::len).sum(),
        }
    }

    /// Checks that dense or binary queries are whole vectors.
    ///
    /// # Errors
    /// `DimMismatch`, the caller's fault.
    pub fn check(&self) -> Result<()> {
        let (length, width, dim) = match self {
            Self::Dense { values, dim } => (values.len(), *dim, *dim),
            Self::Binary { bytes, dim } => (bytes.len(), dim / 8, *dim),
            Self::Sparse(_) => return Ok(()),
        };
        if width > 0 && length.is_multiple_of(width) {
            return Ok(());
        }
        Err(Error::DimMismatch {
            expected: dim,
            actual: length,
        })
    }

    /// One of the queries.
    ///
    /// # Panics
    /// When it is past the end.
    pub fn get(&self, query: usize) -> Query<'_> {
        match self {
            Self::Dense { values, dim } => Query::Dense(&values[query * dim..(query + 1) * dim]),
            Self::Binary { bytes, dim } => {
                Query::Binary(&bytes[query * dim / 8..(query + 1) * dim / 8])
            }
            Self::Sparse(queries) => Query::Sparse(&queries[query]),
        }
    }

    /// A search for one of the queries only.
    ///
    /// # Panics
    /// When it is past the end.
    #[must_use]
    pub fn only(&self, query: usize) -> Self {
        match self.get(query) {
            Query::Dense(values) => Self::dense(values, values.len()),
            Query::Binary(bits) => Self::Binary {
                bytes: Bytes::copy_from_slice(bits),
                dim: bits.len() * 8,
            },
            Query::Sparse(pairs) => Self::Sparse([pairs.to_vec()].into()),
        }
    }
}

/// Whether a score lies in a range, if there is one.
pub(crate) fn in_range(range: Option<&RangeBounds>, metric: MetricType, score: f32) -> bool {
    range.is_none_or(|range| range.contains(metric, score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_every_type_are_whole_vectors_or_none() {
        let bytes = Bytes::from(vec![1u8; 48]);
        for (kind, dim, nq) in [
            (DataType::FloatVector, 4, 3),
            (DataType::Float16Vector, 4, 6),
            (DataType::BFloat16Vector, 12, 2),
            (DataType::Int8Vector, 16, 3),
            (DataType::BinaryVector, 128, 3),
        ] {
            let queries = Queries::decode(kind, dim, nq, &bytes, &[]).unwrap();
            assert_eq!(queries.len(), nq, "{kind}");
            assert_eq!(queries.only(nq - 1).len(), 1);
            assert!(queries.check().is_ok());
            assert!(Queries::decode(kind, dim, nq + 1, &bytes, &[]).is_none());
            assert!(Queries::decode(kind, dim, nq, &bytes, &[1]).is_none());
        }
        let kind = DataType::SparseFloatVector;
        let queries = Queries::decode(kind, 0, 3, &bytes, &[16, 0, 32]).unwrap();
        assert_eq!((queries.len(), queries.values()), (3, 6));
        assert!(Queries::decode(kind, 0, 3, &bytes, &[16, 0, 24]).is_none());
        assert!(Queries::decode(kind, 0, 2, &bytes, &[16, 40]).is_none());
    }
}
