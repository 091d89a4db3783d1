//! Searches over indexes, refusals, and readers beside a writer.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::{DIM, field, meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_expr::{Plan, Templates, compile};
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, IndexParams, SearchParams, build,
};
use redkite_segment::{
    ALL_PARTITIONS, DeleteBatch, GrowingSegment, ReadView, SealedSegment, Segment,
    SegmentRetriever, SegmentSearcher, StopFlag, gather,
};
use redkite_types::{
    Coded, CollectionSchema, ColumnData, DataType, ErrorCode, MetricType, PrimaryKeys, RowId,
    Timestamp,
};

fn searcher(schema: &CollectionSchema, queries: Vec<f32>, filter: Plan) -> SegmentSearcher {
    SegmentSearcher {
        field: field(schema, "vector"),
        metric: MetricType::L2,
        queries: redkite_index::Queries::dense(queries, DIM),
        k: 10,
        params: SearchParams::default(),
        filter: Arc::new(filter),
        view: ReadView::latest(),
    }
}

fn grown(schema: &Arc<CollectionSchema>, rows: i64, rng: &mut StdRng) -> GrowingSegment {
    let segment = GrowingSegment::new(meta(schema, 1));
    let keys: Vec<i64> = (0..rows).collect();
    let times = vec![Timestamp(5); keys.len()];
    let ids = keys.iter().copied().map(RowId).collect();
    let batch = random_rows(schema, &keys, rng);
    segment.append(batch, ids, times).unwrap();
    segment
}

#[test]
fn the_work_of_a_search_is_bounded_by_its_candidates_or_its_rows() {
    const ROWS: usize = 3_000;
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let growing = grown(&schema, ROWS as i64, &mut rng).snapshot();
    let sealed = SealedSegment::from_growing(&growing).unwrap();
    let vector = field(&schema, "vector");
    let column = sealed.chunks()[0].batch().column(vector).unwrap().clone();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let params = ColumnIndexParams::Dense(IndexParams::hnsw(MetricType::L2, 16, 64));
    let rows = ColumnRows::of(&column.data).unwrap();
    let index = ColumnIndex::build(&params, &rows, &options).unwrap();
    let indexed = Segment::Sealed(sealed.with_index(vector, Arc::new(index)).unwrap());

    let mut search = searcher(&schema, vec![0.5; DIM], Plan::all());
    search.params.ef = Some(20);
    let all = ROWS * DIM;
    let walk = search.work(&indexed).unwrap();
    assert!((20 * DIM..all / 2).contains(&walk), "{walk}");
    search.params.ef = Some(ROWS);
    assert!(search.work(&indexed).unwrap() >= all);
    assert!(search.work(&Segment::Growing(growing)).unwrap() >= all);

    // A filter is asked about every row.
    let filter = compile("pk >= 0", &Templates::new(), &schema).unwrap();
    search.params.ef = Some(20);
    search.filter = Arc::new(filter);
    assert!(search.work(&indexed).unwrap() >= all);
}

#[test]
fn an_index_answers_as_many_as_match_and_only_those() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let snapshot = grown(&schema, 3_000, &mut rng).snapshot();
    let sealed = SealedSegment::from_growing(&snapshot).unwrap();
    let vector = field(&schema, "vector");
    let column = sealed.chunks()[0].batch().column(vector).unwrap().clone();
    let ColumnData::FloatVector { values, .. } = column.data else {
        panic!("a vector column");
    };
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 7,
        progress: None,
        stop: &stop,
    };
    let params = IndexParams::hnsw(MetricType::L2, 8, 64);
    let index = build(&params, &values, DIM, &options).unwrap();
    let indexed = sealed.with_index(vector, Arc::new(index.into())).unwrap();
    let gone: Vec<i64> = (0..3_000).filter(|key| key % 3 == 0).collect();
    indexed.delete(&DeleteBatch::at(
        PrimaryKeys::Int(gone),
        Timestamp(6),
        ALL_PARTITIONS,
    ));
    let segment = Segment::Sealed(indexed);
    for text in ["", "number > 0", "pk < 40", "pk in [1, 2, 3, 4]", "pk < 0"] {
        let plan = compile(text, &Templates::new(), &schema).unwrap();
        let retriever = SegmentRetriever {
            filter: Arc::new(plan.clone()),
            view: ReadView::latest(),
            limit: None,
        };
        let matching = retriever.retrieve(&segment, &stop).unwrap();
        let query: Vec<f32> = (0..DIM).map(|_| rng.random_range(-3.0..3.0)).collect();
        let found = searcher(&schema, query, plan)
            .search(&segment, &stop)
            .unwrap();
        let list = &found.lists[0];
        assert_eq!(list.len(), matching.len().min(10), "{text:?}");
        for hit in list {
            assert!(matching.iter().any(|row| row.at == hit.at), "{text:?}");
        }
    }
    // Before the deletes all rows are there.
    let retriever = SegmentRetriever {
        filter: Arc::new(Plan::all()),
        view: ReadView::at(Timestamp(5)),
        limit: None,
    };
    assert_eq!(retriever.count(&segment, &stop).unwrap(), 3_000);
}

