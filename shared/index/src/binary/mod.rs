//! Binary vectors: exact search, and inverted lists.
//!
//! # Source
//! Hamming: bits that differ. Jaccard: one minus the bits that both have by the bits that either
//! has, and one where they have none in common, as Milvus counts it. The lists' centroids are the
//! majority of each bit over their rows, found as k-means finds means.

mod lists;
#[cfg(test)]
mod tests;

use std::io::Write;

use bytes::Bytes;
use redkite_types::{BitSet, MetricType, StopFlag};

use self::lists::Lists;
use crate::{
    allowed::Allowed,
    effort::Effort,
    error::{Error, Result},
    file::{Header, Stored},
    flat::allowed_rows,
    index::{BuildOptions, Hit},
    kernel::kernels,
    params::{IndexType, RangeBounds, SearchParams},
    rows::in_range,
    together::{AllowedOfLists, BATCH_BYTES, ListVisits, parts},
    topk::TopK,
};

/// Rows scored between two looks at the stop flag.
const BLOCK_ROWS: usize = 1_024;

/// Lists in a row that end a range search when they have nothing to give.
const DEFAULT_EMPTY_BUCKETS: usize = 2;

/// Lists visited if nothing is said.
const DEFAULT_NPROBE: usize = 8;

/// Vectors of bits in one row-major slice.
///
/// # Shapes
/// `[rows, dim / 8]` bytes.
#[derive(Clone, Copy, Debug)]
pub struct BinaryRows<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> BinaryRows<'a> {
    /// Takes rows of so many bits, at least eight and a multiple of that.
    pub fn new(bytes: &'a [u8], dim: usize) -> Self {
        Self {
            bytes,
            width: (dim / 8).max(1),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Bits in a row.
    pub fn dim(&self) -> usize {
        self.width * 8
    }

    fn row(&self, row: u32) -> &'a [u8] {
        &self.bytes[row as usize * self.width..][..self.width]
    }
}

/// The distance of two vectors of bits, as Milvus reports it.
fn distance(metric: MetricType, a: &[u8], b: &[u8]) -> f32 {
    match metric {
        MetricType::Jaccard => {
            let (both, either) = (kernels().common_bits)(a, b);
            match both {
                0 => 1.0,
                both => 1.0 - both as f32 / either as f32,
            }
        }
        _ => (kernels().hamming)(a, b) as f32,
    }
}

/// The nearest allowed rows, best first, found by comparing all.
///
/// # Errors
/// `InvalidParameter` for an empty range, the caller's fault · `Cancelled`.
pub(crate) fn scan(
    rows: &BinaryRows<'_>,
    metric: MetricType,
    query: &[u8],
    range: Option<&RangeBounds>,
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
) -> Result<Vec<Hit>> {
    if let Some(range) = range {
        range.validate(metric)?;
    }
    let mut best = TopK::with_k(k);
    for (at, row) in allowed_rows(allow, rows.rows()).enumerate() {
        if at % BLOCK_ROWS == 0 {
            stop.check()?;
        }
        let score = distance(metric, query, rows.row(row));
        if in_range(range, metric, score) {
            best.push(score, row);
        }
    }
    let mut hits = Vec::new();
    best.drain_into(metric, &mut hits);
    Ok(hits)
}

/// As [`scan`] without a range for each of the queries, row-major; the rows are read once for all.
///
/// # Errors
/// `Cancelled`.
pub(crate) fn scan_together(
    rows: &BinaryRows<'_>,
    metric: MetricType,
    queries: &[u8],
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    let queries = queries.chunks_exact(rows.width);
    let mut best: Vec<_> = queries.map(|query| (query, TopK::with_k(k))).collect();
    let mut pending = allowed_rows(allow, rows.rows());
    let mut block = Vec::with_capacity(BLOCK_ROWS);
    loop {
        stop.check()?;
        block.clear();
        block.extend(pending.by_ref().take(BLOCK_ROWS));
        if block.is_empty() {
            break;
        }
        for (query, best) in &mut best {
            for row in &block {
                best.push(distance(metric, query, rows.row(*row)), *row);
            }
        }
    }
    for (_, mut best) in best {
        let mut hits = Vec::new();
        best.drain_into(metric, &mut hits);
        out.push(hits);
    }
    Ok(())
}

