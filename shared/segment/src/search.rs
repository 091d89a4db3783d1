//! The nearest rows of one segment.

use std::sync::Arc;

use redkite_expr::Plan;
use redkite_index::{RawSlice, SearchParams, VectorIndex, scan_range, scan_topk};
use redkite_types::StopFlag;
use redkite_types::{ColumnData, FieldId, MetricType, SegmentId};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    reduce::{Hit, RowAt, TopK, compare_hits},
    segment::{Allowed, ReadView, Reader, Segment},
};

/// A search, prepared once and run on any number of segments.
///
/// # Shapes
/// `queries` is `[nq, dim]` row-major.
#[derive(Clone, Debug)]
pub struct SegmentSearcher {
    /// The vector field.
    pub field: FieldId,
    /// How nearness is measured.
    pub metric: MetricType,
    /// The query vectors.
    pub queries: Arc<[f32]>,
    /// Values in a vector, at least one.
    pub dim: usize,
    /// Hits a query at most.
    pub k: usize,
    /// Effort of an index search; with a range it is a range search.
    pub params: SearchParams,
    /// Which rows count.
    pub filter: Arc<Plan>,
    /// Which rows are seen.
    pub view: ReadView,
}

impl SegmentSearcher {
    /// Finds the `k` nearest rows of a segment for each query. Uses the segment's index if it has
    /// one for the field and the metric, else compares every row.
    ///
    /// # Errors
    /// `Search` with a dimension mismatch, a value that is not finite or a bad parameter (the
    /// caller's fault, never retry) · `NoField` · `Filter` · `Cancelled`
    pub fn search(&self, segment: &Segment, stop: &StopFlag) -> Result<TopK> {
        let id = segment.id();
        self.check_shape(id)?;
        let mut found = TopK::empty(self.metric, self.queries.len() / self.dim);
        found.rows_searched = segment.rows() as u64;
        if self.k == 0 {
            return Ok(found);
        }
        let index = self.index_of(segment);
        let reader = Reader::new(segment, self.view, &self.filter);
        let mut hits = Vec::new();
        for (start, chunk) in segment.spans() {
            stop.check().map_err(|_| Error::Cancelled)?;
            let allowed = reader.allowed(start, chunk)?;
            if allowed == Allowed::None {
                continue;
            }
            hits.clear();
            self.nearest(index, id, chunk, &allowed, stop, &mut hits)?;
            for (list, rows) in found.lists.iter_mut().zip(&hits) {
                list.extend(rows.iter().map(|hit| {
                    let row = hit.row as usize;
                    Hit {
                        key: chunk.key(row),
                        score: hit.score,
                        ts: chunk.timestamps()[row],
                        at: RowAt {
                            segment: id,
                            row: (start + row) as u32,
                        },
                    }
                }));
            }
        }
        for list in &mut found.lists {
            list.sort_unstable_by(|a, b| compare_hits(self.metric, a, b));
            list.truncate(self.k);
        }
        Ok(found)
    }

    /// The index that serves this search, if the segment has one.
    pub(crate) fn index_of<'a>(&self, segment: &'a Segment) -> Option<&'a dyn VectorIndex> {
        let index = segment.index(self.field)?;
        (index.metric() == self.metric).then_some(&**index)
    }

    /// Appends one list a query: the `k` nearest allowed rows of a chunk, best first.
    pub(crate) fn nearest(
        &self,
        index: Option<&dyn VectorIndex>,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        match index {
            Some(index) => self.by_index(index, segment, chunk, allowed, stop, lists),
            None => self.by_scan(segment, chunk, allowed, stop, lists),
        }
    }

    pub(crate) fn check_shape(&self, segment: SegmentId) -> Result<()> {
        if self.dim > 0 && self.queries.len().is_multiple_of(self.dim) {
            return Ok(());
        }
        let source = redkite_index::Error::DimMismatch {
            expected: self.dim,
            actual: self.queries.len(),
        };
        Err(Error::search(segment, source))
    }

    fn vectors<'a>(&self, segment: SegmentId, chunk: &'a Chunk) -> Result<&'a [f32]> {
        let field = self.field;
        let column = chunk.batch().column(field);
        match column.map(|column| &column.data) {
            Some(ColumnData::FloatVector { dim, values }) if *dim == self.dim => Ok(values),
            Some(ColumnData::FloatVector { dim, .. }) => {
                let source = redkite_index::Error::DimMismatch {
                    expected: *dim,
                    actual: self.dim,
                };
                Err(Error::search(segment, source))
            }
            _ => Err(Error::NoField { segment, field }),
        }
    }

    fn by_index(
        &self,
        index: &dyn VectorIndex,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        let values = self.vectors(segment, chunk)?;
        let failed = |source| Error::search(segment, source);
        let raw = RawSlice::new(values, self.dim).map_err(failed)?;
        let (params, allow) = (&self.params, allowed.bits());
        for query in self.queries.chunks_exact(self.dim) {
            let mut hits = Vec::new();
            let searched = if params.range.is_some() {
                index.range_search(query, &raw, params, allow, self.k, stop, &mut hits)
            } else {
                index.search(query, &raw, params, allow, self.k, stop, &mut hits)
            };
            searched.map_err(failed)?;
            lists.push(hits);
        }
        Ok(())
    }

    fn by_scan(
        &self,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        let rows = self.vectors(segment, chunk)?;
        let (dim, metric, queries, allow) = (self.dim, self.metric, &self.queries, allowed.bits());
        let scanned = match &self.params.range {
            Some(range) => scan_range(
                rows, dim, metric, queries, range, allow, self.k, stop, lists,
            ),
            None => scan_topk(rows, dim, metric, queries, allow, self.k, stop, lists),
        };
        scanned.map_err(|source| Error::search(segment, source))
    }
}
