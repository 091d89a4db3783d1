use half::{bf16, f16};
use redkite_types::{ColumnData, PackedBuffer};

use super::*;
use crate::{Queries, testing::Rng};

const DIM: usize = 24;
const KINDS: [DataType; 3] = [
    DataType::Float16Vector,
    DataType::BFloat16Vector,
    DataType::Int8Vector,
];

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

fn packed(kind: DataType, rng: &mut Rng, rows: usize) -> ColumnData {
    let mut bytes = Vec::new();
    for _ in 0..rows * DIM {
        let value = rng.gaussian();
        match kind {
            DataType::Float16Vector => bytes.extend(f16::from_f32(value).to_le_bytes()),
            DataType::BFloat16Vector => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            _ => bytes.push((value * 40.0) as i8 as u8),
        }
    }
    ColumnData::PackedVector {
        kind,
        dim: DIM,
        values: PackedBuffer::from(bytes),
    }
}

fn dense<'a>(column: &'a ColumnData) -> std::borrow::Cow<'a, [f32]> {
    match ColumnRows::of(column) {
        Some(ColumnRows::Dense(rows)) => rows.widened().into_owned().into(),
        _ => panic!("no dense rows"),
    }
}

fn options(stop: &StopFlag) -> BuildOptions<'_> {
    BuildOptions {
        threads: 1,
        seed: 5,
        progress: None,
        stop,
    }
}

/// Narrow vectors must be found exactly as the same vectors in f32 are, up to rounding of sums.
#[test]
fn narrow_vectors_are_scored_like_the_same_in_f32() {
    let mut rng = Rng::from_env();
    let stop = StopFlag::new();
    for kind in KINDS {
        let column = packed(kind, &mut rng, 900);
        let values = dense(&column);
        let wide = ColumnData::FloatVector {
            dim: DIM,
            values: values.to_vec().into(),
        };
        let queries = Queries::dense(&values[..3 * DIM], DIM);
        let (narrow, wide) = (ColumnRows::of(&column), ColumnRows::of(&wide));
        let (narrow, wide) = (narrow.unwrap(), wide.unwrap());
        let types: &[&str] = match kind {
            DataType::Int8Vector => &["HNSW", "AUTOINDEX", "HNSW_SQ"],
            _ => &["FLAT", "HNSW", "AUTOINDEX", "IVF_FLAT", "IVF_SQ8", "SCANN"],
        };
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            let params = SearchParams::default();
            let mut lists = [Vec::new(), Vec::new()];
            for (rows, lists) in [&narrow, &wide].into_iter().zip(&mut lists) {
                rows.scan(&queries, metric, &params, None, 10, &stop, lists)
                    .unwrap();
            }
            let [found, want] = lists;
            let close =
                |a: &Hit, b: &Hit| (a.score - b.score).abs() <= 1e-4 * b.score.abs().max(1.0);
            for (found, want) in found.iter().flatten().zip(want.iter().flatten()) {
                assert!(close(found, want), "{kind} {metric} {found:?} {want:?}");
            }
            for name in types {
                let given = pairs(&[("index_type", name), ("metric_type", metric.name())]);
                let params = ColumnIndexParams::from_pairs(kind, &given).unwrap();
                let index = ColumnIndex::build(&params, &narrow, &options(&stop)).unwrap();
                let mut bytes = Vec::new();
                index.write(&mut bytes).unwrap();
                let index = ColumnIndex::open(bytes.into()).unwrap();
                assert_eq!((index.len(), index.dim()), (900, DIM));
                let search = SearchParams {
                    nprobe: (name.contains("IVF") || *name == "SCANN").then_some(128),
                    ..SearchParams::default()
                };
                for (query, want) in want.iter().enumerate() {
                    let mut hits = Vec::new();
                    let query = queries.get(query);
                    index
                        .search(query, Some(&narrow), &search, None, 10, &stop, &mut hits)
                        .unwrap();
                    assert_eq!(hits.len(), 10);
                    let same = hits.iter().filter(|hit| want.iter().any(|w| close(hit, w)));
                    assert!(same.count() >= 7, "{kind} {name} {metric}");
                    assert!(close(&hits[0], &want[0]), "{kind} {name} {metric}");
                }
            }
        }
    }
}

