//! What can go wrong with a log.

use std::{io, path::PathBuf, sync::Arc};

use redkite_types::{Coded, ErrorCode, Outcome};

use crate::log::Lsn;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A log could not be opened, appended to, read or truncated.
///
/// It is cloned to every append of a group that failed together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another owner with a higher epoch has taken the channel. Give it up; the client must go to
    /// the new owner.
    #[error("channel {channel} is fenced: epoch {epoch} is behind {current}")]
    Fenced {
        /// The channel.
        channel: String,
        /// The epoch of the caller.
        epoch: u64,
        /// The epoch on record.
        current: u64,
    },
    /// Another process on this machine still holds the channel. It passes when that process ends.
    #[error("the log of channel {channel} is held by another owner")]
    Locked {
        /// The channel.
        channel: String,
    },
    /// Bytes before the tail are not those that were written. Only this channel stops; a person
    /// must decide.
    #[error("log file {} is corrupt at byte {offset}: {reason}", file.display())]
    Corrupt {
        /// The file, or the key of the object.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was expected.
        reason: String,
    },
    /// The disk is full. The write was undone; the log goes on once there is space.
    #[error("no space left for the log of channel {channel}")]
    NoSpace {
        /// The channel.
        channel: String,
        /// The refusal of the file system.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file operation outside of an append failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// `open`, `read`, …
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The failure itself.
        #[source]
        source: Arc<io::Error>,
    },
    /// An object of the log could not be listed, read or deleted. Nothing is lost; retry when it is
    /// of the kind that passes.
    #[error("cannot {operation} the log of channel {channel} in the object store")]
    Store {
        /// `open`, `read`, …
        operation: &'static str,
        /// The channel.
        channel: String,
        /// The failure itself.
        #[source]
        source: Arc<redkite_storage::Error>,
    },
    /// A write or sync failed, so nobody knows what is on disk; the log takes no more appends until
    /// it is opened again (which reads what is there).
    #[error("the log of channel {channel} failed and takes no more appends")]
    Failed {
        /// The channel.
        channel: String,
        /// The first failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// More bytes wait to be written than may. Back off and retry.
    #[error("{pending_bytes} bytes wait for the log of channel {channel}, limit {limit_bytes}")]
    Overloaded {
        /// The channel.
        channel: String,
        /// Bytes that wait.
        pending_bytes: usize,
        /// Bytes that may wait.
        limit_bytes: usize,
    },
    /// One record is too large. Split it.
    #[error("a log record of {size_bytes} bytes is larger than {limit_bytes}")]
    TooLarge {
        /// Bytes of the record.
        size_bytes: usize,
        /// Bytes that it may have.
        limit_bytes: usize,
    },
    /// The records asked for lie behind the truncation point.
    #[error("the log of channel {channel} starts at {first}, record {wanted} is gone")]
    Truncated {
        /// The channel.
        channel: String,
        /// The record asked for.
        wanted: Lsn,
        /// The oldest that may be there.
        first: Lsn,
    },
    /// The log was closed by its owner.
    #[error("the log of channel {channel} is closed")]
    Closed {
        /// The channel.
        channel: String,
    },
    /// The channel's name cannot be the name of a directory. A bug of the caller.
    #[error("channel name {channel:?} is not allowed")]
    InvalidChannel {
        /// The name.
        channel: String,
    },
}

impl Error {
    /// Whether a failed append certainly did not happen and never will.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Fenced { .. }
            | Self::Locked { .. }
            | Self::NoSpace { .. }
            | Self::Overloaded { .. }
            | Self::TooLarge { .. }
            | Self::Truncated { .. }
            | Self::Closed { .. }
            | Self::InvalidChannel { .. } => Outcome::NotApplied,
            Self::Corrupt { .. } | Self::Io { .. } | Self::Store { .. } | Self::Failed { .. } => {
                Outcome::Unknown
            }
        }
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source: Arc::new(error),
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Fenced { .. } => ErrorCode::ChannelMisrouted,
            Self::Locked { .. } | Self::Closed { .. } => ErrorCode::ChannelNotAvailable,
            Self::Corrupt { .. } => ErrorCode::DataIntegrity,
            Self::NoSpace { .. } => ErrorCode::DiskLimitExceeded,
            Self::Store { source, .. } => source.code(),
            Self::Io { .. } | Self::Failed { .. } => ErrorCode::IoFailed,
            Self::Overloaded { .. } => ErrorCode::TooManyRequests,
            Self::TooLarge { .. } => ErrorCode::ParameterTooLarge,
            Self::Truncated { .. } => ErrorCode::IoKeyNotFound,
            Self::InvalidChannel { .. } => ErrorCode::Internal,
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Fenced { .. }
            | Self::Locked { .. }
            | Self::Closed { .. }
            | Self::Overloaded { .. } => true,
            Self::Store { source, .. } => source.retriable(),
            Self::Corrupt { .. }
            | Self::NoSpace { .. }
            | Self::Io { .. }
            | Self::Failed { .. }
            | Self::TooLarge { .. }
            | Self::Truncated { .. }
            | Self::InvalidChannel { .. } => false,
        }
    }
}