#[test]
fn bad_queries_are_refused_with_the_callers_code() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let segment = Segment::Growing(grown(&schema, 10, &mut rng).snapshot());
    let stop = StopFlag::new();
    for (dim, queries) in [
        (3, vec![0.0; 3]),
        (DIM, vec![0.0; 5]),
        (DIM, vec![f32::NAN; 4]),
    ] {
        let mut search = searcher(&schema, Vec::new(), Plan::all());
        search.queries = redkite_index::Queries::dense(queries, dim);
        let refused = search.search(&segment, &stop).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidParameter, "{refused}");
        assert!(!refused.retriable());
    }
    let search = searcher(&schema, vec![0.0; DIM], Plan::all());
    stop.stop();
    let stopped = search.search(&segment, &stop).unwrap_err();
    assert!(stopped.retriable(), "{stopped}");
}

#[test]
fn expired_rows_are_not_seen() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let segment = Segment::Growing(grown(&schema, 10, &mut rng).snapshot());
    let count = |expired_before| {
        let retriever = SegmentRetriever {
            filter: Arc::new(Plan::all()),
            view: ReadView {
                at: Timestamp::MAX,
                expired_before: Timestamp(expired_before),
            },
            limit: None,
        };
        retriever.count(&segment, &StopFlag::new()).unwrap()
    };
    assert_eq!((count(5), count(6)), (10, 0));
}

#[test]
fn readers_beside_a_writer_see_whole_batches_in_order() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let segment = GrowingSegment::new(meta(&schema, 1));
    let applied = AtomicU64::new(0);
    let batches: Vec<_> = (0..300i64)
        .map(|round| {
            let keys: Vec<i64> = (round * 7..round * 7 + 7).collect();
            random_rows(&schema, &keys, &mut rng)
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (ts, batch) in (1u64..).zip(batches) {
                let ids = (0..7).map(RowId).collect();
                segment.append(batch, ids, vec![Timestamp(ts); 7]).unwrap();
                applied.store(ts, Ordering::Release);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut at = 0;
                while at < 300 {
                    at = applied.load(Ordering::Acquire);
                    let retriever = SegmentRetriever {
                        filter: Arc::new(Plan::all()),
                        view: ReadView::at(Timestamp(at)),
                        limit: None,
                    };
                    let segment = Segment::Growing(segment.snapshot());
                    let count = retriever.count(&segment, &StopFlag::new()).unwrap();
                    assert_eq!(count as u64, at * 7);
                }
            });
        }
    });
}

#[test]
fn gathered_rows_follow_the_order_asked_for() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let batches = [[1i64, 2, 3], [4, 5, 6]].map(|keys| random_rows(&schema, &keys, &mut rng));
    let gathered = gather(&batches, &[(1, 2), (0, 0), (1, 0), (0, 0)]);
    let keys = gathered.columns()[0].primary_keys();
    assert_eq!(keys, Some(PrimaryKeys::Int(vec![6, 1, 4, 1])));
    assert_eq!(gathered.take(&[1]), batches[0].take(&[0]));
    assert!(gather(&batches, &[]).is_empty());
    assert_eq!(
        gather(&batches, &[]).columns().len(),
        batches[0].columns().len()
    );
}
