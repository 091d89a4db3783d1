//! Vectors that are read one at a time from a file: the answers are those of vectors in memory, and
//! what cannot be read is said.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::{
    io::{self, ErrorKind},
    sync::atomic::{AtomicUsize, Ordering},
};

use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, Hit, IndexType, Query, RowReader,
    SearchParams,
};
use redkite_types::{BitSet, Coded as _, ColumnData, DataType, ErrorCode, PackedBuffer, StopFlag};

const ROWS: usize = 600;
const DIM: usize = 48;
const K: usize = 10;

const TYPES: [&str; 8] = [
    "HNSW",
    "HNSW_SQ",
    "HNSW_PQ",
    "AUTOINDEX",
    "IVF_SQ8",
    "IVF_PQ",
    "IVF_RABITQ",
    "SCANN",
];

/// The rows of a column as a file has them; the row `missing` cannot be read.
#[derive(Debug)]
struct Rows<'a> {
    column: &'a ColumnData,
    missing: Option<ErrorKind>,
    read: AtomicUsize,
}

impl<'a> Rows<'a> {
    const fn of(column: &'a ColumnData) -> Self {
        Self {
            column,
            missing: None,
            read: AtomicUsize::new(0),
        }
    }
}

impl RowReader for Rows<'_> {
    fn read(&self, row: u32, out: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = self.missing {
            return Err(kind.into());
        }
        out.copy_from_slice(&self.column.vector_bytes(row as usize).unwrap());
        Ok(())
    }
}

fn value(i: usize) -> f32 {
    let first = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (first ^ (first >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    (mixed % 251) as f32 - 125.0
}

fn column(kind: DataType) -> ColumnData {
    let values = (0..ROWS * DIM).map(value);
    let bytes: Vec<u8> = match kind {
        DataType::FloatVector => {
            return ColumnData::FloatVector {
                dim: DIM,
                values: values.collect::<Vec<f32>>().into(),
            };
        }
        DataType::Float16Vector => values
            .flat_map(|value| half::f16::from_f32(value).to_le_bytes())
            .collect(),
        DataType::BFloat16Vector => values
            .flat_map(|value| half::bf16::from_f32(value).to_le_bytes())
            .collect(),
        _ => values.map(|value| value as i8 as u8).collect(),
    };
    ColumnData::PackedVector {
        kind,
        dim: DIM,
        values: PackedBuffer::from(bytes),
    }
}

fn index(kind: DataType, index_type: &str, column: &ColumnData) -> ColumnIndex {
    let mut pairs = vec![("index_type", index_type), ("metric_type", "L2")];
    if ["HNSW_PQ", "IVF_PQ"].contains(&index_type) {
        pairs.push(("m", "12"));
    }
    if index_type == "HNSW_SQ" {
        pairs.push(("sq_type", "SQ8"));
    }
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let pairs: Vec<(String, String)> = pairs.iter().map(own).collect();
    let params = ColumnIndexParams::from_pairs(kind, &pairs).unwrap();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    ColumnIndex::build(&params, &ColumnRows::of(column).unwrap(), &options).unwrap()
}

fn search(
    index: &ColumnIndex,
    rows: &ColumnRows<'_>,
    allow: Option<&BitSet>,
) -> redkite_index::Result<Vec<Hit>> {
    let (query, stop) = ((0..DIM).map(value).collect::<Vec<f32>>(), StopFlag::new());
    let (params, mut hits) = (SearchParams::default(), Vec::new());
    let query = Query::Dense(&query);
    index.search(query, Some(rows), &params, allow, K, &stop, &mut hits)?;
    Ok(hits)
}

#[test]
fn answers_are_those_of_vectors_in_memory() {
    let kinds = [
        DataType::FloatVector,
        DataType::Float16Vector,
        DataType::BFloat16Vector,
        DataType::Int8Vector,
    ];
    let few = BitSet::from_fn(ROWS, |row| row % 3 == 0);
    for kind in kinds {
        let column = column(kind);
        for index_type in TYPES {
            // Milvus has no other index for them.
            if kind == DataType::Int8Vector && !["HNSW", "HNSW_SQ"].contains(&index_type) {
                continue;
            }
            assert!(IndexType::parse(index_type).unwrap().goes_by_codes(kind));
            let index = index(kind, index_type, &column);
            for allow in [None, Some(&few)] {
                let reader = Rows::of(&column);
                let in_memory = search(&index, &ColumnRows::of(&column).unwrap(), allow).unwrap();
                let rows = ColumnRows::of(&column).unwrap().read_by(&reader);
                assert_eq!(search(&index, &rows, allow).unwrap(), in_memory);
                assert_eq!(in_memory.len(), K, "{kind} {index_type}");
                let read = reader.read.into_inner();
                assert!(read >= K || allow.is_some(), "{kind} {index_type}: {read}");
                assert!(read < ROWS / 2, "{kind} {index_type}: {read}");
            }
        }
    }
}

#[test]
fn a_row_that_cannot_be_read_fails_the_search() {
    let column = column(DataType::FloatVector);
    for index_type in TYPES {
        let index = index(DataType::FloatVector, index_type, &column);
        for (kind, would_wait) in [(ErrorKind::WouldBlock, true), (ErrorKind::Other, false)] {
            let reader = Rows {
                missing: Some(kind),
                ..Rows::of(&column)
            };
            let rows = ColumnRows::of(&column).unwrap().read_by(&reader);
            let error = search(&index, &rows, None).unwrap_err();
            assert_eq!(error.would_wait(), would_wait, "{index_type}");
            assert_eq!(error.code(), ErrorCode::IoFailed);
            assert!(
                error
                    .to_string()
                    .starts_with("cannot read the vector of row")
            );
        }
    }
}
