//! A disk cache on a full disk.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{path::Path, process::Command};

use bytes::Bytes;
use redkite_storage::{CacheOptions, cached, open};
use redkite_types::{Coded, ErrorCode};

/// A file system of one MiB, until this is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "redkite-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: this test may not mount a file system");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_fails_one_fetch_and_not_the_rest() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let store = open("memory://").unwrap();
    let half = 400 << 10;
    for key in ["a", "b", "c"] {
        let body = Bytes::from(vec![key.as_bytes()[0]; half]);
        store.put(key, body).await.unwrap();
    }
    store
        .put("large", Bytes::from(vec![0; 2 << 20]))
        .await
        .unwrap();
    // The limit does not know how small the disk is.
    let options = CacheOptions {
        dir: disk.path().join("cache"),
        size_bytes: 1 << 30,
    };
    let cache = cached(store.clone(), &options).await.unwrap();
    let first = cache.local_file("a").await.unwrap().unwrap();
    let second = cache.local_file("b").await.unwrap().unwrap();
    let full = cache.local_file("c").await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::DiskLimitExceeded, "{full}");
    assert_eq!(std::fs::read(first.path()).unwrap(), vec![b'a'; half]);
    assert_eq!(cache.get("c").await.unwrap().len(), half);
    // What nobody holds makes room.
    drop(second);
    let third = cache.local_file("c").await.unwrap().unwrap();
    assert_eq!(std::fs::read(third.path()).unwrap(), vec![b'c'; half]);
    // What never fits leaves nothing behind.
    drop((first, third));
    let full = cache.local_file("large").await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::DiskLimitExceeded, "{full}");
    cache.local_file("a").await.unwrap().unwrap();
}
