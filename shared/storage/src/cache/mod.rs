//! Copies of remote objects on local disk.
//!
//! An object is fetched once, however many ask for it at the same time, and stays until the limit
//! needs its room and nobody holds it. Copies survive a restart. Nobody trusts them: whoever reads
//! one checks its CRC, and says [`ObjectStore::forget_local`] when it is wrong.
//!
//! - `files`: which copies there are and which may go
//! - here: who fetches what

mod files;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, Shared, WeakShared},
    stream,
};

use self::files::{CachedFile, DiskCache, Space};
use crate::{
    error::{Error, Result},
    layout::check_key,
    metrics,
    options::CacheOptions,
    remote::{PARTS_AT_ONCE, split},
    store::{LocalFile, ObjectMeta, ObjectStore, ObjectWriter, PutOutcome},
};

/// What becomes of a download; `None` when the object has no place in the cache.
type Outcome = Result<Option<Arc<CachedFile>>, Arc<Error>>;
type Fetching = BoxFuture<'static, Outcome>;

/// A store whose objects are also to be had as local files.
pub(crate) struct CachedStore {
    store: Arc<dyn ObjectStore>,
    cache: Arc<DiskCache>,
    downloads: Arc<Downloads>,
}

/// The downloads under way. They live as long as somebody waits for them.
type Downloads = Mutex<HashMap<String, WeakShared<Fetching>>>;

impl fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("store", &self.store)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl CachedStore {
    /// Opens the cache's directory and takes over the copies that are there.
    ///
    /// # Errors
    /// `Io` or `NoSpace`.
    pub(crate) async fn open(store: Arc<dyn ObjectStore>, options: &CacheOptions) -> Result<Self> {
        let name = options.dir.display().to_string();
        let options = options.clone();
        let cache = blocking(&name, move || DiskCache::open(&options)).await?;
        Ok(Self {
            store,
            cache: Arc::new(cache),
            downloads: Arc::default(),
        })
    }

    /// The download of an object: the one that is under way, or a new one.
    fn fetch(&self, key: &str) -> Shared<Fetching> {
        // A panic elsewhere leaves the map as sound as it was.
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = downloads.get(key).and_then(WeakShared::upgrade) {
            return running;
        }
        downloads.retain(|_, download| download.upgrade().is_some());
        let (store, cache) = (self.store.clone(), self.cache.clone());
        let (all, owned) = (self.downloads.clone(), key.to_owned());
        let fetching = async move {
            let outcome = fetch(store, cache, &owned).await.map_err(Arc::new);
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&owned);
            outcome
        };
        let fetching = fetching.boxed().shared();
        if let Some(weak) = fetching.downgrade() {
            downloads.insert(key.to_owned(), weak);
        }
        fetching
    }
}

/// Fetches an object into the cache. When the disk is full, idle copies go and it is tried once
/// more.
async fn fetch(
    store: Arc<dyn ObjectStore>,
    cache: Arc<DiskCache>,
    key: &str,
) -> Result<Option<Arc<CachedFile>>> {
    if let Some(file) = cache.find(key) {
        return Ok(Some(file));
    }
    let size_bytes = store.stat(key).await?.size_bytes;
    match download(&store, &cache, key, size_bytes).await {
        Err(full @ Error::NoSpace { .. }) => {
            let shrinking = cache.clone();
            let shrunk = blocking(key, move || Ok(shrinking.shrink(size_bytes))).await?;
            if !shrunk {
                return Err(full);
            }
            download(&store, &cache, key, size_bytes).await
        }
        outcome => outcome,
    }
}

async fn download(
    store: &Arc<dyn ObjectStore>,
    cache: &Arc<DiskCache>,
    key: &str,
    size_bytes: u64,
) -> Result<Option<Arc<CachedFile>>> {
    let reserving = cache.clone();
    let reserved = blocking(key, move || Ok(reserving.reserve(size_bytes))).await?;
    let Some(space) = reserved else {
        return Ok(None);
    };
    let starting = cache.clone();
    let download = Arc::new(blocking(key, move || starting.start()).await?);
    let parts = split(0..size_bytes).map(|range| {
        let (store, download, key) = (store.clone(), download.clone(), key.to_owned());
        async move {
            let bytes = store.get_range(&key, range.clone()).await?;
            blocking(&key, move || download.write_at(&bytes, range.start)).await
        }
    });
    let mut parts = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE);
    while let Some(()) = parts.try_next().await? {}
    drop(parts);
    admit(cache, key, download, space).await.map(Some)
}

async fn admit(
    cache: &Arc<DiskCache>,
    key: &str,
    download: Arc<files::Download>,
    space: Space,
) -> Result<Arc<CachedFile>> {
    let (cache, owned) = (cache.clone(), key.to_owned());
    blocking(key, move || cache.admit(&owned, &download, space)).await
}

/// Runs work on the cache's files where blocking is allowed.
async fn blocking<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let source: Box<dyn std::error::Error + Send + Sync> =
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(value)) => return Ok(value),
            // That a file of the cache is missing does not say that the object is.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Box::new(error),
            Ok(Err(error)) => return Err(Error::from_io("cache", key, error)),
            Err(stopped) => Box::new(stopped),
        };
    Err(Error::Io {
        operation: "cache",
        key: key.to_owned(),
        transient: false,
        source,
    })
}

fn pinned(file: Arc<CachedFile>) -> LocalFile {
    LocalFile::pinned(file.path().to_owned(), file)
}

#[async_trait::async_trait]
impl ObjectStore for CachedStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let outcome = self.store.put(key, bytes).await;
        // Also after a failure: nobody knows which object is there now.
        self.cache.forget(key);
        outcome
    }

    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        // Objects that are written so are not read through the cache.
        self.cache.forget(key);
        self.store.writer(key).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.store.put_if_absent(key, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.store.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.store.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        self.store.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.store.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let outcome = self.store.delete(key).await;
        self.cache.forget(key);
        outcome
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.store.local_path(key)
    }

    async fn local_file(&self, key: &str) -> Result<Option<LocalFile>> {
        check_key(key)?;
        if !self.cache.can_hold(key) {
            return Ok(None);
        }
        let found = self.cache.find(key);
        metrics::cache_asked(found.is_some());
        if let Some(file) = found {
            return Ok(Some(pinned(file)));
        }
        match self.fetch(key).await {
            Ok(file) => Ok(file.map(pinned)),
            Err(error) => Err(Error::shared(&error)),
        }
    }

    async fn forget_local(&self, key: &str) {
        self.cache.forget(key);
    }
}
