//! Snapshots against the records, a real object store and the collector.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{Catalog, keys};
use redkite_config::HumanDuration;
use redkite_metastore::{MemKv, Op, SharedKv, Txn};
use redkite_proto::redkite::{
    datacoord::CreateSnapshotRequest,
    meta::{
        ChannelCheckpoint, ChannelOwner, CollectionInfo, DeltaInfo, FileInfo, PartitionInfo,
        SegmentInfo, SnapshotInfo,
    },
};
use redkite_runtime::{CancellationToken, ManualClock, OnFailure, TaskGroup};
use redkite_storage::{ObjectStore, checksum, layout};
use redkite_types::{
    CollectionId, DatabaseId, ErrorCode, PartitionId, Result, Revision, SegmentId, Timestamp,
};

mod jobs;
mod pins;
mod races;

use super::*;
use crate::{
    drop::drop_data,
    gc::{Collector, GcOptions},
};

pub(super) const C: CollectionId = CollectionId(10);
pub(super) const P: PartitionId = PartitionId(11);
/// Far behind the wall clock, by which files get their age.
const START: u64 = 4_000_000_000_000;

pub(super) struct World {
    pub(super) kv: SharedKv,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) snapshots: Arc<Snapshots>,
    collector: Arc<Collector>,
    clock: ManualClock,
    pub(super) tasks: TaskGroup,
    doomed: Arc<Mutex<Option<String>>>,
    _dir: tempfile::TempDir,
}

/// Owners that have flushed everything, and somebody who deletes a record when ids are asked for.
struct Others {
    next_id: Arc<std::sync::atomic::AtomicI64>,
    kv: SharedKv,
    doomed: Arc<Mutex<Option<String>>>,
}

#[async_trait]
impl SnapshotAround for Others {
    async fn ids(&self, count: u32) -> Result<i64> {
        let doomed = self.doomed.lock().take();
        if let Some(key) = doomed {
            self.kv.txn(Txn::new().then(Op::delete(key))).await.unwrap();
        }
        let order = std::sync::atomic::Ordering::Relaxed;
        Ok(self.next_id.fetch_add(i64::from(count), order))
    }

    async fn timestamp(&self) -> Result<Timestamp> {
        Ok(Timestamp(500))
    }

    async fn flushed(&self, _: &ChannelOwner, now: Timestamp) -> Result<Timestamp> {
        Ok(now)
    }

    async fn hold(&self, _: &ChannelOwner, _: i64) -> Result<()> {
        Ok(())
    }

    async fn flush_held(&self, _: &ChannelOwner, _: i64, _: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn show_proxies(&self, _: Revision) {}
}

impl World {
    pub(super) async fn new() -> Self {
        let kv: SharedKv = Arc::new(MemKv::new());
        let tasks = TaskGroup::new("test");
        let catalog = Catalog::load(kv.as_ref()).await.unwrap();
        let follow = catalog.clone().follow(kv.clone(), tasks.token());
        tasks.spawn("follow", OnFailure::Log, follow);
        let dir = tempfile::tempdir().unwrap();
        let store = redkite_storage::open(&format!("fs://{}", dir.path().display())).unwrap();
        let gate = CommitGate::new(store.clone());
        let clock = ManualClock::new(START);
        let next_id = Arc::new(std::sync::atomic::AtomicI64::new(1_000));
        let doomed = Arc::new(Mutex::new(None));
        let collector = Collector::new(
            kv.clone(),
            store.clone(),
            gate.clone(),
            GcOptions {
                grace: HumanDuration::secs(0),
                dropped_grace: HumanDuration::secs(0),
                ..GcOptions::default()
            },
            clock.clone().shared(),
            None,
            CancellationToken::new(),
        );
        let snapshots = Snapshots::new(
            kv.clone(),
            store.clone(),
            gate,
            catalog,
            Arc::new(Others {
                next_id: next_id.clone(),
                kv: kv.clone(),
                doomed: doomed.clone(),
            }),
            clock.clone().shared(),
        );
        let world = Self {
            kv,
            store,
            snapshots,
            collector,
            clock,
            tasks,
            doomed,
            _dir: dir,
        };
        world.fill().await;
        world
    }

