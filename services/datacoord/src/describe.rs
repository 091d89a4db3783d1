//! How far indexes are built.

use redkite_catalog::{CollectionEntry, SegmentEntry};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        datacoord::IndexProgress,
        datanode::RunningBuild,
        meta::{SegmentIndexInfo, SegmentInfo},
    },
};
use redkite_types::{IndexId, Timestamp};

use crate::{plan::build_of, progress::Progress};

/// Progress of every visible index over the segments that were flushed at `up_to` or before;
/// [`Timestamp::ZERO`] means over all. `running` says how far the builds are that data nodes are at.
///
/// An index over no segment at all is finished. All rows are indexed only once every build is recorded
/// as finished: clients wait for that.
pub fn describe(
    entry: &CollectionEntry,
    up_to: Timestamp,
    running: &Progress,
) -> Vec<IndexProgress> {
    entry
        .visible_indexes()
        .map(|index| {
            let mut progress = IndexProgress {
                index_id: index.id,
                state: IndexState::Finished.into(),
                ..IndexProgress::default()
            };
            for (segment, info) in segments(entry, up_to) {
                progress.total_rows += info.rows;
                let build = build_of(segment, IndexId(index.id));
                match build.map(|build| build.state()) {
                    Some(IndexState::Finished) => progress.indexed_rows += info.rows,
                    Some(IndexState::Failed) => {
                        progress.state = IndexState::Failed.into();
                        if let Some(build) = build {
                            progress.fail_reason.clone_from(&build.fail_reason);
                        }
                    }
                    Some(
                        IndexState::None
                        | IndexState::Unissued
                        | IndexState::InProgress
                        | IndexState::Retry,
                    )
                    | None => {
                        let running = build.and_then(|build| running.get(&build.build_id));
                        progress.indexed_rows +=
                            running.map_or(0, |running| rows_done(running, info.rows));
                        if progress.state() != IndexState::Failed {
                            progress.state = IndexState::InProgress.into();
                            // It is tried again, and meanwhile says why it is not done.
                            if let Some(build) = build.filter(|build| !build.fail_reason.is_empty())
                            {
                                progress.fail_reason.clone_from(&build.fail_reason);
                            }
                        }
                    }
                }
            }
            progress
        })
        .collect()
}

/// The builds that [`describe`] can be told the progress of.
pub fn unfinished(entry: &CollectionEntry, up_to: Timestamp) -> Vec<i64> {
    let is_open = |build: &&SegmentIndexInfo| match build.state() {
        IndexState::Unissued | IndexState::InProgress | IndexState::Retry => true,
        IndexState::None | IndexState::Finished | IndexState::Failed => false,
    };
    let of_index = |index: IndexId| {
        segments(entry, up_to)
            .filter_map(move |(segment, _)| build_of(segment, index))
            .filter(is_open)
            .map(|build| build.build_id)
    };
    entry
        .visible_indexes()
        .flat_map(|index| of_index(IndexId(index.id)))
        .collect()
}

/// The segments that were flushed at `up_to` or before.
fn segments(
    entry: &CollectionEntry,
    up_to: Timestamp,
) -> impl Iterator<Item = (&SegmentEntry, &SegmentInfo)> {
    let counts = move |info: &SegmentInfo| up_to == Timestamp::ZERO || info.flushed_ts <= up_to.0;
    entry.segments.values().filter_map(move |segment| {
        let info = segment.info.as_deref().filter(|info| counts(info))?;
        Some((segment, info))
    })
}

/// Of a segment's rows those that a build that is not recorded as finished has done; never all.
fn rows_done(running: &RunningBuild, rows: i64) -> i64 {
    let done = running.rows_done.clamp(0, running.rows.max(0));
    // The build counts the rows of the file.
    let share = i128::from(done) * i128::from(rows) / i128::from(running.rows.max(1));
    i64::try_from(share)
        .unwrap_or(rows)
        .clamp(0, (rows - 1).max(0))
}

#[cfg(test)]
mod tests {
    use redkite_metastore::KeyValue;

    use super::*;
    use crate::plan::tests::{build, collection, entry, index, segment};

    fn running(builds: &[(i64, i64, i64)]) -> Progress {
        let builds = builds.iter().map(|(build_id, rows_done, rows)| {
            let running = RunningBuild {
                build_id: *build_id,
                rows_done: *rows_done,
                rows: *rows,
            };
            (*build_id, running)
        });
        builds.collect()
    }

