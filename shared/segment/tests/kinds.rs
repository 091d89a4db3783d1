//! Searches on vectors of every type: growing rows, open files and indexes find the same.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use common::{field, meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_expr::Plan;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, Queries, RangeBounds, SearchParams,
};
use redkite_segment::{
    ColumnCache, GroupBy, GrowingSegment, Placement, ReadView, SealedSegment, Segment,
    SegmentSearcher, StopFlag, TopK, file,
};
use redkite_storage::open;
use redkite_types::{CollectionSchema, DataType, MetricType, RowBatch, RowId, Timestamp};

const ROWS: i64 = 700;

/// Field, its metric and an index that finds exactly the nearest.
const KINDS: [(&str, MetricType, &str); 8] = [
    ("bits", MetricType::Hamming, "BIN_FLAT"),
    ("bits", MetricType::Jaccard, "BIN_FLAT"),
    ("half", MetricType::L2, "FLAT"),
    ("half", MetricType::Cosine, "FLAT"),
    ("brain", MetricType::Ip, "FLAT"),
    ("bytes", MetricType::L2, ""),
    ("sparse", MetricType::Ip, "SPARSE_INVERTED_INDEX"),
    ("sparse", MetricType::Ip, "SPARSE_WAND"),
];

fn queries(schema: &CollectionSchema, rows: &RowBatch, name: &str) -> Queries {
    let field = schema.field(name).unwrap();
    let column = rows.column(field.id).unwrap();
    let vectors: Vec<_> = (0..3)
        .map(|at| column.data.vector_bytes(at * 7).unwrap())
        .collect();
    let bytes = Bytes::from(vectors.concat());
    let lengths: Vec<u32> = match field.data_type {
        DataType::SparseFloatVector => vectors.iter().map(|v| v.len() as u32).collect(),
        _ => Vec::new(),
    };
    Queries::decode(field.data_type, field.dim, 3, &bytes, &lengths).unwrap()
}

fn index_of(
    segment: &SealedSegment,
    schema: &CollectionSchema,
    name: &str,
    params: &ColumnIndexParams,
) -> Arc<ColumnIndex> {
    let column = segment.chunks()[0]
        .batch()
        .column(field(schema, name))
        .unwrap();
    let rows = ColumnRows::of(&column.data).unwrap();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let index = ColumnIndex::build(params, &rows, &options).unwrap();
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    Arc::new(ColumnIndex::open_verified(bytes.into()).unwrap())
}

fn keys(found: &TopK) -> Vec<Vec<(String, f32)>> {
    let list = |list: &Vec<redkite_segment::Hit>| {
        let hits = list.iter();
        hits.map(|hit| (hit.key.to_string(), hit.score)).collect()
    };
    found.lists.iter().map(list).collect()
}

#[tokio::test]
async fn growing_rows_files_and_indexes_find_the_same() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let growing = GrowingSegment::new(meta(&schema, 3));
    let all: Vec<i64> = (0..ROWS).collect();
    let mut first = None;
    for part in all.chunks(100) {
        let rows = random_rows(&schema, part, &mut rng);
        first.get_or_insert_with(|| rows.clone());
        let ids = part.iter().map(|key| RowId(*key)).collect();
        let times = part.iter().map(|_| Timestamp(9)).collect();
        growing.append(rows, ids, times).unwrap();
    }
    let first = first.unwrap();
    let snapshot = growing.snapshot();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("fs://{}", dir.path().display())).unwrap();
    let chunks = snapshot.chunks().to_vec();
    let manifest = file::write_segment(&*store, meta(&schema, 3), chunks)
        .await
        .unwrap();
    let mapped = Placement {
        mapped: schema
            .fields
            .iter()
            .map(|field| field.id)
            .collect::<BTreeSet<_>>(),
        cache: Arc::new(ColumnCache::new(1 << 20)),
    };
    let mut segments = vec![Segment::Growing(snapshot.clone())];
    let whole = SealedSegment::from_growing(&snapshot).unwrap();
    for placement in [&Placement::memory(), &mapped] {
        let chunk = file::open_segment(&*store, &manifest, schema.clone(), placement)
            .await
            .unwrap();
        let sealed = SealedSegment::new(meta(&schema, 3), chunk).unwrap();
        segments.push(Segment::Sealed(Arc::new(sealed)));
    }
    let stop = StopFlag::new();
    for (name, metric, index_type) in KINDS {
        let kind = schema.field(name).unwrap().data_type;
        let pairs = [("index_type", index_type), ("metric_type", metric.name())];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let params = ColumnIndexParams::from_pairs(kind, &pairs).unwrap();
        let index = index_of(&whole, &schema, name, &params);
        let Segment::Sealed(last) = segments[2].clone() else {
            panic!("a sealed segment");
        };
        let indexed = last.with_index(field(&schema, name), index).unwrap();
        let others: Vec<Segment> = segments
            .iter()
            .cloned()
            .chain([Segment::Sealed(indexed)])
            .collect();
        let near = match metric {
            MetricType::Cosine => RangeBounds {
                radius: 0.1,
                range_filter: Some(0.9),
            },
            MetricType::Ip => RangeBounds {
                radius: 1.0,
                range_filter: Some(60.0),
            },
            _ => RangeBounds {
                radius: 60.0,
                range_filter: Some(0.25),
            },
        };
        for range in [None, Some(near)] {
            let searcher = SegmentSearcher {
                field: field(&schema, name),
                metric,
                queries: queries(&schema, &first, name),
                k: rng.random_range(1..ROWS as usize),
                params: SearchParams {
                    range,
                    ..SearchParams::default()
                },
                filter: Arc::new(Plan::all()),
                view: ReadView::latest(),
            };
            let found: Vec<TopK> = others
                .iter()
                .map(|s| searcher.search(s, &stop).unwrap())
                .collect();
            assert!(
                found[0].lists.iter().any(|list| !list.is_empty()),
                "{name} {metric}"
            );
            // The kernels of 8-bit graphs find nearly all; everything else must agree.
            let exact = if kind == DataType::Int8Vector { 3 } else { 4 };
            for (at, other) in found.iter().enumerate().take(exact) {
                assert_eq!(
                    keys(other),
                    keys(&found[0]),
                    "{name} {metric} {index_type} {at}"
                );
            }
            assert_eq!(found[3].lists[0].len(), found[0].lists[0].len(), "{name}");
            // Where it does not wait it has the same answer, or says that it would have to.
            for (segment, found) in others.iter().zip(&found) {
                match searcher.search_now(std::slice::from_ref(segment), &stop) {
                    Ok(now) => assert_eq!(keys(&now[0]), keys(found), "{name} {index_type}"),
                    Err(error) => assert!(error.would_wait(), "{name} {index_type}: {error}"),
                }
            }
        }
        let by = GroupBy {
            field: field(&schema, "flag"),
            size: 2,
            fill: true,
            within: None,
        };
        let searcher = SegmentSearcher {
            field: field(&schema, name),
            metric,
            queries: queries(&schema, &first, name),
            k: 3,
            params: SearchParams::default(),
            filter: Arc::new(Plan::all()),
            view: ReadView::latest(),
        };
        let grouped: Vec<usize> = others
            .iter()
            .map(|segment| searcher.search_groups(segment, &by, &stop).unwrap().lists[0].len())
            .collect();
        assert!(
            grouped.iter().all(|hits| *hits == grouped[0]),
            "{name} {grouped:?}"
        );
    }
}