    /// A collection with two segments and a delete file.
    async fn fill(&self) {
        let info = CollectionInfo {
            id: C.0,
            database_id: 1,
            name: "books".into(),
            channels: vec!["10v0".into()],
            created_ts: 7,
            ..CollectionInfo::default()
        };
        self.put(keys::collection(DatabaseId(1), C), info).await;
        let partition = PartitionInfo {
            id: P.0,
            name: "_default".into(),
            collection_id: C.0,
            ..PartitionInfo::default()
        };
        self.put(keys::partition(C, P), partition).await;
        let owner = ChannelOwner {
            channel: "10v0".into(),
            collection_id: C.0,
            ..ChannelOwner::default()
        };
        self.put(keys::channel_owner("10v0"), owner).await;
        self.segment(20).await;
        self.segment(21).await;
        let delta = DeltaInfo {
            id: 30,
            collection_id: C.0,
            channel: "10v0".into(),
            file: Some(self.file(&layout::delta("10v0", 30)).await),
            ..DeltaInfo::default()
        };
        self.put(keys::delta(C, 30), delta).await;
    }

    pub(super) async fn segment(&self, id: i64) {
        let info = SegmentInfo {
            id,
            collection_id: C.0,
            partition_id: P.0,
            channel: "10v0".into(),
            rows: 100,
            files: vec![self.file(&data(id)).await],
            ..SegmentInfo::default()
        };
        self.put(keys::segment(C, P, SegmentId(id)), info).await;
    }

    async fn file(&self, path: &str) -> FileInfo {
        let bytes = Bytes::from(path.to_owned());
        self.store.put(path, bytes.clone()).await.unwrap();
        FileInfo {
            path: path.to_owned(),
            size: bytes.len() as u64,
            crc32c: checksum::crc32c(&bytes),
        }
    }

    pub(super) async fn put(&self, key: String, value: impl Message) {
        let txn = Txn::new().then(Op::put(key, value.encode_to_vec()));
        self.kv.txn(txn).await.unwrap();
    }

    async fn delete(&self, key: String) {
        self.kv.txn(Txn::new().then(Op::delete(key))).await.unwrap();
    }

    pub(super) async fn create(&self, name: &str) -> Result<SnapshotInfo> {
        let request = CreateSnapshotRequest {
            collection_id: C.0,
            name: name.to_owned(),
            ..CreateSnapshotRequest::default()
        };
        Ok(self.snapshots.create(&request).await?.0)
    }

    pub(super) async fn collect(&self) {
        self.clock.advance(Duration::from_secs(1));
        self.collector.collect().await.unwrap();
    }

    pub(super) async fn is_there(&self, path: &str) -> bool {
        self.store.stat(path).await.is_ok()
    }

    /// As the saga that drops a collection does it.
    async fn drop_collection(&self) {
        let now = self.clock.clone().shared().unix_millis();
        drop_data(self.kv.as_ref(), C, None, now).await.unwrap();
        self.delete(keys::partition(C, P)).await;
        self.delete(keys::channel_owner("10v0")).await;
        self.delete(keys::collection(DatabaseId(1), C)).await;
    }

    pub(super) async fn record(&self, name: &str) -> Option<SnapshotInfo> {
        let found = self.kv.get(&keys::snapshot(C, name)).await.unwrap();
        found.map(|pair| SnapshotInfo::decode(pair.value).unwrap())
    }

    pub(super) fn end(self) {
        self.tasks.cancel();
    }
}

fn data(segment: i64) -> String {
    layout::segment_data(C, P, SegmentId(segment))
}

#[tokio::test]
async fn a_snapshot_of_one_time_leaves_out_what_is_later() {
    let world = World::new().await;
    let times = |min_ts, max_ts| SegmentInfo {
        collection_id: C.0,
        partition_id: P.0,
        channel: "10v0".into(),
        min_ts,
        max_ts,
        ..SegmentInfo::default()
    };
    let put = |id: i64, info: SegmentInfo| {
        world.put(
            keys::segment(C, P, SegmentId(id)),
            SegmentInfo { id, ..info },
        )
    };
    put(22, times(490, 500)).await;
    put(23, times(501, 510)).await;
    let request = CreateSnapshotRequest {
        collection_id: C.0,
        name: "s1".to_owned(),
        flush: true,
        ..CreateSnapshotRequest::default()
    };
    let (taken, _) = world.snapshots.create(&request).await.unwrap();
    assert_eq!((taken.ts, taken.segment_ids), (500, vec![20, 21, 22]));
    // Mixed by a compaction, or with later deletes applied: no such snapshot can be taken.
    for mixed in [
        times(490, 510),
        SegmentInfo {
            deletes_applied_ts: 501,
            ..times(490, 500)
        },
    ] {
        put(24, mixed).await;
        let request = CreateSnapshotRequest {
            name: "s2".to_owned(),
            ..request.clone()
        };
        let error = world.snapshots.create(&request).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ServiceUnavailable, "{error}");
    }
    world.end();
}

