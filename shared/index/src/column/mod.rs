//! An index over a vector column of any type, its parameters and its file.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use redkite_types::{BitSet, DataType, Error as UserError, ErrorCode, MetricType, StopFlag};
use serde_json::{Map, Value};

use crate::{
    binary::{BinaryIndex, BinaryParams},
    error::{Error, Result},
    file::Stored,
    in_file::ReadAt,
    index::{BuildOptions, Hit, VectorIndex, build_raw, opened},
    params::{
        DEFAULT_NLIST, IndexParams, IndexType, MMAP_KEY, SearchParams, boolean, build_integer,
        merged, unknown,
    },
    rows::{ColumnRows, Queries, Query, other_kind},
    sparse::{SparseIndex, SparseParams},
};

/// Index types of Milvus that are not built here, and are for dense vectors of floats only.
const FLOAT_ONLY: [&str; 4] = ["GPU_CAGRA", "GPU_IVF_FLAT", "GPU_IVF_PQ", "GPU_BRUTE_FORCE"];

/// Vectors that a step of a walk through a graph compares, at most: the links of a node with the
/// usual `M`, 16.
const COMPARED_A_STEP: usize = 32;

/// What to build over a vector column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnIndexParams {
    /// Over vectors of numbers.
    Dense(IndexParams),
    /// Over vectors of bits.
    Binary(BinaryParams),
    /// Over vectors that are mostly zero.
    Sparse(SparseParams),
}

impl ColumnIndexParams {
    /// Parses the key-value pairs of the wire, for a field of a type. `index_type` and `metric_type`
    /// are taken from the pairs, or from a JSON object under `params`; without them it is AUTOINDEX
    /// and the type's own metric.
    ///
    /// # Errors
    /// Milvus's codes and texts for a type, a metric or a parameter that is unknown, out of range or
    /// does not go with vectors of that type. All the caller's fault.
    pub fn from_pairs(
        data_type: DataType,
        pairs: &[(String, String)],
    ) -> redkite_types::Result<Self> {
        let params = merged(pairs).map_err(refused)?;
        let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, metric) = (text("index_type"), text("metric_type"));
        let index_type = parse_type(data_type, name)?;
        let metric = MetricType::parse_for(data_type, metric)?;
        let parsed = match data_type {
            DataType::BinaryVector => binary(index_type, metric, &params).map(Self::Binary),
            DataType::SparseFloatVector => {
                SparseParams::parse(index_type, &params).map(Self::Sparse)
            }
            _ => IndexParams::parse(name, metric.name(), &params).map(Self::Dense),
        };
        parsed.map_err(refused)
    }

    /// Checks what depends on the dimension of the vectors.
    ///
    /// # Errors
    /// `InvalidParameter` with Milvus's text; the caller's fault.
    pub fn check_dim(&self, dim: usize) -> Result<()> {
        match self {
            Self::Dense(params) => params.check_dim(dim),
            Self::Binary(_) | Self::Sparse(_) => Ok(()),
        }
    }

    /// The type, as the user named it.
    pub const fn index_type(&self) -> IndexType {
        match self {
            Self::Dense(params) => params.index_type,
            Self::Binary(params) => params.index_type,
            Self::Sparse(params) => params.index_type,
        }
    }

    /// How distance is measured.
    pub const fn metric(&self) -> MetricType {
        match self {
            Self::Dense(params) => params.metric,
            Self::Binary(params) => params.metric,
            Self::Sparse(_) => MetricType::Ip,
        }
    }
}

fn refused(error: Error) -> UserError {
    UserError {
        is_input_error: true,
        ..UserError::from_coded(&error)
    }
}

/// The type of a name, if vectors of the field's type can have it.
fn parse_type(data_type: DataType, name: &str) -> redkite_types::Result<IndexType> {
    let upper = name.to_ascii_uppercase();
    let parsed = IndexType::parse(name);
    let fits = match (&parsed, data_type) {
        (Ok(IndexType::AutoIndex), _) => true,
        (Ok(kind), DataType::BinaryVector) => kind.is_binary(),
        (Ok(kind), DataType::SparseFloatVector) => kind.is_sparse(),
        // Milvus has no other index for them.
        (Ok(kind), DataType::Int8Vector) => matches!(kind, IndexType::Hnsw | IndexType::HnswSq),
        (Ok(kind), _) => kind.is_dense(),
        (Err(_), DataType::FloatVector | DataType::Float16Vector | DataType::BFloat16Vector) => {
            true
        }
        (Err(_), _) => !FLOAT_ONLY.contains(&upper.as_str()),
    };
    if !fits {
        return Err(UserError::input(
            ErrorCode::InvalidParameter,
            format!(
                "data type {data_type} can't build with this index {upper}: invalid \
                 parameter[expected=valid index params][actual=invalid index params]"
            ),
        ));
    }
    parsed.map_err(refused)
}

