//! Exports against the records and a real object store, with data nodes that fail when they are told.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use redkite_catalog::keys;
use redkite_proto::redkite::{
    datacoord::{AttachSnapshotRequest, ExportSnapshotRequest},
    datanode::{
        CopyFilesRequest, CountRowsRequest, CountRowsResponse, FinishBundleRequest,
        OpenBundleRequest, ReadBundleRequest, ReadBundleResponse, RemoveBundleRequest,
    },
    meta::{
        BundleInfo, BundlePlace, CollectionInfo, ObjectState, RestoreJobInfo, SegmentInfo,
        restore_job_info,
    },
};
use redkite_storage::{ObjectStore, layout};
use redkite_types::{DatabaseId, PartitionId, SegmentId};

use super::*;
use crate::snapshot::tests::{C, World};

/// A bundle in memory.
struct Nodes {
    store: Arc<dyn ObjectStore>,
    files: Mutex<HashMap<String, Bytes>>,
    info: Mutex<Option<BundleInfo>>,
    /// Answers of the next copies; then they succeed.
    failures: Mutex<Vec<Error>>,
    copies: Mutex<Vec<String>>,
    removed: Mutex<bool>,
}

impl Nodes {
    fn new(store: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            files: Mutex::default(),
            info: Mutex::default(),
            failures: Mutex::default(),
            copies: Mutex::default(),
            removed: Mutex::default(),
        })
    }
}

#[async_trait]
impl BundleAround for Nodes {
    async fn open(&self, _: OpenBundleRequest) -> Result<()> {
        Ok(())
    }

    async fn copy(&self, request: CopyFilesRequest) -> Result<()> {
        if let Some(error) = self.failures.lock().pop() {
            return Err(error);
        }
        for copy in request.files {
            let path = copy.file.unwrap().path;
            self.copies.lock().push(path.clone());
            if request.from.is_some() {
                let bytes = self.files.lock()[&path].clone();
                self.store.put(&copy.to, bytes).await.unwrap();
            } else {
                let bytes = self.store.get(&path).await.unwrap();
                self.files.lock().insert(copy.to, bytes);
            }
        }
        Ok(())
    }

    async fn finish(&self, request: FinishBundleRequest) -> Result<String> {
        *self.info.lock() = request.info;
        Ok("bundle/metadata.json".to_owned())
    }

    async fn remove(&self, request: RemoveBundleRequest) -> Result<()> {
        self.files
            .lock()
            .retain(|path, _| !request.paths.contains(path));
        *self.removed.lock() = true;
        Ok(())
    }

    async fn read(&self, _: ReadBundleRequest) -> Result<ReadBundleResponse> {
        let bytes = self.files.lock()[MANIFEST].clone();
        Ok(ReadBundleResponse {
            info: self.info.lock().clone(),
            manifest: Some(SnapshotManifest::decode(bytes).unwrap()),
        })
    }

    async fn count(&self, _: CountRowsRequest) -> Result<CountRowsResponse> {
        unreachable!("nothing is compared here")
    }
}

fn bundles(world: &World, nodes: &Arc<Nodes>) -> Arc<Bundles> {
    let options = SnapshotOptions {
        verify_checksums: true,
    };
    Bundles::new(
        world.snapshots.clone(),
        nodes.clone(),
        world.tasks.clone(),
        options,
        Random::seeded(1),
    )
}

fn place() -> BundlePlace {
    BundlePlace {
        root: "bundle".to_owned(),
        secret_key: "hush".to_owned(),
        ..BundlePlace::default()
    }
}

async fn begin(bundles: &Arc<Bundles>) -> i64 {
    let request = ExportSnapshotRequest {
        collection_id: C.0,
        name: "s1".to_owned(),
        place: Some(place()),
        ..ExportSnapshotRequest::default()
    };
    bundles.create(&request).await.unwrap().0
}

async fn job(world: &World, id: i64) -> SnapshotExportInfo {
    records::find(&*world.kv, id).await.unwrap().unwrap().job
}

fn broken(code: ErrorCode) -> Error {
    Error::new(code, "segments/10/11/20/data.v2.parquet is damaged")
}

#[tokio::test]
async fn an_export_keeps_its_snapshot_until_it_is_complete() {
    let world = World::new().await;
    // More than one batch.
    for id in 100..140 {
        world.segment(id).await;
    }
    world.create("s1").await.unwrap();
    let nodes = Nodes::new(world.store.clone());
    let bundles = bundles(&world, &nodes);
    let id = begin(&bundles).await;
    let pinned = world.snapshots.drop_snapshot(C, "s1").await.unwrap_err();
    assert_eq!(pinned.code, ErrorCode::SnapshotPinned);
    bundles.execute(id).await;
    let done = job(&world, id).await;
    assert_eq!(done.state(), State::Completed, "{}", done.reason);
    assert_eq!((done.total_files, done.files_done), (44, 44));
    assert_eq!(done.bytes_done, done.total_bytes);
    assert!(done.finished_ms > done.started_ms && !done.metadata_uri.is_empty());
    assert_eq!(done.place.unwrap().secret_key, "");
    assert_eq!(nodes.files.lock().len(), 44);
    // Again it changes nothing.
    bundles.execute(id).await;
    assert_eq!(nodes.copies.lock().len(), 44);
    world.snapshots.drop_snapshot(C, "s1").await.unwrap();
    world.end();
}

