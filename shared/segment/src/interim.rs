//! Indexes over rows that still grow, so that a search need not compare with every one of them.
//!
//! Rows get codes of one byte a dimension soon after they were written: all of them are compared, but
//! with a fraction of the memory. Once there are enough of them in a chunk, it gets a small graph of its
//! own. Both are in memory only. Chunks are merged as rows come, and keep what is over their rows; where
//! nothing else is due, several of them are joined and get one graph in the place of theirs. When a
//! flush has written the rows, the sealed segment takes it over, until an index over all rows is there.

use std::{fmt, ops::Range, sync::Arc};

use parking_lot::RwLock;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, DenseRows, Hit, IndexParams,
    IndexType, SearchParams,
};
use redkite_types::{BitSet, ColumnData, FieldId, MetricType, SegmentId, StopFlag};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    search::SegmentSearcher,
    segment::Allowed,
};

/// Chunks with fewer rows are faster compared than walked.
pub const MIN_ROWS: usize = 2_048;
/// Fewer rows are compared as they are.
pub const MIN_CODED: usize = 128;
/// Links a row keeps: few, as the graphs are small and are thrown away soon.
const LINKS: usize = 12;
/// Candidates for a new row's links.
const BUILD_CANDIDATES: usize = 64;
/// Candidates of a search at least, whatever the parameters of the collection's own index say.
const SEARCH_CANDIDATES: usize = 64;
/// A search for more than one row in so many compares with all of them.
const MIN_ROWS_PER_HIT: usize = 16;
/// What a row takes up beside its codes of one byte a dimension.
const ROW_BYTES: usize = 2 * LINKS * size_of::<u32>() + 16;
/// Rows with so many graphs are faster to search with one.
pub(crate) const MANY_GRAPHS: usize = 4;
/// Comparing a row with its codes takes so much less time than with its values.
const CODED_SHARE: usize = 4;

/// What kind an interim index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterimKind {
    /// Codes, all of which are compared: made in a moment.
    Codes,
    /// A graph: its build takes some 0.1 ms a row.
    Graph,
}

/// The indexes over the rows of one segment, no two over one row of a field.
#[derive(Default)]
pub(crate) struct InterimIndexes(RwLock<Vec<Interim>>);

/// An index over a vector field of some rows, one after the other.
#[derive(Clone)]
pub(crate) struct Interim {
    field: FieldId,
    kind: InterimKind,
    /// The first of the rows.
    start: usize,
    index: Arc<ColumnIndex>,
}

impl Interim {
    fn rows(&self) -> Range<usize> {
        self.start..self.start + self.index.len()
    }

    fn is_in(&self, rows: &Range<usize>) -> bool {
        rows.start <= self.start && self.rows().end <= rows.end
    }

    fn measures(&self, field: FieldId, metric: MetricType) -> bool {
        self.field == field && self.index.metric() == metric
    }
}

impl InterimIndexes {
    /// Puts an index in the place of those of its field over the same rows. It is let go when a graph
    /// is over some of them, or other codes are over more.
    fn put(&self, new: Interim) {
        let rows = new.rows();
        let apart = |one: &Interim| one.rows().end <= rows.start || rows.end <= one.start;
        let gives_way = |one: &Interim| {
            let within = one.is_in(&rows);
            match new.kind {
                InterimKind::Graph => within || one.kind == InterimKind::Codes,
                InterimKind::Codes => within && one.kind == InterimKind::Codes,
            }
        };
        let mut indexes = self.0.write();
        indexes.retain(|one| one.field != new.field || one.index.metric() == new.index.metric());
        let mut of_field = indexes.iter().filter(|one| one.field == new.field);
        if of_field.all(|one| apart(one) || gives_way(one)) {
            indexes.retain(|one| one.field != new.field || apart(one));
            indexes.push(new);
        }
    }

    /// Takes over those of another one that are over its first `rows` rows.
    pub(crate) fn take_over(&self, other: &Self, rows: usize) {
        let others = other.0.read();
        let within = others.iter().filter(|one| one.is_in(&(0..rows)));
        self.0.write().extend(within.cloned());
    }

    /// Lets go of those of a field; searches that use one keep it until they end.
    pub(crate) fn remove(&self, field: FieldId) {
        self.0.write().retain(|interim| interim.field != field);
    }

