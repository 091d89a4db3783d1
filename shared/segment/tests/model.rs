//! Random histories over growing and sealed segments against a plain list of rows and deletes.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{DIM, PARTITION, field, meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use redkite_expr::{Plan, Templates, compile};
use redkite_index::{BuildOptions, IndexParams, RangeBounds, SearchParams, build};
use redkite_segment::{
    ALL_PARTITIONS, Chunk, ColumnCache, DeleteBatch, GrowingSegment, GrowingSnapshot, Placement,
    ReadView, RowAt, SealedSegment, Segment, SegmentMeta, SegmentRetriever, SegmentSearcher,
    StopFlag, fetch, file, merge_keyed, merge_topk,
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{
    CollectionSchema, ColumnData, DataType, FieldId, MetricType, PartitionId, PrimaryKey,
    PrimaryKeys, RowBatch, RowId, Timestamp, Value,
};

/// A row as the reference knows it.
#[derive(Clone)]
struct Row {
    number: i64,
    key: PrimaryKey,
    ts: u64,
    id: i64,
    segment: i64,
    values: RowBatch,
}

struct World {
    schema: Arc<CollectionSchema>,
    /// In memory, and on the local disk.
    stores: [Arc<dyn ObjectStore>; 2],
    _dir: tempfile::TempDir,
    /// Holds about one column.
    cache: Arc<ColumnCache>,
    rng: StdRng,
    clock: u64,
    next_id: i64,
    next_segment: i64,
    growing: GrowingSegment,
    sealed: Vec<Arc<SealedSegment>>,
    rows: Vec<Row>,
    deletes: Vec<(PrimaryKey, u64)>,
}

impl World {
    fn new(key: DataType, seed: u64) -> Self {
        let schema = schema(key);
        let growing = GrowingSegment::new(meta(&schema, 1));
        let dir = tempfile::tempdir().unwrap();
        let local = open(&format!("fs://{}", dir.path().display())).unwrap();
        Self {
            schema,
            stores: [open("memory://").unwrap(), local],
            _dir: dir,
            cache: Arc::new(ColumnCache::new(400)),
            rng: StdRng::seed_from_u64(seed),
            clock: 10,
            next_id: 0,
            next_segment: 1,
            growing,
            sealed: Vec::new(),
            rows: Vec::new(),
            deletes: Vec::new(),
        }
    }

    fn visible(&self, at: u64) -> Vec<&Row> {
        let mut newest: BTreeMap<&PrimaryKey, &Row> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.ts <= at) {
            let deleted = self
                .deletes
                .iter()
                .any(|(key, ts)| *key == row.key && row.ts < *ts && *ts <= at);
            if deleted {
                continue;
            }
            let best = newest.entry(&row.key).or_insert(row);
            if (row.ts, row.id) > (best.ts, best.id) {
                *best = row;
            }
        }
        newest.into_values().collect()
    }

    fn keys(&self, numbers: &[i64]) -> PrimaryKeys {
        match self.schema.primary_key().data_type {
            DataType::VarChar => PrimaryKeys::Str(
                numbers
                    .iter()
                    .map(|number| format!("key {number:06}"))
                    .collect(),
            ),
            _ => PrimaryKeys::Int(numbers.to_vec()),
        }
    }

    fn insert(&mut self, numbers: &[i64]) {
        let batch = random_rows(&self.schema, numbers, &mut self.rng);
        let ids: Vec<RowId> = (0..numbers.len() as i64)
            .map(|offset| RowId(self.next_id + offset))
            .collect();
        let keys = self.keys(numbers);
        for (row, number) in numbers.iter().enumerate() {
            self.rows.push(Row {
                number: *number,
                key: keys.get(row),
                ts: self.clock,
                id: ids[row].0,
                segment: self.next_segment,
                values: batch.take(&[row]),
            });
        }
        self.next_id += numbers.len() as i64;
        let times = vec![Timestamp(self.clock); numbers.len()];
        self.growing.append(batch, ids, times).unwrap();
    }

    fn delete(&mut self, numbers: &[i64]) {
        let keys = self.keys(numbers);
        let elsewhere = DeleteBatch::at(keys.clone(), Timestamp(self.clock), PartitionId(999));
        let here = if self.rng.random_bool(0.5) {
            ALL_PARTITIONS
        } else {
            PARTITION
        };
        let batch = DeleteBatch::at(keys.clone(), Timestamp(self.clock), here);
        for segment in &self.sealed {
            assert_eq!(segment.delete(&elsewhere), 0);
            segment.delete(&batch);
        }
        assert_eq!(self.growing.delete(&elsewhere), 0);
        self.growing.delete(&batch);
        let clock = self.clock;
        self.deletes.extend(keys.iter().map(|key| (key, clock)));
    }

    fn some_numbers(&mut self, from: i64) -> Vec<i64> {
        let count = self.rng.random_range(1..12);
        (0..count)
            .map(|_| from + self.rng.random_range(0..40))
            .collect()
    }

    async fn seal(&mut self) {
        let snapshot = self.growing.snapshot();
        if snapshot.rows() == 0 {
            return;
        }
        let sealed = match self.rng.random_range(0..4) {
            0 => SealedSegment::from_growing(&snapshot).unwrap(),
            1 => self.flushed(&snapshot).await,
            _ => self.reloaded(snapshot.chunks()).await,
        };
        self.sealed.push(Arc::new(sealed));
        self.next_segment += 1;
        self.growing = GrowingSegment::new(meta(&self.schema, self.next_segment));
    }

    /// To a file and back: as a whole, or opened with any of the columns left in it.
    async fn filed(&mut self, meta: SegmentMeta, chunks: &[Arc<Chunk>]) -> Chunk {
        let store = &*self.stores[self.rng.random_range(0..2)];
        let manifest = file::write_segment(store, meta, chunks.to_vec()).await;
        let manifest = manifest.unwrap();
        if self.rng.random_bool(0.2) {
            return file::read_segment(store, &manifest, self.schema.clone())
                .await
                .unwrap();
        }
        let share = [0.0, 0.5, 1.0][self.rng.random_range(0..3)];
        let fields = self.schema.fields.iter().map(|field| field.id);
        let placement = Placement {
            mapped: fields.filter(|_| self.rng.random_bool(share)).collect(),
            cache: self.cache.clone(),
        };
        file::open_segment(store, &manifest, self.schema.clone(), &placement)
            .await
            .unwrap()
    }

    /// The growing segment's rows in its file, with the deletes that both share.
    async fn flushed(&mut self, snapshot: &GrowingSnapshot) -> SealedSegment {
        let meta = meta(&self.schema, self.next_segment);
        let chunk = self.filed(meta, snapshot.chunks()).await;
        SealedSegment::from_file_of(snapshot, chunk).unwrap()
    }

    /// Through a file; the deletes arrive again, in any order.
    async fn reloaded(&mut self, chunks: &[Arc<Chunk>]) -> SealedSegment {
        let meta = meta(&self.schema, self.next_segment);
        let chunk = self.filed(meta.clone(), chunks).await;
        let sealed = SealedSegment::new(meta, chunk).unwrap();
        let mut deletes = self.deletes.clone();
        deletes.shuffle(&mut self.rng);
        for (key, ts) in deletes {
            let mut keys = self.keys(&[]);
            keys.push(key);
            sealed.delete(&DeleteBatch::at(keys, Timestamp(ts), ALL_PARTITIONS));
        }
        sealed
    }

    fn index_one(&mut self) {
        if self.sealed.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.sealed.len());
        let vector = field(&self.schema, "vector");
        let chunk = self.sealed[at].chunks()[0].clone();
        let Some(ColumnData::FloatVector { values, .. }) =
            chunk.batch().column(vector).map(|column| &column.data)
        else {
            panic!("a vector column");
        };
        let stop = StopFlag::new();
        let options = BuildOptions {
            threads: 1,
            seed: 1,
            progress: None,
            stop: &stop,
        };
        let index = build(&IndexParams::flat(MetricType::L2), values, DIM, &options).unwrap();
        self.sealed[at] = self.sealed[at]
            .with_index(vector, Arc::new(index.into()))
            .unwrap();
    }

    fn segments(&self) -> Vec<Segment> {
        let sealed = self.sealed.iter().cloned().map(Segment::Sealed);
        sealed
            .chain([Segment::Growing(self.growing.snapshot())])
            .collect()
    }

    fn filter(&mut self) -> (Arc<Plan>, String) {
        let bound = self.rng.random_range(-100..100);
        let keys = self.some_numbers(0);
        let listed: Vec<String> = match self.keys(&keys) {
            PrimaryKeys::Int(keys) => keys.iter().map(i64::to_string).collect(),
            PrimaryKeys::Str(keys) => keys.iter().map(|key| format!("\"{key}\"")).collect(),
        };
        let text = match self.rng.random_range(0..4) {
            0 => String::new(),
            1 => format!("number > {bound}"),
            2 => format!("pk in [{}]", listed.join(", ")),
            _ => format!(
                "not (number > {bound}) and pk not in [{}]",
                listed.join(", ")
            ),
        };
        let plan = compile(&text, &Templates::new(), &self.schema).unwrap();
        (Arc::new(plan), text)
    }

    /// The reference's own reading of the filters that [`World::filter`] makes.
    fn passes(&self, plan: &Plan, row: &Row) -> bool {
        redkite_expr::eval(plan, &row.values, 1).unwrap().get(0)
    }

    fn check(&mut self) {
        let at = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(5..=self.clock),
            _ => self.clock,
        };
        let (plan, text) = self.filter();
        let wanted: Vec<Row> = self
            .visible(at)
            .into_iter()
            .filter(|row| self.passes(&plan, row))
            .cloned()
            .collect();
        let context = format!("at {at} of {} with {text:?}", self.clock);
        let view = ReadView::at(Timestamp(at));
        self.check_retrieve(&plan, view, &wanted, &context);
        self.check_search(&plan, view, &wanted, &context);
    }

    fn check_retrieve(&mut self, plan: &Arc<Plan>, view: ReadView, wanted: &[Row], context: &str) {
        let segments = self.segments();
        let stop = StopFlag::new();
        let limit = match self.rng.random_range(0..2) {
            0 => None,
            _ => Some(self.rng.random_range(0..20)),
        };
        let retriever = SegmentRetriever {
            filter: plan.clone(),
            view,
            limit,
        };
        let lists = segments
            .iter()
            .map(|segment| retriever.retrieve(segment, &stop).unwrap());
        let found = merge_keyed(lists.collect(), limit);
        let count: usize = segments
            .iter()
            .map(|segment| retriever.count(segment, &stop).unwrap())
            .sum();
        assert_eq!(count, wanted.len(), "{context}");
        let wanted = &wanted[..limit.unwrap_or(usize::MAX).min(wanted.len())];
        let keys: Vec<&PrimaryKey> = found.iter().map(|row| &row.key).collect();
        let wanted_keys: Vec<&PrimaryKey> = wanted.iter().map(|row| &row.key).collect();
        assert_eq!(keys, wanted_keys, "{context}");
        let at: Vec<RowAt> = found.iter().map(|row| row.at).collect();
        let mut fields: Vec<FieldId> = self.schema.fields.iter().map(|field| field.id).collect();
        fields.push(FieldId::TIMESTAMP);
        fields.push(FieldId::ROW_ID);
        let fetched = fetch(&segments, &at, &fields).unwrap();
        for (row, wanted) in wanted.iter().enumerate() {
            for (column, want) in fetched.columns().iter().zip(wanted.values.columns()) {
                let found = column.take(&[row]);
                assert_eq!(found.data, want.data, "{context}, field {}", want.field);
                assert_eq!(found.is_valid(0), want.is_valid(0), "{context}");
            }
            let hidden = &fetched.columns()[fields.len() - 2..];
            assert_eq!(hidden[0].value(row), Value::Int(wanted.ts as i64));
            assert_eq!(hidden[1].value(row), Value::Int(wanted.id));
        }
    }

    fn check_search(&mut self, plan: &Arc<Plan>, view: ReadView, wanted: &[Row], context: &str) {
        let segments = self.segments();
        let stop = StopFlag::new();
        let nq = self.rng.random_range(1..4);
        let queries: Vec<f32> = (0..nq * DIM)
            .map(|_| self.rng.random_range(-3..4i32) as f32)
            .collect();
        let k = self.rng.random_range(0..30);
        let range = self.rng.random_bool(0.3).then_some(RangeBounds {
            radius: 40.0,
            range_filter: Some(5.0),
        });
        let vector = field(&self.schema, "vector");
        let searcher = SegmentSearcher {
            field: vector,
            metric: MetricType::L2,
            queries: redkite_index::Queries::dense(queries.clone(), DIM),
            k,
            params: SearchParams {
                range,
                ..SearchParams::default()
            },
            filter: plan.clone(),
            view,
        };
        let parts = segments
            .iter()
            .map(|segment| searcher.search(segment, &stop).unwrap());
        let found = merge_topk(MetricType::L2, parts.collect(), k);
        for (list, query) in found.lists.iter().zip(queries.chunks(DIM)) {
            let score = |row: &Row| -> f32 {
                let column = row.values.column(vector).unwrap();
                let ColumnData::FloatVector { values, .. } = &column.data else {
                    panic!("a vector column");
                };
                values.iter().zip(query).map(|(a, b)| (a - b).powi(2)).sum()
            };
            let in_range =
                |score: &f32| range.is_none_or(|range| range.contains(MetricType::L2, *score));
            let by_key: BTreeMap<&PrimaryKey, f32> = wanted
                .iter()
                .map(|row| (&row.key, score(row)))
                .filter(|(_, score)| in_range(score))
                .collect();
            let mut scores: Vec<f32> = by_key.values().copied().collect();
            scores.sort_by(f32::total_cmp);
            scores.truncate(k);
            let found_scores: Vec<f32> = list.iter().map(|hit| hit.score).collect();
            assert_eq!(found_scores, scores, "{context}");
            for hit in list {
                assert_eq!(by_key.get(&hit.key), Some(&hit.score), "{context}");
            }
            let order = |hit: &redkite_segment::Hit| (hit.score as i64, hit.key.clone());
            assert!(list.is_sorted_by_key(order), "{context}: {list:?}");
        }
    }

    async fn step(&mut self) {
        self.clock += self.rng.random_range(1..3);
        match self.rng.random_range(0..12) {
            0..4 => {
                // A plain insert hides an older row of its key only within the segment.
                let mut numbers = self.some_numbers(self.next_id);
                let live = self.visible(self.clock);
                let elsewhere: Vec<i64> = live
                    .iter()
                    .filter(|row| row.segment != self.next_segment)
                    .map(|row| row.number)
                    .collect();
                let here = live.iter().filter(|row| row.segment == self.next_segment);
                let again: Vec<i64> = here.map(|row| row.number).take(3).collect();
                numbers.retain(|number| !elsewhere.contains(number));
                numbers.extend(again);
                self.insert(&numbers);
            }
            4..7 => {
                let numbers = self.some_numbers(0);
                self.delete(&numbers);
                self.insert(&numbers);
            }
            7..10 => {
                let mut numbers = self.some_numbers(0);
                let all: Vec<i64> = self.rows.iter().map(|row| row.number).collect();
                if !all.is_empty() {
                    numbers.push(all[self.rng.random_range(0..all.len())]);
                }
                self.delete(&numbers);
            }
            10 => self.seal().await,
            _ => self.index_one(),
        }
    }
}

#[tokio::test]
async fn reads_agree_with_a_plain_list_at_every_time() {
    let seed = seed();
    for round in 0..12 {
        let key = if round % 2 == 0 {
            DataType::Int64
        } else {
            DataType::VarChar
        };
        let mut world = World::new(key, seed.wrapping_add(round));
        for _ in 0..60 {
            world.step().await;
            world.check();
        }
    }
}
