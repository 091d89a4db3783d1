//! How far indexes are built.

use redkite_catalog::CollectionEntry;
use redkite_proto::{milvus::common::IndexState, redkite::datacoord::IndexProgress};
use redkite_types::{IndexId, Timestamp};

use crate::plan::build_of;

/// Progress of every visible index over the segments that were flushed at `up_to` or before;
/// [`Timestamp::ZERO`] means over all.
///
/// An index over no segment at all is finished.
pub fn describe(entry: &CollectionEntry, up_to: Timestamp) -> Vec<IndexProgress> {
    let counts = |flushed_ts: u64| up_to == Timestamp::ZERO || flushed_ts <= up_to.0;
    entry
        .visible_indexes()
        .map(|index| {
            let mut progress = IndexProgress {
                index_id: index.id,
                state: IndexState::Finished.into(),
                ..IndexProgress::default()
            };
            for segment in entry.segments.values() {
                let Some(info) = segment.info.as_ref().filter(|info| counts(info.flushed_ts))
                else {
                    continue;
                };
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

#[cfg(test)]
mod tests {
    use redkite_metastore::KeyValue;

    use super::*;
    use crate::plan::tests::{build, collection, entry, index, segment};

    fn check(pairs: &[KeyValue], up_to: u64, total: i64, indexed: i64, state: IndexState) {
        let all = [vec![collection(), index(5, "HNSW")], pairs.to_vec()].concat();
        let progress = &describe(&entry(&all), Timestamp(up_to))[0];
        let got = (progress.total_rows, progress.indexed_rows, progress.state());
        assert_eq!(got, (total, indexed, state));
    }

    #[test]
    fn progress_counts_rows_of_segments_up_to_a_time() {
        use IndexState::{Failed, Finished, InProgress};
        check(&[], 0, 0, 0, Finished);
        let two = [segment(20, 100), segment(30, 50), build(1, 5, 20, Finished)];
        check(&two, 0, 150, 100, InProgress);
        check(&two, 25, 100, 100, Finished);
        let failed = [segment(20, 100), build(1, 5, 20, Failed)];
        check(&failed, 0, 100, 0, Failed);
    }
}