fn binary(
    index_type: IndexType,
    metric: MetricType,
    params: &Map<String, Value>,
) -> Result<BinaryParams> {
    let mut parsed = BinaryParams {
        index_type,
        metric,
        nlist: DEFAULT_NLIST,
    };
    for (key, value) in params {
        match (key.as_str(), index_type) {
            ("index_type" | "metric_type", _) => {}
            // How it is loaded, not how it is built.
            (MMAP_KEY, _) => {
                boolean(key, value)?;
            }
            (_, IndexType::AutoIndex) => {
                return Err(Error::invalid(format!(
                    "only metric type can be passed when use AutoIndex, not '{key}'"
                )));
            }
            ("nlist", IndexType::BinIvfFlat) => {
                if let Some(nlist) = build_integer(key, value, 1, 65_536)? {
                    parsed.nlist = nlist;
                }
            }
            _ => return Err(unknown(key, index_type)),
        }
    }
    Ok(parsed)
}

impl SearchParams {
    /// As [`SearchParams::parse`], for a field of a type, whose AUTOINDEX is another one.
    ///
    /// # Errors
    /// As [`SearchParams::parse`].
    pub fn parse_for(
        data_type: DataType,
        index_type: IndexType,
        params: &Map<String, Value>,
    ) -> Result<Self> {
        let exact = match (data_type, index_type) {
            (DataType::BinaryVector, IndexType::AutoIndex) => IndexType::BinFlat,
            (DataType::SparseFloatVector, IndexType::AutoIndex) => IndexType::SparseInverted,
            (_, index_type) => return Self::parse(index_type, params),
        };
        // Exact unless a drop ratio is given: no less than any effort asks for.
        let efforts = ["ef", "level", "nprobe", "search_list", "reorder_k"];
        let (effort, own) = params
            .clone()
            .into_iter()
            .partition(|(key, _)| efforts.contains(&key.as_str()));
        Self::parse(IndexType::AutoIndex, &effort)?;
        Self::parse(exact, &own)
    }
}

/// An index over one vector column of one sealed segment.
pub enum ColumnIndex {
    /// Over vectors of numbers.
    Dense(Box<dyn VectorIndex>),
    /// Over vectors of bits.
    Binary(BinaryIndex),
    /// Over vectors that are mostly zero.
    Sparse(Box<SparseIndex>),
}

