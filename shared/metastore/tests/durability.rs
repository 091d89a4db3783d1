//! What was answered survives the death of the process.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use redkite_metastore::{LogEngine, MetaKv as _, MetaNode, MetaNodeOptions, Op, Txn, read_all};
use redkite_rpc::{ChannelPool, RpcOptions};
use redkite_runtime::TaskGroup;

const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 4;
/// Set for the process that is killed; names its directory.
const DIR: &str = "REDKITE_TEST_KILLED_DIR";
/// Set for the process that is traced; names its directory.
const TRACED_DIR: &str = "REDKITE_TEST_TRACED_DIR";
/// Names the engine of either.
const ENGINE: &str = "REDKITE_TEST_ENGINE";
const TRACED_WRITES: usize = 100;

fn engine_of_this_process() -> LogEngine {
    match std::env::var(ENGINE).as_deref() {
        Ok("redb") => LogEngine::Redb,
        _ => LogEngine::Sled,
    }
}

async fn open(dir: &Path, engine: LogEngine, tasks: &TaskGroup) -> MetaNode {
    let mut options = MetaNodeOptions::single(1, dir, "127.0.0.1:1");
    options.engine = engine;
    // So that kills also fall into snapshots and purges.
    options.snapshot_every = 50;
    options.keep_entries = 10;
    let pool = ChannelPool::new(RpcOptions::default());
    let node = MetaNode::open(options, pool, tasks).await.unwrap();
    node.ready(PATIENCE).await.unwrap();
    node
}

/// Not a test of its own: what the process does that is killed. Each writer counts up a key of its
/// own and says so once that was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_process() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let tasks = TaskGroup::new("killed");
    let node = open(Path::new(&dir), engine_of_this_process(), &tasks).await;
    let node = &node;
    join_all((0..WRITERS).map(|writer| async move {
        let key = format!("count/{writer}");
        let current = node.get(&key).await.unwrap();
        let mut count: u64 = current.map_or(0, |pair| parse(&pair.value));
        loop {
            count += 1;
            // Of changing size, so that entries have one chunk or several.
            let padding = "p".repeat((count % 9) as usize * 1_000);
            let txn = Txn::new()
                .then(Op::put(key.clone(), count.to_string()))
                .then(Op::put(format!("pad/{writer}"), padding));
            node.txn(txn).await.unwrap();
            println!("acked {writer} {count}");
        }
    }))
    .await;
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_write_survives_kill_9_on_sled() {
    every_answered_write_survives_kill_9(LogEngine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_write_survives_kill_9_on_redb() {
    every_answered_write_survives_kill_9(LogEngine::Redb).await;
}

async fn every_answered_write_survives_kill_9(engine: LogEngine) {
    const KILLS: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let mut acked = [0; WRITERS as usize];
    for kill in 0..KILLS {
        // Each life a little longer: kills fall into the start, the first writes, and snapshots.
        write_and_kill(dir.path(), engine, 20 + kill * 60, &mut acked);

        let tasks = TaskGroup::new("check");
        let node = open(dir.path(), engine, &tasks).await;
        let (pairs, _) = read_all(&node, "count/").await.unwrap();
        assert_eq!(pairs.len(), acked.len());
        for (pair, acked) in pairs.iter().zip(acked) {
            let found = parse(&pair.value);
            assert!(
                found == acked || found == acked + 1,
                "{found}, but {acked} was answered"
            );
        }
        assert!(std::fs::read_dir(dir.path().join("log/blobs")).map_or(0, Iterator::count) == 0);
        for (pair, acked) in pairs.iter().zip(&mut acked) {
            *acked = parse(&pair.value);
        }
        node.shutdown().await.unwrap();
    }
}

/// Runs a process until `acks` writes were answered, kills it, and notes the last of each writer.
fn write_and_kill(dir: &Path, engine: LogEngine, acks: usize, acked: &mut [u64]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_process", "--nocapture"])
        .env(DIR, dir)
        .env(ENGINE, engine.name())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    for line in lines {
        let line = line.unwrap();
        // The test harness may have written the beginning of a line.
        let Some((_, rest)) = line.split_once("acked ") else {
            continue;
        };
        let (writer, count) = rest.split_once(' ').unwrap();
        let writer: usize = writer.parse().unwrap();
        acked[writer] = count.parse().unwrap();
        seen += 1;
        if seen == acks {
            // SIGKILL. What is in the pipe already was answered too, and is read to its end.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= acks, "the process ended after {seen} answers");
}

/// Not a test of its own: what the process does whose system calls are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traced_process() {
    let Some(dir) = std::env::var_os(TRACED_DIR) else {
        return;
    };
    let tasks = TaskGroup::new("traced");
    let node = open(Path::new(&dir), engine_of_this_process(), &tasks).await;
    for i in 0..TRACED_WRITES {
        node.txn(Txn::new().then(Op::put("k", i.to_string())))
            .await
            .unwrap();
    }
    node.shutdown().await.unwrap();
}

/// sled alone would pass every other test here without one sync of the device.
#[test]
fn the_kernel_sees_a_sync_of_sled_for_every_answered_write() {
    the_kernel_sees_a_sync_for_every_answered_write(LogEngine::Sled);
}

#[test]
fn the_kernel_sees_a_sync_of_redb_for_every_answered_write() {
    the_kernel_sees_a_sync_for_every_answered_write(LogEngine::Redb);
}

fn the_kernel_sees_a_sync_for_every_answered_write(engine: LogEngine) {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let traced = Command::new("strace")
        .args(["--follow-forks", "--trace=fdatasync", "--output"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "traced_process"])
        .env(TRACED_DIR, dir.path().join("node"))
        .env(ENGINE, engine.name())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let Ok(status) = traced else {
        println!("skipped: there is no strace here");
        return;
    };
    if !status.success() {
        println!("skipped: strace may not trace here");
        return;
    }
    let trace = std::fs::read_to_string(&trace).unwrap();
    let syncs = trace
        .lines()
        .filter(|line| line.contains("fdatasync(") && line.ends_with("= 0"));
    let syncs = syncs.count();
    assert!(
        syncs >= TRACED_WRITES,
        "{syncs} syncs for {TRACED_WRITES} writes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dropped_without_a_shutdown_keeps_everything() {
    for engine in [LogEngine::Sled, LogEngine::Redb] {
        drop_without_a_shutdown(engine).await;
    }
}

async fn drop_without_a_shutdown(engine: LogEngine) {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let tasks = TaskGroup::new("dropped");
        let node = open(dir.path(), engine, &tasks).await;
        assert_eq!(read_all(&node, "").await.unwrap().0.len(), round * 20);
        for i in 0..20 {
            node.txn(Txn::new().then(Op::put(format!("k/{round}/{i}"), "v")))
                .await
                .unwrap();
        }
        // As a crash: tasks are dropped where they stand, nothing is closed.
        tasks.abort();
        drop(node);
    }
}
