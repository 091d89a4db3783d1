//! The nearest groups, compared with sorting all rows.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use common::{DIM, field, meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_expr::{Plan, Templates, compile};
use redkite_index::{BuildOptions, IndexParams, SearchParams, build};
use redkite_segment::{
    ALL_PARTITIONS, DeleteBatch, GroupBy, GrowingSegment, InGroup, ReadView, SealedSegment,
    Segment, SegmentRetriever, SegmentSearcher, StopFlag, TopK, fetch, merge_groups,
};
use redkite_types::{
    CollectionSchema, ColumnData, DataType, FieldId, GroupKey, MetricType, PrimaryKeys, RowId,
    Timestamp, Value,
};

const SEGMENTS: i64 = 3;

/// One growing, one sealed, one indexed segment with other keys each, and some rows deleted.
fn segments(schema: &Arc<CollectionSchema>, rng: &mut StdRng) -> Vec<Segment> {
    let segments = (0..SEGMENTS).map(|number| {
        let grown = GrowingSegment::new(meta(schema, number + 1));
        for part in 0..3 {
            let first = number * 1_000 + part * 200;
            let keys: Vec<i64> = (first..first + rng.random_range(50..200)).collect();
            let ids = keys.iter().copied().map(RowId).collect();
            let times = vec![Timestamp(5); keys.len()];
            let batch = random_rows(schema, &keys, rng);
            grown.append(batch, ids, times).unwrap();
        }
        let snapshot = grown.snapshot();
        if number == 0 {
            return Segment::Growing(snapshot);
        }
        let sealed = SealedSegment::from_growing(&snapshot).unwrap();
        let sealed = match number {
            1 => Arc::new(sealed),
            _ => indexed(schema, &sealed),
        };
        let gone = (0..40).map(|_| number * 1_000 + rng.random_range(0..600));
        let gone = PrimaryKeys::Int(gone.collect());
        sealed.delete(&DeleteBatch::at(gone, Timestamp(6), ALL_PARTITIONS));
        Segment::Sealed(sealed)
    });
    segments.collect()
}

fn indexed(schema: &CollectionSchema, sealed: &SealedSegment) -> Arc<SealedSegment> {
    let vector = field(schema, "vector");
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
    let params = IndexParams::hnsw(MetricType::L2, 16, 200);
    let index = build(&params, &values, DIM, &options).unwrap();
    sealed.with_index(vector, Arc::new(index.into())).unwrap()
}

/// A row's distance and primary key.
type Placed = (f32, i64);

fn order(a: &Placed, b: &Placed) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// All matching rows' groups and distances to a query, by looking at every row.
fn everything(
    segments: &[Segment],
    schema: &CollectionSchema,
    plan: &Plan,
    by: FieldId,
    query: &[f32],
) -> BTreeMap<GroupKey, Vec<Placed>> {
    let retriever = SegmentRetriever {
        filter: Arc::new(plan.clone()),
        view: ReadView::latest(),
        limit: None,
    };
    let stop = StopFlag::new();
    let mut groups: BTreeMap<GroupKey, Vec<Placed>> = BTreeMap::new();
    for segment in segments {
        let rows = retriever.retrieve(segment, &stop).unwrap();
        let at: Vec<_> = rows.iter().map(|row| row.at).collect();
        let fields = [field(schema, "vector"), by, field(schema, "pk")];
        let batch = fetch(std::slice::from_ref(segment), &at, &fields).unwrap();
        let ColumnData::FloatVector { values, .. } = &batch.columns()[0].data else {
            panic!("a vector column");
        };
        for (row, vector) in values.chunks(DIM).enumerate() {
            let distance = vector
                .iter()
                .zip(query)
                .map(|(a, b)| (a - b) * (a - b))
                .sum();
            let group = GroupKey::from_value(batch.columns()[1].value(row)).unwrap();
            let Value::Int(key) = batch.columns()[2].value(row) else {
                panic!("a key");
            };
            groups.entry(group).or_default().push((distance, key));
        }
    }
    for distances in groups.values_mut() {
        distances.sort_by(order);
    }
    groups
}

