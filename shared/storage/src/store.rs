//! The object store as everyone sees it.

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    cache::CachedStore,
    error::{Error, Result},
    metrics::Measured,
    operator::OperatorStore,
    options::{CacheOptions, StoreOptions, StoreUri},
    s3,
};

/// Large objects are moved in parts of this size; S3 takes no smaller ones than 5 MiB.
pub const PART_BYTES: usize = 8 << 20;

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

    /// A copy that stays as long as `pin` is held.
    pub(crate) fn pinned(path: PathBuf, pin: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        Self {
            path,
            _pin: Some(pin),
        }
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

/// An object on its way. Dropping it leaves what was under its key; a remote store may keep its
/// parts until the bucket's lifecycle rule removes them.
#[async_trait::async_trait]
pub trait ObjectWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// As [`ObjectStore::put`]. The object must be begun again.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Puts the object under its key, as a whole and durably, in the place of what was there.
    ///
    /// # Errors
    /// As [`ObjectWriter::write`]. It may have been put there all the same.
    async fn finish(self: Box<Self>) -> Result<()>;
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
/// [`open_with`]'s implementations pass the suite in `tests/conformance.rs`.
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

    /// Begins an object that is written piece by piece, so that it need not fit into memory.
    ///
    /// # Errors
    /// As [`ObjectStore::put`]; `Io`, not transient, of a store that has no such way.
    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        Err(Error::Io {
            operation: "writer",
            key: key.to_owned(),
            transient: false,
            source: "this store takes whole objects only".into(),
        })
    }

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

    /// Drops the cached copy of an object, whose bytes turned out wrong, so that the next
    /// [`ObjectStore::local_file`] fetches it again. Whoever holds the old copy keeps it. Without a
    /// cache it does nothing.
    async fn forget_local(&self, key: &str) {
        let _ = key;
    }
}

/// Opens a local store: `fs://<path>` (absolute, or relative to the working directory) or
/// `memory://` (each call a new, empty one). [`open_with`] opens all others.
///
/// # Errors
/// `InvalidUri` · `Io` when the directory cannot be made
pub fn open(uri: &str) -> Result<Arc<dyn ObjectStore>> {
    open_local(uri, &StoreUri::parse(uri)?)
}

fn open_local(uri: &str, parsed: &StoreUri) -> Result<Arc<dyn ObjectStore>> {
    let store = match parsed {
        StoreUri::Local(directory) => OperatorStore::local(directory)?,
        StoreUri::Memory => OperatorStore::memory()?,
        StoreUri::S3 { .. } => {
            return Err(Error::InvalidUri {
                uri: uri.to_owned(),
                reason: "it is not local".to_owned(),
            });
        }
    };
    Ok(Arc::new(Measured(Arc::new(store))))
}

/// Opens a store and, where it is remote, makes sure that it can be used: it is reached, the keys
/// are right, and writes, listings and conditional writes do what they should.
///
/// # Errors
/// `InvalidUri` for what the operator has to change · `Io` when it cannot be reached (transient) or
/// refuses (not transient), or the cache's directory cannot be used
pub async fn open_with(options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    let uri = StoreUri::parse(&options.uri)?;
    let StoreUri::S3 { bucket, prefix } = &uri else {
        return open_local(&options.uri, &uri);
    };
    let remote = s3::open(options, bucket, prefix).await?;
    let store: Arc<dyn ObjectStore> = Arc::new(Measured(remote));
    match &options.cache {
        Some(cache) if cache.size_bytes > 0 => cached(store, cache).await,
        Some(_) | None => Ok(store),
    }
}

/// A store that keeps copies of its objects on local disk, for [`ObjectStore::local_file`].
///
/// # Errors
/// `Io` or `NoSpace` when the cache's directory cannot be used.
pub async fn cached(
    store: Arc<dyn ObjectStore>,
    options: &CacheOptions,
) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(CachedStore::open(store, options).await?))
}
