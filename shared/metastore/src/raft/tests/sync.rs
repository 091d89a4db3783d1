//! When the disk is synced, and what happens when it cannot be.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::join_all;
use redkite_rpc::{ChannelPool, RpcOptions};
use redkite_runtime::TaskGroup;
use redkite_types::Outcome;
use tempfile::TempDir;

use super::PATIENCE;
use crate::error::{Error, Result};
use crate::kv::{MetaKv as _, Op, Txn};
use crate::raft::disk::{LogDisk, LogOp};
use crate::raft::open::Opened;
use crate::raft::types::storage;
use crate::raft::{LogEngine, MetaNode, MetaNodeOptions};

/// Counts syncs, and fails them when told to.
struct Watched {
    disk: Arc<dyn LogDisk>,
    syncs: AtomicU64,
    broken: AtomicBool,
}

impl LogDisk for Watched {
    fn write(&self, ops: Vec<LogOp>) -> Result<()> {
        self.disk.write(ops)
    }

    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            return Err(storage(
                "sync",
                std::io::Error::other("no space left on the device"),
            ));
        }
        self.disk.sync()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.disk.read(range, max_bytes)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>> {
        self.disk.last()
    }

    fn runs(&self) -> Result<Vec<Range<u64>>> {
        self.disk.runs()
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.disk.get_meta(key)
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.disk.put_meta(key, value)
    }

    fn size_bytes(&self) -> Result<u64> {
        self.disk.size_bytes()
    }
}

async fn start(engine: LogEngine) -> (TempDir, Arc<Watched>, MetaNode, TaskGroup) {
    let dir = tempfile::tempdir().unwrap();
    let options = MetaNodeOptions::single(1, dir.path(), "127.0.0.1:1");
    let disk = Arc::new(Watched {
        disk: engine.open(&dir.path().join("log")).unwrap(),
        syncs: AtomicU64::new(0),
        broken: AtomicBool::new(false),
    });
    let tasks = TaskGroup::new("test");
    let pool = ChannelPool::new(RpcOptions::default());
    let opened = Opened::new(Arc::clone(&disk) as Arc<dyn LogDisk>, &options).unwrap();
    let node = MetaNode::start(opened, &options, pool, &tasks)
        .await
        .unwrap();
    node.ready(PATIENCE).await.unwrap();
    (dir, disk, node, tasks)
}

fn put(key: &str) -> Txn {
    Txn::new().then(Op::put(key, "v"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_stands_behind_a_sync_of_sled() {
    every_answer_stands_behind_a_sync(LogEngine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_stands_behind_a_sync_of_redb() {
    every_answer_stands_behind_a_sync(LogEngine::Redb).await;
}

async fn every_answer_stands_behind_a_sync(engine: LogEngine) {
    let (_dir, disk, node, _tasks) = start(engine).await;
    for i in 0..50 {
        let before = disk.syncs.load(Ordering::Relaxed);
        node.txn(put(&format!("k/{i}"))).await.unwrap();
        assert!(disk.syncs.load(Ordering::Relaxed) > before);
    }
    // Callers at the same time share them.
    let before = disk.syncs.load(Ordering::Relaxed);
    let keys: Vec<_> = (0..500).map(|i| format!("c/{i}")).collect();
    for answer in join_all(keys.iter().map(|key| node.txn(put(key)))).await {
        answer.unwrap();
    }
    let syncs = disk.syncs.load(Ordering::Relaxed) - before;
    assert!((1..=100).contains(&syncs), "{syncs} syncs");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_stops_the_process_and_is_never_tried_again() {
    let (_dir, disk, node, tasks) = start(LogEngine::Sled).await;
    node.txn(put("good")).await.unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    let error = node.txn(put("lost")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    let reason = tokio::time::timeout(PATIENCE, tasks.failed())
        .await
        .unwrap();
    assert!(reason.contains("no space left"), "{reason}");

    disk.broken.store(false, Ordering::Relaxed);
    let syncs = disk.syncs.load(Ordering::Relaxed);
    let error = node.txn(put("after")).await.unwrap_err();
    assert!(
        matches!(error, Error::NotLeader { .. } | Error::Unavailable { .. }),
        "{error:?}"
    );
    assert!(
        node.get("good").await.is_err(),
        "nothing is read from a node that failed"
    );
    assert_eq!(disk.syncs.load(Ordering::Relaxed), syncs);
}
