//! A node that is killed at any moment is replaced by an empty one with the same data.

use std::sync::atomic::Ordering;

use redkite_proto::redkite::querynode::{ReleaseChannelRequest, query_node_server::QueryNode};
use redkite_runtime::testing::eventually_true;
use tonic::Request;

use crate::world::{CHANNEL, P1, P2, World, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_any_flush_loses_nothing() {
    for world in [World::new(), World::on_objects()] {
        crash_before_any_flush(world).await;
    }
}

async fn crash_before_any_flush(world: World) {
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    node.upsert(P2, &[(2, 22)]).await;
    node.delete(&[1]).await;
    node.crash();
    let node = world.node().await;
    assert_eq!(node.rows().await, [(2, 22)]);
    node.insert(P1, &[(5, 5)]).await;
    node.crash();
    assert_eq!(world.node().await.rows().await, [(2, 22), (5, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_deposed_while_it_lives_writes_nothing_more() {
    let world = World::on_objects();
    let former = world.node().await;
    former.insert(P1, &[(1, 1)]).await;
    let node = world.node().await;
    node.insert(P1, &[(2, 2)]).await;
    for key in 3..5 {
        let refused = former.write(former.change(&[], P1, &[(key, key)])).await;
        let code = code(&refused.unwrap_err());
        assert!([503, 507].contains(&code), "{code}");
    }
    node.insert(P1, &[(5, 5)]).await;
    assert_eq!(node.rows().await, [(1, 1), (2, 2), (5, 5)]);
    node.flush().await;
    node.insert(P1, &[(6, 6)]).await;
    node.crash();
    let expected = [(1, 1), (2, 2), (5, 5), (6, 6)];
    assert_eq!(world.node().await.rows().await, expected);
}

/// Crashes a node during a flush and looks at its successor.
async fn crash_in_flush(after_commit: bool) {
    for world in [World::new(), World::on_objects()] {
        crash_in_flush_of(&world, after_commit).await;
    }
}

async fn crash_in_flush_of(world: &World, after_commit: bool) {
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2), (3, 3)]).await;
    node.flush().await;
    node.insert(P1, &[(4, 4)]).await;
    node.delete(&[1]).await;
    node.upsert(P2, &[(2, 22)]).await;
    let commits = world.played.commits.load(Ordering::SeqCst);
    let hold = if after_commit {
        &world.played.hold_after
    } else {
        &world.played.hold_before
    };
    hold.store(true, Ordering::SeqCst);
    let checkpoint = world.played.meta.lock().checkpoint.clone();
    let flushing = node.clone();
    let (_, ()) = futures::join!(flushing.try_flush(), async {
        eventually_true("the commit came", || {
            let committed = world.played.meta.lock().checkpoint != checkpoint;
            world.played.commits.load(Ordering::SeqCst) > commits && committed == after_commit
        })
        .await;
        node.insert(P1, &[(6, 6)]).await;
        node.delete(&[3]).await;
        node.crash();
    });
    hold.store(false, Ordering::SeqCst);
    let node = world.node().await;
    let expected = [(2, 22), (4, 4), (6, 6)];
    assert_eq!(node.rows().await, expected);
    assert_eq!(node.count().await, 3);
    node.flush().await;
    node.crash();
    assert_eq!(world.node().await.rows().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_commit_of_a_flush() {
    crash_in_flush(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_commit_of_a_flush_and_before_its_answer() {
    crash_in_flush(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_an_epoch_that_is_over_are_refused() {
    let world = World::new();
    let node = world.node().await;
    let stale = node.sync_request();
    node.insert(P1, &[(1, 1)]).await;
    world.played.change(|meta| meta.epoch += 1);
    node.sync_until_loaded().await;
    assert_eq!(
        node.rows().await,
        [(1, 1)],
        "the same node under a new epoch"
    );
    let refused = node
        .service
        .sync_channel(Request::new(stale.clone()))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), 507);
    let release = ReleaseChannelRequest {
        channel: CHANNEL.into(),
        epoch: stale.epoch,
        drop: true,
    };
    let refused = node
        .service
        .release_channel(Request::new(release))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), 507);
    assert_eq!(node.count().await, 1);
    // Given up and closed, the log itself knows.
    node.service.close().await;
    let refused = node
        .service
        .sync_channel(Request::new(stale))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), 507);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_given_up_is_taken_over_and_one_that_is_dropped_is_gone() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    let epoch = world.played.meta.lock().epoch;
    let release = |drop| ReleaseChannelRequest {
        channel: CHANNEL.into(),
        epoch,
        drop,
    };
    node.service
        .release_channel(Request::new(release(false)))
        .await
        .unwrap();
    assert_eq!(
        code(&node.try_query(node.query_request()).await.unwrap_err()),
        503
    );
    let other = world.node().await;
    assert_eq!(other.rows().await, [(1, 1)]);
    let epoch = world.played.meta.lock().epoch;
    let release = ReleaseChannelRequest {
        channel: CHANNEL.into(),
        epoch,
        drop: true,
    };
    other
        .service
        .release_channel(Request::new(release.clone()))
        .await
        .unwrap();
    other
        .service
        .release_channel(Request::new(release))
        .await
        .unwrap();
    assert!(
        world.node().await.rows().await.is_empty(),
        "the log is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_dropped_partition_are_gone_and_those_of_a_new_one_are_kept() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    node.insert(P2, &[(2, 2)]).await;
    node.flush().await;
    node.insert(P2, &[(3, 3)]).await;
    // Newer than anything that the node was told.
    node.insert(13, &[(4, 4)]).await;
    world.played.change(|meta| {
        meta.partitions = vec![P1, 13];
        meta.loaded = vec![P1, 13];
        meta.segments
            .retain(|_, segment| segment.partition_id != P2);
    });
    node.sync_until_loaded().await;
    assert_eq!(node.rows().await, [(1, 1), (4, 4)]);
    let refused = node
        .write(node.change(&[], P2, &[(9, 9)]))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), 200);
    node.crash();
    let node = world.node().await;
    assert_eq!(node.rows().await, [(1, 1), (4, 4)]);
    node.flush().await;
    node.crash();
    assert_eq!(world.node().await.rows().await, [(1, 1), (4, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_told_to_all_who_ask_for_the_channel_until_it_is_repaired() {
    let world = World::new();
    let node = world.node().await;
    for key in 0..10 {
        node.insert(P1, &[(key, key)]).await;
    }
    node.crash();
    let file = world.log_files().pop().unwrap();
    let sound = std::fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[200] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    world.played.change(|meta| meta.epoch += 1);
    let node = world.bare_node();
    let refused = node.sync().await.unwrap_err();
    assert_eq!(code(&refused), 1009);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(refused.message().contains(name), "{refused}");
    let read = node.try_query(node.query_request()).await.unwrap_err();
    let write = node.change(&[], P1, &[(99, 99)]);
    let written = node.write(write).await.unwrap_err();
    let flushed = node.try_flush().await.unwrap_err();
    for answer in [read, written, flushed] {
        assert_eq!(code(&answer), 1009);
        assert!(answer.message().contains(name), "{answer}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), damaged, "it was left alone");
    std::fs::write(&file, &sound).unwrap();
    node.sync_until_loaded().await;
    assert_eq!(node.count().await, 10);
}
