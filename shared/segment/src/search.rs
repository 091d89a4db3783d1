//! The nearest rows of one segment.

use std::sync::Arc;

use redkite_expr::Plan;
use redkite_index::{ColumnIndex, ColumnRows, Queries, SearchParams};
use redkite_types::StopFlag;
use redkite_types::{Column, FieldId, MetricType, SegmentId};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    reduce::{Hit, RowAt, TopK, compare_hits},
    segment::{Allowed, ReadView, Reader, Segment},
};

/// A search, prepared once and run on any number of segments.
#[derive(Clone, Debug)]
pub struct SegmentSearcher {
    /// The vector field.
    pub field: FieldId,
    /// How nearness is measured.
    pub metric: MetricType,
    /// The query vectors, of the type of the field.
    pub queries: Queries,
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
        self.search_with(segment, &[], stop, true)
    }

    /// As [`SegmentSearcher::search`] of several segments, one answer each, and less widely where rows found in one
    /// leave few for another.
    ///
    /// # Errors
    /// As [`SegmentSearcher::search`].
    pub fn search_all(&self, segments: &[Segment], stop: &StopFlag) -> Result<Vec<TopK>> {
        self.search_each(segments, stop, true)
    }

    /// As [`SegmentSearcher::search_all`], of segments whose [`SegmentSearcher::work`] is known: does not wait for
    /// vectors that are read from a file.
    ///
    /// # Errors
    /// As [`SegmentSearcher::search`] · `Search` with [`Error::would_wait`]: search where waiting is
    /// allowed.
    pub fn search_now(&self, segments: &[Segment], stop: &StopFlag) -> Result<Vec<TopK>> {
        self.search_each(segments, stop, false)
    }

    fn search_each(&self, segments: &[Segment], stop: &StopFlag, waits: bool) -> Result<Vec<TopK>> {
        let mut found = Vec::with_capacity(segments.len());
        // Growing rows last, as a rule a few of all.
        let has_index = |segment: &&Segment| self.index_of(segment).is_some();
        let without = segments.iter().filter(|segment| !has_index(segment));
        for segment in segments.iter().filter(has_index).chain(without) {
            let part = self.search_with(segment, &found, stop, waits)?;
            found.push(part);
        }
        Ok(found)
    }

    fn search_with(
        &self,
        segment: &Segment,
        before: &[TopK],
        stop: &StopFlag,
        waits: bool,
    ) -> Result<TopK> {
        let id = segment.id();
        self.check_shape(id)?;
        let mut found = TopK::empty(self.metric, self.queries.len());
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
            match index {
                Some(index) => {
                    self.by_index(index, id, chunk, &allowed, stop, waits, &mut hits)?;
                }
                None => {
                    let found = Found {
                        searcher: self,
                        before,
                        here: Some(&found),
                    };
                    self.without_index(id, chunk, &allowed, &found, stop, &mut hits)?;
                }
            }
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

    /// About how many values a search of a segment compares, at most; `None` where it may have to wait
    /// for a file.
    pub fn work(&self, segment: &Segment) -> Option<usize> {
        let index = self.index_of(segment);
        if self.may_wait(segment, index) {
            return None;
        }
        let values = self.queries.values();
        // A filter, or deletes, are looked at for every row, 64 of them in a word where they are few.
        let looked_at = match self.filter.is_all() {
            true => segment.rows() / 64,
            false => segment.rows().saturating_mul(self.queries.len()),
        };
        let compared = |chunk: &Chunk| {
            if let Some(index) = index {
                return index.compared(&self.params, self.k);
            }
            let parts = chunk.interim_for(self.field, self.metric, &self.params, self.k);
            self.compared_by_interim(&parts, chunk.len())
        };
        let compared: usize = segment.chunks().iter().map(|chunk| compared(chunk)).sum();
        // A range search, or one for few rows of many, may look at all rows.
        let compared = match self.params.range.is_some() || !self.filter.is_all() {
            true => segment.rows(),
            false => compared,
        };
        Some(compared.saturating_mul(values).saturating_add(looked_at))
    }

    /// Whether looking at a segment may bring in parts of a file.
    fn may_wait(&self, segment: &Segment, index: Option<&ColumnIndex>) -> bool {
        if !self.filter.is_all() && segment.is_in_file() || segment.has_mapped_index(self.field) {
            return true;
        }
        // A graph in memory reads single rows only, and can tell when it would wait for one.
        let reads_rows = index.is_some_and(|index| index.index_type().is_graph());
        let reads_rows = reads_rows && self.params.range.is_none();
        let mut chunks = segment.chunks().iter();
        chunks.any(|chunk| {
            let in_file = chunk.rows_in_file(self.field);
            in_file.is_some_and(|rows| !reads_rows || rows.always_waits())
        })
    }

    /// The index that serves this search, if the segment has one.
    pub(crate) fn index_of<'a>(&self, segment: &'a Segment) -> Option<&'a ColumnIndex> {
        let index = segment.index(self.field)?;
        (index.metric() == self.metric).then_some(&**index)
    }

    /// Appends one list a query: the `k` nearest allowed rows of a chunk, best first.
    pub(crate) fn nearest(
        &self,
        index: Option<&ColumnIndex>,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        match index {
            Some(index) => self.by_index(index, segment, chunk, allowed, stop, true, lists),
            None => {
                let found = Found {
                    searcher: self,
                    before: &[],
                    here: None,
                };
                self.without_index(segment, chunk, allowed, &found, stop, lists)
            }
        }
    }

    fn without_index(
        &self,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        found: &Found<'_>,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        let parts = chunk.interim_for(self.field, self.metric, &self.params, self.k);
        match parts.is_empty() {
            true => self.by_scan(segment, chunk, allowed, stop, lists),
            false => self.by_interim(&parts, segment, chunk, allowed, found, stop, lists),
        }
    }

    pub(crate) fn check_shape(&self, segment: SegmentId) -> Result<()> {
        let checked = self.queries.check();
        checked.map_err(|source| Error::search(segment, source))
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn by_index(
        &self,
        index: &ColumnIndex,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        waits: bool,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        let column = match index.is_self_contained() {
            true => None,
            false => Some(chunk.column(segment, self.field)?),
        };
        let rows = match column.as_deref() {
            Some(column) => Some(self.rows(segment, column)?),
            None => None,
        };
        let reader = chunk.rows_in_file(self.field);
        let reader = reader.map(|rows| rows.reader(waits));
        let rows = match (rows, &reader) {
            (Some(rows), Some(reader)) => Some(rows.read_by(reader)),
            (rows, _) => rows,
        };
        let searched = index.search_many(
            &self.queries,
            rows.as_ref(),
            &self.params,
            allowed.bits(),
            self.k,
            stop,
            lists,
        );
        searched.map_err(|source| Error::search(segment, source))
    }

    fn by_scan(
        &self,
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<redkite_index::Hit>>,
    ) -> Result<()> {
        let column = chunk.column(segment, self.field)?;
        let rows = self.rows(segment, &column)?;
        let scanned = rows.scan(
            &self.queries,
            self.metric,
            &self.params,
            allowed.bits(),
            self.k,
            stop,
            lists,
        );
        scanned.map_err(|source| Error::search(segment, source))
    }

    pub(crate) fn rows<'a>(
        &self,
        segment: SegmentId,
        column: &'a Column,
    ) -> Result<ColumnRows<'a>> {
        let field = self.field;
        ColumnRows::of(&column.data).ok_or(Error::NoField { segment, field })
    }
}

/// What a search has found so far.
pub(crate) struct Found<'a> {
    searcher: &'a SegmentSearcher,
    /// In other segments.
    before: &'a [TopK],
    /// In other chunks of the segment.
    here: Option<&'a TopK>,
}

impl Found<'_> {
    /// The score of the last of `k` rows that were found for a query, with `more`; `None` while they are fewer.
    pub(crate) fn kth(&self, query: usize, more: &[redkite_index::Hit]) -> Option<f32> {
        let SegmentSearcher { k, metric, .. } = *self.searcher;
        let lists = self.before.iter().chain(self.here);
        let lists = lists.filter_map(|part| part.lists.get(query));
        let scores = lists.flatten().map(|hit| hit.score);
        let mut scores: Vec<f32> = scores.chain(more.iter().map(|hit| hit.score)).collect();
        let last = k.checked_sub(1).filter(|last| *last < scores.len())?;
        let (_, kth, _) = scores.select_nth_unstable_by(last, |a, b| metric.compare(*a, *b));
        Some(*kth)
    }
}
