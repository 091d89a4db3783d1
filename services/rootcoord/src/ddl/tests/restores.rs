//! Restores, and what others make of one that is under way.

use redkite_proto::redkite::{
    meta::{RestoreJobInfo, restore_job_info},
    rootcoord,
};

use super::*;

/// Puts a snapshot "s1" of the collection "books" on record, which had so many indexes.
async fn snapshot_books(context: &DdlContext, indexes: i32) {
    let view = context.fresh_view().await.unwrap();
    let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
    let partitions = entry.visible_partitions();
    let snapshot = SnapshotInfo {
        id: 7,
        collection_id: entry.id().0,
        name: "s1".into(),
        partition_names: partitions.map(|one| one.name.clone()).collect(),
        segment_ids: vec![1],
        indexes,
        ..SnapshotInfo::default()
    };
    put(&context.kv, keys::snapshot(entry.id(), "s1"), &snapshot).await;
}

/// Asks for that snapshot as the collection "copy".
fn into_copy() -> RestoreSnapshotRequest {
    RestoreSnapshotRequest {
        name: "s1".into(),
        collection_name: "books".into(),
        target_collection_name: "copy".into(),
        ..RestoreSnapshotRequest::default()
    }
}

#[tokio::test]
async fn restore_snapshot_is_all_or_nothing_and_leaves_no_pin() {
    suites(
        vec![create_partition("p1"), create_index()],
        restore::RestoreSnapshot,
        |context| async move {
            snapshot_books(&context, 1).await;
            let request = into_copy();
            let params = restore::params(&context, "", &request, "r1", 1);
            params.await.unwrap()
        },
    )
    .await;
}

/// Who asks again under the same request id while the job has no record yet is told the job that there
/// will be, and no other.
#[tokio::test]
async fn asked_twice_a_restore_has_one_job() {
    let deployment = Deployment::with(vec![create_partition("p1")]).await;
    let context = &deployment.context;
    snapshot_books(context, 0).await;
    let request = rootcoord::RestoreSnapshotRequest {
        request_id: "r1".into(),
        command: Some(into_copy()),
        ..rootcoord::RestoreSnapshotRequest::default()
    };
    let gate = deployment.gate().await;
    let (first, second) =
        tokio::join!(gate.restore(request.clone()), gate.restore(request.clone()));
    let job = first.unwrap().0;
    assert_eq!(second.unwrap().0, job);
    // Also long after.
    assert_eq!(gate.restore(request).await.unwrap().0, job);
    let view = context.fresh_view().await.unwrap();
    let jobs: Vec<i64> = view.restore_jobs().map(|known| known.job_id).collect();
    assert_eq!(jobs, [job]);
    gate.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn restore_bundle_is_all_or_nothing() {
    suites(
        vec![create_partition("p1"), create_index()],
        restore_bundle::RestoreBundle,
        |context| async move {
            let request = RestoreBundleRequest {
                request_id: "r1".into(),
                collection: "copy".into(),
                place: Some(BundlePlace {
                    root: "fs:///backups/one".into(),
                    ..BundlePlace::default()
                }),
                ..RestoreBundleRequest::default()
            };
            restore_bundle::params(&context, request, 1).await.unwrap()
        },
    )
    .await;
}

/// Whoever restores knows of the target before anybody sees it, and may drop it, by whatever name of the
/// database.
#[tokio::test]
async fn the_target_of_a_restore_under_way_can_be_dropped() {
    let deployment = Deployment::with(vec![]).await;
    let target = |state: restore_job_info::State| RestoreJobInfo {
        job_id: 5,
        database: "default".into(),
        collection: "copy".into(),
        collection_id: 77,
        state: state.into(),
        ..RestoreJobInfo::default()
    };
    let found = async |database: &str| {
        let request = DropCollectionRequest {
            collection_name: "copy".into(),
            ..DropCollectionRequest::default()
        };
        let params = drop_collection::params(&deployment.context, database, request).await;
        params.unwrap().is_some()
    };
    let kv = &deployment.kv;
    put(
        kv,
        keys::restore_job(5),
        &target(restore_job_info::State::Executing),
    )
    .await;
    assert!(found("").await && found("default").await);
    put(
        kv,
        keys::restore_job(5),
        &target(restore_job_info::State::Failed),
    )
    .await;
    assert!(!found("").await && !found("default").await);
}
