//! Builds count their rows, and can be stopped.

use std::sync::atomic::{AtomicUsize, Ordering};

use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, Element, Error, RawRow, RawSlice,
    RawVectors, build_raw,
};
use redkite_types::{ColumnData, DataType, StopFlag};

use crate::{KINDS, Kind, Rng, column};

const DIM: usize = 24;

/// Rows that several threads share: more than a graph begins with, and no whole number of blocks.
const ROWS: usize = 2_500;

/// Builds with a flag that is raised or not; what came of it, and the rows that were counted.
fn counted(
    kind: &Kind,
    more: &[(&str, &str)],
    data: &ColumnData,
    threads: usize,
    is_stopped: bool,
) -> (redkite_index::Result<ColumnIndex>, usize) {
    let (progress, stop) = (AtomicUsize::new(0), StopFlag::new());
    if is_stopped {
        stop.stop();
    }
    let options = BuildOptions {
        threads,
        seed: 3,
        progress: Some(&progress),
        stop: &stop,
    };
    let params = kind.params(more).unwrap();
    let built = ColumnIndex::build(&params, &ColumnRows::of(data).unwrap(), &options);
    (built, progress.load(Ordering::Relaxed))
}

#[test]
fn every_type_counts_each_row_once() {
    let mut rng = Rng::from_env();
    for kind in &KINDS {
        for rows in [0, 1, 300, ROWS] {
            let data = column(kind.data, rows, DIM, &mut rng);
            for threads in [1, 3] {
                let (built, done) = counted(kind, &[], &data, threads, false);
                let name = kind.name;
                assert_eq!(built.unwrap().len(), rows, "{name}");
                assert_eq!(done, rows, "{name}, {threads} threads");
            }
        }
    }
}

#[test]
fn rows_are_counted_once_also_where_values_are_left_out_or_nothing_is_there() {
    let mut rng = Rng::from_env();
    let sparse = KINDS
        .iter()
        .filter(|kind| kind.data == DataType::SparseFloatVector);
    for kind in sparse {
        let data = column(kind.data, 300, DIM, &mut rng);
        let dropping = [("drop_ratio_build", "0.3")];
        let empty = ColumnData::SparseVector(vec![redkite_types::sparse::encode(&[]); 300]);
        for (data, more) in [(&data, &dropping[..]), (&empty, &[]), (&empty, &dropping)] {
            let (built, done) = counted(kind, more, data, 1, false);
            assert_eq!((built.unwrap().len(), done), (300, 300), "{}", kind.name);
        }
    }
}

#[test]
fn a_raised_flag_ends_a_build_of_every_type() {
    let mut rng = Rng::from_env();
    for kind in &KINDS {
        let data = column(kind.data, ROWS, DIM, &mut rng);
        for threads in [1, 3] {
            let (built, done) = counted(kind, &[], &data, threads, true);
            let name = kind.name;
            assert!(matches!(built.err(), Some(Error::Cancelled)), "{name}");
            assert!(done < ROWS, "{name} counted {done} rows");
        }
    }
}

/// Rows that raise a flag when they were looked at so many times.
struct Raising<'a> {
    rows: RawSlice<'a>,
    looks: AtomicUsize,
    at: usize,
    stop: &'a StopFlag,
    progress: &'a AtomicUsize,
    counted_then: AtomicUsize,
}

impl RawVectors for Raising<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn element(&self) -> Element {
        self.rows.element()
    }

    fn row(&self, row: u32) -> RawRow<'_> {
        if self.looks.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            let counted = self.progress.load(Ordering::Relaxed);
            self.counted_then.store(counted, Ordering::Relaxed);
            self.stop.stop();
        }
        self.rows.row(row)
    }
}

/// Wherever in a build the flag is raised: nothing that takes long is done after it.
#[test]
fn a_flag_raised_at_any_moment_ends_a_build() {
    let mut rng = Rng::from_env();
    for kind in &KINDS {
        // Without anything to build there is nothing to stop.
        let (DataType::FloatVector, false) = (kind.data, kind.name == "FLAT") else {
            continue;
        };
        let ColumnData::FloatVector { values, .. } = column(kind.data, ROWS, DIM, &mut rng) else {
            unreachable!("vectors of floats");
        };
        let ColumnIndexParams::Dense(params) = kind.params(&[]).unwrap() else {
            unreachable!("parameters of vectors of floats");
        };
        let build = |at: usize| {
            let (progress, stop) = (AtomicUsize::new(0), StopFlag::new());
            let raw = Raising {
                rows: RawSlice::new(&values, DIM).unwrap(),
                looks: AtomicUsize::new(0),
                at,
                stop: &stop,
                progress: &progress,
                counted_then: AtomicUsize::new(0),
            };
            let options = BuildOptions {
                threads: 1,
                seed: 3,
                progress: Some(&progress),
                stop: &stop,
            };
            let is_built = match build_raw(&params, &raw, &options) {
                Ok(_) => true,
                Err(Error::Cancelled) => false,
                Err(error) => panic!("{}: {error}", kind.name),
            };
            let (looks, then) = (raw.looks.into_inner(), raw.counted_then.into_inner());
            (is_built, looks, then)
        };
        let (_, looks, _) = build(0);
        for part in 1..20 {
            let at = looks * part / 20;
            let (is_built, until, counted_then) = build(at);
            let name = kind.name;
            // Once all rows are counted only what is short is left.
            assert!(
                !is_built || counted_then == ROWS,
                "{name} does not stop at {at} of {looks}"
            );
            // The mean of all rows is taken, and what books learn from is copied, without a stop.
            assert!(
                until - at <= 2 * ROWS,
                "{name} goes on from {at} to {until}"
            );
        }
    }
}
