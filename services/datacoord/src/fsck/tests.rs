//! Records against each other, and logs with flipped bits.

use bytes::Bytes;
use prost::Message;
use rand::RngExt as _;
use redkite_catalog::keys;
use redkite_metastore::KeyValue;
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        meta::{
            AllocatorWindow, ChannelCheckpoint, CollectionInfo, DeltaInfo, FileInfo, PartitionInfo,
            SegmentInfo,
        },
        querynode::WalEntry,
    },
};
use redkite_types::{CollectionId, DatabaseId, PartitionId, Revision, SegmentId};
use redkite_wal::{LocalLogStore, LocalOptions, LogStore as _, Lsn};

use super::*;
use crate::plan::tests::{build, index};

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

fn segment_info(id: i64) -> SegmentInfo {
    SegmentInfo {
        id,
        collection_id: C.0,
        partition_id: P.0,
        channel: "10v0".into(),
        rows: 5,
        files: vec![FileInfo {
            path: format!("f/{id}"),
            ..FileInfo::default()
        }],
        ..SegmentInfo::default()
    }
}

fn segment(id: i64) -> KeyValue {
    pair(keys::segment(C, P, SegmentId(id)), &segment_info(id))
}

fn delta(id: i64, channel: &str) -> KeyValue {
    let info = DeltaInfo {
        id,
        collection_id: C.0,
        channel: channel.to_owned(),
        file: Some(FileInfo {
            path: format!("d/{id}"),
            ..FileInfo::default()
        }),
        ..DeltaInfo::default()
    };
    pair(keys::delta(C, id), &info)
}

fn sound() -> Vec<KeyValue> {
    let collection = CollectionInfo {
        id: C.0,
        database_id: 1,
        channels: vec!["10v0".into()],
        ..CollectionInfo::default()
    };
    let partition = PartitionInfo {
        id: P.0,
        collection_id: C.0,
        ..PartitionInfo::default()
    };
    vec![
        pair(keys::collection(DatabaseId(1), C), &collection),
        pair(keys::partition(C, P), &partition),
        pair(keys::ID_WINDOW.to_owned(), &AllocatorWindow { end: 1_000 }),
        index(5, "HNSW"),
        segment(20),
        segment(21),
        build(30, 5, 20, IndexState::InProgress),
        delta(40, "10v0"),
    ]
}

fn problems(pairs: &[KeyValue]) -> Vec<Problem> {
    let view = CatalogView::from_pairs(pairs, Revision(1)).unwrap();
    let mut report = Report::default();
    records::check(pairs, &view, &mut report);
    report.problems
}

#[test]
fn records_that_contradict_each_other_are_named() {
    assert_eq!(problems(&sound()), []);
    let odd = |change: fn(&mut SegmentInfo)| {
        let mut info = segment_info(22);
        change(&mut info);
        pair(keys::segment(C, P, SegmentId(22)), &info)
    };
    let stray = SegmentInfo {
        collection_id: 99,
        ..segment_info(23)
    };
    let cases = [
        (odd(|info| info.id = 23), "datacoord-meta/s/10/11/23"),
        (odd(|info| info.channel = "10v7".into()), "10v7"),
        (odd(|info| info.files.clear()), "names no file"),
        (odd(|info| info.files[0].path = "f/21".into()), "f/21"),
        (
            pair(keys::segment(CollectionId(99), P, SegmentId(23)), &stray),
            "collection 99",
        ),
        (
            pair(
                keys::segment(C, PartitionId(77), SegmentId(24)),
                &SegmentInfo {
                    partition_id: 77,
                    ..segment_info(24)
                },
            ),
            "partition 77",
        ),
        (
            pair(
                keys::segment(C, PartitionId(77), SegmentId(20)),
                &SegmentInfo {
                    partition_id: 77,
                    ..segment_info(20)
                },
            ),
            "segment 20 is recorded",
        ),
        (build(31, 5, 25, IndexState::InProgress), "segment 25"),
        (build(31, 6, 20, IndexState::InProgress), "index 6"),
        (build(31, 5, 20, IndexState::Finished), "its segment has 5"),
        (segment(1_000), "not given out yet"),
        (delta(41, "11v0"), "11v0"),
    ];
    for (damaged, expected) in cases {
        let found = problems(&[sound(), vec![damaged.clone()]].concat());
        let named = found
            .iter()
            .any(|problem| problem.place == damaged.key || problem.what.contains(&damaged.key));
        assert!(named, "{}: {found:?}", damaged.key);
        let said = found.iter().any(|problem| problem.what.contains(expected));
        assert!(said, "{expected}: {found:?}");
    }
}

