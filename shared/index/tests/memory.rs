//! What holding an index takes, counted at the allocator.
//!
//! Buffers of 4 MB and more are mapped and pass it by: everything here is smaller.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use redkite_index::{BuildOptions, IndexParams, build, map_file, open_mapped};
use redkite_types::{MetricType, StopFlag};

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
    let (index, held, peak) = measured(|| open_mapped(map_file(&file).unwrap()).unwrap());
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