    fn described(
        pairs: &[KeyValue],
        up_to: u64,
        builds: &[(i64, i64, i64)],
    ) -> (i64, i64, IndexState) {
        let all = [vec![collection(), index(5, "HNSW")], pairs.to_vec()].concat();
        let progress = &describe(&entry(&all), Timestamp(up_to), &running(builds))[0];
        (progress.total_rows, progress.indexed_rows, progress.state())
    }

    #[test]
    fn progress_counts_rows_of_segments_up_to_a_time() {
        use IndexState::{Failed, Finished, InProgress};
        assert_eq!(described(&[], 0, &[]), (0, 0, Finished));
        let two = [segment(20, 100), segment(30, 50), build(1, 5, 20, Finished)];
        assert_eq!(described(&two, 0, &[]), (150, 100, InProgress));
        assert_eq!(described(&two, 25, &[]), (100, 100, Finished));
        let failed = [segment(20, 100), build(1, 5, 20, Failed)];
        assert_eq!(described(&failed, 0, &[]), (100, 0, Failed));
    }

    #[test]
    fn rows_of_a_build_that_runs_count_but_never_all_before_its_end() {
        use IndexState::{InProgress, Retry, Unissued};
        for state in [InProgress, Retry, Unissued] {
            let one = [segment(20, 100), build(1, 5, 20, state)];
            for (rows_done, rows, want) in [
                (0, 100, 0),
                (37, 100, 37),
                (99, 100, 99),
                (100, 100, 99),
                (500, 100, 99),
                (-5, 100, 0),
                // Of a file with another number of rows than the record says.
                (100, 200, 50),
                (25, 50, 50),
                (50, 50, 99),
                (1, 0, 0),
                (0, 0, 0),
                (i64::MAX, i64::MAX, 99),
            ] {
                let found = described(&one, 0, &[(1, rows_done, rows)]);
                assert_eq!(found, (100, want, InProgress), "{rows_done} of {rows}");
            }
            // Of other builds.
            assert_eq!(described(&one, 0, &[(2, 37, 100)]), (100, 0, InProgress));
        }
        for rows in [0, 1] {
            let small = [segment(20, rows), build(1, 5, 20, InProgress)];
            let found = described(&small, 0, &[(1, 1, 1)]);
            assert_eq!(found, (rows, 0, InProgress));
        }
    }

    #[test]
    fn what_is_recorded_counts_before_what_a_node_says() {
        use IndexState::{Failed, Finished, InProgress};
        let told = [(1, 40, 100), (2, 10, 50), (3, 5, 70)];
        let pairs = |state: IndexState| {
            [
                segment(20, 100),
                segment(30, 50),
                segment(40, 70),
                build(1, 5, 20, state),
                build(2, 5, 30, InProgress),
            ]
        };
        assert_eq!(
            described(&pairs(Finished), 0, &told),
            (220, 110, InProgress)
        );
        assert_eq!(
            described(&pairs(InProgress), 0, &told),
            (220, 50, InProgress)
        );
        assert_eq!(described(&pairs(Failed), 0, &told), (220, 10, Failed));
        assert_eq!(described(&pairs(Failed), 25, &told), (100, 0, Failed));
        assert_eq!(
            described(&pairs(InProgress), 25, &told),
            (100, 40, InProgress)
        );
    }

    #[test]
    fn nodes_are_asked_for_builds_that_have_not_ended() {
        use IndexState::{Failed, Finished, InProgress, Retry, Unissued};
        let states = [Unissued, InProgress, Retry, Failed, Finished];
        let mut pairs = vec![
            collection(),
            index(5, "HNSW"),
            // Of which nothing is recorded yet.
            segment(10, 100),
        ];
        for (at, state) in (0..).zip(states) {
            pairs.push(segment(20 + at, 100));
            pairs.push(build(40 + at, 5, 20 + at, state));
        }
        let asked = |up_to: u64| {
            let mut builds = unfinished(&entry(&pairs), Timestamp(up_to));
            builds.sort_unstable();
            builds
        };
        assert_eq!(asked(0), [40, 41, 42]);
        assert_eq!(asked(21), [40, 41]);
        assert!(asked(19).is_empty());
    }
}
