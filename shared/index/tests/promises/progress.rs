//! Builds count their rows, and can be stopped.

use std::sync::atomic::{AtomicUsize, Ordering};

use redkite_index::{BuildOptions, ColumnIndex, ColumnRows, Error};
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
