//! The raft log on sled 0.34, made durable.
//!
//! sled's `flush` hands pages to the kernel but calls no fsync on Linux, so [`SledDisk::sync`] adds
//! an `fdatasync` through a descriptor of its own: it is the inode that is synced, whoever wrote to
//! it. Large values would go to files of their own that are never synced; cutting entries into
//! chunks of at most 4 KiB keeps everything in the one file, and that the directory of such files
//! is empty is checked at each start. Damage that sled takes for the end of its file is found by
//! comparing with a mark of ours (see `mark`). sled is never asked for `flush_async`, which swallows errors.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::raft::disk::{LogDisk, LogOp, damaged, sync_dir};
use crate::raft::mark::Mark;
use crate::raft::types::storage;

pub(super) const FILE: &str = "db";

/// The most bytes that one value of the database has.
const CHUNK_BYTES: usize = 4 << 10;
/// The first chunk of an entry starts with the entry's length.
const LENGTH_BYTES: usize = 4;
const KEY_BYTES: usize = 10;
/// Disk space that is kept behind the end of the database's file, so that it can grow on a full
/// disk.
const RESERVE_BYTES: u64 = 8 << 20;
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
const CACHE_BYTES: u64 = 16 << 20;
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A [`LogDisk`] on sled.
pub struct SledDisk {
    db: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    /// Our own descriptor of the database's file, for `fdatasync`.
    file: File,
    mark: Mark,
    /// The index behind the last entry written.
    end: Mutex<u64>,
    dir: PathBuf,
}

