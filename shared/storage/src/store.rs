//! The object store as everyone sees it.

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    operator::OperatorStore,
};

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was last written, in Unix milliseconds, where the store says so.
    pub modified_ms: Option<u64>,
}

/// An object as a local file, which neither changes nor goes away while this is held.
#[derive(Clone, Debug)]
pub struct LocalFile {
    path: PathBuf,
    /// Keeps a cached copy from being evicted.
    _pin: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl LocalFile {
    /// A file that nobody evicts.
    pub(crate) fn permanent(path: PathBuf) -> Self {
        Self { path, _pin: None }
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// What [`ObjectStore::put_if_absent`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The key was free and now names these bytes.
    Created,
    /// The key names an object already, which was left as it is.
    AlreadyExists,
}

/// Immutable objects under keys.
///
/// # Correctness
/// - When a write returns `Ok`, its bytes and its key survive a crash of the process and of the
///   machine, and every later read sees all of them. A failed write leaves the old object or the
///   new one, never a part.
/// - Of any number of concurrent `put_if_absent` for one key exactly one answers `Created`.
/// - `list` sees every write that returned before it was called.
///
/// [`crate::open`]'s implementations pass the suite in `tests/conformance.rs`.
#[async_trait::async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Writes an object, or replaces it as a whole.
    ///
    /// # Errors
    /// `NoSpace` (make room) · `Io` (retry when transient) · `InvalidKey` (a bug)
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Writes an object only if its key is free, atomically.
    ///
    /// # Errors
    /// As [`ObjectStore::put`]. After `Io` nobody knows whether it was written.
    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// `NotFound` · `Io` (retry when transient)
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// Reads a part of an object.
    ///
    /// # Errors
    /// `NotFound` · `Corrupt` when the object ends before the range · `Io`
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Asks for an object's size and age.
    ///
    /// # Errors
    /// `NotFound` · `Io`
    async fn stat(&self, key: &str) -> Result<ObjectMeta>;

    /// All objects whose key starts with `prefix`, which is empty or ends in `/`; sorted by key.
    ///
    /// # Errors
    /// `Io`. A prefix that nothing has gives an empty list.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>>;

    /// Deletes an object; deleting what is not there succeeds.
    ///
    /// # Errors
    /// `Io`
    async fn delete(&self, key: &str) -> Result<()>;

    /// The file that holds an object, where objects are local files (for memory mapping).
    fn local_path(&self, key: &str) -> Option<PathBuf>;

    /// An object as a local file: itself where objects are local files, else a copy in the disk
    /// cache, fetched if need be. `None` where there is neither. Its bytes are not checked.
    ///
    /// # Errors
    /// `NotFound` · `Io` (retry when transient) · `NoSpace` when the cache's disk is full
    async fn local_file(&self, key: &str) -> Result<Option<LocalFile>> {
        Ok(self.local_path(key).map(LocalFile::permanent))
    }
}

/// Opens the store that a URI names: `fs://<path>` (absolute, or relative to the working
/// directory) or `memory://` (each call a new, empty one).
///
/// # Errors
/// `InvalidUri` · `Io` when the directory cannot be made
pub fn open(uri: &str) -> Result<Arc<dyn ObjectStore>> {
    let refuse = |reason: String| Error::InvalidUri {
        uri: uri.to_owned(),
        reason,
    };
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(refuse("it has no scheme such as fs://".to_owned()));
    };
    match scheme {
        "fs" | "file" => {
            if rest.is_empty() {
                return Err(refuse("it names no directory".to_owned()));
            }
            Ok(Arc::new(OperatorStore::local(rest.as_ref())?))
        }
        "memory" => Ok(Arc::new(OperatorStore::memory()?)),
        other => Err(refuse(format!(
            "scheme {other} is unknown, supported: fs, memory"
        ))),
    }
}
