//! openraft's type parameters, and how its types are encoded.

use bytes::Bytes;
use openraft::{BasicNode, StorageError, StorageIOError};
use redkite_types::error::chain;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::corrupt;
use crate::command::{Applied, MetaCommand};
use crate::error::{Error, Result};

openraft::declare_raft_types!(
    /// The metastore's raft.
    pub TypeConfig:
        D = MetaCommand,
        R = Applied,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Bytes,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageResult<T> = std::result::Result<T, StorageError<u64>>;

/// Version of everything that is framed below.
const VERSION: u8 = 1;

// Inside openraft's own types a command is its log form, as bytes: what that holds is protobuf,
// which may grow fields, and is never subject to the order of a Rust enum.
impl Serialize for MetaCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.encode().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MetaCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::decode(Bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Encodes a value for the disk: a version byte, postcard, and a checksum at the end.
pub(super) fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(value, vec![VERSION])
        .map_err(|source| storage("encode a value for the log", source))?;
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Reads what [`frame`] wrote.
///
/// # Errors
/// [`Error::Corrupt`] names `what`.
pub(super) fn unframe<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    let (body, checksum) = bytes
        .split_last_chunk::<4>()
        .ok_or_else(|| corrupt(format!("{what} is cut off")))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(corrupt(format!("the checksum of {what} is wrong")));
    }
    let body = body
        .strip_prefix(&[VERSION])
        .ok_or_else(|| corrupt(format!("{what} has an unknown version")))?;
    postcard::from_bytes(body).map_err(|error| corrupt(format!("{what}: {error}")))
}

/// A failure of the disk.
pub(super) fn storage(
    what: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Storage {
        what: what.into(),
        source: source.into(),
    }
}

/// What openraft is told of a failure of the log.
pub(super) fn log_failure(error: &Error, reading: bool) -> StorageError<u64> {
    let error = openraft::AnyError::error(chain(error));
    let error = if reading {
        StorageIOError::read_logs(error)
    } else {
        StorageIOError::write_logs(error)
    };
    error.into()
}
