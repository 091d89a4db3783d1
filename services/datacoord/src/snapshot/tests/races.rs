//! What changes between the look at a collection and the commit of its snapshot.

use super::*;

#[tokio::test]
async fn what_is_compacted_away_before_the_commit_is_not_in_it() {
    for (key, segments, deltas) in [
        (keys::segment(C, P, SegmentId(20)), vec![21], 1),
        (keys::delta(C, 30), vec![20, 21], 0),
    ] {
        let world = World::new().await;
        *world.doomed.lock() = Some(key);
        let taken = world.create("s1").await.unwrap();
        assert!(world.doomed.lock().is_none(), "nothing has changed");
        assert_eq!((&taken.segment_ids, taken.deltas), (&segments, deltas));
        // What it names is what is kept; the manifest of the first attempt is garbage.
        world.collect().await;
        let manifest = world.snapshots.manifests.read(&taken).await.unwrap();
        for file in manifest::files(&manifest) {
            assert!(world.is_there(&file.path).await, "{}", file.path);
        }
        let left = world.store.list(layout::SNAPSHOTS).await.unwrap();
        assert_eq!(left.len(), 1);
        world.end();
    }
}

#[tokio::test]
async fn a_collection_that_goes_before_the_commit_has_no_snapshot() {
    let world = World::new().await;
    *world.doomed.lock() = Some(keys::collection(DatabaseId(1), C));
    let error = world.create("s1").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CollectionNotFound);
    assert!(world.record("s1").await.is_none());
    world.end();
}