impl SledDisk {
    /// Opens the database in `dir`, making both if need be.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the process must not start on it. [`Error::Storage`]: also when another
    /// process has it open.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |source| storage(format!("open the raft log in {}", dir.display()), source);
        fs::create_dir_all(dir).map_err(failed)?;
        let file_path = dir.join(FILE);
        let is_new = !file_path.try_exists().map_err(failed)?;
        remove_unfinished(dir).map_err(failed)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            // Its garbage collection runs in the flush thread only.
            .flush_every_ms(Some(500));
        let (db, log, meta) = open_database(&config, dir)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&file_path)
            .map_err(failed)?;
        let mark = Mark::open(&dir.join("mark")).map_err(failed)?;
        let end = Mutex::new(0);
        let disk = Self {
            db,
            log,
            meta,
            file,
            mark,
            end,
            dir: dir.to_owned(),
        };
        let end = disk.last_index()?.map_or(0, |last| last + 1);
        *disk.end.lock() = end;
        if end < disk.mark.end() {
            let what = format!(
                "it ends at entry {end}, but reached {} before",
                disk.mark.end()
            );
            return Err(damaged(dir, what));
        }
        if is_new {
            disk.sync()?;
            sync_dir(dir).map_err(failed)?;
            if let Some(parent) = dir.parent() {
                sync_dir(parent).map_err(failed)?;
            }
        }
        disk.check_blobs()?;
        disk.keep_reserve();
        Ok(disk)
    }

    /// Allocates space behind the end of the file where it has become short. The file's length stays
    /// as it is: sled takes it for the end of its history.
    fn keep_reserve(&self) {
        let Ok(stat) = self.file.metadata() else {
            return;
        };
        let behind = (stat.blocks() * BLOCK_BYTES).saturating_sub(stat.len());
        if behind >= RESERVE_BYTES / 2 {
            return;
        }
        // Without it the log is as sound. A full disk leaves what there was before.
        let _ = rustix::fs::fallocate(
            &self.file,
            rustix::fs::FallocateFlags::KEEP_SIZE,
            stat.len(),
            RESERVE_BYTES,
        );
    }

    /// Refuses a database with values in files of their own: those were never synced.
    fn check_blobs(&self) -> Result<()> {
        let blobs = self.dir.join("blobs");
        let failed = |source| storage(format!("list {}", blobs.display()), source);
        match fs::read_dir(&blobs) {
            Ok(mut files) => match files.next() {
                None => Ok(()),
                Some(_) => Err(damaged(&self.dir, "values lie outside the synced file")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn last_index(&self) -> Result<Option<u64>> {
        let last = self
            .log
            .last()
            .map_err(|error| self.failed("read the raft log", error))?;
        let Some((at, _)) = last else { return Ok(None) };
        let key = parse_key(&at).ok_or_else(|| damaged(&self.dir, "a key is malformed"))?;
        Ok(Some(key.0))
    }

    /// Writes an entry that fits one value, which is atomic by itself. sled writes a batch in two pieces,
    /// one after the other, and waits for the device behind each.
    fn write_small(&self, index: u64, bytes: &[u8]) -> Result<()> {
        let mut known_end = self.end.lock();
        let end = (*known_end).max(index + 1);
        self.mark
            .lower(end)
            .map_err(|error| self.mark_failed(error))?;
        let length = u32::try_from(bytes.len()).map_err(|_| too_large(bytes))?;
        let value = [&length.to_le_bytes()[..], bytes].concat();
        self.log
            .insert(key(index, 0), value)
            .map_err(|error| self.failed("write the raft log", error))?;
        *known_end = end;
        Ok(())
    }

    fn mark_failed(&self, source: std::io::Error) -> Error {
        storage(format!("write the mark in {}", self.dir.display()), source)
    }

    fn failed(&self, what: &str, error: sled::Error) -> Error {
        failure(what, &self.dir, error)
    }

    /// Walks entries in order until `visit` says stop.
    fn walk(&self, range: Range<u64>, mut visit: impl FnMut(u64, Vec<u8>) -> bool) -> Result<()> {
        let mut open: Option<OpenEntry> = None;
        for item in self.log.range(key(range.start, 0)..key(range.end, 0)) {
            let (at, chunk) = item.map_err(|error| self.failed("read the raft log", error))?;
            let (index, number) =
                parse_key(&at).ok_or_else(|| damaged(&self.dir, "a key is malformed"))?;
            let entry = match open.take() {
                None if number == 0 => OpenEntry::start(index, &chunk),
                Some(entry) => entry.add(index, number, &chunk),
                None => None,
            };
            let entry =
                entry.ok_or_else(|| damaged(&self.dir, format!("entry {index} is torn")))?;
            if !entry.is_complete() {
                open = Some(entry);
            } else if !visit(index, entry.bytes) {
                return Ok(());
            }
        }
        match open {
            None => Ok(()),
            Some(entry) => Err(damaged(&self.dir, format!("entry {} is torn", entry.index))),
        }
    }
}

impl LogDisk for SledDisk {
    fn write(&self, ops: Vec<LogOp>) -> Result<()> {
        if let [LogOp::Put { index, bytes }] = &ops[..]
            && bytes.len() <= CHUNK_BYTES - LENGTH_BYTES
        {
            return self.write_small(*index, bytes);
        }
        let mut batch = sled::Batch::default();
        let mut known_end = self.end.lock();
        let mut end = *known_end;
        for op in ops {
            match op {
                LogOp::Put { index, bytes } => {
                    put_chunks(&mut batch, index, &bytes)?;
                    end = end.max(index + 1);
                }
                LogOp::Remove { range } => {
                    for at in self
                        .log
                        .range(key(range.start, 0)..key(range.end, 0))
                        .keys()
                    {
                        batch.remove(at.map_err(|error| self.failed("read the raft log", error))?);
                    }
                    if range.end >= end {
                        end = end.min(range.start);
                    }
                }
            }
        }
        self.mark
            .lower(end)
            .map_err(|error| self.mark_failed(error))?;
        self.log
            .apply_batch(batch)
            .map_err(|error| self.failed("write the raft log", error))?;
        *known_end = end;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        // Taken before: what is written meanwhile may not be durable when this returns.
        let end = *self.end.lock();
        self.db
            .flush()
            .map_err(|error| self.failed("flush the raft log", error))?;
        self.file.sync_data().map_err(|source| {
            storage(
                format!("sync the raft log in {}", self.dir.display()),
                source,
            )
        })?;
        self.keep_reserve();
        self.mark
            .raise(end)
            .map_err(|error| self.mark_failed(error))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let (mut entries, mut total) = (Vec::new(), 0);
        self.walk(range, |index, bytes| {
            total += bytes.len();
            entries.push((index, bytes));
            total <= max_bytes
        })?;
        Ok(entries)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>> {
        match self.last_index()? {
            Some(index) => Ok(self.read(index..index + 1, usize::MAX)?.pop()),
            None => Ok(None),
        }
    }

    fn runs(&self) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for at in self.log.iter().keys() {
            let at = at.map_err(|error| self.failed("read the raft log", error))?;
            let (index, _) =
                parse_key(&at).ok_or_else(|| damaged(&self.dir, "a key is malformed"))?;
            match runs.last_mut() {
                Some(run) if run.end == index + 1 => {}
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        Ok(runs)
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let value = self
            .meta
            .get(key)
            .map_err(|error| self.failed("read the raft log", error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        debug_assert!(value.len() <= CHUNK_BYTES, "a small value by contract");
        let written = self.meta.insert(key, value);
        written
            .map(drop)
            .map_err(|error| self.failed("write the raft log", error))
    }

    fn size_bytes(&self) -> Result<u64> {
        self.db
            .size_on_disk()
            .map_err(|error| self.failed("measure the raft log", error))
    }
}

/// Removes what a start has left that was killed, or ran out of space, while sled summed up its file:
/// sled takes the unfinished summary for its newest one and refuses to open. The one before it is only
/// removed once a new one is whole, and without any, sled reads its whole file.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "generating")
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

pub(super) type Opened = (sled::Db, sled::Tree, sled::Tree);

/// Opens the database, waiting a little for an earlier owner to let go of it: threads of sled hold
/// its lock for a moment after it was closed, and so does the kernel for a process that was killed.
pub(super) fn open_database(config: &sled::Config, dir: &Path) -> Result<Opened> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        // On some damage sled panics instead of returning an error.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = config.open()?;
            let (log, meta) = (db.open_tree("log")?, db.open_tree("meta")?);
            Ok((db, log, meta))
        }));
        match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::park_timeout(LOCK_RETRY);
            }
            Ok(Err(error)) => return Err(failure("open the raft log", dir, error)),
            Err(_) => return Err(damaged(dir, "the database cannot be opened")),
        }
    }
}

