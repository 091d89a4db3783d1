//! What building and holding an index takes, counted at the allocator.
//!
//! Large buffers are mapped and pass it by: everything here is smaller.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]
#![allow(unsafe_code, reason = "an allocator of the test's own")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, IndexParams, build, map_file,
    open_mapped,
};
use redkite_types::{ColumnData, DataType, MetricType, PackedBuffer, StopFlag, sparse};

/// The system's allocator, counting for each thread what it holds and held at the most.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // Not while the thread ends and takes its counters away.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and answers what this thread held more after it, and at the most meanwhile.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let made = work();
    let held = HELD.get() - before;
    let peak = PEAK.get() - before;
    (made, held.max(0) as usize, peak as usize)
}

const DIM: usize = 128;
const ROWS: usize = 6000;

fn rows() -> Vec<f32> {
    let mut state = 0x9E37_79B9_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let centres: Vec<f32> = (0..20 * DIM).map(|_| next() * 3.0).collect();
    (0..ROWS * DIM)
        .map(|i| centres[i / DIM % 20 * DIM + i % DIM] + next())
        .collect()
}

#[test]
fn a_mapped_graph_on_disk_holds_its_codes_only() {
    let rows = rows();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let params = IndexParams::disk_ann(MetricType::Cosine, 32, 40);
    let built = build(&params, &rows, DIM, &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    built
        .write(&mut std::fs::File::create(&path).unwrap())
        .unwrap();
    drop(built);
    let file = std::fs::File::open(&path).unwrap();
    let (index, held, peak) = measured(|| {
        let bytes = map_file(&file).unwrap();
        open_mapped(bytes, Arc::new(file)).unwrap()
    });
    // A row of codes takes two cache lines, and its squared length a number.
    let codes = ROWS * (128 + 4);
    assert!(index.pinned_bytes() >= codes);
    assert!(
        held <= codes + 16 * 1024,
        "{held} bytes, {codes} of them codes"
    );
    assert!(peak <= codes + 64 * 1024, "{peak}");
    let whole = size_of_val(&rows[..]) + ROWS * 32 * 4;
    assert!(held * 4 <= whole, "{held} of {whole}");
}

/// A column of each kind of vectors.
fn column(kind: DataType) -> ColumnData {
    let rows = rows();
    let packed = |bytes: Vec<u8>, dim| ColumnData::PackedVector {
        kind,
        dim,
        values: PackedBuffer::from(bytes),
    };
    match kind {
        DataType::Float16Vector => {
            let halves = rows.iter().map(|x| half::f16::from_f32(*x).to_le_bytes());
            packed(halves.flatten().collect(), DIM)
        }
        DataType::BinaryVector => {
            let bits = |eight: &[f32]| {
                let ones = eight.iter().enumerate();
                ones.fold(0, |byte, (bit, x)| byte | u8::from(*x > 2.0) << bit)
            };
            packed(rows.chunks(8).map(bits).collect(), DIM)
        }
        DataType::SparseFloatVector => {
            let sparse = rows.chunks(DIM).map(|row| {
                let pairs = (0..DIM as u32).zip(row.iter().copied());
                sparse::encode(&pairs.filter(|(_, x)| *x > 2.5).collect::<Vec<_>>())
            });
            ColumnData::SparseVector(sparse.collect())
        }
        _ => ColumnData::FloatVector {
            dim: DIM,
            values: rows.into(),
        },
    }
}

/// What a build may take beyond 1.3 times its result, in bytes a row and in all.
struct Slack {
    row: usize,
    fixed: usize,
}

/// Locks, pools, the scratch of a walk.
const FEW: usize = 48 << 10;

#[test]
fn a_build_takes_little_more_than_what_it_makes() {
    let plain = Slack { row: 0, fixed: FEW };
    // Of each row its list, its place in the order of the lists, and a number to draw the first
    // centroids by: as much as the lists themselves, which hold but the row's number.
    let lists = Slack { row: 8, fixed: FEW };
    // Books are learned from up to 16,384 rows, of which one part is copied at a time.
    let books = Slack {
        row: 8 + 24,
        fixed: FEW,
    };
    // The graph is built on codes of eight bits, which go before the rows' own codes are made.
    let graph = Slack {
        row: DIM + 24,
        fixed: FEW,
    };
    let float = DataType::FloatVector;
    let none: &[(&str, &str)] = &[];
    let nlist: &[(&str, &str)] = &[("nlist", "64")];
    let many: &[(&str, &str)] = &[("nlist", "1024")];
    let cases = [
        (float, "FLAT", "COSINE", none, &plain),
        (float, "HNSW", "L2", &[("M", "16")], &plain),
        (float, "HNSW", "COSINE", &[("M", "30")], &plain),
        (DataType::Float16Vector, "HNSW", "IP", none, &plain),
        (float, "AUTOINDEX", "COSINE", none, &plain),
        (float, "HNSW_SQ", "L2", none, &plain),
        (float, "HNSW_PQ", "L2", &[("m", "32")], &graph),
        (float, "DISKANN", "L2", &[("max_degree", "32")], &plain),
        (DataType::Float16Vector, "DISKANN", "COSINE", none, &plain),
        (float, "IVF_FLAT", "L2", nlist, &lists),
        (float, "IVF_SQ8", "L2", nlist, &plain),
        (float, "IVF_SQ8", "COSINE", many, &plain),
        (float, "IVF_PQ", "L2", nlist, &books),
        (float, "SCANN", "COSINE", nlist, &books),
        (float, "IVF_RABITQ", "L2", nlist, &lists),
        (DataType::Float16Vector, "IVF_SQ8", "L2", many, &plain),
        (DataType::BinaryVector, "BIN_FLAT", "HAMMING", none, &plain),
        (
            DataType::BinaryVector,
            "BIN_IVF_FLAT",
            "JACCARD",
            nlist,
            &lists,
        ),
        (
            DataType::SparseFloatVector,
            "SPARSE_INVERTED_INDEX",
            "IP",
            none,
            &plain,
        ),
        (
            DataType::SparseFloatVector,
            "SPARSE_WAND",
            "IP",
            &[("drop_ratio_build", "0.3")],
            &plain,
        ),
    ];
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let mut wrong = Vec::new();
    for (kind, index_type, metric, given, slack) in cases {
        let mut pairs = vec![("index_type", index_type), ("metric_type", metric)];
        pairs.extend(given);
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let pairs: Vec<(String, String)> = pairs.iter().map(own).collect();
        let params = ColumnIndexParams::from_pairs(kind, &pairs).unwrap();
        let column = column(kind);
        let rows = ColumnRows::of(&column).unwrap();
        let work = || ColumnIndex::build(&params, &rows, &options).unwrap();
        let (index, _, peak) = measured(work);
        let file: usize = index.parts().iter().map(|part| part.len()).sum();
        let bound = file * 13 / 10 + ROWS * slack.row + slack.fixed;
        let estimate = params.build_bytes(ROWS as u64, DIM as u64, column.memory_bytes() as u64, 1);
        let what = format!(
            "{kind} {index_type} {metric}: peak {peak}, file {file}, ratio {:.2}, bound {bound}, \
             estimate {estimate}",
            peak as f64 / file as f64
        );
        println!("{what}");
        if peak > bound || peak as u64 > estimate {
            wrong.push(what);
        }
        let threads = 4;
        let options = BuildOptions { threads, ..options };
        let work = || ColumnIndex::build(&params, &rows, &options).unwrap();
        let (_, _, peak) = measured(work);
        let bytes = column.memory_bytes() as u64;
        let estimate = params.build_bytes(ROWS as u64, DIM as u64, bytes, threads);
        if peak as u64 > estimate {
            wrong.push(format!(
                "{kind} {index_type} with {threads} threads: peak {peak}, estimate {estimate}"
            ));
        }
        // To write the file, next to nothing more.
        let (parts, held, _) = measured(|| index.parts());
        drop(parts);
        assert!(held <= FEW, "{index_type}: {held}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