#[test]
fn types_and_metrics_go_with_the_vectors() {
    let parse = |kind, index_type: &str, metric: &str| {
        let given = pairs(&[("index_type", index_type), ("metric_type", metric)]);
        ColumnIndexParams::from_pairs(kind, &given)
    };
    let good = [
        (DataType::BinaryVector, "BIN_IVF_FLAT", "JACCARD"),
        (DataType::BinaryVector, "AUTOINDEX", ""),
        (DataType::SparseFloatVector, "SPARSE_WAND", "IP"),
        (DataType::SparseFloatVector, "", ""),
        (DataType::Float16Vector, "IVF_PQ", "L2"),
        (DataType::Int8Vector, "HNSW", "COSINE"),
    ];
    for (kind, index_type, metric) in good {
        assert!(
            parse(kind, index_type, metric).is_ok(),
            "{kind} {index_type}"
        );
    }
    let default = |kind| parse(kind, "", "").unwrap().metric();
    assert_eq!(default(DataType::BinaryVector), MetricType::Hamming);
    assert_eq!(default(DataType::SparseFloatVector), MetricType::Ip);
    assert_eq!(default(DataType::BFloat16Vector), MetricType::Cosine);
    let bad = [
        (
            DataType::Int8Vector,
            "FLAT",
            "L2",
            "data type Int8Vector can't build with this index FLAT",
        ),
        (
            DataType::Int8Vector,
            "DISKANN",
            "L2",
            "can't build with this index DISKANN",
        ),
        (
            DataType::BinaryVector,
            "HNSW",
            "HAMMING",
            "data type BinaryVector can't build",
        ),
        (
            DataType::FloatVector,
            "BIN_FLAT",
            "L2",
            "data type FloatVector can't build",
        ),
        (
            DataType::SparseFloatVector,
            "IVF_FLAT",
            "IP",
            "data type SparseFloatVector can't",
        ),
        (
            DataType::BinaryVector,
            "BIN_FLAT",
            "L2",
            "supported: [HAMMING JACCARD]",
        ),
        (
            DataType::FloatVector,
            "HNSW",
            "HAMMING",
            "supported: [L2 IP COSINE]",
        ),
        (
            DataType::SparseFloatVector,
            "SPARSE_WAND",
            "L2",
            "only IP&BM25 is the supported",
        ),
        (
            DataType::FloatVector,
            "NOSUCH",
            "L2",
            "invalid index type: NOSUCH",
        ),
    ];
    for (kind, index_type, metric, want) in bad {
        let why = parse(kind, index_type, metric).unwrap_err();
        assert!(
            why.message.contains(want),
            "{} does not contain {want}",
            why.message
        );
        assert!(why.is_input_error);
    }
}

#[test]
fn an_index_of_other_vectors_is_refused() {
    let mut rng = Rng::from_env();
    let column = packed(DataType::Float16Vector, &mut rng, 10);
    let rows = ColumnRows::of(&column).unwrap();
    let stop = StopFlag::new();
    let params = ColumnIndexParams::from_pairs(DataType::BinaryVector, &[]).unwrap();
    assert!(ColumnIndex::build(&params, &rows, &options(&stop)).is_err());
    let params = ColumnIndexParams::from_pairs(DataType::Float16Vector, &[]).unwrap();
    let index = ColumnIndex::build(&params, &rows, &options(&stop)).unwrap();
    let mut hits = Vec::new();
    let params = SearchParams::default();
    let refused = index.search(
        Query::Sparse(&[(1, 1.0)]),
        Some(&rows),
        &params,
        None,
        1,
        &stop,
        &mut hits,
    );
    assert!(matches!(refused, Err(Error::InvalidParameter { .. })));
}