#[tokio::test]
async fn a_snapshot_names_what_is_flushed_and_keeps_its_files_until_it_is_dropped() {
    let world = World::new().await;
    let taken = world.create("s1").await.unwrap();
    assert_eq!(taken.segment_ids, [20, 21]);
    assert_eq!((taken.rows, taken.deltas, taken.ts), (200, 1, 500));
    assert_eq!(taken.file_owners, [10]);
    let manifest = world.snapshots.manifests.read(&taken).await.unwrap();
    assert_eq!(manifest::files(&manifest).count(), 3);
    assert_eq!(manifest.collection.unwrap().name, "books");
    // Compacted away, all of it.
    world.delete(keys::segment(C, P, SegmentId(20))).await;
    world.delete(keys::segment(C, P, SegmentId(21))).await;
    world.delete(keys::delta(C, 30)).await;
    world.collect().await;
    for path in [data(20), data(21), layout::delta("10v0", 30)] {
        assert!(world.is_there(&path).await, "{path}");
    }
    world.snapshots.drop_snapshot(C, "s1").await.unwrap();
    // A second time it is no error.
    world.snapshots.drop_snapshot(C, "s1").await.unwrap();
    world.collect().await;
    let manifest = taken.manifest.unwrap().path;
    for path in [data(20), data(21), layout::delta("10v0", 30), manifest] {
        assert!(!world.is_there(&path).await, "{path}");
    }
    world.end();
}

#[tokio::test]
async fn a_snapshot_whose_manifest_cannot_be_read_protects_its_whole_folder() {
    let world = World::new().await;
    let taken = world.create("s1").await.unwrap();
    world.delete(keys::segment(C, P, SegmentId(20))).await;
    let stray = data(99);
    world.file(&stray).await;
    let manifest = taken.manifest.unwrap();
    let damaged = Bytes::from(vec![1; manifest.size as usize]);
    world.store.put(&manifest.path, damaged).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let plan = world.collector.plan().await.unwrap();
    assert_eq!(plan.garbage, []);
    assert_eq!(plan.doubts.len(), 1, "{:?}", plan.doubts);
    world.collect().await;
    assert!(world.is_there(&data(20)).await && world.is_there(&stray).await);
    world.end();
}

#[tokio::test]
async fn a_name_is_taken_once_and_of_many_at_a_time_one_wins() {
    let world = World::new().await;
    let creates = (0..8).map(|_| world.create("s1"));
    let outcomes = futures::future::join_all(creates).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1);
    let lost = outcomes.into_iter().filter_map(Result::err);
    for error in lost {
        assert_eq!(error.code, ErrorCode::InvalidParameter);
        let text = "snapshot name s1 already exists in collection 10";
        assert!(error.message.starts_with(text), "{error}");
    }
    // What the others wrote names nothing and is named by nothing.
    world.collect().await;
    let left = world.store.list(layout::SNAPSHOTS).await.unwrap();
    assert_eq!(left.len(), 1);
    world.end();
}

#[tokio::test]
async fn nothing_is_taken_of_a_collection_that_is_going() {
    let world = World::new().await;
    world.drop_collection().await;
    let error = world.create("s1").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CollectionNotFound);
    world.end();
}

#[tokio::test]
async fn checkpoints_count_where_they_are_later_than_what_the_owner_says() {
    let world = World::new().await;
    let checkpoint = ChannelCheckpoint {
        channel: "10v0".into(),
        collection_id: C.0,
        lsn: 9,
        ts: 700,
    };
    world.put(keys::checkpoint("10v0"), checkpoint).await;
    assert_eq!(world.create("s1").await.unwrap().ts, 700);
    world.end();
}
