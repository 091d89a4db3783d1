//! The metadata key-value store as its users see it.
//!
//! Keys are UTF-8 paths in Milvus's layout, values are bytes (protobuf). Every write transaction
//! gets the next [`Revision`]; a key remembers the revision of its last write, so that a compare
//! can guard a read-modify-write.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use redkite_types::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A key with its value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Revision of the last write of this key.
    pub revision: Revision,
    /// The lease that the key dies with; zero for none.
    pub lease: u64,
}

/// A condition of a transaction on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists.
    Exists {
        /// The key.
        key: String,
    },
    /// The key was last written at exactly this revision.
    Revision {
        /// The key.
        key: String,
        /// That revision.
        revision: Revision,
    },
    /// The key exists and has exactly this value.
    Value {
        /// The key.
        key: String,
        /// That value.
        value: Bytes,
    },
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The lease it dies with; zero for none.
        lease: u64,
    },
    /// Deletes a key; deleting an absent one is no error.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes every key that starts with the prefix.
    DeletePrefix {
        /// The prefix, never empty.
        prefix: String,
    },
}

impl Op {
    /// Writes a key without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: 0,
        }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }
}

/// A transaction: when every compare holds, all of `ops` are applied at one revision, else none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Applied in order.
    pub ops: Vec<Op>,
    /// The time from which on the changes hold in the history, for keys that have one.
    pub ts: Option<Timestamp>,
}

impl Txn {
    /// A transaction without conditions or changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a change.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Says from which time on the changes hold.
    #[must_use]
    pub fn at(mut self, ts: Timestamp) -> Self {
        self.ts = Some(ts);
        self
    }

    /// Adds the conditions and changes of another transaction behind the own ones; the later of
    /// their times counts.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ts = self.ts.max(other.ts);
        self.compares.extend(other.compares);
        self.ops.extend(other.ops);
        self
    }
}

/// What became of a transaction that the store has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOutcome {
    /// All compares held; the changes are durable at this revision.
    Applied {
        /// The revision of the changes.
        revision: Revision,
    },
    /// A compare did not hold; nothing was changed.
    Refused {
        /// Position in [`Txn::compares`] of the first that did not hold.
        failed: usize,
        /// What that key holds now.
        current: Option<KeyValue>,
    },
}

/// One page of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The pairs in key order.
    pub pairs: Vec<KeyValue>,
    /// The store's revision that this page shows.
    pub revision: Revision,
    /// Pass it as `after` to read on; `None` at the end.
    pub next: Option<String>,
}

/// All changes of one revision, in the order in which they were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// What changed under the watched prefix; may be empty (a mere sign of progress).
    pub events: Vec<WatchEvent>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was written.
    Put(KeyValue),
    /// A key was deleted, by request or by the end of its lease.
    Delete {
        /// The key.
        key: String,
    },
}

/// The changes under a prefix, without a gap, until the stream ends with an error.
pub type WatchStream = BoxStream<'static, Result<WatchBatch>>;

/// The versioned, replicated key-value store that holds all metadata.
///
/// # Correctness
/// - `get` and `range` are linearizable: they see every transaction that was answered before.
/// - A transaction is durable on a quorum before it is answered, and applied at most once.
/// - Revisions grow by one with every applied transaction that has changes.
/// - A watch from revision `r` yields every batch with a revision `> r` exactly once, in order,
///   or ends with [`crate::Error::Compacted`] when that history is gone.
/// - A transaction with a time leaves a copy of each change of a key with history
///   ([`crate::versions::keeps_history`]) under `snapshots/`, at the same revision. Copies show only
///   to those who ask for that prefix. A write at a time not after the key's last version takes the
///   next time behind that. One without a time ends the history before the next one with a time.
#[async_trait]
pub trait MetaKv: Send + Sync + 'static {
    /// Reads one key.
    ///
    /// # Errors
    /// [`crate::Error::NotLeader`], [`crate::Error::Unavailable`]: retry, also elsewhere.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>>;

    /// Reads the keys that start with `prefix`, in order, strictly behind `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`MetaKv::get`].
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page>;

    /// Reads what a key with history held at a time.
    ///
    /// # Errors
    /// As [`MetaKv::get`]; [`crate::Error::HistoryPruned`] names the oldest time that can be read;
    /// [`crate::Error::Invalid`] for a key without history.
    async fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        let _ = (key, ts);
        Err(no_history())
    }

    /// Reads what the keys with history that start with `prefix` held at a time; pages as
    /// [`MetaKv::range`].
    ///
    /// # Errors
    /// As [`MetaKv::get_as_of`].
    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        let _ = (prefix, after, limit, ts);
        Err(no_history())
    }

    /// Forgets what is needed only by reads as of a time before `before`; the number of versions
    /// that are gone.
    ///
    /// # Errors
    /// As [`MetaKv::get`]. Part of it may be done; retry.
    async fn prune_history(&self, before: Timestamp) -> Result<u64> {
        let _ = before;
        Err(no_history())
    }

    /// Applies a transaction.
    ///
    /// # Errors
    /// As [`MetaKv::get`]; [`crate::Error::outcome`] says whether it certainly was not applied.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// Follows the changes under a prefix from behind a revision.
    ///
    /// # Errors
    /// [`crate::Error::Compacted`]: read the state again and watch from there.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream>;

    /// Grants a lease that ends unless it is kept alive at least every `ttl`.
    ///
    /// # Errors
    /// As [`MetaKv::get`].
    async fn lease_grant(&self, ttl: std::time::Duration) -> Result<u64>;

    /// Keeps a lease alive for another `ttl`.
    ///
    /// # Errors
    /// [`crate::Error::LeaseNotFound`] when it has ended: its keys are gone.
    async fn lease_keep_alive(&self, lease: u64) -> Result<()>;

    /// Ends a lease and deletes its keys at once; ending an absent one is no error.
    ///
    /// # Errors
    /// As [`MetaKv::get`].
    async fn lease_revoke(&self, lease: u64) -> Result<()>;
}

fn no_history() -> crate::Error {
    crate::command::invalid("this store keeps no history")
}

/// A shared store.
pub type SharedKv = Arc<dyn MetaKv>;

/// Reads all keys that start with `prefix`, page by page, as of no single revision when they do
/// not fit one page; the revision returned is the first page's, so that a watch from it misses
/// nothing.
///
/// # Errors
/// As [`MetaKv::get`].
pub async fn read_all(kv: &dyn MetaKv, prefix: &str) -> Result<(Vec<KeyValue>, Revision)> {
    const PAGE: usize = 10_000;
    let first = kv.range(prefix, None, PAGE).await?;
    let (mut pairs, revision, mut next) = (first.pairs, first.revision, first.next);
    while let Some(after) = next {
        let page = kv.range(prefix, Some(&after), PAGE).await?;
        pairs.extend(page.pairs);
        next = page.next;
    }
    Ok((pairs, revision))
}
