//! From growing to sealed: no row is missing or seen twice at any moment.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use redkite_config::ByteSize;
use redkite_querynode::QueryNodeOptions;
use redkite_runtime::testing::eventually_true;
use redkite_segment::{FileKind, manifest};

use crate::{
    slow::SlowStore,
    world::{P1, P2, World, code, int_keys},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handover_hides_no_row_and_shows_none_twice() {
    hand_over(World::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handover_to_a_mapped_file_hides_no_row_either() {
    let world = World::on_disk();
    world.set_mmap("true");
    hand_over(world).await;
}

async fn hand_over(world: World) {
    let node = world.node().await;
    let done = Arc::new(AtomicBool::new(false));
    // Keys below are acknowledged.
    let acked = Arc::new(AtomicI64::new(0));
    let watch = async {
        let mut looks = 0u64;
        while !done.load(Ordering::SeqCst) {
            let low = acked.load(Ordering::SeqCst);
            let count = node.count().await as i64;
            let search = node.search_request(&[[0.0, 0.0]], 16_384);
            let keys = int_keys(node.try_search(search).await.unwrap().ids);
            let high = acked.load(Ordering::SeqCst) + 100;
            assert!(
                (low..=high).contains(&count),
                "{count} rows, expected {low}..={high}"
            );
            let unique: HashSet<i64> = keys.iter().copied().collect();
            assert_eq!(unique.len(), keys.len(), "a row was found twice");
            assert!(
                (0..low).all(|key| unique.contains(&key)),
                "a row was not found"
            );
            looks += 1;
        }
        looks
    };
    let write = async {
        for batch in 0..40i64 {
            let rows: Vec<(i64, i64)> = (0..100).map(|row| (batch * 100 + row, batch)).collect();
            node.insert(if batch % 2 == 0 { P1 } else { P2 }, &rows)
                .await;
            acked.fetch_add(100, Ordering::SeqCst);
            if batch % 4 == 3 {
                assert_eq!(node.flush().await.segment_ids.len(), 2);
            }
        }
        done.store(true, Ordering::SeqCst);
    };
    let (looks, ()) = futures::join!(watch, write);
    assert!(looks > 3, "only {looks} looks");
    assert_eq!(node.count().await, 4_000);
    let stats = node.stats().await;
    assert!(
        stats
            .segments
            .iter()
            .all(|segment| !segment.growing && segment.loaded)
    );
    assert_eq!(
        stats.partitions.iter().map(|p| p.rows).collect::<Vec<_>>(),
        [2_000, 2_000]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_reach_rows_that_are_being_flushed() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2), (3, 3)]).await;
    world.played.hold_before.store(true, Ordering::SeqCst);
    let (flushed, ()) = futures::join!(node.try_flush(), async {
        eventually_true("the commit came", || {
            world.played.commits.load(Ordering::SeqCst) > 0
        })
        .await;
        node.delete(&[1]).await;
        node.upsert(P1, &[(2, 20)]).await;
        assert_eq!(node.rows().await, [(2, 20), (3, 3)]);
        world.played.hold_before.store(false, Ordering::SeqCst);
        world.played.gate.notify_one();
    });
    assert_eq!(flushed.unwrap().segment_ids.len(), 1);
    assert_eq!(node.rows().await, [(2, 20), (3, 3)]);
    node.delete(&[3]).await;
    assert_eq!(node.rows().await, [(2, 20)]);
    // The same from files and log.
    node.crash();
    let node = world.node().await;
    assert_eq!(node.rows().await, [(2, 20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_flush_covers_what_came_meanwhile() {
    let world = World::new();
    let node = world.node().await;
    let nothing = node.flush().await;
    assert!(nothing.segment_ids.is_empty());
    let first_ts = node.insert(P1, &[(1, 1)]).await;
    world.played.hold_before.store(true, Ordering::SeqCst);
    let (first, second) = futures::join!(node.flush(), async {
        eventually_true("the commit came", || {
            world.played.commits.load(Ordering::SeqCst) > 0
        })
        .await;
        let ts = node.insert(P1, &[(2, 2)]).await;
        let (flushed, ()) = futures::join!(node.flush(), async {
            world.played.hold_before.store(false, Ordering::SeqCst);
            world.played.gate.notify_one();
        });
        assert!(flushed.flush_ts >= ts);
        flushed
    });
    assert!(first.flush_ts >= first_ts);
    assert_eq!((first.segment_ids.len(), second.segment_ids.len()), (1, 1));
    assert_ne!(first.segment_ids, second.segment_ids);
    let again = node.flush().await;
    assert!(again.segment_ids.is_empty());
    assert_eq!(again.flush_ts, second.flush_ts);
    assert_eq!(world.played.meta.lock().segments.len(), 2);
}

#[tokio::test]
async fn a_hold_seals_exactly_what_was_written_before_it() {
    let world = World::new();
    let node = world.node().await;
    let last = node.insert(P1, &[(1, 10), (2, 20)]).await;
    node.hold(7, 10_000).await;
    let waits = node.insert(P1, &[(3, 30)]);
    tokio::pin!(waits);
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut waits).await;
    assert!(early.is_err(), "a write did not wait");
    let (flushed, later) = tokio::join!(node.flush_held(7), waits);
    let flushed = flushed.unwrap();
    assert_eq!((flushed.flush_ts, flushed.segment_ids.len()), (last, 1));
    assert!(later > last);
    assert_eq!(node.count().await, 3);
    let growing = node.stats().await.segments.into_iter();
    let growing = growing.filter(|one| one.growing).map(|one| one.rows);
    assert_eq!(growing.sum::<i64>(), 1);
    // A hold that nobody ends, ends by itself; then it is too late to seal for it.
    node.hold(8, 1).await;
    node.insert(P1, &[(4, 40)]).await;
    let refused = node.flush_held(8).await.unwrap_err();
    assert_eq!(code(&refused), 2);
    node.flush().await;
    assert_eq!(node.count().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_keeps_everything_and_the_next_one_commits_it() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    node.delete(&[2]).await;
    world.played.failures.store(1, Ordering::SeqCst);
    assert_eq!(code(&node.try_flush().await.unwrap_err()), 5);
    assert_eq!(node.rows().await, [(1, 1)]);
    node.insert(P1, &[(3, 3)]).await;
    node.flush().await;
    assert_eq!(node.rows().await, [(1, 1), (3, 3)]);
    let committed: i64 = world
        .played
        .meta
        .lock()
        .segments
        .values()
        .map(|s| s.rows)
        .sum();
    assert_eq!(committed, 3);
    node.crash();
    assert_eq!(world.node().await.rows().await, [(1, 1), (3, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flush_counts_on_a_file_that_is_not_what_was_written() {
    for loaded in [vec![P1], Vec::new()] {
        for spoiled in ["data", "stats", "deltas"] {
            let store = SlowStore::new(1);
            let world = World::on_objects_of(store.clone());
            world.played.change(|meta| meta.loaded = loaded.clone());
            let node = world.node().await;
            node.insert(P1, &[(1, 1), (2, 2)]).await;
            node.delete(&[2]).await;
            store.spoil(spoiled);
            let refused = node.try_flush().await.unwrap_err();
            assert_eq!(code(&refused), 1009, "{spoiled}: {refused}");
            // By itself or with the next flush, whichever is first.
            node.flush().await;
            node.crash();
            let meta = world.played.meta.lock().clone();
            let segments = meta.segments.values().map(manifest::from_info);
            let mut files: Vec<_> = segments.flat_map(|segment| segment.files).collect();
            let deltas = meta.deltas.values().filter_map(|delta| delta.file.as_ref());
            files.extend(deltas.map(|file| manifest::from_file(FileKind::Delta, file)));
            assert_eq!(files.len(), 3, "data, statistics and deletes");
            for file in files {
                file.verify(&*store).await.unwrap();
            }
            world.played.change(|meta| meta.loaded = vec![P1]);
            assert_eq!(world.node().await.rows().await, [(1, 1)], "{spoiled}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_whose_files_were_collected_writes_them_again() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    node.delete(&[2]).await;
    world.played.hold_before.store(true, Ordering::SeqCst);
    let (refused, ()) = futures::join!(node.try_flush(), async {
        eventually_true("the commit came", || {
            world.played.commits.load(Ordering::SeqCst) > 0
        })
        .await;
        for object in world.store.list("").await.unwrap() {
            world.store.delete(&object.key).await.unwrap();
        }
        world.played.hold_before.store(false, Ordering::SeqCst);
        world.played.gate.notify_one();
    });
    assert_eq!(code(&refused.unwrap_err()), 1000);
    // Nothing is committed, and everything is still in memory and in the log.
    assert!(world.played.meta.lock().checkpoint.is_none());
    assert_eq!(node.rows().await, [(1, 1)]);
    // By itself or with the next flush, whichever is first.
    node.flush().await;
    assert_eq!(node.rows().await, [(1, 1)]);
    node.crash();
    assert_eq!(world.node().await.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_whole_after_a_flush_whose_files_were_collected() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    world.played.hold_before.store(true, Ordering::SeqCst);
    let (refused, ()) = futures::join!(node.try_flush(), async {
        eventually_true("the commit came", || {
            world.played.commits.load(Ordering::SeqCst) > 0
        })
        .await;
        for object in world.store.list("").await.unwrap() {
            world.store.delete(&object.key).await.unwrap();
        }
        world.played.gate.notify_one();
    });
    assert_eq!(code(&refused.unwrap_err()), 1000);
    node.crash();
    world.played.hold_before.store(false, Ordering::SeqCst);
    assert_eq!(world.node().await.rows().await, [(1, 1), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_answered_too_late_is_the_same_commit_again() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    node.delete(&[2]).await;
    world.played.late.store(2, Ordering::SeqCst);
    let flushed = node.flush().await;
    assert!(world.played.commits.load(Ordering::SeqCst) >= 2);
    let meta = world.played.meta.lock().clone();
    let segments: Vec<i64> = meta.segments.keys().copied().collect();
    assert_eq!(segments, flushed.segment_ids);
    assert_eq!(meta.deltas.len(), 1, "the deletes are recorded once");
    assert_eq!(node.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_segment_is_flushed_by_itself() {
    let mut world = World::new();
    world.options = QueryNodeOptions {
        segment_max_size: ByteSize::kib(32),
        ..QueryNodeOptions::default()
    };
    let node = world.node().await;
    for batch in 0..10 {
        let rows: Vec<(i64, i64)> = (0..200).map(|row| (batch * 200 + row, 0)).collect();
        node.insert(P1, &rows).await;
    }
    eventually_true("segments are committed", || {
        world.played.meta.lock().segments.len() > 1
    })
    .await;
    assert_eq!(node.count().await, 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_epoch_is_over_gives_the_channel_up() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    world.played.change(|meta| meta.epoch += 1);
    assert!(node.try_flush().await.is_err());
    redkite_runtime::testing::eventually(
        "the channel is closed",
        crate::world::PATIENCE,
        || async {
            let refused = node.try_query(node.query_request()).await.err()?;
            (code(&refused) == 503).then_some(())
        },
    )
    .await;
    // The successor has everything.
    let successor = world.bare_node();
    successor.sync_until_loaded().await;
    assert_eq!(successor.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_long_is_cut_by_a_flush() {
    let mut world = World::new();
    world.options = QueryNodeOptions {
        log_max_size: ByteSize::kib(32),
        ..QueryNodeOptions::default()
    };
    let node = world.node().await;
    let keys: Vec<i64> = (0..1_000).collect();
    for _ in 0..40 {
        node.delete(&keys).await;
    }
    eventually_true("deletes are committed", || {
        !world.played.meta.lock().deltas.is_empty()
    })
    .await;
}
