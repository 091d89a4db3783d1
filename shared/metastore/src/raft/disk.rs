//! What the raft log needs of a disk.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::codec::corrupt;
use crate::error::{Error, Result};

/// A change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Adds an entry.
    Put {
        /// Its index; no entry is there yet.
        index: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Removes the entries of a range of indexes.
    Remove {
        /// The range; it may reach beyond the log on both sides.
        range: Range<u64>,
    },
}

/// The disk of one raft log: entries by index, and a few small values beside them.
///
/// Synchronous, because it is called from a thread of its own or with work that stays in memory.
///
/// # Correctness
/// - `write` and `put_meta` are each atomic, also over a crash, and visible at once.
/// - They become durable in the order in which they were called: after a crash a prefix is there.
/// - What was written before `sync` was called is durable when it returns: it has reached the
///   device's own persistent memory, not merely its cache.
/// - A failed `sync` is never tried again: the kernel reports a lost page once.
pub trait LogDisk: Send + Sync + 'static {
    /// Applies changes, all or none.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]: the node must stop.
    fn write(&self, ops: Vec<LogOp>) -> Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]: the node must stop.
    fn sync(&self) -> Result<()>;

    /// Reads entries in order, ending behind the one with which they exceed `max_bytes`.
    ///
    /// # Errors
    /// [`crate::Error::Storage`], [`crate::Error::Corrupt`].
    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Vec<u8>)>>;

    /// The last entry.
    ///
    /// # Errors
    /// As [`LogDisk::read`].
    fn last(&self) -> Result<Option<(u64, Vec<u8>)>>;

    /// The indexes of all entries as runs without a hole, for the check at start.
    ///
    /// # Errors
    /// As [`LogDisk::read`].
    fn runs(&self) -> Result<Vec<Range<u64>>>;

    /// Reads a value.
    ///
    /// # Errors
    /// As [`LogDisk::read`].
    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Writes a value.
    ///
    /// # Errors
    /// As [`LogDisk::write`].
    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()>;

    /// Bytes that the log takes on the disk.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    fn size_bytes(&self) -> Result<u64>;
}

/// The refusal to start on a log.
pub(super) fn damaged(dir: &Path, what: impl std::fmt::Display) -> Error {
    refused(&format!("{LOG_IN}{}", dir.display()), what)
}

const LOG_IN: &str = "the raft log in ";

/// The refusal to start on something, with what is to be done.
pub(super) fn refused(place: &str, what: impl std::fmt::Display) -> Error {
    corrupt(format!(
        "{place}: {what}; do not start this replica on it: remove the replica from the cluster, \
         delete its directory, and let it join again under a new node id; a cluster of one is \
         restored from its backup"
    ))
}

/// Makes a refusal to start of damage that was found in a log.
pub(super) fn located(dir: &Path, error: Error) -> Error {
    match error {
        Error::Corrupt { what } if !what.starts_with(LOG_IN) => damaged(dir, what),
        error => error,
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    // The parent of a relative path of one part is the empty path.
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)?.sync_all()
}