/// sled has no error of its own for a database that is open elsewhere.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("acquire lock"))
}

/// An entry of which not all chunks were read yet.
struct OpenEntry {
    index: u64,
    length: usize,
    chunks: u16,
    bytes: Vec<u8>,
}

impl OpenEntry {
    fn start(index: u64, chunk: &[u8]) -> Option<Self> {
        let (length, start) = chunk.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        (start.len() <= length).then(|| Self {
            index,
            length,
            chunks: 1,
            bytes: start.to_vec(),
        })
    }

    fn add(mut self, index: u64, number: u16, chunk: &[u8]) -> Option<Self> {
        let fits = self.bytes.len() + chunk.len() <= self.length;
        if index != self.index || number != self.chunks || !fits {
            return None;
        }
        self.chunks += 1;
        self.bytes.extend_from_slice(chunk);
        Some(self)
    }

    fn is_complete(&self) -> bool {
        self.bytes.len() == self.length
    }
}

fn put_chunks(batch: &mut sled::Batch, index: u64, bytes: &[u8]) -> Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| too_large(bytes))?;
    let (start, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - LENGTH_BYTES));
    let first = [&length.to_le_bytes()[..], start].concat();
    batch.insert(&key(index, 0), first);
    for (number, chunk) in (1_usize..).zip(rest.chunks(CHUNK_BYTES)) {
        let number = u16::try_from(number).map_err(|_| too_large(bytes))?;
        batch.insert(&key(index, number), chunk);
    }
    Ok(())
}

fn too_large(bytes: &[u8]) -> Error {
    Error::Invalid {
        what: format!("a log entry has {} bytes", bytes.len()),
    }
}

/// Big-endian, so that the database's order is the log's.
fn key(index: u64, chunk: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(u64, u16)> {
    let (index, chunk) = key.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*index),
        u16::from_be_bytes(chunk.try_into().ok()?),
    ))
}

fn failure(what: &str, dir: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } => damaged(dir, error.to_string()),
        error => storage(format!("{what} in {}", dir.display()), error),
    }
}