impl ColumnIndex {
    /// Builds an index. No copy of the vectors is made.
    ///
    /// # Errors
    /// As [`crate::build`]; also `InvalidParameter` when the index is of another type than the rows.
    pub fn build(
        params: &ColumnIndexParams,
        rows: &ColumnRows<'_>,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        match (params, rows) {
            (ColumnIndexParams::Dense(params), ColumnRows::Dense(rows)) => {
                Ok(Self::Dense(build_raw(params, rows, options)?))
            }
            (ColumnIndexParams::Binary(params), ColumnRows::Binary(rows)) => {
                BinaryIndex::build(params, rows, options).map(Self::Binary)
            }
            (ColumnIndexParams::Sparse(params), ColumnRows::Sparse(rows)) => {
                SparseIndex::build(params, rows, options).map(Self::sparse)
            }
            _ => Err(Error::invalid(format!(
                "an index of type {} cannot be built over such vectors",
                params.index_type().name()
            ))),
        }
    }

    /// As [`VectorIndex::extended`].
    ///
    /// # Errors
    /// As [`VectorIndex::extended`].
    pub fn extended(
        &self,
        rows: &ColumnRows<'_>,
        options: &BuildOptions<'_>,
    ) -> Result<Option<Self>> {
        match (self, rows) {
            (Self::Dense(index), ColumnRows::Dense(rows)) => {
                Ok(index.extended(rows, options)?.map(Self::Dense))
            }
            _ => Ok(None),
        }
    }

    /// Opens an index file that is in memory, or mapped; all checksums are verified.
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn open(bytes: Bytes) -> Result<Self> {
        Self::opened(Stored::open(bytes)?)
    }

    /// As [`ColumnIndex::open`], for bytes whose checksum as a whole was verified just now.
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn open_verified(bytes: Bytes) -> Result<Self> {
        Self::opened(Stored::open_verified(bytes)?)
    }

    /// As [`crate::open_mapped`].
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn open_mapped(bytes: Bytes, file: Arc<dyn ReadAt>) -> Result<Self> {
        Self::opened(Stored::open_verified(bytes)?.mapped_from(file))
    }

    fn opened(stored: Stored) -> Result<Self> {
        let index_type = stored.header.index_type;
        if index_type.is_binary() {
            BinaryIndex::from_stored(stored).map(Self::Binary)
        } else if index_type.is_sparse() {
            SparseIndex::from_stored(stored).map(Self::sparse)
        } else {
            opened(stored).map(Self::Dense)
        }
    }

    fn sparse(index: SparseIndex) -> Self {
        Self::Sparse(Box::new(index))
    }

    /// About how many of the index's vectors a search without a filter compares, at most.
    pub fn compared(&self, params: &SearchParams, k: usize) -> usize {
        let rows = self.len();
        match self {
            Self::Dense(index) if index.index_type().is_graph() => {
                let pool = params.pool_size(k).unwrap_or(rows);
                pool.saturating_mul(COMPARED_A_STEP).min(rows)
            }
            Self::Dense(_) | Self::Binary(_) | Self::Sparse(_) => rows,
        }
    }

    /// Whether it can be searched without the column's own vectors.
    pub const fn is_self_contained(&self) -> bool {
        matches!(self, Self::Sparse(_))
    }

    /// Appends the `k` nearest allowed rows, best first, equal scores by row. With a range in
    /// `params`, only what lies in it. `rows` is the column that the index was built from; an index
    /// that is self-contained does not look at it.
    ///
    /// # Errors
    /// `DimMismatch`, `NotFinite`, `InvalidParameter` (the caller's fault, never retry) ·
    /// `RawMismatch` (a bug of the caller) · `Cancelled`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub fn search(
        &self,
        query: Query<'_>,
        rows: Option<&ColumnRows<'_>>,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        match (self, query, rows) {
            (Self::Dense(index), Query::Dense(query), Some(ColumnRows::Dense(rows))) => {
                match params.range {
                    Some(_) => index.range_search(query, rows, params, allow, k, stop, out),
                    None => index.search(query, rows, params, allow, k, stop, out),
                }
            }
            (Self::Binary(index), Query::Binary(query), Some(ColumnRows::Binary(rows))) => {
                index.search(query, rows, params, allow, k, stop, out)
            }
            (Self::Sparse(index), Query::Sparse(query), _) => {
                index.search(query, params, allow, k, stop, out)
            }
            (Self::Dense(_) | Self::Binary(_) | Self::Sparse(_), _, _) => Err(other_kind()),
        }
    }

    /// As [`ColumnIndex::search`] for each of the queries; appends one list a query. Queries that look at
    /// the same rows look at them together, with the answers that each would get alone.
    ///
    /// # Errors
    /// As [`ColumnIndex::search`].
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub fn search_many(
        &self,
        queries: &Queries,
        rows: Option<&ColumnRows<'_>>,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        // Whether a range search goes on depends on what each query has found.
        if params.range.is_none() {
            match (self, queries, rows) {
                (
                    Self::Dense(index),
                    Queries::Dense { values, dim },
                    Some(ColumnRows::Dense(rows)),
                ) if *dim == index.dim() => {
                    return index.search_many(values, rows, params, allow, k, stop, out);
                }
                (
                    Self::Binary(index),
                    Queries::Binary { bytes, dim },
                    Some(ColumnRows::Binary(rows)),
                ) if *dim == index.dim() => {
                    return index.search_many(bytes, rows, params, allow, k, stop, out);
                }
                _ => {}
            }
        }
        for query in 0..queries.len() {
            let mut hits = Vec::new();
            let query = queries.get(query);
            self.search(query, rows, params, allow, k, stop, &mut hits)?;
            out.push(hits);
        }
        Ok(())
    }

    /// As [`VectorIndex::pinned_bytes`].
    pub fn pinned_bytes(&self) -> usize {
        match self {
            Self::Dense(index) => index.pinned_bytes(),
            Self::Binary(_) | Self::Sparse(_) => 0,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Dense(index) => index.len(),
            Self::Binary(index) => index.len(),
            Self::Sparse(index) => index.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values in a row; zero for sparse vectors, which have no fixed number.
    pub fn dim(&self) -> usize {
        match self {
            Self::Dense(index) => index.dim(),
            Self::Binary(index) => index.dim(),
            Self::Sparse(_) => 0,
        }
    }

    /// How distance is measured.
    pub fn metric(&self) -> MetricType {
        match self {
            Self::Dense(index) => index.metric(),
            Self::Binary(index) => index.metric(),
            Self::Sparse(_) => MetricType::Ip,
        }
    }

    /// The type as which it is stored.
    pub fn index_type(&self) -> IndexType {
        match self {
            Self::Dense(index) => index.index_type(),
            Self::Binary(index) => index.index_type(),
            Self::Sparse(index) => index.index_type(),
        }
    }

    /// Bytes the index holds, mapped ones included, the vectors themselves not.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Dense(index) => index.memory_bytes(),
            Self::Binary(index) => index.memory_bytes(),
            Self::Sparse(index) => index.memory_bytes(),
        }
    }

    /// The index file, piece by piece; [`ColumnIndex::open`] reads it. The large pieces are the
    /// index's own memory, not copies of it.
    pub fn parts(&self) -> Vec<Bytes> {
        match self {
            Self::Dense(index) => index.parts(),
            Self::Binary(index) => index.parts(),
            Self::Sparse(index) => index.parts(),
        }
    }

    /// Writes the index file.
    ///
    /// # Errors
    /// `Io` when the writer fails.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        match self {
            Self::Dense(index) => index.write(out),
            Self::Binary(index) => index.write(out),
            Self::Sparse(index) => index.write(out),
        }
    }
}

impl From<Box<dyn VectorIndex>> for ColumnIndex {
    fn from(index: Box<dyn VectorIndex>) -> Self {
        Self::Dense(index)
    }
}

#[cfg(test)]
mod tests;