    /// Those over some rows, counted from the first of these.
    fn within(&self, rows: &Range<usize>, wanted: impl Fn(&Interim) -> bool) -> Vec<Interim> {
        let indexes = self.0.read();
        let within = indexes.iter().filter(|one| one.is_in(rows) && wanted(one));
        within
            .map(|one| Interim {
                start: one.start - rows.start,
                ..one.clone()
            })
            .collect()
    }
}

impl fmt::Debug for InterimIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indexes = self.0.read();
        let shown = indexes.iter().map(|one| (one.field, one.kind, one.rows()));
        f.debug_list().entries(shown).finish()
    }
}

impl Chunk {
    /// Rows that an index of a kind would make faster to search, numbered within the chunk; `None` where
    /// there are too few, or the field has no dense vectors.
    pub fn lacks_interim(
        &self,
        field: FieldId,
        metric: MetricType,
        kind: InterimKind,
    ) -> Option<Range<usize>> {
        self.dense(field)?;
        let indexes = self.interims(|one| one.measures(field, metric));
        let graphs = indexes.iter().filter(|one| one.kind == InterimKind::Graph);
        let between = gaps(graphs.map(Interim::rows).collect(), self.len());
        match kind {
            InterimKind::Graph => {
                let without: usize = between.iter().map(Range::len).sum();
                let pays = without >= MIN_ROWS && 2 * without >= self.len();
                pays.then_some(0..self.len())
            }
            InterimKind::Codes => between.into_iter().find(|gap| {
                let inside = indexes.iter().filter(|one| one.is_in(gap));
                let covered: usize = inside.map(|one| one.index.len()).sum();
                gap.len() - covered >= MIN_CODED
            }),
        }
    }

    /// Number of graphs over its rows.
    pub(crate) fn graphs(&self, field: FieldId, metric: MetricType) -> usize {
        let is_graph = |one: &Interim| one.kind == InterimKind::Graph;
        self.interims(|one| is_graph(one) && one.measures(field, metric))
            .len()
    }

    /// About how many bytes an interim index of the field over so many rows will take up.
    pub fn interim_bytes(&self, field: FieldId, rows: usize) -> usize {
        let dim = self.dense(field).map_or(0, ColumnData::dim);
        rows * (dim + ROW_BYTES)
    }

    /// Builds an interim index of a field over some rows with one thread; searches use it from then on,
    /// also of rows that these have been merged with meanwhile.
    ///
    /// # Errors
    /// `Cancelled` · `Search` if the vectors cannot be indexed, which a write would have refused.
    pub fn build_interim(
        &self,
        (segment, field): (SegmentId, FieldId),
        metric: MetricType,
        kind: InterimKind,
        rows: Range<usize>,
        stop: &StopFlag,
    ) -> Result<()> {
        let column = self.dense(field).and_then(ColumnRows::of);
        let Some(ColumnRows::Dense(column)) = column else {
            return Err(Error::NoField { segment, field });
        };
        let options = BuildOptions {
            threads: 1,
            seed: self.row_ids().first().map_or(0, |row| row.0 as u64),
            progress: None,
            stop,
        };
        let params = match kind {
            InterimKind::Codes => IndexParams::ivf(IndexType::IvfSq8, metric, 1),
            InterimKind::Graph => IndexParams::hnsw(metric, LINKS, BUILD_CANDIDATES),
        };
        let part = ColumnRows::Dense(DenseRows::part(&column, rows.clone()));
        let index = ColumnIndex::build(&ColumnIndexParams::Dense(params), &part, &options)
            .map_err(|source| Error::search(segment, source))?;
        let (all, first) = self.interim();
        all.put(Interim {
            field,
            kind,
            start: first + rows.start,
            index: Arc::new(index),
        });
        Ok(())
    }

    /// The interim indexes for a search of `k` rows, by their rows. A range search gets none: it is to
    /// find everything.
    pub(crate) fn interim_for(
        &self,
        field: FieldId,
        metric: MetricType,
        params: &SearchParams,
        k: usize,
    ) -> Vec<Interim> {
        if params.range.is_some() {
            return Vec::new();
        }
        self.interims(|one| {
            let pays = k.saturating_mul(MIN_ROWS_PER_HIT) <= one.index.len();
            pays && one.measures(field, metric)
        })
    }

    /// Bytes of the interim indexes over its rows.
    pub(crate) fn interim_memory_bytes(&self) -> usize {
        let indexes = self.interims(|_| true);
        indexes.iter().map(|one| one.index.memory_bytes()).sum()
    }