#[test]
fn a_checkpoint_behind_the_end_of_its_log_is_named() {
    for (lsn, is_damaged, expected) in [(8, false, 0), (9, false, 1), (9, true, 0)] {
        let checkpoint = ChannelCheckpoint {
            channel: "10v0".into(),
            collection_id: C.0,
            lsn,
            ts: 0,
        };
        let pairs = [sound(), vec![pair(keys::checkpoint("10v0"), &checkpoint)]].concat();
        let view = CatalogView::from_pairs(&pairs, Revision(1)).unwrap();
        let state = LogState {
            last_lsn: Some(7),
            is_damaged,
            ..LogState::default()
        };
        let mut report = Report::default();
        let logs = [("10v0".to_owned(), state)].into_iter().collect();
        records::check_checkpoints(&view, &logs, &mut report);
        assert_eq!(report.problems.len(), expected, "checkpoint {lsn}");
    }
}

async fn write_log(dir: &std::path::Path) {
    let options = LocalOptions {
        file_size_bytes: 2_000,
        ..LocalOptions::default()
    };
    let log = LocalLogStore::new(dir, options)
        .open("10v0", 3)
        .await
        .unwrap();
    for timestamp in 1..=100 {
        let entry = WalEntry {
            timestamp,
            write: None,
        };
        let mut bytes = entry.encode_to_vec();
        // An unknown field, to make it longer.
        prost::encoding::bytes::encode(15, &vec![7_u8; 60], &mut bytes);
        log.append(Bytes::from(bytes)).await.unwrap();
    }
    log.close().await;
}

/// Where a file's last record ends: the frame's header has 24 bytes, the file's 64.
fn records_end(bytes: &[u8]) -> usize {
    let mut at = 64;
    while let Some(head) = bytes.get(at..at + 24) {
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let lsn = u64::from_le_bytes(head[8..16].try_into().unwrap());
        if lsn == 0 {
            return at;
        }
        at += 24 + length;
    }
    at
}

#[tokio::test]
async fn every_flipped_bit_of_a_log_is_reported_with_its_file() {
    let mut rng = redkite_runtime::testing::test_rng();
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).await;
    let logs = CopiedLogs::new(dir.path());
    let whole = logs.check("10v0", Lsn(1)).await;
    assert_eq!((whole.records, whole.last_lsn), (100, Some(100)));
    assert_eq!(whole.problems, []);
    let mut files: Vec<_> = std::fs::read_dir(dir.path().join("10v0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    assert!(files.len() > 3);
    for flip in 0..100 {
        let path = &files[flip % files.len()];
        let original = std::fs::read(path).unwrap();
        let mut bytes = original.clone();
        let at = rng.random_range(0..records_end(&bytes));
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(path, &bytes).unwrap();
        let state = logs.check("10v0", Lsn(1)).await;
        let named = state
            .problems
            .iter()
            .any(|problem| problem.place == path.display().to_string() && problem.offset.is_some());
        assert!(
            named,
            "byte {at} of {}: {:?}",
            path.display(),
            state.problems
        );
        assert!(state.is_damaged);
        std::fs::write(path, &original).unwrap();
    }
    assert_eq!(logs.check("10v0", Lsn(1)).await.problems, []);
}
