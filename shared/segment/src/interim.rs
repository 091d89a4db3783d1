//! Indexes over rows that still grow, so that a search need not compare with every one of them.
//!
//! A chunk of a growing segment that is large enough to be worth it gets a small graph of its own, in
//! memory only. When a flush has written the rows, the sealed segment takes the graphs of its chunks over,
//! each for the rows that it is of, until an index over all of them is there.

use std::{fmt, ops::Range, sync::Arc};

use parking_lot::RwLock;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, DenseRows, Hit, IndexParams,
    SearchParams,
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

/// The indexes of one chunk.
#[derive(Default)]
pub(crate) struct InterimIndexes(RwLock<Vec<Interim>>);

/// An index over a vector field of some rows of a chunk, one after the other.
#[derive(Clone)]
pub(crate) struct Interim {
    field: FieldId,
    /// The first of the rows.
    start: usize,
    index: Arc<ColumnIndex>,
}

impl Interim {
    fn rows(&self) -> Range<usize> {
        self.start..self.start + self.index.len()
    }
}

impl InterimIndexes {
    fn put(&self, field: FieldId, index: Arc<ColumnIndex>) {
        let mut indexes = self.0.write();
        indexes.retain(|interim| interim.field != field);
        indexes.push(Interim {
            field,
            start: 0,
            index,
        });
    }

    /// Takes over those of a chunk whose rows are here from row `start` on.
    pub(crate) fn take_over(&self, other: &Self, start: usize) {
        let others = other.0.read();
        let moved = others.iter().map(|interim| Interim {
            start: start + interim.start,
            ..interim.clone()
        });
        self.0.write().extend(moved);
    }

    /// Lets go of those of a field; searches that use one keep it until they end.
    pub(crate) fn remove(&self, field: FieldId) {
        self.0.write().retain(|interim| interim.field != field);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let indexes = self.0.read();
        let bytes = indexes.iter().map(|interim| interim.index.memory_bytes());
        bytes.sum()
    }
}

impl fmt::Debug for InterimIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indexes = self.0.read();
        f.debug_list()
            .entries(
                indexes
                    .iter()
                    .map(|interim| (interim.field, interim.rows())),
            )
            .finish()
    }
}

impl Chunk {
    /// Whether it is large enough for an interim index of a field of dense vectors and has none that
    /// measures distance like this.
    pub fn lacks_interim(&self, field: FieldId, metric: MetricType) -> bool {
        self.len() >= MIN_ROWS && self.dense(field).is_some() && !self.has_interim(field, metric)
    }

    fn has_interim(&self, field: FieldId, metric: MetricType) -> bool {
        let indexes = self.interim().0.read();
        let fits = |one: &Interim| one.field == field && one.index.metric() == metric;
        indexes.iter().any(fits)
    }

    /// About how many bytes an interim index of the field will take up.
    pub fn interim_bytes(&self, field: FieldId) -> usize {
        let dim = self.dense(field).map_or(0, ColumnData::dim);
        self.len() * (dim + ROW_BYTES)
    }

    /// Builds the interim index of a field with one thread; searches use it from then on.
    ///
    /// # Errors
    /// `Cancelled` · `Search` if the vectors cannot be indexed, which a write would have refused.
    pub fn build_interim(
        &self,
        segment: SegmentId,
        field: FieldId,
        metric: MetricType,
        stop: &StopFlag,
    ) -> Result<()> {
        let rows = self.dense(field).and_then(ColumnRows::of);
        let rows = rows.ok_or(Error::NoField { segment, field })?;
        let options = BuildOptions {
            threads: 1,
            seed: self.row_ids().first().map_or(0, |row| row.0 as u64),
            progress: None,
            stop,
        };
        let params = IndexParams::hnsw(metric, LINKS, BUILD_CANDIDATES);
        let params = ColumnIndexParams::Dense(params);
        let index = ColumnIndex::build(&params, &rows, &options)
            .map_err(|source| Error::search(segment, source))?;
        self.interim().put(field, Arc::new(index));
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
        let serves = |one: &&Interim| {
            let pays = k.saturating_mul(MIN_ROWS_PER_HIT) <= one.index.len();
            pays && one.field == field && one.index.metric() == metric
        };
        let indexes = self.interim().0.read();
        indexes.iter().filter(serves).cloned().collect()
    }

