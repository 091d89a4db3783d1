//! Indexes over rows that still grow, so that a search need not compare with every one of them.
//!
//! A chunk of a growing segment that is large enough to be worth it gets a small graph of its own, in
//! memory only. It goes with the chunk: when a flush has written the rows, an index file takes over.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, IndexParams, SearchParams,
};
use redkite_types::{ColumnData, FieldId, MetricType, SegmentId, StopFlag};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
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

/// The indexes of one chunk, by vector field.
#[derive(Default)]
pub(crate) struct InterimIndexes(RwLock<Vec<(FieldId, Arc<ColumnIndex>)>>);

impl InterimIndexes {
    fn get(&self, field: FieldId) -> Option<Arc<ColumnIndex>> {
        let indexes = self.0.read();
        let found = indexes.iter().find(|(id, _)| *id == field);
        found.map(|(_, index)| index.clone())
    }

    fn put(&self, field: FieldId, index: Arc<ColumnIndex>) {
        let mut indexes = self.0.write();
        indexes.retain(|(id, _)| *id != field);
        indexes.push((field, index));
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let indexes = self.0.read();
        indexes.iter().map(|(_, index)| index.memory_bytes()).sum()
    }
}

impl fmt::Debug for InterimIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indexes = self.0.read();
        f.debug_list()
            .entries(indexes.iter().map(|(field, _)| field))
            .finish()
    }
}

impl Chunk {
    /// Whether it is large enough for an interim index of a field of dense vectors and has none that
    /// measures distance like this.
    pub fn lacks_interim(&self, field: FieldId, metric: MetricType) -> bool {
        self.len() >= MIN_ROWS
            && self.dense(field).is_some()
            && (self.interim().get(field)).is_none_or(|index| index.metric() != metric)
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

    /// The interim index for a search of `k` rows. A range search gets none: it is to find everything.
    pub(crate) fn interim_for(
        &self,
        field: FieldId,
        metric: MetricType,
        params: &SearchParams,
        k: usize,
    ) -> Option<Arc<ColumnIndex>> {
        let pays = params.range.is_none() && k.saturating_mul(MIN_ROWS_PER_HIT) <= self.len();
        let index = pays.then(|| self.interim().get(field)).flatten()?;
        (index.metric() == metric).then_some(index)
    }

    /// The column of a field of dense vectors.
    fn dense(&self, field: FieldId) -> Option<&ColumnData> {
        let data = &self.batch().column(field)?.data;
        matches!(ColumnRows::of(data), Some(ColumnRows::Dense(_))).then_some(data)
    }
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
        DeleteBatch, GrowingSegment, ReadView, Segment, SegmentMeta, SegmentSearcher, TopK,
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
        assert!(asks(&plain, 512).is_some());
        assert!(asks(&plain, 513).is_none());
        let range = SearchParams {
            range: Some(RangeBounds {
                radius: 1.0,
                range_filter: None,
            }),
            ..SearchParams::default()
        };
        assert!(asks(&range, 10).is_none());
        assert!(
            chunk
                .interim_for(VECTOR, MetricType::Ip, &plain, 10)
                .is_none()
        );
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