    fn interims(&self, wanted: impl Fn(&Interim) -> bool) -> Vec<Interim> {
        let (all, first) = self.interim();
        all.within(&self.span(first), wanted)
    }

    /// The column of a field of dense vectors.
    fn dense(&self, field: FieldId) -> Option<&ColumnData> {
        let data = &self.batch().column(field)?.data;
        matches!(ColumnRows::of(data), Some(ColumnRows::Dense(_))).then_some(data)
    }
}

/// What lies between ranges of rows that do not overlap.
fn gaps(mut taken: Vec<Range<usize>>, rows: usize) -> Vec<Range<usize>> {
    taken.push(rows..rows);
    taken.sort_unstable_by_key(|range| range.start);
    let mut next = 0;
    let mut gaps = Vec::new();
    for range in taken {
        if next < range.start {
            gaps.push(next..range.start);
        }
        next = range.end;
    }
    gaps
}

impl SegmentSearcher {
    /// About how many rows a search by interim indexes compares.
    pub(crate) fn compared_by_interim(&self, parts: &[Interim], rows: usize) -> usize {
        let params = search_params(&self.params, self.k);
        let covered: usize = parts.iter().map(|part| part.index.len()).sum();
        let compared = parts.iter().map(|part| match part.kind {
            InterimKind::Codes => part.index.len() / CODED_SHARE,
            InterimKind::Graph => part.index.compared(&params, self.k),
        });
        rows - covered.min(rows) + compared.sum::<usize>()
    }

    /// Appends one list a query: the `k` nearest allowed rows of a chunk, by the indexes over parts of it
    /// and by comparing all other rows.
    pub(crate) fn by_interim(
        &self,
        parts: &[Interim],
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        stop: &StopFlag,
        lists: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let failed = |source| Error::search(segment, source);
        let column = chunk.column(segment, self.field)?;
        let rows = self.rows(segment, &column)?;
        let mut found: Vec<Vec<Hit>> = vec![Vec::new(); self.queries.len()];
        let mut add = |hits: Vec<Vec<Hit>>, start: usize| {
            for (list, hits) in found.iter_mut().zip(hits) {
                list.extend(hits.into_iter().map(|hit| Hit {
                    // A chunk has no more rows than a u32 counts.
                    row: hit.row + start as u32,
                    ..hit
                }));
            }
        };
        if let ColumnRows::Dense(dense) = &rows {
            let params = search_params(&self.params, self.k);
            for part in parts {
                let (within, mut hits) = (part.rows(), Vec::new());
                let inside = allowed
                    .bits()
                    .map(|bits| BitSet::from_fn(within.len(), |row| bits.get(within.start + row)));
                let rows = ColumnRows::Dense(DenseRows::part(dense, within));
                let searched = part.index.search_many(
                    &self.queries,
                    Some(&rows),
                    &params,
                    inside.as_ref(),
                    self.k,
                    stop,
                    &mut hits,
                );
                searched.map_err(failed)?;
                add(hits, part.start);
            }
        }
        let rest = uncovered(parts, chunk.len(), allowed);
        if rest.any() {
            let mut hits = Vec::new();
            let scanned = rows.scan(
                &self.queries,
                self.metric,
                &self.params,
                Some(&rest),
                self.k,
                stop,
                &mut hits,
            );
            scanned.map_err(failed)?;
            add(hits, 0);
        }
        for list in &mut found {
            let order = |a: &Hit, b: &Hit| self.metric.compare(a.score, b.score);
            list.sort_unstable_by(|a, b| order(a, b).then(a.row.cmp(&b.row)));
            list.truncate(self.k);
        }
        lists.append(&mut found);
        Ok(())
    }
}

/// The allowed rows that no index is over.
fn uncovered(parts: &[Interim], rows: usize, allowed: &Allowed) -> BitSet {
    let mut rest = BitSet::new(rows);
    for gap in gaps(parts.iter().map(Interim::rows).collect(), rows) {
        for row in gap {
            if allowed.bits().is_none_or(|bits| bits.get(row)) {
                rest.set(row);
            }
        }
    }
    rest
}

/// The parameters with which an interim index is searched.
pub(crate) fn search_params(params: &SearchParams, k: usize) -> SearchParams {
    let least = SEARCH_CANDIDATES.max(k);
    SearchParams {
        ef: Some(params.ef.unwrap_or(0).max(least)),
        ..SearchParams::default()
    }
}

#[cfg(test)]
mod tests;
