//! The implementation for stores behind a network: every operation has a deadline, and what may
//! pass is tried again within it.
//!
//! Large objects move in parts of [`PART_BYTES`]: a read asks for each part by itself, so that a
//! lost connection costs one part; a write is a multipart upload.

use std::{fmt, future::Future, io, ops::Range, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use opendal::{ErrorKind, Operator, options::ReaderOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    error::{Error, Result},
    layout::{check_key, check_prefix},
    operator::{ends_early, object_meta},
    retry::{Failure, OnTimeout, Retry},
    store::{ObjectMeta, ObjectStore, ObjectWriter, PART_BYTES, PutOutcome},
};

/// Parts of one object that are moved at the same time.
pub(crate) const PARTS_AT_ONCE: usize = 4;

/// Parts of an object that is written piece by piece that are on their way while the next piece is made.
const PARTS_BEHIND: usize = 2;

/// Writes up to this size are one request.
const SINGLE_PUT_BYTES: usize = 2 * PART_BYTES;

/// Operations at the same time; more wait. Conditional writes, which acknowledgements wait for, do
/// not queue behind bulk traffic.
const OPERATIONS_AT_ONCE: usize = 64;

/// Keys that one request of a listing asks for; S3's own limit.
const PAGE_KEYS: usize = 1_000;

/// A connection that moves less than this is given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// How long clearing up after a failed upload may take.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// An opendal operator behind a network.
pub(crate) struct RemoteStore {
    operator: Operator,
    retry: Retry,
    slots: Semaphore,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteStore").field(&self.operator).finish()
    }
}

/// A part of an object, and what the answer said of the whole.
struct Part {
    bytes: Bytes,
    object_bytes: u64,
    etag: Option<String>,
}

impl RemoteStore {
    pub(crate) fn new(operator: Operator, retry: Retry) -> Self {
        Self {
            operator,
            retry,
            slots: Semaphore::new(OPERATIONS_AT_ONCE),
        }
    }

    async fn slot(&self, operation: &'static str, key: &str) -> Result<SemaphorePermit<'_>> {
        let failed = |why: &'static str| Error::Io {
            operation,
            key: key.to_owned(),
            transient: true,
            source: why.into(),
        };
        tokio::time::timeout(self.retry.timeout, self.slots.acquire())
            .await
            .map_err(|_| failed("too many operations wait for the object store"))?
            .map_err(|_| failed("the store is closed"))
    }

