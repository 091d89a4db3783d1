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
    DeleteBatch, GrowingSegment, GrowingSnapshot, Joined, ReadView, SealedSegment, Segment,
    SegmentMeta, SegmentSearcher, TopK,
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

/// A generator of random numbers, which says its seed.
fn seeded() -> StdRng {
    let seed = rand::random();
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// A segment without rows.
fn growing() -> GrowingSegment {
    GrowingSegment::new(SegmentMeta {
        schema: Arc::new(schema()),
        ..meta()
    })
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

fn build(
    snapshot: &GrowingSnapshot,
    chunk: &Chunk,
    metric: MetricType,
    kind: InterimKind,
    rows: Range<usize>,
) {
    let place = (snapshot.meta().segment, VECTOR);
    chunk
        .build_interim(place, metric, kind, rows, &StopFlag::new())
        .unwrap();
}

/// Builds whatever is due; answers how many rows have an index then.
fn build_all(segment: &GrowingSegment, metric: MetricType) -> usize {
    let snapshot = segment.snapshot();
    for kind in [InterimKind::Codes, InterimKind::Graph] {
        while let Some((chunk, rows)) = snapshot.next_interim(VECTOR, metric, kind) {
            build(&snapshot, chunk, metric, kind, rows);
        }
    }
    let chunks = snapshot.chunks().iter();
    let parts = chunks.flat_map(|chunk| chunk.interims(|_| true));
    parts.map(|part| part.index.len()).sum()
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
    let mut rng = seeded();
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
                PrimaryKey::Int(key) => (*key as u64) < at && (at <= ROWS as u64 || key % 3 != 0),
                PrimaryKey::Str(_) => false,
            };
            assert!(keys(&found).iter().flatten().all(seen));
        }
    }
}

#[test]
fn a_range_and_a_search_for_many_rows_look_at_every_row() {
    let segment = growing();
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
    let mut rng = seeded();
    let metric = MetricType::L2;
    let growing = growing();
    let values = random(&mut rng, ROWS);
    let mut first = 0;
    while first < ROWS {
        let rows = rng.random_range(1..1_500).min(ROWS - first);
        append(&growing, first, &values[first * DIM..(first + rows) * DIM]);
        first += rows;
    }
    // The last rows have none yet.
    let snapshot = growing.snapshot();
    let kind = InterimKind::Graph;
    let mut graphs = 0;
    while let Some((chunk, rows)) = snapshot.next_interim(VECTOR, metric, kind) {
        build(&snapshot, chunk, metric, kind, rows);
        graphs += 1;
    }
    assert!(graphs >= 2, "{graphs} graphs");
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
    assert_eq!(with.chunks()[0].interim_memory_bytes(), 0);
}

#[test]
fn a_stopped_build_leaves_nothing() {
    let segment = growing();
    append(&segment, 0, &random(&mut StdRng::seed_from_u64(7), 8_192));
    let chunk = segment.snapshot().chunks()[0].clone();
    let stop = StopFlag::new();
    stop.stop();
    let (place, metric) = ((SegmentId(3), VECTOR), MetricType::L2);
    for kind in [InterimKind::Codes, InterimKind::Graph] {
        let ended = chunk.build_interim(place, metric, kind, 0..8_192, &stop);
        assert!(ended.is_err());
        assert_eq!(chunk.lacks_interim(VECTOR, metric, kind), Some(0..8_192));
    }
}

