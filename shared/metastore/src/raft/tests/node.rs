//! One replica as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{PATIENCE, single};
use crate::error::Error;
use crate::kv::{MetaKv as _, Op, Txn, read_all};
use crate::raft::{Leadership, LogEngine, MetaNode, MetaNodeOptions};
use crate::testing;

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Op::put(key, value.to_owned()))
}

fn term(node: &MetaNode) -> u64 {
    match &*node.leadership().borrow() {
        Leadership::Leader { term } => *term,
        follower @ Leadership::Follower { .. } => panic!("expected to lead: {follower:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_on_sled() {
    passes_the_conformance_suite(LogEngine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_on_redb() {
    passes_the_conformance_suite(LogEngine::Redb).await;
}

async fn passes_the_conformance_suite(engine: LogEngine) {
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |options| options.engine = engine).await;
    testing::run_all(Arc::new(node.clone())).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_gone_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |options| options.history_batches = 50).await;
    testing::compacted_history_is_named(&node, 50).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_leads_in_a_new_term() {
    let dir = tempfile::tempdir().unwrap();
    let mut last_term = 0;
    let mut revision = None;
    for round in 0..4 {
        let (node, _tasks) = single(dir.path(), |options| {
            options.snapshot_every = 20;
            options.keep_entries = 5;
        })
        .await;
        assert!(term(&node) > last_term);
        last_term = term(&node);
        let (pairs, now) = read_all(&node, "").await.unwrap();
        assert_eq!(pairs.len(), round * 30);
        assert!(revision.is_none_or(|revision| revision == now));
        for i in 0..30 {
            node.txn(put(&format!("k/{round}/{i}"), "v")).await.unwrap();
        }
        revision = Some(read_all(&node, "").await.unwrap().1);
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_live_on_over_a_restart_and_then_end() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |_| {}).await;
    let lease = node.lease_grant(Duration::from_secs(5)).await.unwrap();
    let key = "session".to_owned();
    let txn = Txn::new().then(Op::Put {
        key,
        value: "x".into(),
        lease,
    });
    node.txn(txn).await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);

    let (node, _tasks) = single(dir.path(), |_| {}).await;
    let deadline = Instant::now() + PATIENCE;
    while node.get("session").await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the lease never ended");
        tokio::task::yield_now().await;
    }
    let error = node.lease_keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound { .. }), "{error:?}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |options| {
        options.snapshot_every = 100;
        options.keep_entries = 10;
    })
    .await;
    for i in 0..1_000 {
        node.txn(put(&format!("k/{}", i % 10), &i.to_string()))
            .await
            .unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = node.status().unwrap();
        if status.last_log - status.snapshot <= 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::task::yield_now().await;
    }
    node.snapshot_now().await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);
    let (node, _tasks) = single(dir.path(), |_| {}).await;
    let (pairs, _) = read_all(&node, "").await.unwrap();
    assert_eq!(pairs.len(), 10);
    assert_eq!(&pairs[9].value[..], b"999");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_node_or_without_its_entries_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (node, tasks) = single(dir.path(), |options| options.snapshot_every = 20).await;
    for i in 0..50 {
        node.txn(put("k", &i.to_string())).await.unwrap();
    }
    node.snapshot_now().await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);

    let pool = redkite_rpc::ChannelPool::new(redkite_rpc::RpcOptions::default());
    let other = MetaNodeOptions::single(2, dir.path(), "127.0.0.1:1");
    let error = MetaNode::open(other, pool.clone(), &tasks)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, Error::Corrupt { what } if what.contains("node 1")),
        "{error:?}"
    );

    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let same = MetaNodeOptions::single(1, dir.path(), "127.0.0.1:1");
    let error = MetaNode::open(same, pool, &tasks).await.err().unwrap();
    assert!(
        matches!(&error, Error::Corrupt { what } if what.contains("lost")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_syncs_of_the_disk() {
    const CALLERS: usize = 64;
    const EACH: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |_| {}).await;
    let before = node.status().unwrap().last_log;
    let node = &node;
    join_all((0..CALLERS).map(|caller| async move {
        for i in 0..EACH {
            node.txn(put(&format!("c/{caller}"), &i.to_string()))
                .await
                .unwrap();
        }
    }))
    .await;
    let entries = node.status().unwrap().last_log - before;
    assert!(entries <= (CALLERS * EACH / 4) as u64, "{entries} entries");
    let (pairs, _) = read_all(node, "c/").await.unwrap();
    assert_eq!(pairs.len(), CALLERS);
    assert!(pairs.iter().all(|pair| &pair.value[..] == b"19"));
    node.shutdown().await.unwrap();
}
