//! Who holds a snapshot or its files, and for how long.

use super::*;

#[tokio::test]
async fn a_pinned_snapshot_is_not_dropped_until_the_pin_is_gone_or_over() {
    let world = World::new().await;
    world.create("s1").await.unwrap();
    let snapshots = &world.snapshots;
    let absent = snapshots.pin(C, "s2", 0, 0).await.unwrap_err();
    assert_eq!(absent.code, ErrorCode::SnapshotNotFound);
    let (first, _) = snapshots.pin(C, "s1", 0, 0).await.unwrap();
    let (second, pinned) = snapshots.pin(C, "s1", 60, 0).await.unwrap();
    assert_eq!(pinned.pins.len(), 2);
    // The same id again is the same pin.
    let (_, pinned) = snapshots.pin(C, "s1", 60, second).await.unwrap();
    assert_eq!(pinned.pins.len(), 2);
    let error = snapshots.drop_snapshot(C, "s1").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SnapshotPinned);
    snapshots.unpin(first).await.unwrap();
    snapshots.unpin(first).await.unwrap();
    assert!(
        snapshots.drop_snapshot(C, "s1").await.is_err(),
        "the other one holds"
    );
    world.clock.advance(Duration::from_secs(61));
    snapshots.drop_snapshot(C, "s1").await.unwrap();
    assert!(world.record("s1").await.is_none());
    world.end();
}

#[tokio::test]
async fn a_restore_that_has_ended_holds_nothing_though_its_pin_is_there() {
    use redkite_proto::redkite::meta::{RestoreJobInfo, restore_job_info::State};

    let world = World::new().await;
    for state in [State::Completed, State::Failed] {
        world.create("s1").await.unwrap();
        let (user, _) = world.snapshots.pin(C, "s1", 0, 0).await.unwrap();
        let (job, _) = world.snapshots.pin(C, "s1", 0, 0).await.unwrap();
        for under_way in [State::Pending, State::Executing, state] {
            let record = RestoreJobInfo {
                job_id: job,
                state: under_way.into(),
                ..RestoreJobInfo::default()
            };
            world.put(keys::restore_job(job), record).await;
            let error = world.snapshots.drop_snapshot(C, "s1").await.unwrap_err();
            assert_eq!(error.code, ErrorCode::SnapshotPinned, "{under_way:?}");
            if under_way != state {
                continue;
            }
            world.snapshots.unpin(user).await.unwrap();
            world.snapshots.drop_snapshot(C, "s1").await.unwrap();
            assert!(world.record("s1").await.is_none());
        }
    }
    world.end();
}

#[tokio::test]
async fn a_pin_outlives_the_collection_and_the_rest_does_not() {
    let world = World::new().await;
    world.create("kept").await.unwrap();
    world.create("gone").await.unwrap();
    let (pin, _) = world.snapshots.pin(C, "kept", 0, 0).await.unwrap();
    world.drop_collection().await;
    assert!(world.record("gone").await.is_none());
    world.snapshots.tidy().await.unwrap();
    world.collect().await;
    assert!(world.record("kept").await.is_some());
    assert!(world.is_there(&data(20)).await);
    world.snapshots.unpin(pin).await.unwrap();
    assert!(world.record("kept").await.is_none());
    world.collect().await;
    assert_eq!(world.store.list("").await.unwrap(), []);
    world.end();
}

#[tokio::test]
async fn files_that_another_collection_borrows_are_kept() {
    let world = World::new().await;
    let borrower = CollectionInfo {
        id: 50,
        database_id: 1,
        borrows_from: vec![C.0],
        ..CollectionInfo::default()
    };
    let key = keys::collection(DatabaseId(1), CollectionId(50));
    world.put(key.clone(), borrower).await;
    let segment = SegmentInfo {
        id: 60,
        collection_id: 50,
        partition_id: 51,
        files: vec![world.file(&data(20)).await],
        ..SegmentInfo::default()
    };
    let place = keys::segment(CollectionId(50), PartitionId(51), SegmentId(60));
    world.put(place.clone(), segment).await;
    world.drop_collection().await;
    world.collect().await;
    assert!(world.is_there(&data(20)).await);
    assert!(!world.is_there(&data(21)).await);
    world.delete(place).await;
    world.collect().await;
    assert!(!world.is_there(&data(20)).await);
    world.end();
}