    /// Reads what there is of a range, in one request. `etag` names the version it must be of.
    async fn part(
        &self,
        operation: &'static str,
        key: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Part> {
        let _slot = self.slot(operation, key).await?;
        let retry = self.retry.plus(time_for(range.end - range.start));
        retry
            .run(operation, key, OnTimeout::TryAgain, || async {
                match self.read_once(key, range.clone(), etag).await {
                    Ok(part) => Ok(part),
                    // An empty object has no first byte that could be asked for.
                    Err(error)
                        if error.kind() == ErrorKind::RangeNotSatisfied && range.start == 0 =>
                    {
                        Ok(Part {
                            bytes: Bytes::new(),
                            object_bytes: 0,
                            etag: None,
                        })
                    }
                    Err(error) if error.kind() == ErrorKind::RangeNotSatisfied => {
                        Err(ends_early(key, &range, 0).into())
                    }
                    Err(error) => Err(convert(operation, key, error).into()),
                }
            })
            .await
    }

    async fn read_once(
        &self,
        key: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> opendal::Result<Part> {
        let options = ReaderOptions {
            if_match: etag.map(str::to_owned),
            ..ReaderOptions::default()
        };
        let reader = self.operator.reader_options(key, options).await?;
        let mut stream = reader.into_stream(range.clone()).await?;
        let meta = stream.metadata().await?;
        let object_bytes = meta.content_length();
        let wanted = object_bytes.min(range.end).saturating_sub(range.start);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::with_capacity(wanted);
        // Not polled beyond the last byte: opendal would call a range that ends behind the object
        // too short.
        while bytes.len() < wanted {
            let Some(piece) = stream.try_next().await? else {
                break;
            };
            for slice in piece {
                bytes.extend_from_slice(&slice);
            }
        }
        if bytes.len() != wanted {
            let found = bytes.len();
            let why = format!("{found} bytes came instead of {wanted}");
            return Err(opendal::Error::new(ErrorKind::Unexpected, why).set_temporary());
        }
        Ok(Part {
            bytes: bytes.freeze(),
            object_bytes,
            etag: meta.etag().map(str::to_owned),
        })
    }

    /// Reads a range, or to the end of the object where `end` is `None`.
    async fn read(
        &self,
        operation: &'static str,
        key: &str,
        start: u64,
        end: Option<u64>,
    ) -> Result<Bytes> {
        let part_bytes = PART_BYTES as u64;
        let first_end = end.map_or(start + part_bytes, |end| end.min(start + part_bytes));
        let first = self.part(operation, key, start..first_end, None).await?;
        let end = end.unwrap_or(first.object_bytes);
        if first.object_bytes < end {
            let found = first.bytes.len() as u64;
            return Err(ends_early(key, &(start..end), found));
        }
        if end <= first_end {
            return Ok(first.bytes);
        }
        let wanted = usize::try_from(end - start).map_err(|_| too_large(operation, key))?;
        let mut whole = BytesMut::with_capacity(wanted);
        whole.extend_from_slice(&first.bytes);
        let etag = first.etag.as_deref();
        let parts = split(first_end..end)
            .map(|range| async move { self.part(operation, key, range, etag).await });
        let mut parts = stream::iter(parts).buffered(PARTS_AT_ONCE);
        while let Some(part) = parts.try_next().await? {
            if part.object_bytes != first.object_bytes {
                return Err(replaced(operation, key));
            }
            whole.extend_from_slice(&part.bytes);
        }
        Ok(whole.freeze())
    }

    /// One try of a multipart upload; what it leaves behind when it fails is cleared up.
    async fn upload(&self, key: &str, bytes: &Bytes, limit: Duration) -> Result<(), Failure> {
        let broken = |error| Failure::from(convert_write("put", key, error));
        let writer = self.operator.writer_with(key).chunk(PART_BYTES);
        let mut writer = writer.concurrent(PARTS_AT_ONCE).await.map_err(broken)?;
        let sending = async {
            for start in (0..bytes.len()).step_by(PART_BYTES) {
                let end = bytes.len().min(start + PART_BYTES);
                writer.write(bytes.slice(start..end)).await?;
            }
            writer.close().await
        };
        let failure = match tokio::time::timeout(limit, sending).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => broken(error),
            Err(_) => broken(
                opendal::Error::new(ErrorKind::Unexpected, "the upload takes too long")
                    .set_temporary(),
            ),
        };
        // Parts that stay because this fails too are the bucket's lifecycle rule's.
        let _ = tokio::time::timeout(ABORT_LIMIT, writer.abort()).await;
        Err(failure)
    }

    /// One page of a listing: the raw number of entries, the last key, and the objects among them.
    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, opendal::Error> {
        let root = if prefix.is_empty() { "/" } else { prefix };
        let mut lister = self.operator.lister_with(root).recursive(true);
        lister = lister.limit(PAGE_KEYS);
        if let Some(after) = after {
            lister = lister.start_after(after);
        }
        let mut entries = lister.await?;
        let mut page = Page::default();
        while page.entries < PAGE_KEYS {
            let Some(entry) = entries.try_next().await? else {
                break;
            };
            page.entries += 1;
            let (key, meta) = entry.into_parts();
            page.last = Some(key.clone());
            if meta.is_file() && check_key(&key).is_ok() {
                page.found.push(object_meta(key, &meta));
            }
        }
        Ok(page)
    }
}

#[derive(Default)]
struct Page {
    entries: usize,
    last: Option<String>,
    found: Vec<ObjectMeta>,
}

#[async_trait::async_trait]
impl ObjectStore for RemoteStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        check_key(key)?;
        let _slot = self.slot("put", key).await?;
        let time = time_for(bytes.len() as u64);
        if bytes.len() > SINGLE_PUT_BYTES {
            let limit = self.retry.request_timeout + time;
            let retry = self.retry.plus(time + 2 * ABORT_LIMIT);
            return retry
                .run("put", key, OnTimeout::TryAgain, || {
                    self.upload(key, &bytes, limit)
                })
                .await;
        }
        self.retry
            .plus(time)
            .run("put", key, OnTimeout::TryAgain, || async {
                match self.operator.write(key, bytes.clone()).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(convert_write("put", key, error).into()),
                }
            })
            .await
    }

    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        check_key(key)?;
        let writer = self.operator.writer_with(key).chunk(PART_BYTES);
        let began = writer.concurrent(PARTS_BEHIND).await;
        let writer = began.map_err(|error| convert_write("writer", key, error))?;
        Ok(Box::new(RemoteWriter {
            key: key.to_owned(),
            writer,
            limit: self.retry.timeout + time_for(PART_BYTES as u64),
        }))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        check_key(key)?;
        // Always one request, however large: servers do not agree on conditions for multipart
        // uploads. A try whose fate is unknown is never repeated: it may have created the object,
        // and the repetition would take that for somebody else's.
        self.retry
            .plus(time_for(bytes.len() as u64))
            .run("put_if_absent", key, OnTimeout::GiveUp, || async {
                let write = self.operator.write_with(key, bytes.clone());
                match write.if_not_exists(true).await {
                    Ok(_) => Ok(PutOutcome::Created),
                    Err(error) if error.kind() == ErrorKind::ConditionNotMatch => {
                        Ok(PutOutcome::AlreadyExists)
                    }
                    Err(error) => Err(Failure {
                        again: certainly_not_applied(&error),
                        error: convert_write("put_if_absent", key, error),
                    }),
                }
            })
            .await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        check_key(key)?;
        self.read("get", key, 0, None).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        check_key(key)?;
        if range.is_empty() {
            let found = self.stat(key).await?.size_bytes;
            if found < range.end {
                return Err(ends_early(key, &range, 0));
            }
            return Ok(Bytes::new());
        }
        self.read("get_range", key, range.start, Some(range.end))
            .await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        check_key(key)?;
        let _slot = self.slot("stat", key).await?;
        self.retry
            .run("stat", key, OnTimeout::TryAgain, || async {
                match self.operator.stat(key).await {
                    Ok(meta) => Ok(object_meta(key.to_owned(), &meta)),
                    Err(error) => Err(convert("stat", key, error).into()),
                }
            })
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let _slot = self.slot("list", prefix).await?;
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .retry
                .run("list", prefix, OnTimeout::TryAgain, || async {
                    let page = self.page(prefix, after.as_deref()).await;
                    page.map_err(|error| convert("list", prefix, error).into())
                })
                .await?;
            found.extend(page.found);
            if page.entries < PAGE_KEYS {
                break;
            }
            after = page.last;
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let _slot = self.slot("delete", key).await?;
        self.retry
            .run("delete", key, OnTimeout::TryAgain, || async {
                match self.operator.delete(key).await {
                    Ok(()) => Ok(()),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(convert("delete", key, error).into()),
                }
            })
            .await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

