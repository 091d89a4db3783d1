//! The lists of a mapped IVF_SQ8 index are read from its file: the answers are those of an index in memory,
//! nobody looks at them where they are mapped, and what cannot be read is said.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use redkite_index::{
    BuildOptions, Hit, IndexParams, IndexType, RawSlice, ReadAt, SearchParams, VectorIndex,
    build_raw, open, open_mapped,
};
use redkite_types::{BitSet, Coded as _, ErrorCode, MetricType, StopFlag};

const ROWS: usize = 3_000;
const DIM: usize = 40;
const K: usize = 10;
const QUERIES: usize = 20;

/// A row of codes: whole cache lines.
const CODE_BYTES: usize = 64;

/// Kind and number of the section with the codes of the rows, as the file's table has them.
const CODES: (u32, u32) = (3, 0);

/// A file of which what was read is counted; what lies in `missing` cannot be.
#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    read: AtomicUsize,
    missing: Range<u64>,
}

impl ReadAt for Counted {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        if offset < self.missing.end && offset + out.len() as u64 > self.missing.start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read.fetch_add(out.len(), Ordering::Relaxed);
        out.copy_from_slice(&self.bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

fn value(i: usize) -> f32 {
    let first = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (first ^ (first >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    (mixed % 251) as f32 - 125.0
}

fn rows() -> Vec<f32> {
    (0..ROWS * DIM).map(value).collect()
}

fn file(metric: MetricType, rows: &[f32]) -> Vec<u8> {
    let params = IndexParams::ivf(IndexType::IvfSq8, metric, 16);
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let raw = RawSlice::new(rows, DIM).unwrap();
    let mut bytes = Vec::new();
    let index = build_raw(&params, &raw, &options).unwrap();
    index.write(&mut bytes).unwrap();
    bytes
}

/// Where the codes lie in a file.
fn codes(file: &[u8]) -> Range<usize> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let entries = (0..word(16) as usize).map(|entry| 64 + entry * 32);
    let mut found = entries.filter(|at| (word(*at), word(at + 4)) == CODES);
    let at = found.next().unwrap();
    long(at + 16)..long(at + 16) + long(at + 24)
}

/// An index whose mapping shows nonsense where the file has its codes.
fn mapped(bytes: &[u8], missing: Range<u64>) -> (Box<dyn VectorIndex>, Arc<Counted>) {
    let file = Arc::new(Counted {
        bytes: bytes.to_vec(),
        read: AtomicUsize::new(0),
        missing,
    });
    let mut shown = bytes.to_vec();
    shown[codes(bytes)].fill(0x55);
    let index = open_mapped(shown.into(), file.clone()).unwrap();
    (index, file)
}

/// What the queries find, one by one or together.
fn search(
    index: &dyn VectorIndex,
    rows: &[f32],
    nprobe: usize,
    allow: Option<&BitSet>,
    together: bool,
) -> redkite_index::Result<Vec<Vec<Hit>>> {
    let params = SearchParams {
        nprobe: Some(nprobe),
        ..SearchParams::default()
    };
    let stop = StopFlag::new();
    let raw = RawSlice::new(rows, DIM).unwrap();
    let queries: Vec<f32> = (0..QUERIES * DIM).map(|i| value(i * 7 + 3)).collect();
    let mut found = Vec::new();
    if together {
        index.search_many(&queries, &raw, &params, allow, K, &stop, &mut found)?;
        return Ok(found);
    }
    for query in queries.chunks(DIM) {
        let mut hits = Vec::new();
        index.search(query, &raw, &params, allow, K, &stop, &mut hits)?;
        found.push(hits);
    }
    Ok(found)
}

#[test]
fn answers_are_those_of_an_index_in_memory() {
    let rows = rows();
    for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
        let bytes = file(metric, &rows);
        let in_memory = open(bytes.clone().into()).unwrap();
        for share in [1, 3, 40] {
            let some = BitSet::from_fn(ROWS, |row| row % share == 0);
            let allow = (share > 1).then_some(&some);
            for nprobe in [1, 4, 16] {
                let expected = search(&*in_memory, &rows, nprobe, allow, false).unwrap();
                for together in [false, true] {
                    let (index, file) = mapped(&bytes, 0..0);
                    let found = search(&*index, &rows, nprobe, allow, together).unwrap();
                    assert_eq!(found, expected, "{metric} {share} {nprobe} {together}");
                    let read = file.read.load(Ordering::Relaxed);
                    // Where no more rows count than a search looks at, all are scored exactly.
                    let by_codes = share == 1 || share == 3 && nprobe < 16;
                    assert_eq!(read > 0, by_codes, "{metric} {share} {nprobe}");
                    let whole = ROWS * CODE_BYTES;
                    let most = if together { whole } else { QUERIES * whole };
                    assert!(read <= most, "{read} of {most}");
                }
            }
        }
    }
}

#[test]
fn queries_that_come_together_read_a_list_once() {
    let rows = rows();
    let bytes = file(MetricType::L2, &rows);
    let read = |together| {
        let (index, file) = mapped(&bytes, 0..0);
        search(&*index, &rows, 16, None, together).unwrap();
        file.read.load(Ordering::Relaxed)
    };
    assert_eq!(read(true), ROWS * CODE_BYTES);
    assert_eq!(read(false), QUERIES * ROWS * CODE_BYTES);
}

#[test]
fn a_list_that_cannot_be_read_fails_the_search() {
    let rows = rows();
    let bytes = file(MetricType::L2, &rows);
    let codes = codes(&bytes);
    let (index, _) = mapped(&bytes, codes.end as u64 - 1..codes.end as u64);
    for together in [false, true] {
        let error = search(&*index, &rows, 16, None, together).unwrap_err();
        assert_eq!(error.code(), ErrorCode::IoFailed);
        assert!(error.retriable() && !error.would_wait());
        assert_eq!(error.to_string(), "index file cannot be read");
    }
}
