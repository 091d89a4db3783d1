//! The snapshot file: the state as of a log entry, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::codec::corrupt;
use crate::error::Result;
use crate::raft::disk::sync_dir;
use crate::raft::types::{SnapshotMeta, frame, storage, unframe};

/// Magic number and version of the file.
const MAGIC: [u8; 5] = *b"RKSF\x01";
pub(super) const NAME: &str = "snapshot";
const TEMPORARY: &str = "snapshot.tmp";
/// Holds space for the next snapshot, so that it can be written on a full disk.
const RESERVE: &str = "reserve";
const LEAST_RESERVE_BYTES: u64 = 1 << 20;

fn is_full(result: &io::Result<()>) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    result
        .as_ref()
        .is_err_and(|error| full.contains(&error.kind()))
}

/// The directory with the node's one snapshot; clones share it.
#[derive(Clone)]
pub(super) struct SnapshotDir {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    /// Held while the file is replaced.
    current: Mutex<Option<SnapshotMeta>>,
}

impl SnapshotDir {
    /// Opens the directory, making it if need be; the snapshot in it comes along.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`], [`crate::Error::Storage`].
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<(SnapshotMeta, Bytes)>)> {
        let failed = |source| storage(format!("open {}", dir.display()), source);
        fs::create_dir_all(dir).map_err(failed)?;
        match fs::remove_file(dir.join(TEMPORARY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let current = Mutex::default();
        let opened = Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                current,
            }),
        };
        let snapshot = opened.load()?;
        let bytes = snapshot.as_ref().map_or(0, |(_, state)| state.len() as u64);
        opened.keep_reserve(bytes * 2);
        *opened.inner.current.lock() = snapshot.as_ref().map(|(meta, _)| meta.clone());
        Ok((opened, snapshot))
    }

    /// Reads the snapshot; blocks.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`], [`crate::Error::Storage`].
    pub(super) fn load(&self) -> Result<Option<(SnapshotMeta, Bytes)>> {
        read(&self.inner.dir)
    }

    /// Replaces the snapshot, durably, unless the one there is newer; blocks.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub(super) fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<()> {
        let mut current = self.inner.current.lock();
        // A build that was overtaken by the leader's snapshot must not bring the older one back.
        if current
            .as_ref()
            .is_some_and(|current| current.last_log_id > meta.last_log_id)
        {
            return Ok(());
        }
        let dir = &self.inner.dir;
        let head = frame(meta)?;
        let write = || {
            let mut file = File::create(dir.join(TEMPORARY))?;
            file.write_all(&MAGIC)?;
            let length = u32::try_from(head.len()).map_err(std::io::Error::other)?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&head)?;
            file.write_all(state)?;
            file.sync_all()?;
            drop(file);
            fs::rename(dir.join(TEMPORARY), dir.join(NAME))?;
            sync_dir(dir)
        };
        let mut replaced = write();
        if is_full(&replaced) && fs::remove_file(dir.join(RESERVE)).is_ok() {
            replaced = write();
        }
        if replaced.is_err() {
            // It is removed at the next start otherwise.
            let _ = fs::remove_file(dir.join(TEMPORARY));
        }
        self.keep_reserve(state.len() as u64 * 2);
        replaced
            .map_err(|error| storage(format!("write a snapshot in {}", dir.display()), error))?;
        *current = Some(meta.clone());
        Ok(())
    }

    /// Allocates space for a snapshot of so many bytes, where there is any.
    fn keep_reserve(&self, bytes: u64) {
        let bytes = bytes.max(LEAST_RESERVE_BYTES);
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .clone();
        // Snapshots are as sound without it; a full disk leaves what there was before.
        if let Ok(file) = options.open(self.inner.dir.join(RESERVE)) {
            let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes);
        }
    }

    /// What the snapshot is of.
    pub(super) fn current(&self) -> Option<SnapshotMeta> {
        self.inner.current.lock().clone()
    }
}

/// Reads the snapshot in a directory; blocks.
///
/// # Errors
/// [`crate::Error::Corrupt`], [`crate::Error::Storage`].
pub(super) fn read(dir: &Path) -> Result<Option<(SnapshotMeta, Bytes)>> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage(format!("read {}", path.display()), error)),
    };
    let damaged = || corrupt(format!("{} is not a snapshot", path.display()));
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| damaged())?;
    let meta = rest.get(..length).ok_or_else(damaged)?;
    let meta = unframe(&format!("the head of {}", path.display()), meta)?;
    Ok(Some((meta, bytes.slice(MAGIC.len() + 4 + length..))))
}