/// A multipart upload on its way. A part that fails fails the whole: whoever writes begins again.
struct RemoteWriter {
    key: String,
    writer: opendal::Writer,
    /// How long one call may take.
    limit: Duration,
}

impl RemoteWriter {
    /// Waits for a call, not for ever; a failure clears up.
    async fn settle<T>(
        key: &str,
        limit: Duration,
        call: impl Future<Output = opendal::Result<T>>,
    ) -> Result<()> {
        let outcome = match tokio::time::timeout(limit, call).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => opendal::Error::new(ErrorKind::Unexpected, "the upload takes too long")
                .set_temporary(),
        };
        Err(convert_write("writer", key, outcome))
    }

    async fn abort(&mut self) {
        // Parts that stay because this fails too are the bucket's lifecycle rule's.
        let _ = tokio::time::timeout(ABORT_LIMIT, self.writer.abort()).await;
    }
}

#[async_trait::async_trait]
impl ObjectWriter for RemoteWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let parts = 1 + bytes.len() / PART_BYTES;
        let limit = self.limit * u32::try_from(parts).unwrap_or(u32::MAX);
        let outcome = Self::settle(&self.key, limit, self.writer.write(bytes)).await;
        if outcome.is_err() {
            self.abort().await;
        }
        outcome
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let outcome = Self::settle(&self.key, self.limit * 2, self.writer.close()).await;
        if outcome.is_err() {
            self.abort().await;
        }
        outcome
    }
}

