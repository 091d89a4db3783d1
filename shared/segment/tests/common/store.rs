//! A store that counts what is read of it, and whose reads fail when they are told to.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redkite_storage::{Error, ObjectMeta, ObjectStore, ObjectWriter, PutOutcome, Result};

/// Which read of a range goes wrong, and how; all others are in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    fail_at: Option<u64>,
    cut_at: Option<u64>,
}

impl Faults {
    pub(crate) fn fail_at(read: u64) -> Self {
        Self {
            fail_at: Some(read),
            cut_at: None,
        }
    }

    pub(crate) fn cut_at(read: u64) -> Self {
        Self {
            fail_at: None,
            cut_at: Some(read),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Watched {
    inner: Arc<dyn ObjectStore>,
    bytes: AtomicU64,
    reads: AtomicU64,
    faults: Mutex<Faults>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    /// Bytes that were read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts reads from now on.
    pub(crate) fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
        self.reads.store(0, Ordering::Relaxed);
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        self.inner.writer(key).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let bytes = self.inner.get(key).await?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        let faults = *self.faults.lock();
        if faults.fail_at == Some(read) {
            return Err(Error::Io {
                operation: "get_range",
                key: key.to_owned(),
                transient: false,
                source: "the line is cut".into(),
            });
        }
        let bytes = self.inner.get_range(key, range).await?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match faults.cut_at == Some(read) {
            true => Ok(bytes.slice(..bytes.len() - 1)),
            false => Ok(bytes),
        }
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}
