//! The objects of one channel: keys, tries that take too long, tries that are worth another one.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use redkite_runtime::Backoff;
use redkite_storage::{Error as StoreError, ObjectStore, PutOutcome, layout};
use tokio::time::Instant;

use super::format::{self, Damaged, HEADER_BYTES, Header};
use crate::error::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between tries of one operation.
pub(super) fn pauses() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// The objects of one channel.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    pub(super) channel: Arc<str>,
    /// How long one try may take.
    try_timeout: Duration,
    /// How long reads, lists and deletions are tried again.
    patience: Duration,
}

impl Objects {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        channel: &str,
        try_timeout: Duration,
        patience: Duration,
    ) -> Self {
        Self {
            store,
            channel: channel.into(),
            try_timeout,
            patience,
        }
    }

    pub(super) fn key(&self, number: u64) -> String {
        layout::wal_object(&self.channel, number)
    }

    /// Numbers and sizes of all objects.
    pub(super) async fn list(&self) -> Result<BTreeMap<u64, u64>> {
        Ok(self.list_all().await?.0)
    }

    /// Numbers and sizes of all objects, and keys that no log makes.
    pub(super) async fn list_all(&self) -> Result<(BTreeMap<u64, u64>, Vec<String>)> {
        let prefix = layout::wal_prefix(&self.channel);
        let listed = self.patiently("list", || self.store.list(&prefix)).await?;
        let (mut numbers, mut unknown) = (BTreeMap::new(), Vec::new());
        for object in listed.unwrap_or_default() {
            let name = object.key.strip_prefix(&prefix).unwrap_or_default();
            match name.parse() {
                Ok(number) if self.key(number) == object.key => {
                    numbers.insert(number, object.size_bytes);
                }
                _ => unknown.push(object.key),
            }
        }
        Ok((numbers, unknown))
    }

    /// An object's header; `None` when there is no such object.
    pub(super) async fn header(&self, number: u64) -> Result<Option<Header>> {
        let key = self.key(number);
        let range = 0..HEADER_BYTES as u64;
        let read = || self.store.get_range(&key, range.clone());
        let Some(bytes) = self.patiently("read", read).await? else {
            return Ok(None);
        };
        let header = Header::decode(&bytes, number);
        Ok(Some(
            header.map_err(|damaged| self.corrupt(number, damaged))?,
        ))
    }

    /// The header of an object that must be there.
    pub(super) async fn needed_header(&self, number: u64) -> Result<Header> {
        match self.header(number).await? {
            Some(header) => Ok(header),
            None => Err(self.missing(number)),
        }
    }

    /// A whole object, its checksums verified; `None` when there is no such object.
    pub(super) async fn records(&self, number: u64) -> Result<Option<(Header, Vec<Bytes>)>> {
        let Some(bytes) = self.bytes(number).await? else {
            return Ok(None);
        };
        let decoded = match bytes.len() > INLINE_BYTES {
            false => format::decode(&bytes, number),
            true => {
                let work = move || format::decode(&bytes, number);
                tokio::task::spawn_blocking(work)
                    .await
                    .map_err(|stopped| Error::io("read", self.path(number), stopped.into()))?
            }
        };
        Ok(Some(
            decoded.map_err(|damaged| self.corrupt(number, damaged))?,
        ))
    }

    /// The bytes of an object; `None` when there is no such object.
    pub(super) async fn bytes(&self, number: u64) -> Result<Option<Bytes>> {
        let key = self.key(number);
        self.patiently("read", || self.store.get(&key)).await
    }

    pub(super) async fn delete(&self, number: u64) -> Result<()> {
        let key = self.key(number);
        self.patiently("delete", || self.store.delete(&key))
            .await
            .map(drop)
    }

    /// One try to take a number. After an error nobody knows whether it was taken.
    pub(super) async fn try_put(
        &self,
        number: u64,
        bytes: Bytes,
    ) -> Result<PutOutcome, Arc<StoreError>> {
        let key = self.key(number);
        self.in_time("put_if_absent", self.store.put_if_absent(&key, bytes))
            .await
    }

    /// One try to read an object.
    pub(super) async fn try_get(&self, number: u64) -> Result<Bytes, Arc<StoreError>> {
        let key = self.key(number);
        self.in_time("get", self.store.get(&key)).await
    }

    /// One try of something, given up when it takes too long.
    async fn in_time<T>(
        &self,
        operation: &'static str,
        attempt: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Arc<StoreError>> {
        let answer = tokio::time::timeout(self.try_timeout, attempt).await;
        answer
            .unwrap_or_else(|_| {
                Err(StoreError::Io {
                    operation,
                    key: layout::wal_prefix(&self.channel),
                    transient: true,
                    source: "no answer in time".into(),
                })
            })
            .map_err(Arc::new)
    }

    /// Tries again what failed for a reason that may pass; `None` when there is no such object.
    async fn patiently<T, F>(
        &self,
        operation: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let started = Instant::now();
        let mut backoff = pauses();
        loop {
            let error = match self.in_time(operation, attempt()).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => error,
            };
            if let StoreError::Corrupt { key, reason } = &*error {
                return Err(Error::Corrupt {
                    file: PathBuf::from(key),
                    offset: 0,
                    reason: reason.clone(),
                });
            }
            let may_pass = matches!(&*error, StoreError::Io { .. });
            if !may_pass || started.elapsed() >= self.patience {
                return Err(Error::Store {
                    operation,
                    channel: self.channel.to_string(),
                    source: error,
                });
            }
            backoff.wait().await;
        }
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        PathBuf::from(self.key(number))
    }

    pub(super) fn corrupt(&self, number: u64, damaged: Damaged) -> Error {
        Error::Corrupt {
            file: self.path(number),
            offset: damaged.offset as u64,
            reason: format!(
                "{}; restore the object from a copy: only deleting it by hand, which gives up its \
                 records and all behind it, lets the log go on without them",
                damaged.reason
            ),
        }
    }

    pub(super) fn missing(&self, number: u64) -> Error {
        Error::Corrupt {
            file: self.path(number),
            offset: 0,
            reason: "the object is missing although later ones are there".to_owned(),
        }
    }
}

/// Checksums of more than this are computed where blocking is allowed.
pub(super) const INLINE_BYTES: usize = 256 << 10;
