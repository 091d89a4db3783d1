//! A stopped replica's disk, read without changing it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::single;
use crate::kv::{KeyValue, MetaKv as _, Op, Txn, read_all};
use crate::raft::{Offline, read_offline};

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A replica that has written a snapshot and more behind it, and what it holds.
async fn stopped(dir: &Path) -> Vec<KeyValue> {
    let (node, _tasks) = single(dir, |options| {
        options.snapshot_every = 60;
        options.keep_entries = 20;
    })
    .await;
    for i in 0..150 {
        let value = vec![i as u8; 500];
        let txn = Txn::new().then(Op::put(format!("k/{i:03}"), value));
        node.txn(txn).await.unwrap();
    }
    // The snapshot is written beside the writes.
    redkite_runtime::testing::eventually_true("a snapshot", || {
        dir.join("snapshot/snapshot").is_file()
    })
    .await;
    let (pairs, _) = read_all(&node, "").await.unwrap();
    node.shutdown().await.unwrap();
    pairs
}

/// Lets sled let go of its files, which it does a moment after the replica has stopped.
async fn healthy(dir: &Path) -> Offline {
    redkite_runtime::testing::eventually("a clean disk", super::PATIENCE, || async {
        let found = read_offline(dir).ok()?;
        (found.damage.is_empty() && found.pairs.is_some()).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_replica_is_read_whole_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = stopped(dir.path()).await;
    healthy(dir.path()).await;
    let before = files(dir.path());
    let found = healthy(dir.path()).await;
    assert_eq!(found.pairs.unwrap(), pairs);
    assert_eq!(found.revision, pairs.last().unwrap().revision);
    assert!(found.entries > 0);
    assert!(files(dir.path()) == before, "reading has changed a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_reported_or_was_in_bytes_that_nobody_reads() {
    let seed = redkite_runtime::testing::test_seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let pairs = stopped(dir.path()).await;
    healthy(dir.path()).await;
    let originals = files(dir.path());
    let mut reported = 0;
    for (path, original) in &originals {
        let is_snapshot = path.ends_with("snapshot/snapshot");
        for _ in 0..20 {
            let mut bytes = original.clone();
            if bytes.is_empty() {
                continue;
            }
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            fs::write(path, &bytes).unwrap();
            let found = read_offline(dir.path()).unwrap();
            let name = path.display();
            if found.damage.is_empty() {
                assert!(!is_snapshot, "byte {at} of {name} was not checked");
                assert_eq!(found.pairs.as_ref(), Some(&pairs), "byte {at} of {name}");
            } else {
                reported += 1;
            }
            if is_snapshot {
                assert!(found.damage.iter().any(|damage| damage.file == *path));
                assert!(found.pairs.is_none());
            }
        }
        fs::write(path, original).unwrap();
    }
    assert!(reported >= 20, "only {reported} flips were noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_in_every_copy_of_an_entry_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path()).await;
    healthy(dir.path()).await;
    let path = dir.path().join("log/db");
    let mut bytes = fs::read(&path).unwrap();
    // Of the last entries, which no snapshot has replaced. sled keeps older copies of its pages, so
    // every one is changed: one of them is the one that is read.
    let mut copies = 0;
    for at in 0..bytes.len() - 5 {
        if &bytes[at..at + 5] == b"k/149" {
            bytes[at + 2] ^= 1;
            copies += 1;
        }
    }
    assert!(copies > 0);
    fs::write(&path, bytes).unwrap();
    let found = read_offline(dir.path()).unwrap();
    assert!(
        found.damage.iter().any(|damage| damage.file == path),
        "{found:?}"
    );
}