    /// The column of a field of dense vectors.
    fn dense(&self, field: FieldId) -> Option<&ColumnData> {
        let data = &self.batch().column(field)?.data;
        matches!(ColumnRows::of(data), Some(ColumnRows::Dense(_))).then_some(data)
    }
}

impl SegmentSearcher {
    /// About how many rows a search by interim indexes compares.
    pub(crate) fn compared_by_interim(&self, parts: &[Interim], rows: usize) -> usize {
        let params = search_params(&self.params, self.k);
        let covered: usize = parts.iter().map(|part| part.index.len()).sum();
        let compared = parts
            .iter()
            .map(|part| part.index.compared(&params, self.k));
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
    let mut covered: Vec<Range<usize>> = parts.iter().map(Interim::rows).collect();
    covered.push(rows..rows);
    covered.sort_unstable_by_key(|range| range.start);
    let mut rest = BitSet::new(rows);
    let mut next = 0;
    for range in covered {
        for row in next..range.start {
            if allowed.bits().is_none_or(|bits| bits.get(row)) {
                rest.set(row);
            }
        }
        next = next.max(range.end);
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
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use redkite_expr::Plan;
    use redkite_index::{Queries, RangeBounds};
    use redkite_types::{
        CollectionSchema, Column, DataType, FieldSchema, PrimaryKey, PrimaryKeys, RowBatch, RowId,
        Timestamp,
    };

    use super::*;
    use crate::{
        DeleteBatch, GrowingSegment, ReadView, SealedSegment, Segment, SegmentMeta,
        SegmentSearcher, TopK,
        testing::{KEY, VECTOR, meta},
    };

    const DIM: usize = 24;
    const ROWS: usize = 20_000;
    const K: usize = 10;

    fn schema() -> CollectionSchema {
        let key = FieldSchema {
            is_primary_key: true,
            ..FieldSchema::new("id", DataType::Int64)
        };
        let vector = FieldSchema {
            dim: DIM,
            ..FieldSchema::new("vector", DataType::FloatVector)
        };
        CollectionSchema {
            fields: vec![key, vector],
            ..CollectionSchema::default()
        }
        .prepare()
        .unwrap()
    }

    fn random(rng: &mut StdRng, rows: usize) -> Vec<f32> {
        (0..rows * DIM)
            .map(|_| rng.random_range(-1.0..1.0f32))
            .collect()
    }

    fn append(segment: &GrowingSegment, first: usize, values: &[f32]) {
        let rows = values.len() / DIM;
        let keys = (first..first + rows).map(|key| key as i64).collect();
        let columns = vec![
            Column::new(KEY, ColumnData::Int64(keys)),
            Column::new(
                VECTOR,
                ColumnData::FloatVector {
                    dim: DIM,
                    values: values.to_vec().into(),
                },
            ),
        ];
        let ids = (first..first + rows).map(|id| RowId(id as i64)).collect();
        let times = (first..first + rows).map(|ts| Timestamp(ts as u64 + 1));
        let batch = RowBatch::new(rows, columns).unwrap();
        segment.append(batch, ids, times.collect()).unwrap();
    }

    fn build_all(segment: &GrowingSegment, metric: MetricType) -> usize {
        let snapshot = segment.snapshot();
        let chunks: Vec<_> = snapshot.chunks_without_interim(VECTOR, metric).collect();
        for chunk in &chunks {
            let id = snapshot.meta().segment;
            chunk
                .build_interim(id, VECTOR, metric, &StopFlag::new())
                .unwrap();
        }
        assert_eq!(snapshot.chunks_without_interim(VECTOR, metric).count(), 0);
        chunks.iter().map(|chunk| chunk.len()).sum()
    }

    fn searcher(metric: MetricType, queries: &[f32], at: u64) -> SegmentSearcher {
        SegmentSearcher {
            field: VECTOR,
            metric,
            queries: Queries::dense(queries, DIM),
            k: K,
            params: SearchParams::default(),
            filter: Arc::new(Plan::all()),
            view: ReadView {
                at: Timestamp(at),
                expired_before: Timestamp::ZERO,
            },
        }
    }

    fn keys(found: &TopK) -> Vec<BTreeSet<PrimaryKey>> {
        let lists = found.lists.iter();
        lists
            .map(|list| list.iter().map(|hit| hit.key.clone()).collect())
            .collect()
    }

    /// The share of the nearest rows that was found.
    fn recall(found: &TopK, exact: &TopK) -> f64 {
        let (found, exact) = (keys(found), keys(exact));
        let hits: usize = found
            .iter()
            .zip(&exact)
            .map(|(found, exact)| found.intersection(exact).count())
            .sum();
        hits as f64 / exact.iter().map(BTreeSet::len).sum::<usize>() as f64
    }

    #[test]
    fn what_a_search_may_see_and_finds_is_as_without_an_index() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            let meta = SegmentMeta {
                schema: Arc::new(schema()),
                ..meta()
            };
            let (plain, indexed) = (GrowingSegment::new(meta.clone()), GrowingSegment::new(meta));
            let values = random(&mut rng, ROWS);
            let mut first = 0;
            while first < ROWS {
                let rows = rng.random_range(1..1_500).min(ROWS - first);
                let batch = &values[first * DIM..(first + rows) * DIM];
                append(&plain, first, batch);
                append(&indexed, first, batch);
                first += rows;
            }
            let covered = build_all(&indexed, metric);
            assert!(covered >= ROWS / 2, "only {covered} rows have an index");
            assert!(indexed.memory_bytes() > plain.memory_bytes());

            let gone: Vec<i64> = (0..ROWS as i64).filter(|key| key % 3 == 0).collect();
            let since = Timestamp(ROWS as u64 + 1);
            let deletes = DeleteBatch::at(PrimaryKeys::Int(gone), since, crate::ALL_PARTITIONS);
            plain.delete(&deletes);
            indexed.delete(&deletes);
            let queries = random(&mut rng, 20);
            // Before half of the rows were written, at the end, and when a third is gone.
            for at in [ROWS as u64 / 2, ROWS as u64, ROWS as u64 + 1] {
                let searcher = searcher(metric, &queries, at);
                let search = |segment: &GrowingSegment| {
                    let segment = Segment::Growing(segment.snapshot());
                    searcher.search(&segment, &StopFlag::new()).unwrap()
                };
                let (found, exact) = (search(&indexed), search(&plain));
                assert!(found.lists.iter().all(|list| list.len() == K));
                let share = recall(&found, &exact);
                assert!(share >= 0.95, "{metric:?} at {at}: recall {share}");
                let seen = |key: &PrimaryKey| match key {
                    PrimaryKey::Int(key) => {
                        (*key as u64) < at && (at <= ROWS as u64 || key % 3 != 0)
                    }
                    PrimaryKey::Str(_) => false,
                };
                assert!(keys(&found).iter().flatten().all(seen));
            }
        }
    }

