//! Indexes over rows that still grow, so that a search need not compare with every one of them.
//!
//! Rows get codes of one byte a dimension soon after they were written: all of them are compared, but
//! with a fraction of the memory. Once there are enough of them in a chunk, it gets a small graph of its
//! own, which grows with it. Both are in memory only. Chunks are merged as rows come, and keep what is over their rows; where
//! nothing else is due, several of them are joined and get one graph in the place of theirs. When a
//! flush has written the rows, the sealed segment takes it over, until an index over all rows is there.

use std::{fmt, ops::Range, sync::Arc};

use parking_lot::RwLock;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, DenseRows, Hit, IndexParams,
    IndexType, Queries, SearchParams,
};
use redkite_types::{BitSet, ColumnData, FieldId, MetricType, SegmentId, StopFlag};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    search::{Found, SegmentSearcher},
    segment::Allowed,
};

/// Chunks with fewer rows are faster compared than walked.
pub const MIN_ROWS: usize = 2_048;
/// A graph gets so many more rows at once: each time it is copied.
pub const MIN_ADDED: usize = 512;
/// So many rows may be inserted anew for each one that is in no graph yet.
const INSERTED_PER_ROW: usize = 4;
/// Fewer rows are compared as they are.
pub const MIN_CODED: usize = 128;
/// Links a row keeps: few, as the graphs are small and are thrown away soon.
const LINKS: usize = 12;
/// Candidates for a new row's links.
const BUILD_CANDIDATES: usize = 64;
/// Candidates of a search at least, whatever the parameters of the collection's own index say: what is found may be
/// the whole answer.
const SEARCH_CANDIDATES: usize = 64;
/// Candidates where it is but a few rows of the answer, the nearest ones, which are found more easily; unless the
/// parameters say how many.
const FIRST_CANDIDATES: usize = 32;
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
                let grows = |one: &&Interim| one.kind == InterimKind::Graph && one.start == 0;
                let known = indexes.iter().find(grows);
                let known = known.map_or(0, |one| one.index.len());
                let least = if known == 0 { MIN_ROWS } else { MIN_ADDED };
                let inserted = self.len() - known;
                let pays = without >= least && INSERTED_PER_ROW * without >= inserted;
                pays.then_some(0..self.len())
            }
            InterimKind::Codes => between.into_iter().find(|gap| {
                let inside = indexes.iter().filter(|one| one.is_in(gap));
                let covered: usize = inside.map(|one| one.index.len()).sum();
                gap.len() - covered >= MIN_CODED
            }),
        }
    }

    /// Whether there is a graph over some of its rows.
    pub(crate) fn has_graph(&self) -> bool {
        !self
            .interims(|one| one.kind == InterimKind::Graph)
            .is_empty()
    }

    /// Number of graphs over its rows.
    pub(crate) fn graphs(&self, field: FieldId, metric: MetricType) -> usize {
        self.graphs_of(field, metric).len()
    }

    fn graphs_of(&self, field: FieldId, metric: MetricType) -> Vec<Interim> {
        self.interims(|one| one.kind == InterimKind::Graph && one.measures(field, metric))
    }

    /// About how many bytes an interim index of the field over so many rows will take up.
    pub fn interim_bytes(&self, field: FieldId, rows: usize) -> usize {
        let dim = self.dense(field).map_or(0, ColumnData::dim);
        rows * (dim + ROW_BYTES)
    }

    /// Builds an interim index of a field over some rows with one thread; searches use it from then on,
    /// also of rows that these have been merged with meanwhile. A graph over the first of them is not built again,
    /// the other rows are added to it.
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
        let failed = |source| Error::search(segment, source);
        let options = BuildOptions {
            threads: 1,
            // That of any graph that begins here.
            seed: self.row_ids().get(rows.start).map_or(0, |row| row.0 as u64),
            progress: None,
            stop,
        };
        let part = ColumnRows::Dense(DenseRows::part(&column, rows.clone()));
        let known = match kind {
            InterimKind::Codes => None,
            InterimKind::Graph => {
                let mut graphs = self.graphs_of(field, metric).into_iter();
                graphs.find(|one| one.start == rows.start && one.index.len() < rows.len())
            }
        };
        let extended = match known {
            Some(known) => known.index.extended(&part, &options).map_err(failed)?,
            None => None,
        };
        let params = match kind {
            InterimKind::Codes => IndexParams::ivf(IndexType::IvfSq8, metric, 1),
            InterimKind::Graph => IndexParams::hnsw(metric, LINKS, BUILD_CANDIDATES),
        };
        let index = match extended {
            Some(index) => index,
            None => ColumnIndex::build(&ColumnIndexParams::Dense(params), &part, &options)
                .map_err(failed)?,
        };
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
        let params = search_params(&self.params, self.k, self.first_candidates());
        let covered: usize = parts.iter().map(|part| part.index.len()).sum();
        let compared = parts.iter().map(|part| match part.kind {
            InterimKind::Codes => part.index.len() / CODED_SHARE,
            InterimKind::Graph => part.index.compared(&params, self.k),
        });
        rows - covered.min(rows) + compared.sum::<usize>()
    }

    /// Appends one list a query: the `k` nearest allowed rows of a chunk, by the indexes over parts of it
    /// and by comparing all other rows. `found` is what was found elsewhere.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub(crate) fn by_interim(
        &self,
        parts: &[Interim],
        segment: SegmentId,
        chunk: &Chunk,
        allowed: &Allowed,
        found: &Found<'_>,
        stop: &StopFlag,
        lists: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let failed = |source| Error::search(segment, source);
        let column = chunk.column(segment, self.field)?;
        let rows = self.rows(segment, &column)?;
        let mut own: Vec<Vec<Hit>> = vec![Vec::new(); self.queries.len()];
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
            append_hits(&mut own, hits, 0);
        }
        if let ColumnRows::Dense(dense) = &rows {
            // What is compared tells graphs how far to look.
            let is_graph = |part: &&Interim| part.kind == InterimKind::Graph;
            let compared = parts.iter().filter(|part| !is_graph(part));
            for part in compared.chain(parts.iter().filter(is_graph)) {
                let within = part.rows();
                let inside = allowed
                    .bits()
                    .map(|bits| BitSet::from_fn(within.len(), |row| bits.get(within.start + row)));
                let rows = ColumnRows::Dense(DenseRows::part(dense, within));
                let hits = self.by_part(
                    part,
                    &rows,
                    inside.as_ref(),
                    |query| found.kth(query, &own[query]),
                    stop,
                );
                append_hits(&mut own, hits.map_err(failed)?, part.start);
            }
        }
        for list in &mut own {
            let order = |a: &Hit, b: &Hit| self.metric.compare(a.score, b.score);
            list.sort_unstable_by(|a, b| order(a, b).then(a.row.cmp(&b.row)));
            list.truncate(self.k);
        }
        lists.append(&mut own);
        Ok(())
    }

    /// Candidates of the first look through a graph.
    fn first_candidates(&self) -> usize {
        self.params.ef.unwrap_or(FIRST_CANDIDATES)
    }

    /// The nearest rows of a part for each query. `worst(query)` is the score of the last of `k` rows that were
    /// found elsewhere, if there are so many: a graph whose rows are few of those that count is looked through
    /// less widely.
    fn by_part(
        &self,
        part: &Interim,
        rows: &ColumnRows<'_>,
        allowed: Option<&BitSet>,
        worst: impl Fn(usize) -> Option<f32>,
        stop: &StopFlag,
    ) -> redkite_index::Result<Vec<Vec<Hit>>> {
        let params = |least| search_params(&self.params, self.k, least);
        let (first, wide) = (params(self.first_candidates()), params(SEARCH_CANDIDATES));
        let search = |queries: &Queries, params: &SearchParams| {
            let (index, rows, mut hits) = (&part.index, Some(rows), Vec::new());
            index.search_many(queries, rows, params, allowed, self.k, stop, &mut hits)?;
            Ok(hits)
        };
        let may_be_brief = part.kind == InterimKind::Graph && first.ef < wide.ef;
        let worst: Option<Vec<f32>> = match may_be_brief {
            true => (0..self.queries.len()).map(worst).collect(),
            false => None,
        };
        let Some(worst) = worst else {
            return search(&self.queries, &wide);
        };
        let mut lists = search(&self.queries, &first)?;
        for (query, (list, worst)) in lists.iter_mut().zip(worst).enumerate() {
            let counts = |hit: &&Hit| self.metric.compare(hit.score, worst).is_lt();
            if 2 * list.iter().filter(counts).count() > self.k
                && let Some(wider) = search(&self.queries.only(query), &wide)?.pop()
            {
                *list = wider;
            }
        }
        Ok(lists)
    }
}

/// Appends to each query's list what was found in rows from number `start` on.
fn append_hits(lists: &mut [Vec<Hit>], hits: Vec<Vec<Hit>>, start: usize) {
    for (list, hits) in lists.iter_mut().zip(hits) {
        list.extend(hits.into_iter().map(|hit| Hit {
            // A chunk has no more rows than a u32 counts.
            row: hit.row + start as u32,
            ..hit
        }));
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

/// The parameters with which an interim index is searched, with so many candidates at least.
fn search_params(params: &SearchParams, k: usize, least: usize) -> SearchParams {
    let least = least.max(k);
    SearchParams {
        ef: Some(params.ef.unwrap_or(0).max(least)),
        ..SearchParams::default()
    }
}

#[cfg(test)]
mod tests;
