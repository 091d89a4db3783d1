//! What every engine of the raft log must do, and what it does with damaged files.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redkite_runtime::testing::test_seed;

use super::{PATIENCE, single};
use crate::error::{Error, Result};
use crate::kv::{KeyValue, MetaKv as _, Op, Txn, read_all};
use crate::raft::disk::{LogDisk, LogOp};
use crate::raft::{LogEngine, MetaNode, MetaNodeOptions};

const ENGINES: [LogEngine; 2] = [LogEngine::Sled, LogEngine::Redb];

fn put(index: u64, length: usize) -> LogOp {
    let bytes = (0..length).map(|i| (i as u64 ^ index) as u8).collect();
    LogOp::Put { index, bytes }
}

fn indexes(disk: &dyn LogDisk, from: u64, max_bytes: usize) -> Vec<u64> {
    let read = disk.read(from..u64::MAX, max_bytes).unwrap();
    read.into_iter().map(|(index, _)| index).collect()
}

#[test]
fn entries_and_values_come_back_and_go() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        let disk = engine.open(dir.path()).unwrap();
        assert!(disk.last().unwrap().is_none() && disk.runs().unwrap().is_empty());
        let lengths = [0, 1, 5_000, 70_000, 2_000_000];
        for (index, length) in (10..).zip(lengths) {
            disk.write(vec![put(index, length)]).unwrap();
        }
        disk.put_meta("vote", b"first").unwrap();
        disk.put_meta("vote", b"second").unwrap();
        disk.sync().unwrap();
        drop(disk);
        let disk = engine.open(dir.path()).unwrap();
        for (index, bytes) in disk.read(0..u64::MAX, usize::MAX).unwrap() {
            let LogOp::Put { bytes: written, .. } = put(index, bytes.len()) else {
                unreachable!("it is a put")
            };
            assert!(bytes == written, "{engine:?}: entry {index}");
        }
        assert_eq!(indexes(disk.as_ref(), 0, usize::MAX), [10, 11, 12, 13, 14]);
        assert_eq!(indexes(disk.as_ref(), 11, 5_001), [11, 12, 13]);
        assert_eq!(indexes(disk.as_ref(), 14, 0), [14]);
        assert_eq!(disk.get_meta("vote").unwrap().unwrap(), b"second");
        assert!(disk.get_meta("other").unwrap().is_none());
        let ends = [0..11, 13..u64::MAX].map(|range| LogOp::Remove { range });
        disk.write(ends.to_vec()).unwrap();
        assert!(disk.runs().unwrap().into_iter().eq(std::iter::once(11..13)));
        assert_eq!(disk.last().unwrap().unwrap().0, 12);
        // Entries that were taken back and written again are no damage.
        disk.sync().unwrap();
        drop(disk);
        let disk = engine.open(dir.path()).unwrap();
        assert_eq!(indexes(disk.as_ref(), 0, usize::MAX), [11, 12]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_stays_with_the_engine_that_made_it() {
    for (made_with, other) in [
        (LogEngine::Sled, LogEngine::Redb),
        (LogEngine::Redb, LogEngine::Sled),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (node, _tasks) = single(dir.path(), |options| options.engine = made_with).await;
        node.shutdown().await.unwrap();
        drop(node);
        let error = refused(dir.path(), other).await;
        let what = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }), "{what}");
        assert!(what.contains("metastore.engine"), "{what}");
        assert!(
            what.contains(&format!("made with {}", made_with.name())),
            "{what}"
        );
        let (node, _tasks) = single(dir.path(), |options| options.engine = made_with).await;
        node.shutdown().await.unwrap();
    }
}

async fn refused(dir: &Path, engine: LogEngine) -> Error {
    match open(dir, engine).await {
        Ok(_) => panic!("{engine:?} was opened"),
        Err(error) => error,
    }
}