#[tokio::test]
async fn a_successor_goes_on_behind_what_is_recorded() {
    let world = World::new().await;
    for id in 100..140 {
        world.segment(id).await;
    }
    world.create("s1").await.unwrap();
    let nodes = Nodes::new(world.store.clone());
    let first = bundles(&world, &nodes);
    let id = begin(&first).await;
    // As if it had died behind its first batch.
    let before = records::find(&*world.kv, id).await.unwrap().unwrap();
    let half = SnapshotExportInfo {
        state: State::Executing.into(),
        total_files: 44,
        files_done: 32,
        ..before.job.clone()
    };
    records::replace(&*world.kv, &before, half)
        .await
        .unwrap()
        .unwrap();
    let second = bundles(&world, &nodes);
    second.execute(id).await;
    assert_eq!(job(&world, id).await.state(), State::Completed);
    assert_eq!(nodes.copies.lock().len(), 12);
    world.end();
}

#[tokio::test]
async fn an_export_that_fails_says_why_and_leaves_nothing() {
    let world = World::new().await;
    world.create("s1").await.unwrap();
    let nodes = Nodes::new(world.store.clone());
    let bundles = bundles(&world, &nodes);
    let id = begin(&bundles).await;
    // One that passes first.
    let failures = [
        broken(ErrorCode::DataIntegrity),
        broken(ErrorCode::ServiceUnavailable),
    ];
    *nodes.failures.lock() = failures.into();
    bundles.execute(id).await;
    let failed = job(&world, id).await;
    assert_eq!(failed.state(), State::Failed);
    assert!(
        failed.reason.contains("data.v2.parquet"),
        "{}",
        failed.reason
    );
    assert!(*nodes.removed.lock() && nodes.files.lock().is_empty());
    assert_eq!(failed.place.unwrap().secret_key, "");
    // One that was cut off while it failed does not come to life again.
    let id = begin(&bundles).await;
    let before = records::find(&*world.kv, id).await.unwrap().unwrap();
    let noted = SnapshotExportInfo {
        state: State::Executing.into(),
        reason: "the store is full".to_owned(),
        ..before.job.clone()
    };
    let noted = records::replace(&*world.kv, &before, noted).await;
    noted.unwrap().unwrap();
    bundles.execute(id).await;
    let failed = job(&world, id).await;
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(failed.reason, "the store is full");
    assert!(nodes.info.lock().is_none());
    world.snapshots.drop_snapshot(C, "s1").await.unwrap();
    world.end();
}

#[tokio::test]
async fn a_bundle_becomes_files_of_the_target() {
    let world = World::new().await;
    world.create("s1").await.unwrap();
    let nodes = Nodes::new(world.store.clone());
    let bundles = bundles(&world, &nodes);
    let id = begin(&bundles).await;
    bundles.execute(id).await;
    let target = CollectionId(50);
    let info = CollectionInfo {
        id: target.0,
        database_id: 1,
        state: ObjectState::Creating.into(),
        ..CollectionInfo::default()
    };
    world
        .put(keys::collection(DatabaseId(1), target), info.clone())
        .await;
    let restore = RestoreJobInfo {
        job_id: 7,
        state: restore_job_info::State::Executing.into(),
        ..RestoreJobInfo::default()
    };
    world.put(keys::restore_job(7), restore).await;
    let token = nodes.info.lock().clone().unwrap().token;
    let request = AttachSnapshotRequest {
        job_id: 7,
        target_database_id: 1,
        target_collection_id: target.0,
        first_partition_id: 51,
        first_index_id: 52,
        first_id: 60,
        bundle: Some(place()),
        bundle_token: token,
        ..AttachSnapshotRequest::default()
    };
    assert!(bundles.copy_in(&request).await.unwrap());
    // Nobody collects what no record names yet.
    world.collect().await;
    let copied = nodes.copies.lock().len();
    assert!(bundles.copy_in(&request).await.unwrap());
    assert_eq!(nodes.copies.lock().len(), copied, "copied once only");
    bundles.attach(&request).await.unwrap();
    let key = keys::segment(target, PartitionId(51), SegmentId(60));
    let found = world.kv.get(&key).await.unwrap().unwrap();
    let segment = SegmentInfo::decode(found.value).unwrap();
    let path = layout::segment_data(target, PartitionId(51), SegmentId(60));
    assert_eq!(segment.files[0].path, path);
    assert!(world.is_there(&path).await);
    assert!(world.is_there(&layout::delta("50v0", 62)).await);
    let found = world.kv.get(&keys::restore_job(7)).await.unwrap().unwrap();
    let shown = RestoreJobInfo::decode(found.value).unwrap();
    assert_eq!(
        (shown.files_done, shown.total_files, shown.progress),
        (3, 3, 99)
    );
    // Once it is one of many, a file without a record is garbage as ever.
    let created = CollectionInfo {
        state: ObjectState::Created.into(),
        ..info
    };
    world
        .put(keys::collection(DatabaseId(1), target), created)
        .await;
    let stray = layout::segment_data(target, PartitionId(51), SegmentId(99));
    world
        .store
        .put(&stray, Bytes::from_static(b"x"))
        .await
        .unwrap();
    world.collect().await;
    assert!(world.is_there(&path).await && !world.is_there(&stray).await);
    // Another bundle at the same place is not mixed in.
    let other = AttachSnapshotRequest {
        bundle_token: "other".to_owned(),
        ..request
    };
    assert_eq!(
        bundles.copy_in(&other).await.unwrap_err().code,
        ErrorCode::DataIntegrity
    );
    world.end();
}
