//! What sled is asked for and what it leaves behind.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use crate::error::Error;
use crate::raft::disk::{LogDisk, LogOp};
use crate::raft::disk_sled::{SledDisk, open_database};
use crate::raft::snapshot::SnapshotDir;

fn put(index: u64, length: usize) -> LogOp {
    let bytes = (0..length).map(|i| (i as u64 ^ index) as u8).collect();
    LogOp::Put { index, bytes }
}

fn bytes_of(op: &LogOp) -> (u64, Vec<u8>) {
    match op {
        LogOp::Put { index, bytes } => (*index, bytes.clone()),
        LogOp::Remove { .. } => unreachable!("only puts are compared"),
    }
}

#[test]
fn entries_of_every_size_come_back_from_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let lengths = [
        0,
        1,
        4091,
        4092,
        4093,
        4096,
        8188,
        8189,
        70_000,
        1_000_000,
        8 << 20,
    ];
    let puts: Vec<_> = (10..)
        .zip(lengths)
        .map(|(index, length)| put(index, length))
        .collect();
    let expected: Vec<_> = puts.iter().map(bytes_of).collect();
    let disk = SledDisk::open(dir.path()).unwrap();
    for put in puts {
        disk.write(vec![put]).unwrap();
    }
    disk.sync().unwrap();
    assert_eq!(disk.read(0..u64::MAX, usize::MAX).unwrap(), expected);
    drop(disk);

    // A reopening also checks that no value lies in a file of its own.
    let disk = SledDisk::open(dir.path()).unwrap();
    assert_eq!(disk.read(0..u64::MAX, usize::MAX).unwrap(), expected);
    assert_eq!(disk.last().unwrap().as_ref(), expected.last());
    assert!(disk.runs().unwrap().into_iter().eq(std::iter::once(10..21)));
    // A read ends behind the entry with which it exceeds its size, and has at least one.
    let few = disk.read(10..u64::MAX, 5_000).unwrap();
    assert_eq!(
        few.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [10, 11, 12, 13]
    );
    assert_eq!(disk.read(20..21, 0).unwrap().len(), 1);
    disk.write(vec![
        LogOp::Remove { range: 0..15 },
        LogOp::Remove {
            range: 19..u64::MAX,
        },
    ])
    .unwrap();
    assert_eq!(disk.read(0..u64::MAX, usize::MAX).unwrap(), expected[5..9]);
    assert_eq!(blob_files(dir.path()), 0);
}

#[test]
fn many_large_values_make_no_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(dir.path()).unwrap();
    for index in 0..400 {
        disk.write(vec![put(index, 16 << 10)]).unwrap();
    }
    disk.sync().unwrap();
    assert_eq!(blob_files(dir.path()), 0);
}

fn blob_files(dir: &std::path::Path) -> usize {
    fs::read_dir(dir.join("blobs")).map_or(0, Iterator::count)
}

#[test]
fn a_log_with_values_outside_the_synced_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledDisk::open(dir.path()).unwrap());
    fs::create_dir_all(dir.path().join("blobs")).unwrap();
    fs::write(dir.path().join("blobs/17"), b"x").unwrap();
    let error = SledDisk::open(dir.path()).err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_torn_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(dir.path()).unwrap();
    disk.write(vec![put(1, 10_000), put(2, 10)]).unwrap();
    drop(disk);
    // A thread of sled's may hold the lock for a moment longer than its handles live.
    let config = sled::Config::new().path(dir.path());
    let (db, log, meta) = open_database(&config, dir.path()).unwrap();
    let second_chunk = log.iter().keys().nth(1).unwrap().unwrap();
    log.remove(second_chunk).unwrap();
    drop((db, log, meta));
    let disk = SledDisk::open(dir.path()).unwrap();
    let error = disk.read(0..9, usize::MAX).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { what } if what.contains("entry 1")),
        "{error:?}"
    );
}

#[test]
fn a_damaged_file_is_never_taken_for_a_shorter_log_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(dir.path()).unwrap();
    for index in 0..300 {
        disk.write(vec![put(index, 2_000)]).unwrap();
    }
    disk.sync().unwrap();
    drop(disk);
    // sled keeps a copy of its page table, and reads the rest of its file only when asked.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("db"))
        .unwrap();
    let length = file.metadata().unwrap().len();
    for offset in (4096..length).step_by(8192) {
        file.write_all_at(&[0x5a; 64], offset).unwrap();
    }
    let read = SledDisk::open(dir.path()).and_then(|disk| disk.read(0..300, usize::MAX));
    match read {
        Err(Error::Corrupt { what }) => assert!(what.contains("new node id"), "{what}"),
        Err(error) => panic!("{error:?}"),
        Ok(entries) => panic!("{} entries were read from a damaged file", entries.len()),
    }
}

/// Bytes that a file takes on the disk beyond its length.
fn reserved(path: &std::path::Path) -> u64 {
    let stat = fs::metadata(path).unwrap();
    (stat.blocks() * 512).saturating_sub(stat.len())
}

#[test]
fn space_is_held_in_reserve_for_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let probe = fs::File::create(dir.path().join("probe")).unwrap();
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(&probe, keep, 0, 4096).is_err() {
        println!("skipped: this file system cannot hold space");
        return;
    }
    let log = dir.path().join("log");
    let disk = SledDisk::open(&log).unwrap();
    for index in 1..=40 {
        disk.write(vec![put(index, 500_000)]).unwrap();
        disk.sync().unwrap();
        assert!(reserved(&log.join("db")) >= 2 << 20, "after entry {index}");
    }
    drop(disk);
    let disk = SledDisk::open(&log).unwrap();
    assert_eq!(
        disk.last().unwrap().unwrap().0,
        40,
        "the file's end is sled's"
    );
    drop(disk);
    let snapshot = dir.path().join("snapshot");
    for _ in 0..2 {
        let (_, found) = SnapshotDir::open(&snapshot).unwrap();
        assert!(found.is_none());
        assert!(reserved(&snapshot.join("reserve")) >= 1 << 20);
    }
}

#[test]
fn a_start_that_was_killed_half_way_leaves_nothing_that_stops_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(dir.path()).unwrap();
    disk.write(vec![put(1, 100)]).unwrap();
    disk.sync().unwrap();
    drop(disk);
    for content in [&b""[..], &[7; 300]] {
        let unfinished = dir.path().join("snap.FFFFFFFFFFFFFFF0.generating");
        fs::write(&unfinished, content).unwrap();
        let disk = SledDisk::open(dir.path()).unwrap();
        assert_eq!(disk.last().unwrap().unwrap().0, 1);
        assert!(!unfinished.exists());
    }
}