async fn open(dir: &Path, engine: LogEngine) -> Result<MetaNode> {
    let mut options = MetaNodeOptions::single(1, dir, "127.0.0.1:1");
    options.engine = engine;
    let tasks = redkite_runtime::TaskGroup::new("test");
    let pool = redkite_rpc::ChannelPool::new(redkite_rpc::RpcOptions::default());
    let node = MetaNode::open(options, pool, &tasks).await?;
    node.ready(PATIENCE).await?;
    Ok(node)
}

/// A replica without a snapshot, and what it holds.
async fn written(dir: &Path, engine: LogEngine) -> Vec<KeyValue> {
    let (node, _tasks) = single(dir, |options| options.engine = engine).await;
    for i in 0..120 {
        let txn = Txn::new().then(Op::put(format!("k/{i:03}"), vec![i as u8; 1_500]));
        node.txn(txn).await.unwrap();
    }
    let (pairs, _) = read_all(&node, "").await.unwrap();
    node.shutdown().await.unwrap();
    pairs
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a start on a damaged copy comes to: it must show all, or refuse with what to do.
async fn start_on(original: &Path, engine: LogEngine, damage: impl FnOnce(&Path)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    copy(original, dir.path());
    let file: PathBuf = dir.path().join("log").join(engine.file());
    damage(&file);
    let started = open(dir.path(), engine).await;
    let error = match started {
        Ok(node) => {
            let (pairs, _) = read_all(&node, "").await.unwrap();
            assert_eq!(
                pairs.len(),
                120,
                "{engine:?}: it started with less than was answered"
            );
            node.shutdown().await.unwrap();
            return false;
        }
        Err(error) => error,
    };
    let what = redkite_types::error::chain(&error);
    assert!(
        matches!(error, Error::Corrupt { .. }),
        "{engine:?}: {error:?}"
    );
    assert!(what.contains("log"), "{what}");
    assert!(
        what.contains("new node id") && what.contains("backup"),
        "{what}"
    );
    true
}

async fn damaged_files(engine: LogEngine) {
    let mut rng = StdRng::seed_from_u64(test_seed());
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), engine).await;
    let file = dir.path().join("log").join(engine.file());
    // sled lets go of its file a moment after it was closed.
    redkite_runtime::testing::eventually_true("a log that is closed", || {
        engine.open(&dir.path().join("log")).is_ok()
    })
    .await;
    let length = fs::metadata(&file).unwrap().len();
    let mut refused = 0;
    for _ in 0..12 {
        let (at, bit) = (rng.random_range(0..length), rng.random_range(0..8));
        let flip = |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 1 << bit;
            fs::write(path, bytes).unwrap();
        };
        refused += u32::from(start_on(dir.path(), engine, flip).await);
    }
    println!("{engine:?}: {refused} of 12 flips refused, the others in bytes that nobody reads");
    // The file ends early.
    for share in [1, 4, 7] {
        let cut = |path: &Path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(length * share / 8).unwrap();
        };
        let noticed = start_on(dir.path(), engine, cut).await;
        assert!(noticed || share == 7, "{engine:?}: {share}/8 of the file");
    }
    // An entry is changed wherever it is: in every place where its bytes are.
    let change = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let places = bytes.windows(5).enumerate();
        let places = places
            .filter(|(_, text)| text == b"k/060")
            .map(|(at, _)| at);
        let places: Vec<_> = places.collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at + 4] ^= 1;
        }
        fs::write(path, bytes).unwrap();
    };
    assert!(start_on(dir.path(), engine, change).await, "{engine:?}");
    // The file is gone, but not what stands beside it.
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    assert!(start_on(dir.path(), engine, remove).await, "{engine:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sled_is_refused_or_whole() {
    damaged_files(LogEngine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_redb_is_refused_or_whole() {
    damaged_files(LogEngine::Redb).await;
}

/// A crash may leave any of the pages that were written since the last sync, and none of it was
/// answered.
#[test]
fn a_torn_write_that_was_not_answered_is_no_damage() {
    const PAGE: usize = 4096;
    let mut rng = StdRng::seed_from_u64(test_seed());
    for engine in ENGINES {
        for _ in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let (log, crashed) = (dir.path().join("log"), dir.path().join("crashed"));
            let disk = engine.open(&log).unwrap();
            for index in 0..50 {
                disk.write(vec![put(index, 3_000)]).unwrap();
            }
            disk.sync().unwrap();
            copy(&log, &crashed);
            for index in 50..80 {
                disk.write(vec![put(index, 3_000)]).unwrap();
            }
            disk.sync().unwrap();
            let before = fs::read(crashed.join(engine.file())).unwrap();
            let mut torn = fs::read(log.join(engine.file())).unwrap();
            // Of an append, a beginning; of a file that is written in place, any pages.
            let kept = rng.random_range(0..torn.len() / PAGE);
            for (number, page) in torn.chunks_mut(PAGE).enumerate() {
                let is_kept = match engine {
                    LogEngine::Sled => number <= kept,
                    LogEngine::Redb => rng.random(),
                };
                if !is_kept {
                    let old = before.get(number * PAGE..).unwrap_or_default();
                    let old = &old[..old.len().min(page.len())];
                    page.fill(0);
                    page[..old.len()].copy_from_slice(old);
                }
            }
            fs::write(crashed.join(engine.file()), torn).unwrap();
            drop(disk);
            let disk = engine.open(&crashed).unwrap();
            let found = indexes(disk.as_ref(), 0, usize::MAX);
            assert!(found.len() >= 50, "{engine:?}: {found:?}");
            assert!(found.iter().copied().eq(0..found.len() as u64));
        }
    }
}

/// Commands in groups, as concurrent callers make them.
async fn a_million_writes(engine: LogEngine) {
    const ENTRIES: u64 = 1_000;
    const GROUP: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let (node, _tasks) = single(dir.path(), |options| {
        options.engine = engine;
        options.snapshot_every = 50;
        options.keep_entries = 10;
    })
    .await;
    let value = bytes::Bytes::from(vec![7; 16]);
    let (mut early, mut late) = (0, 0);
    for entry in 0..ENTRIES {
        let mut txn = Txn::new();
        for i in 0..GROUP {
            txn = txn.then(Op::put(format!("k/{i}"), value.clone()));
        }
        node.txn(txn).await.unwrap();
        let bytes = node.status().unwrap().log_bytes;
        match entry < ENTRIES / 4 {
            true => early = early.max(bytes),
            false => late = late.max(bytes),
        }
    }
    println!("{engine:?}: at most {early} bytes in the first quarter, {late} behind it");
    assert!(
        late <= early * 2,
        "{engine:?}: {early} bytes grew to {late}"
    );
    let snapshot = fs::metadata(dir.path().join("snapshot/snapshot")).unwrap();
    assert!(snapshot.len() < 200 * GROUP, "{}", snapshot.len());
    let purged = node.inner.log.purged().unwrap().unwrap().index;
    assert!(purged > ENTRIES / 2, "purged to {purged} only");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_writes_leave_sled_as_large_as_it_was() {
    a_million_writes(LogEngine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_writes_leave_redb_as_large_as_it_was() {
    a_million_writes(LogEngine::Redb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused() {
    let mut rng = StdRng::seed_from_u64(test_seed());
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), LogEngine::Redb).await;
    let (node, _tasks) = single(dir.path(), |options| options.engine = LogEngine::Redb).await;
    node.snapshot_now().await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);
    let path = dir.path().join("snapshot/snapshot");
    let original = fs::read(&path).unwrap();
    for round in 0..20 {
        let at = rng.random_range(0..original.len());
        let mut bytes = original.clone();
        match round % 2 {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.truncate(at),
        }
        fs::write(&path, bytes).unwrap();
        let error = refused(dir.path(), LogEngine::Redb).await;
        let what = error.to_string();
        assert!(matches!(error, Error::Corrupt { .. }), "byte {at}: {what}");
        assert!(what.contains("the snapshot in"), "{what}");
        assert!(what.contains("new node id"), "{what}");
    }
}