/// What to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryParams {
    /// BIN_FLAT, BIN_IVF_FLAT, or AUTOINDEX, which is the former.
    pub index_type: IndexType,
    /// Hamming or Jaccard.
    pub metric: MetricType,
    /// Lists of BIN_IVF_FLAT, 1 to 65536.
    pub nlist: usize,
}

/// An index over the binary vectors of one sealed segment. It holds no copy of them.
pub struct BinaryIndex {
    index_type: IndexType,
    metric: MetricType,
    dim: usize,
    rows: usize,
    lists: Option<Lists>,
}

impl BinaryIndex {
    /// Builds the index.
    ///
    /// # Errors
    /// `TooManyRows`, the caller's fault · `Cancelled`.
    pub fn build(
        params: &BinaryParams,
        rows: &BinaryRows<'_>,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        let (count, limit) = (rows.rows(), u32::MAX as usize);
        if count > limit {
            return Err(Error::TooManyRows { rows: count, limit });
        }
        let (index_type, lists) = match params.index_type {
            IndexType::BinIvfFlat => (
                IndexType::BinIvfFlat,
                Some(Lists::build(params, rows, options)?),
            ),
            _ => {
                // Nothing is made of the rows.
                options.stop.check()?;
                options.count(count);
                (IndexType::BinFlat, None)
            }
        };
        Ok(Self {
            index_type,
            metric: params.metric,
            dim: rows.dim(),
            rows: count,
            lists,
        })
    }

    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        if !header.dim.is_multiple_of(8) {
            return Err(Error::corrupt("dimension"));
        }
        let lists = match header.index_type {
            IndexType::BinIvfFlat => Some(Lists::from_stored(&header, &mut stored)?),
            _ => None,
        };
        Ok(Self {
            index_type: header.index_type,
            metric: header.metric,
            dim: header.dim,
            rows: header.rows,
            lists,
        })
    }

    /// Appends the nearest allowed rows, best first, equal scores by row. With a range in `params`,
    /// only what lies in it. Scores are exact. Under a filter it visits further lists than
    /// `nprobe`, until as many rows were looked at as without one and there are `k` hits.
    ///
    /// # Errors
    /// `DimMismatch`, `InvalidParameter` (the caller's fault) · `RawMismatch` (a bug of the caller)
    /// · `Cancelled`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub fn search(
        &self,
        query: &[u8],
        raw: &BinaryRows<'_>,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        self.check(query, raw)?;
        let range = params.range.as_ref();
        let Some(lists) = &self.lists else {
            out.extend(scan(raw, self.metric, query, range, allow, k, stop)?);
            return Ok(());
        };
        if let Some(range) = range {
            range.validate(self.metric)?;
        }
        let allowed = Allowed::of(allow, self.rows);
        let nprobe = params.nprobe.unwrap_or(DEFAULT_NPROBE).min(lists.len());
        let (patience, wanted) = match range {
            Some(_) => (params.max_empty_buckets.unwrap_or(DEFAULT_EMPTY_BUCKETS), 0),
            None => (0, k.min(allowed.count)),
        };
        let effort = Effort::new(nprobe, self.rows, lists.len(), allowed, wanted);
        let mut visits = effort.begin(allowed, self.rows);
        let mut best = TopK::with_k(k);
        let mut empty = 0;
        for (rank, list) in lists.order(self.metric, query).enumerate() {
            if rank >= nprobe && visits.are_enough() && empty >= patience {
                break;
            }
            stop.check()?;
            empty += 1;
            let (rows, mut seen) = (lists.rows(list), 0);
            for row in rows.iter().filter(|row| allowed.has(**row)) {
                seen += 1;
                let score = distance(self.metric, query, raw.row(*row));
                if in_range(range, self.metric, score) {
                    empty = 0;
                    best.push(score, *row);
                }
            }
            visits.add(rows.len(), seen);
        }
        best.drain_into(self.metric, out);
        Ok(())
    }

    /// As [`BinaryIndex::search`] for each of the queries, `[nq, dim / 8]`, without a range; appends one list
    /// a query, the same as one by one.
    ///
    /// # Errors
    /// As [`BinaryIndex::search`].
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub fn search_many(
        &self,
        queries: &[u8],
        raw: &BinaryRows<'_>,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let width = self.dim / 8;
        for query in queries.chunks(width) {
            self.check(query, raw)?;
        }
        let allowed = Allowed::of(allow, self.rows);
        let Some(lists) = &self.lists else {
            return scan_together(raw, self.metric, queries, allow, k, stop, out);
        };
        let nprobe = params.nprobe.unwrap_or(DEFAULT_NPROBE).min(lists.len());
        let effort = Effort::new(
            nprobe,
            self.rows,
            lists.len(),
            allowed,
            k.min(allowed.count),
        );
        let mut counted = AllowedOfLists::new(allowed, lists.offsets(), lists.all_rows());
        let mut left = queries.chunks_exact(width);
        while left.len() > 0 {
            let (mut visits, mut batch) = (ListVisits::default(), Vec::new());
            let each = k.min(allowed.count) * size_of::<u64>() + size_of::<TopK>();
            while batch.is_empty() || batch.len() * each + visits.bytes() < BATCH_BYTES {
                let Some(query) = left.next() else {
                    break;
                };
                stop.check()?;
                let mut order = lists.order(self.metric, query);
                visits.add(batch.len(), effort, &mut counted, |_| order.next());
                batch.push((query, TopK::with_k(k)));
            }
            for (list, visitors) in visits.by_list() {
                stop.check()?;
                for part in parts(counted.places(list)) {
                    let rows = &lists.all_rows()[part];
                    for at in visitors.clone() {
                        let (query, best) = &mut batch[at];
                        for row in rows.iter().filter(|row| allowed.has(**row)) {
                            best.push(distance(self.metric, query, raw.row(*row)), *row);
                        }
                    }
                }
            }
            for (_, mut best) in batch {
                let mut hits = Vec::new();
                best.drain_into(self.metric, &mut hits);
                out.push(hits);
            }
        }
        Ok(())
    }

    fn check(&self, query: &[u8], raw: &BinaryRows<'_>) -> Result<()> {
        if query.len() * 8 != self.dim {
            return Err(Error::DimMismatch {
                expected: self.dim,
                actual: query.len() * 8,
            });
        }
        if raw.dim() != self.dim || raw.rows() < self.rows {
            return Err(Error::RawMismatch {
                raw_rows: raw.rows(),
                raw_dim: raw.dim(),
                rows: self.rows,
                dim: self.dim,
            });
        }
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bits in a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How distance is measured.
    pub fn metric(&self) -> MetricType {
        self.metric
    }

    /// The type as which it is stored.
    pub fn index_type(&self) -> IndexType {
        self.index_type
    }

    /// Bytes the index holds, mapped ones included, the vectors not.
    pub fn memory_bytes(&self) -> usize {
        self.lists.as_ref().map_or(0, Lists::memory_bytes)
    }

    /// The index file, piece by piece; the large pieces are the index's own memory.
    pub fn parts(&self) -> Vec<Bytes> {
        let mut header = Header::new(self.index_type, self.metric, self.dim, self.rows);
        let mut sections = Vec::new();
        if let Some(lists) = &self.lists {
            header.nlist = lists.len();
            sections = lists.sections();
        }
        crate::file::parts(&header, sections)
    }

    /// Writes the index file.
    ///
    /// # Errors
    /// `Io` when the writer fails.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        crate::file::write(&self.parts(), out)
    }
}