    #[test]
    fn a_range_and_a_search_for_many_rows_look_at_every_row() {
        let meta = SegmentMeta {
            schema: Arc::new(schema()),
            ..meta()
        };
        let segment = GrowingSegment::new(meta);
        let mut rng = StdRng::seed_from_u64(7);
        append(&segment, 0, &random(&mut rng, 8_192));
        assert_eq!(build_all(&segment, MetricType::L2), 8_192);
        let chunk = segment.snapshot().chunks()[0].clone();
        let asks = |params: &SearchParams, k| chunk.interim_for(VECTOR, MetricType::L2, params, k);
        let plain = SearchParams::default();
        assert!(!asks(&plain, 512).is_empty());
        assert!(asks(&plain, 513).is_empty());
        let range = SearchParams {
            range: Some(RangeBounds {
                radius: 1.0,
                range_filter: None,
            }),
            ..SearchParams::default()
        };
        assert!(asks(&range, 10).is_empty());
        assert!(
            chunk
                .interim_for(VECTOR, MetricType::Ip, &plain, 10)
                .is_empty()
        );
    }

    #[test]
    fn a_flushed_segment_keeps_the_indexes_until_it_has_one_over_all_rows() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let metric = MetricType::L2;
        let meta = SegmentMeta {
            schema: Arc::new(schema()),
            ..meta()
        };
        let growing = GrowingSegment::new(meta);
        let values = random(&mut rng, ROWS);
        let mut first = 0;
        while first < ROWS {
            let rows = rng.random_range(1..1_500).min(ROWS - first);
            append(&growing, first, &values[first * DIM..(first + rows) * DIM]);
            first += rows;
        }
        // One in the middle has none yet, nor have the last rows.
        let snapshot = growing.snapshot();
        let chunks = snapshot.chunks_without_interim(VECTOR, metric).enumerate();
        let chunks: Vec<_> = chunks.filter(|(at, _)| *at != 1).collect();
        assert!(chunks.len() >= 2, "{} chunks", chunks.len());
        for (_, chunk) in &chunks {
            let id = snapshot.meta().segment;
            chunk
                .build_interim(id, VECTOR, metric, &StopFlag::new())
                .unwrap();
        }
        let file = || Chunk::concat(snapshot.chunks().iter().map(Arc::as_ref)).unwrap();
        let sealed = Arc::new(SealedSegment::from_file_of(&snapshot, file()).unwrap());
        let plain = SealedSegment::from_growing(&snapshot).unwrap();
        assert!(plain.memory_bytes() < sealed.memory_bytes());
        let plain = Segment::Sealed(Arc::new(plain));
        let gone: Vec<i64> = (0..ROWS as i64).filter(|key| key % 3 == 0).collect();
        let since = Timestamp(ROWS as u64 + 1);
        // Both share the deletes of the rows that they come from.
        sealed.delete(&DeleteBatch::at(
            PrimaryKeys::Int(gone),
            since,
            crate::ALL_PARTITIONS,
        ));
        let queries = random(&mut rng, 20);
        for at in [ROWS as u64 / 2, ROWS as u64, ROWS as u64 + 1] {
            let searcher = searcher(metric, &queries, at);
            let stop = StopFlag::new();
            let found = searcher
                .search(&Segment::Sealed(sealed.clone()), &stop)
                .unwrap();
            let exact = searcher.search(&plain, &stop).unwrap();
            assert!(found.lists.iter().all(|list| list.len() == K));
            let share = recall(&found, &exact);
            assert!(share >= 0.95, "at {at}: recall {share}");
            // What was found has the same place and score as by comparing all.
            for (list, all) in found.lists.iter().zip(&exact.lists) {
                for hit in list {
                    let same = all.iter().find(|other| other.key == hit.key);
                    assert!(same.is_none_or(|same| same == hit));
                }
            }
        }
        let searcher = searcher(metric, &queries[..DIM], ROWS as u64);
        let work = searcher.work(&Segment::Sealed(sealed.clone())).unwrap();
        assert!(work < searcher.work(&plain).unwrap());

