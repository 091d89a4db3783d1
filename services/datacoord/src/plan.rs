//! Which index builds are due.

use redkite_catalog::{CollectionEntry, SegmentEntry};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::meta::{IndexInfo, ObjectState, SegmentIndexInfo, SegmentInfo},
};
use redkite_types::IndexId;

/// A segment with fewer rows is searched exactly: that is faster than a graph, and exact.
pub const MIN_ROWS_TO_INDEX: i64 = 1_024;

/// One thing to do for an index and a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// Nothing is recorded yet: record a build, and where `needs_files` run it.
    Start {
        /// The index.
        index: IndexInfo,
        /// The segment.
        segment: SegmentInfo,
        /// False where the segment is searched exactly and the build is done at once.
        needs_files: bool,
    },
    /// A build is recorded but nobody runs it: run it.
    Run {
        /// The index.
        index: IndexInfo,
        /// The segment.
        segment: SegmentInfo,
        /// The record.
        build: SegmentIndexInfo,
    },
}

/// Whether an index over a segment is a file at all.
pub fn needs_files(index: &IndexInfo, segment: &SegmentInfo) -> bool {
    index.index_type != "FLAT" && segment.rows >= MIN_ROWS_TO_INDEX
}

/// What is due for a collection, given the builds that run now.
pub fn due(entry: &CollectionEntry, is_running: impl Fn(i64) -> bool) -> Vec<Due> {
    if entry.state() != ObjectState::Created {
        return Vec::new();
    }
    let mut found = Vec::new();
    for index in entry.visible_indexes() {
        for segment in entry.segments.values() {
            let Some(info) = &segment.info else { continue };
            match build_of(segment, IndexId(index.id)) {
                None => found.push(Due::Start {
                    index: index.as_ref().clone(),
                    segment: info.as_ref().clone(),
                    needs_files: needs_files(index, info),
                }),
                Some(build) => match build.state() {
                    IndexState::Unissued | IndexState::InProgress | IndexState::Retry
                        if !is_running(build.build_id) =>
                    {
                        found.push(Due::Run {
                            index: index.as_ref().clone(),
                            segment: info.as_ref().clone(),
                            build: build.clone(),
                        });
                    }
                    IndexState::None
                    | IndexState::Unissued
                    | IndexState::InProgress
                    | IndexState::Retry
                    | IndexState::Finished
                    | IndexState::Failed => {}
                },
            }
        }
    }
    found
}

/// The build that counts: a finished one before any other, else the newest.
pub fn build_of(segment: &SegmentEntry, index: IndexId) -> Option<&SegmentIndexInfo> {
    if let Some(finished) = segment.finished(index) {
        return Some(finished);
    }
    segment
        .indexes
        .values()
        .filter(|build| build.index_id == index.0)
        .map(|build| build.as_ref())
        .next_back()
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;
    use redkite_catalog::{CatalogView, keys};
    use redkite_metastore::KeyValue;
    use redkite_proto::redkite::meta::CollectionInfo;
    use redkite_types::{BuildId, CollectionId, DatabaseId, PartitionId, Revision, SegmentId};

    use super::*;

    const C: CollectionId = CollectionId(10);
    const P: PartitionId = PartitionId(11);

    fn pair(key: String, value: &impl Message) -> KeyValue {
        KeyValue {
            key,
            value: value.encode_to_vec().into(),
            revision: Revision(1),
            lease: 0,
        }
    }

    pub(crate) fn collection() -> KeyValue {
        let info = CollectionInfo {
            id: C.0,
            database_id: 1,
            ..CollectionInfo::default()
        };
        pair(keys::collection(DatabaseId(1), C), &info)
    }

    pub(crate) fn index(id: i64, index_type: &str) -> KeyValue {
        let info = IndexInfo {
            id,
            collection_id: C.0,
            field_id: 101,
            index_type: index_type.to_owned(),
            ..IndexInfo::default()
        };
        pair(keys::index(C, IndexId(id)), &info)
    }

    pub(crate) fn segment(id: i64, rows: i64) -> KeyValue {
        let info = SegmentInfo {
            id,
            collection_id: C.0,
            partition_id: P.0,
            rows,
            flushed_ts: id as u64,
            ..SegmentInfo::default()
        };
        pair(keys::segment(C, P, SegmentId(id)), &info)
    }

    pub(crate) fn build(id: i64, index: i64, segment: i64, state: IndexState) -> KeyValue {
        let info = SegmentIndexInfo {
            build_id: id,
            index_id: index,
            segment_id: segment,
            state: state.into(),
            fail_reason: if state == IndexState::Failed {
                "why".into()
            } else {
                String::new()
            },
            ..SegmentIndexInfo::default()
        };
        pair(
            keys::segment_index(C, P, SegmentId(segment), BuildId(id)),
            &info,
        )
    }

    pub(crate) fn entry(pairs: &[KeyValue]) -> std::sync::Arc<CollectionEntry> {
        let view = CatalogView::from_pairs(pairs, Revision(1)).unwrap();
        view.collection_by_id(C).unwrap().clone()
    }

    fn names(pairs: &[KeyValue], running: &[i64]) -> Vec<String> {
        due(&entry(pairs), |build| running.contains(&build))
            .into_iter()
            .map(|due| match due {
                Due::Start {
                    index,
                    segment,
                    needs_files,
                } => {
                    format!("start {}/{} files={needs_files}", index.id, segment.id)
                }
                Due::Run { build, .. } => format!("run {}", build.build_id),
            })
            .collect()
    }

    #[test]
    fn what_is_due() {
        use IndexState::{Failed, Finished, InProgress, Retry};
        let base = [
            collection(),
            index(5, "HNSW"),
            segment(20, 5_000),
            segment(21, 10),
        ];
        let with = |more: Vec<KeyValue>| [base.to_vec(), more].concat();
        assert_eq!(
            names(&base, &[]),
            ["start 5/20 files=true", "start 5/21 files=false"]
        );
        let small_done = build(31, 5, 21, Finished);
        let cases = [
            (vec![build(30, 5, 20, InProgress)], vec![], vec!["run 30"]),
            (vec![build(30, 5, 20, InProgress)], vec![30], vec![]),
            (vec![build(30, 5, 20, Retry)], vec![], vec!["run 30"]),
            (vec![build(30, 5, 20, Failed)], vec![], vec![]),
            (vec![build(30, 5, 20, Finished)], vec![], vec![]),
        ];
        for (mut more, running, want) in cases {
            more.push(small_done.clone());
            assert_eq!(names(&with(more), &running), want);
        }
        // FLAT needs no file whatever the size.
        let flat = [collection(), index(6, "FLAT"), segment(20, 5_000)];
        assert_eq!(names(&flat, &[]), ["start 6/20 files=false"]);
        // No index, nothing to do.
        assert_eq!(
            names(&[collection(), segment(20, 5_000)], &[]),
            Vec::<String>::new()
        );
    }
}
