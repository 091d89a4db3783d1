//! What changes the store, and what became of it.
//!
//! A [`MetaCommand`] is what the raft log carries; applying it is deterministic, so every replica
//! that applied the same commands holds the same state.

use std::time::Duration;

use redkite_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kv::{Compare, Op, Txn, TxnOutcome};
use crate::versions::VERSIONS;

/// The longest key in bytes.
pub const MAX_KEY_BYTES: usize = 4 << 10;
/// The most bytes that the keys and values of one transaction may have together.
///
/// One raft entry must fit a message between replicas with room to spare.
pub const MAX_TXN_BYTES: usize = 8 << 20;

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// Applies a transaction.
    Txn(Txn),
    /// Grants a lease.
    LeaseGrant {
        /// How long it lives without being kept alive, in whole milliseconds.
        ttl: Duration,
    },
    /// Ends leases and deletes their keys: asked for, or found expired by the leader.
    LeaseEnd {
        /// Which ones; absent ones are passed over.
        leases: Vec<u64>,
    },
    /// Forgets versions of keys, chosen by the leader so that reads as of `before` or later miss
    /// none of them.
    Prune {
        /// Earlier times can not be read any more.
        before: Timestamp,
        /// Keys and times of the versions; absent ones are passed over.
        versions: Vec<(String, u64)>,
    },
    /// Commands of several callers that share one log entry, and so one sync of the disk: applied
    /// in order, each for itself.
    Batch(Vec<Self>),
}

/// What became of a [`MetaCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The entry carried no command (raft's own).
    Nothing,
    /// The transaction was decided.
    Txn(TxnOutcome),
    /// The lease was granted under this id.
    LeaseGranted {
        /// The id.
        lease: u64,
    },
    /// The leases are gone.
    LeasesEnded,
    /// The transaction names a lease that has ended; nothing was changed.
    LeaseNotFound {
        /// Which one.
        lease: u64,
    },
    /// The versions are forgotten.
    Pruned,
    /// What became of each command of a [`MetaCommand::Batch`].
    Batch(Vec<Self>),
}

impl MetaCommand {
    /// Checks what can be checked without the state.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the first mistake.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Txn(txn) => validate_txn(txn),
            Self::LeaseGrant { ttl } if ttl.as_millis() == 0 => {
                Err(invalid("a lease must live for at least one millisecond"))
            }
            Self::LeaseGrant { .. } | Self::LeaseEnd { .. } | Self::Prune { .. } => Ok(()),
            Self::Batch(commands) => commands.iter().try_for_each(Self::validate),
        }
    }

    /// Roughly how many bytes the command has when it is encoded.
    pub fn approximate_bytes(&self) -> usize {
        match self {
            Self::Txn(txn) => txn_bytes(txn),
            Self::LeaseGrant { .. } => 16,
            Self::LeaseEnd { leases } => 16 + 10 * leases.len(),
            Self::Prune { versions, .. } => {
                let versions = versions.iter().map(|(key, _)| key.len() + 16);
                16 + versions.sum::<usize>()
            }
            Self::Batch(commands) => commands.iter().map(Self::approximate_bytes).sum(),
        }
    }
}

fn validate_txn(txn: &Txn) -> Result<()> {
    for compare in &txn.compares {
        validate_key(compare_parts(compare).0)?;
    }
    for op in &txn.ops {
        validate_key(op_parts(op).0)?;
    }
    let bytes = txn_bytes(txn);
    if bytes > MAX_TXN_BYTES {
        let limit = MAX_TXN_BYTES;
        return Err(invalid(format!(
            "the transaction has {bytes} bytes, the limit is {limit}"
        )));
    }
    Ok(())
}

fn txn_bytes(txn: &Txn) -> usize {
    let parts = txn
        .compares
        .iter()
        .map(compare_parts)
        .chain(txn.ops.iter().map(op_parts));
    parts
        .map(|(key, value_bytes)| key.len() + value_bytes + 16)
        .sum()
}

fn compare_parts(compare: &Compare) -> (&str, usize) {
    match compare {
        Compare::Absent { key } | Compare::Exists { key } | Compare::Revision { key, .. } => {
            (key, 0)
        }
        Compare::Value { key, value } => (key, value.len()),
    }
}

fn op_parts(op: &Op) -> (&str, usize) {
    match op {
        Op::Put { key, value, .. } => (key, value.len()),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } => (key, 0),
    }
}

fn validate_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(invalid("a key or a prefix to delete is empty"));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(invalid(format!(
            "a key has {} bytes, the limit is {MAX_KEY_BYTES}",
            key.len()
        )));
    }
    if key.starts_with(VERSIONS) {
        return Err(invalid(format!(
            "{VERSIONS} is written by the store itself"
        )));
    }
    Ok(())
}

pub(crate) fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid { what: what.into() }
}

impl Applied {
    /// The outcome of a transaction.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]: a put named a lease that has ended.
    pub fn into_txn(self) -> Result<TxnOutcome> {
        match self {
            Self::Txn(outcome) => Ok(outcome),
            Self::LeaseNotFound { lease } => Err(Error::LeaseNotFound { lease }),
            Self::Nothing
            | Self::LeaseGranted { .. }
            | Self::LeasesEnded
            | Self::Pruned
            | Self::Batch(_) => Err(invalid(format!("a transaction was answered with {self:?}"))),
        }
    }

    /// The id of a granted lease.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the answer belongs to another command.
    pub fn into_lease(self) -> Result<u64> {
        match self {
            Self::LeaseGranted { lease } => Ok(lease),
            Self::Nothing
            | Self::Txn(_)
            | Self::LeasesEnded
            | Self::LeaseNotFound { .. }
            | Self::Pruned
            | Self::Batch(_) => Err(invalid(format!("a lease grant was answered with {self:?}"))),
        }
    }
}