        let (stop, rows) = (
            StopFlag::new(),
            ColumnRows::of(sealed.chunks()[0].dense(VECTOR).unwrap()).unwrap(),
        );
        let options = BuildOptions {
            threads: 1,
            seed: 1,
            progress: None,
            stop: &stop,
        };
        let params = ColumnIndexParams::Dense(IndexParams::hnsw(metric, 8, 32));
        let index = ColumnIndex::build(&params, &rows, &options).unwrap();
        let with = sealed.with_index(VECTOR, Arc::new(index)).unwrap();
        assert_eq!(with.chunks()[0].interim().memory_bytes(), 0);
    }

    #[test]
    fn a_stopped_build_leaves_nothing() {
        let meta = SegmentMeta {
            schema: Arc::new(schema()),
            ..meta()
        };
        let segment = GrowingSegment::new(meta);
        append(&segment, 0, &random(&mut StdRng::seed_from_u64(7), 8_192));
        let chunk = segment.snapshot().chunks()[0].clone();
        let stop = StopFlag::new();
        stop.stop();
        let id = SegmentId(3);
        let ended = chunk.build_interim(id, VECTOR, MetricType::L2, &stop);
        assert!(ended.is_err());
        assert!(chunk.lacks_interim(VECTOR, MetricType::L2));
    }
}