fn search(segments: &[Segment], searcher: &SegmentSearcher, by: &GroupBy) -> TopK<InGroup> {
    let stop = StopFlag::new();
    let parts = segments
        .iter()
        .map(|segment| searcher.search_groups(segment, by, &stop).unwrap());
    merge_groups(parts.collect(), searcher.k, by).unwrap()
}

/// The nearest rows up to the one that begins the last group, at most `size` of each group.
fn until_found(
    all: &BTreeMap<GroupKey, Vec<Placed>>,
    k: usize,
    size: usize,
) -> Vec<(f32, GroupKey)> {
    let rows = all.iter();
    let mut rows: Vec<(Placed, &GroupKey)> = rows
        .flat_map(|(group, rows)| rows.iter().map(move |row| (*row, group)))
        .collect();
    rows.sort_by(|a, b| order(&a.0, &b.0));
    let mut counts: BTreeMap<&GroupKey, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for ((distance, _), group) in rows {
        if counts.len() == k {
            break;
        }
        let count = counts.entry(group).or_default();
        *count += 1;
        if *count <= size {
            kept.push((distance, group.clone()));
        }
    }
    kept
}

#[test]
fn the_nearest_groups_are_found_and_filled() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let segments = segments(&schema, &mut rng);
    for (name, k, size, text) in [
        ("number", 7, 3, ""),
        ("number", 500, 2, "tiny > 0"),
        ("flag", 3, 4, ""),
        ("flag", 2, 200, "number < 50"),
        ("text", 10, 1, "pk % 2 == 0"),
        ("tiny", 4, 5, "pk < 0"),
    ] {
        let plan = compile(text, &Templates::new(), &schema).unwrap();
        let by = field(&schema, name);
        let queries: Vec<f32> = (0..2 * DIM)
            .map(|_| rng.random_range(-3..4i32) as f32)
            .collect();
        let searcher = SegmentSearcher {
            field: field(&schema, "vector"),
            metric: MetricType::L2,
            queries: redkite_index::Queries::dense(queries.clone(), DIM),
            k,
            params: SearchParams::with_ef(1_024),
            filter: Arc::new(plan.clone()),
            view: ReadView::latest(),
        };
        let first = GroupBy {
            field: by,
            size: 1,
            fill: true,
            within: None,
        };
        let nearest = search(&segments, &searcher, &first);
        let chosen: Vec<HashSet<GroupKey>> = nearest
            .lists
            .iter()
            .map(|list| list.iter().map(|hit| hit.at.group.clone()).collect())
            .collect();
        let fill = GroupBy {
            field: by,
            size,
            fill: true,
            within: Some(chosen.clone()),
        };
        let filled = search(&segments, &searcher, &fill);
        let short = GroupBy {
            fill: false,
            within: None,
            ..fill
        };
        let short = search(&segments, &searcher, &short);
        for (query, vector) in queries.chunks(DIM).enumerate() {
            let all = everything(&segments, &schema, &plan, by, vector);
            let mut best: Vec<f32> = all.values().map(|distances| distances[0].0).collect();
            best.sort_by(f32::total_cmp);
            best.truncate(k);
            let found: Vec<f32> = nearest.lists[query].iter().map(|hit| hit.score).collect();
            assert_eq!(found, best, "{name} {text:?}");
            let rows = short.lists[query]
                .iter()
                .map(|hit| (hit.score, hit.at.group.clone()));
            let rows: Vec<_> = rows.collect();
            assert_eq!(rows, until_found(&all, k, size), "{name} {text:?}");
            let mut rows: BTreeMap<GroupKey, Vec<f32>> = BTreeMap::new();
            for hit in &filled.lists[query] {
                rows.entry(hit.at.group.clone())
                    .or_default()
                    .push(hit.score);
            }
            assert_eq!(rows.len(), chosen[query].len(), "{name} {text:?}");
            for (group, scores) in rows {
                let want: Vec<f32> = all[&group].iter().map(|row| row.0).take(size).collect();
                assert_eq!(scores, want, "{name} {text:?} {group:?}");
            }
        }
    }
}