#[test]
fn merged_rows_keep_what_is_over_them_and_no_row_has_two_indexes() {
    let mut rng = seeded();
    let metric = MetricType::L2;
    let segment = growing();
    // Builds that have begun and are not put in yet, as rows go on coming.
    let mut begun: Vec<(Arc<Chunk>, InterimKind, Range<usize>)> = Vec::new();
    let mut first = 0;
    while first < ROWS {
        let rows = rng.random_range(1..400).min(ROWS - first);
        let covered = |snapshot: &GrowingSnapshot| -> usize {
            let parts = snapshot
                .chunks()
                .iter()
                .map(|chunk| chunk.interims(|_| true));
            parts.flatten().map(|part| part.index.len()).sum()
        };
        let before = covered(&segment.snapshot());
        append(&segment, first, &random(&mut rng, rows));
        first += rows;
        let snapshot = segment.snapshot();
        assert_eq!(covered(&snapshot), before, "a merge takes nothing away");
        let kind = match rng.random_range(0..3) {
            0 => InterimKind::Graph,
            _ => InterimKind::Codes,
        };
        if let Some((chunk, rows)) = snapshot.next_interim(VECTOR, metric, kind) {
            begun.push((chunk.clone(), kind, rows));
        }
        // Some of them are over chunks that are joined meanwhile.
        if rng.random_bool(0.1) {
            let from = rng.random_range(0..snapshot.chunks().len());
            let joined = Joined::new(snapshot.chunks()[from..].to_vec()).unwrap();
            assert!(segment.join(joined));
            assert_eq!(covered(&segment.snapshot()), before);
        }
        while begun.len() > rng.random_range(0..4) {
            let (chunk, kind, rows) = begun.swap_remove(rng.random_range(0..begun.len()));
            build(&snapshot, &chunk, metric, kind, rows);
            for chunk in segment.snapshot().chunks() {
                let mut rows: Vec<_> = chunk.interims(|_| true).iter().map(Interim::rows).collect();
                rows.sort_unstable_by_key(|rows| rows.start);
                assert!(rows.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
        }
    }
    build_all(&segment, metric);
    let snapshot = segment.snapshot();
    for chunk in snapshot.chunks() {
        let parts = chunk.interims(|_| true);
        let without = gaps(parts.iter().map(Interim::rows).collect(), chunk.len());
        // Before, between and behind graphs there may be some.
        let without: usize = without.iter().map(Range::len).sum();
        assert!(without < MIN_CODED * (parts.len() + 1));
    }
}

#[test]
fn joined_rows_get_one_graph_and_are_found_as_before() {
    let mut rng = seeded();
    let metric = MetricType::L2;
    let segment = growing();
    let rows_in_all = 34_000;
    let values = random(&mut rng, rows_in_all);
    for (number, values) in values.chunks(1_000 * DIM).enumerate() {
        append(&segment, number * 1_000, values);
    }
    let deleted = PrimaryKeys::Int((0..rows_in_all as i64).step_by(7).collect());
    let deleted = DeleteBatch::at(
        deleted,
        Timestamp(rows_in_all as u64 + 1),
        segment.meta().partition,
    );
    segment.delete(&deleted);
    let queries = random(&mut rng, 50);
    let search = |snapshot: Arc<GrowingSnapshot>| {
        let searcher = searcher(metric, &queries, u64::MAX >> 1);
        searcher
            .search(&Segment::Growing(snapshot), &StopFlag::new())
            .unwrap()
    };
    let exact = search(segment.snapshot());
    build_all(&segment, metric);
    let before = segment.snapshot();
    let parts = before.chunks()[..4].to_vec();
    assert!(parts.iter().all(|part| part.graphs(VECTOR, metric) == 1));
    let (many, rows): (_, usize) = (parts.len(), parts.iter().map(|part| part.len()).sum());
    assert!(segment.join(Joined::new(parts.clone()).unwrap()));
    // What is gone cannot be joined again.
    assert!(!segment.join(Joined::new(parts).unwrap()));

    let joined = segment.snapshot();
    assert_eq!(joined.chunks().len() + many - 1, before.chunks().len());
    let keys_of = |snapshot: &GrowingSnapshot| -> Vec<PrimaryKey> {
        let chunks = snapshot.chunks().iter();
        let keys = chunks.flat_map(|chunk| (0..chunk.len()).map(|row| chunk.key(row)));
        keys.collect()
    };
    assert_eq!(keys_of(&joined), keys_of(&before));
    // The graphs of the parts serve until there is one.
    let whole = joined.chunks()[0].clone();
    assert_eq!(whole.len(), rows);
    assert_eq!(whole.graphs(VECTOR, metric), many);
    assert!(recall(&search(joined), &exact) >= 0.95);
    build_all(&segment, metric);
    assert_eq!(whole.interims(|_| true).len(), 1);
    assert!(recall(&search(segment.snapshot()), &exact) >= 0.95);
    // Nothing is left to do but what more rows bring.
    let due = InterimKind::Graph;
    assert!(
        segment
            .snapshot()
            .next_interim(VECTOR, metric, due)
            .is_none()
    );
}

#[test]
fn what_may_be_merged_or_has_adopted_a_schema_is_not_joined() {
    let segment = growing();
    let values = vec![0.5; 1_000 * DIM];
    // Eight chunks of eight appends: the last may be merged with rows until some lie behind it.
    for number in 0..65 {
        let settled = segment.snapshot().settled().len();
        assert_eq!(settled, (number.max(1) - 1) / 8);
        append(&segment, number * 1_000, &values);
    }
    let snapshot = segment.snapshot();
    assert!(snapshot.settled().iter().all(|part| part.len() == 8_000));
    assert_eq!(snapshot.settled().len(), 8);
    // Without graphs over them nothing is gained.
    assert!(snapshot.next_join(VECTOR, MetricType::L2).is_none());
    let joined = Joined::new(snapshot.settled().to_vec()).unwrap();
    segment.adopt(&Arc::new(schema()));
    assert!(!segment.join(joined));
}

#[test]
fn one_graph_grows_with_the_rows_that_come() {
    let mut rng = seeded();
    let metric = MetricType::L2;
    let segment = growing();
    let values = random(&mut rng, 8_192);
    let mut first = 0;
    while first < 8_192 {
        let rows = rng.random_range(1..120).min(8_192 - first);
        append(&segment, first, &values[first * DIM..(first + rows) * DIM]);
        first += rows;
        build_all(&segment, metric);
        let snapshot = segment.snapshot();
        let chunks = snapshot.chunks().iter();
        let in_graphs = chunks.map(|chunk| {
            let parts = chunk.interims(|one| one.kind == InterimKind::Graph);
            assert!(parts.len() <= 1 && parts.iter().all(|part| part.start == 0));
            parts.iter().map(|part| part.index.len()).sum::<usize>()
        });
        let without = first - in_graphs.sum::<usize>();
        // Chunks that have none yet, each of which is less than half of the one before it.
        assert!(without < 2 * MIN_ROWS, "{without} of {first}");
    }
    let snapshot = segment.snapshot();
    let plain = SealedSegment::from_growing(&snapshot).unwrap();
    let queries = random(&mut rng, 50);
    let searcher = searcher(metric, &queries, 8_192);
    let search = |segment: &Segment| searcher.search(segment, &StopFlag::new()).unwrap();
    let found = search(&Segment::Growing(snapshot.clone()));
    let share = recall(&found, &search(&Segment::Sealed(Arc::new(plain))));
    assert!(share >= 0.95, "recall {share}");
}

/// Whatever part of the answer is in growing rows, it is found.
#[test]
fn rows_found_elsewhere_do_not_hide_growing_ones() {
    let mut rng = seeded();
    let metric = MetricType::L2;
    let (mut old, new) = (random(&mut rng, ROWS), random(&mut rng, 8_192));
    // Half of the queries are where there is nothing but growing rows.
    for row in old.chunks_mut(DIM) {
        row[0] -= 1.0;
    }
    let mut queries = random(&mut rng, 60);
    for (number, query) in queries.chunks_mut(DIM).enumerate() {
        query[0] += if number % 2 == 0 { 1.0 } else { -1.0 };
    }
    let (flushed, growing) = (growing(), growing());
    append(&flushed, 0, &old);
    for (number, batch) in new.chunks(1_000 * DIM).enumerate() {
        append(&growing, ROWS + number * 1_000, batch);
    }
    let flushed = Arc::new(SealedSegment::from_growing(&flushed.snapshot()).unwrap());
    let rows = ColumnRows::of(flushed.chunks()[0].dense(VECTOR).unwrap()).unwrap();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let params = ColumnIndexParams::Dense(IndexParams::hnsw(metric, 16, 100));
    let index = ColumnIndex::build(&params, &rows, &options).unwrap();
    let indexed = flushed.with_index(VECTOR, Arc::new(index)).unwrap();
    let search = |flushed: Arc<SealedSegment>, growing: &GrowingSegment, ef| {
        let searcher = SegmentSearcher {
            params: SearchParams::with_ef(ef),
            ..searcher(metric, &queries, u64::MAX >> 1)
        };
        // Growing rows come first here, and are searched last.
        let segments = [
            Segment::Growing(growing.snapshot()),
            Segment::Sealed(flushed),
        ];
        let parts = searcher.search_all(&segments, &stop).unwrap();
        crate::merge_topk(metric, parts, K)
    };
    let exact = search(flushed.clone(), &growing, 64);
    build_all(&growing, metric);
    let found = search(indexed.clone(), &growing, 64);
    assert!(found.lists.iter().all(|list| list.len() == K));
    let of_growing = |list: &Vec<crate::Hit>| {
        let key = |hit: &crate::Hit| matches!(hit.key, PrimaryKey::Int(key) if key >= ROWS as i64);
        list.iter().filter(|hit| key(hit)).count()
    };
    let counts: Vec<usize> = exact.lists.iter().map(of_growing).collect();
    assert!(counts.contains(&K) && counts.iter().any(|count| *count < K / 2));
    let share = recall(&found, &exact);
    assert!(share >= 0.95, "recall {share}");
    // Where they are the whole answer, so few candidates are not left at that.
    let (mut brief, mut whole) = (search(indexed, &growing, 12), exact);
    for found in [&mut brief, &mut whole] {
        let mut counts = counts.iter();
        found.lists.retain(|_| counts.next() == Some(&K));
    }
    let share = recall(&brief, &whole);
    assert!(share >= 0.9, "recall {share}");
}
