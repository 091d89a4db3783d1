//! The files of version 3, of binary and of sparse vectors: they stay readable and are written back
//! unchanged.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use bytes::Bytes;
use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, Query, SearchParams,
};
use redkite_types::{ColumnData, DataType, PackedBuffer, StopFlag, sparse};

const ROWS: usize = 200;

const FILES: [(DataType, &str, &str); 5] = [
    (DataType::BinaryVector, "BIN_FLAT", "JACCARD"),
    (DataType::BinaryVector, "BIN_IVF_FLAT", "HAMMING"),
    (DataType::SparseFloatVector, "SPARSE_INVERTED_INDEX", "IP"),
    (DataType::SparseFloatVector, "SPARSE_INVERTED_INDEX", "drop"),
    (DataType::SparseFloatVector, "SPARSE_WAND", "IP"),
];

fn path(index_type: &str, variant: &str) -> String {
    let name = format!("{index_type}_{variant}").to_ascii_lowercase();
    format!("tests/golden/{name}_v3.rkindex")
}

fn mix(i: usize) -> u64 {
    let first = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (first ^ (first >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40
}

fn column(kind: DataType) -> ColumnData {
    match kind {
        DataType::BinaryVector => ColumnData::PackedVector {
            kind,
            dim: 40,
            values: PackedBuffer::from((0..ROWS * 5).map(|i| mix(i) as u8).collect::<Vec<u8>>()),
        },
        _ => ColumnData::SparseVector((0..ROWS).map(row).collect()),
    }
}

/// A dimension of the row's own, and some that it shares.
fn row(row: usize) -> Bytes {
    let shared = (0..9).filter(|i| mix(row * 9 + i).is_multiple_of(3));
    let mut pairs: Vec<(u32, f32)> = shared
        .map(|i| (i as u32 * 1_000, (mix(row + i) % 7 + 1) as f32 / 4.0))
        .collect();
    pairs.push((100_000 + row as u32, 8.0));
    sparse::encode(&pairs)
}

fn bytes_of(index: &ColumnIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

/// `cargo nextest run -p redkite-index --run-ignored only golden_types`, for the day a new version
/// is made.
#[test]
#[ignore = "changes the golden files"]
fn write_the_files() {
    let stop = StopFlag::new();
    for (kind, index_type, variant) in FILES {
        let (metric, ratio) = match variant {
            "drop" => ("IP", Some("0.25")),
            metric => (metric, None),
        };
        let mut pairs = vec![("index_type", index_type), ("metric_type", metric)];
        pairs.extend(ratio.map(|ratio| ("drop_ratio_build", ratio)));
        if index_type == "BIN_IVF_FLAT" {
            pairs.push(("nlist", "5"));
        }
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let pairs: Vec<(String, String)> = pairs.iter().map(own).collect();
        let params = ColumnIndexParams::from_pairs(kind, &pairs).unwrap();
        let column = column(kind);
        let options = BuildOptions {
            threads: 1,
            seed: 1,
            progress: None,
            stop: &stop,
        };
        let rows = ColumnRows::of(&column).unwrap();
        let index = ColumnIndex::build(&params, &rows, &options).unwrap();
        std::fs::write(path(index_type, variant), bytes_of(&index)).unwrap();
    }
}

#[test]
fn version_3_is_read_and_written_back_unchanged() {
    for (kind, index_type, variant) in FILES {
        let golden = std::fs::read(path(index_type, variant)).unwrap();
        assert_eq!(golden[8], 3);
        let index = ColumnIndex::open(golden.clone().into()).unwrap();
        assert_eq!((index.index_type().name(), index.len()), (index_type, ROWS));
        let column = column(kind);
        let rows = ColumnRows::of(&column).unwrap();
        let (params, stop) = (SearchParams::default(), StopFlag::new());
        for at in [0, 77, ROWS - 1] {
            let vector = column.vector_bytes(at).unwrap();
            let pairs: Vec<(u32, f32)> = sparse::pairs(&vector).collect();
            let query = match kind {
                DataType::BinaryVector => Query::Binary(&vector),
                _ => Query::Sparse(&pairs),
            };
            let mut hits = Vec::new();
            index
                .search(query, Some(&rows), &params, None, 3, &stop, &mut hits)
                .unwrap();
            assert_eq!(hits[0].row, at as u32, "{index_type} {variant}");
        }
        assert!(
            bytes_of(&index) == golden,
            "the format of {index_type} changed without a new version"
        );
    }
}