/// A range in parts of [`PART_BYTES`], the last one shorter.
pub(crate) fn split(range: Range<u64>) -> impl Iterator<Item = Range<u64>> + Send {
    let part_bytes = PART_BYTES as u64;
    range
        .clone()
        .step_by(PART_BYTES)
        .map(move |start| start..range.end.min(start + part_bytes))
}

/// The time that moving so many bytes may take beyond a request's own.
fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

fn replaced(operation: &'static str, key: &str) -> Error {
    Error::Io {
        operation,
        key: key.to_owned(),
        transient: true,
        source: "it was replaced while it was read".into(),
    }
}

fn too_large(operation: &'static str, key: &str) -> Error {
    Error::Io {
        operation,
        key: key.to_owned(),
        transient: false,
        source: "it does not fit into memory".into(),
    }
}

/// Whether a request that failed so has certainly changed nothing.
fn certainly_not_applied(error: &opendal::Error) -> bool {
    match error.kind() {
        // The server says that it has not tried.
        ErrorKind::RateLimited | ErrorKind::Conflict => true,
        _ => is_connection_refused(error),
    }
}

fn is_connection_refused(error: &opendal::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The failure of a read, a listing or a deletion.
fn convert(operation: &'static str, key: &str, error: opendal::Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        return Error::NotFound {
            key: key.to_owned(),
        };
    }
    convert_write(operation, key, error)
}

/// The failure of a write, for which nothing needs to be there: `NotFound` is an upload that the
/// server has forgotten, or whose end it has already seen.
fn convert_write(operation: &'static str, key: &str, error: opendal::Error) -> Error {
    let transient = match error.kind() {
        ErrorKind::RateLimited
        | ErrorKind::Conflict
        | ErrorKind::ConditionNotMatch
        | ErrorKind::NotFound => true,
        ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid => false,
        _ => error.is_temporary(),
    };
    Error::Io {
        operation,
        key: key.to_owned(),
        transient,
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::Coded;

    use super::*;

    #[test]
    fn a_range_is_split_without_gaps() {
        let part = PART_BYTES as u64;
        for (start, end) in [(0, 1), (5, part), (part, 3 * part), (7, 2 * part + 9)] {
            let parts: Vec<Range<u64>> = split(start..end).collect();
            assert_eq!(parts[0].start, start);
            assert_eq!(parts[parts.len() - 1].end, end);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert_eq!(pair[0].end - pair[0].start, part);
            }
        }
        assert_eq!(split(3..3).count(), 0);
    }

    #[test]
    fn only_what_the_server_cannot_have_done_is_certain() {
        let refused = opendal::Error::new(ErrorKind::Unexpected, "send")
            .set_temporary()
            .set_source(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(certainly_not_applied(&refused));
        let reset = opendal::Error::new(ErrorKind::Unexpected, "send")
            .set_temporary()
            .set_source(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(!certainly_not_applied(&reset));
        assert!(convert("put", "k", reset).retriable());
        let denied = opendal::Error::new(ErrorKind::PermissionDenied, "no");
        assert!(!convert("put", "k", denied).retriable());
    }
}
