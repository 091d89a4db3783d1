//! What an operator sees of a store: every operation counted and timed, whatever the store is.

use std::{future::Future, ops::Range, path::PathBuf, sync::Arc, time::Instant};

use ::metrics::{counter, gauge, histogram};
use bytes::Bytes;
use redkite_types::Coded;

use crate::{
    error::Result,
    store::{LocalFile, ObjectMeta, ObjectStore, ObjectWriter, PutOutcome},
};

/// A request that is sent again.
pub(crate) fn retried(operation: &'static str) {
    counter!("redkite_storage_retries_total", "operation" => operation).increment(1);
}

/// A look into the disk cache.
pub(crate) fn cache_asked(hit: bool) {
    let outcome = if hit { "hit" } else { "miss" };
    counter!("redkite_storage_cache_requests_total", "outcome" => outcome).increment(1);
}

/// A copy that had to make room.
pub(crate) fn cache_evicted(count: usize) {
    counter!("redkite_storage_cache_evictions_total").increment(count as u64);
}

/// Bytes on disk, downloads under way included.
pub(crate) fn cache_size(bytes: u64) {
    gauge!("redkite_storage_cache_bytes").set(bytes as f64);
}

/// A store whose operations are counted and timed.
#[derive(Debug)]
pub(crate) struct Measured(pub(crate) Arc<dyn ObjectStore>);

/// Counts and times one operation; `moved` says how many bytes it read or wrote.
async fn measure<T>(
    operation: &'static str,
    moved: impl FnOnce(&T) -> usize,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let start = Instant::now();
    let outcome = work.await;
    histogram!("redkite_storage_operation_seconds", "operation" => operation)
        .record(start.elapsed().as_secs_f64());
    match &outcome {
        Ok(answer) => {
            let bytes = moved(answer) as u64;
            counter!("redkite_storage_operations_total", "operation" => operation).increment(1);
            counter!("redkite_storage_bytes_total", "operation" => operation).increment(bytes);
        }
        Err(error) => {
            let code = error.code().text();
            counter!("redkite_storage_errors_total", "operation" => operation, "code" => code)
                .increment(1);
        }
    }
    outcome
}

#[async_trait::async_trait]
impl ObjectStore for Measured {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let size = bytes.len();
        measure("put", |()| size, self.0.put(key, bytes)).await
    }

    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        measure("writer", |_| 0, self.0.writer(key)).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        let size = bytes.len();
        let moved = |outcome: &PutOutcome| match outcome {
            PutOutcome::Created => size,
            PutOutcome::AlreadyExists => 0,
        };
        measure("put_if_absent", moved, self.0.put_if_absent(key, bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        measure("get", Bytes::len, self.0.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        measure("get_range", Bytes::len, self.0.get_range(key, range)).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        measure("stat", |_| 0, self.0.stat(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        measure("list", |_| 0, self.0.list(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        measure("delete", |()| 0, self.0.delete(key)).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.0.local_path(key)
    }

    async fn local_file(&self, key: &str) -> Result<Option<LocalFile>> {
        self.0.local_file(key).await
    }

    async fn forget_local(&self, key: &str) {
        self.0.forget_local(key).await;
    }
}
