//! What can go wrong in the metastore.

use redkite_types::{Coded, ErrorCode, Outcome, Timestamp};

/// Result with the metastore's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the metastore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This replica does not lead; ask the one in the hint, if there is one.
    #[error("this metastore replica is not the leader")]
    NotLeader {
        /// Address of the leader, if known.
        leader: Option<String>,
    },
    /// No leader answered in time, or the answer was lost.
    #[error("metastore is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// Whether a write among it certainly did not happen.
        outcome: Outcome,
    },
    /// The history that a watch asked for is gone: read again and watch from there.
    #[error("metastore history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: u64,
    },
    /// What keys held at the time that was asked for is not kept any more, or was not kept yet.
    #[error("metastore history {}", oldest.map_or_else(
        || "is not kept yet: it begins with the next change".to_owned(),
        |oldest| format!("before timestamp {oldest} is not kept"),
    ))]
    HistoryPruned {
        /// The oldest time that can be read; `None` while none can.
        oldest: Option<Timestamp>,
    },
    /// The writer has lost the office that its writes are made in: another process holds it. The store
    /// itself never answers so, only what stands before it in a process with an office.
    #[error("metastore write refused: {what}")]
    Deposed {
        /// Which office, and in which epoch.
        what: String,
    },
    /// The lease has ended, its keys are gone.
    #[error("lease {lease} has ended")]
    LeaseNotFound {
        /// Which lease.
        lease: u64,
    },
    /// The request makes no sense; the caller's bug.
    #[error("invalid metastore request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// The local disk failed; the process must stop.
    #[error("metastore storage failed: {what}")]
    Storage {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The local log or snapshot is damaged; the process must not start on it.
    #[error("metastore data is corrupt: {what}")]
    Corrupt {
        /// What is damaged, and what to do about it.
        what: String,
    },
}

impl Error {
    /// Whether a write that failed with this certainly did not happen.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotLeader { .. }
            | Self::Compacted { .. }
            | Self::HistoryPruned { .. }
            | Self::Deposed { .. }
            | Self::LeaseNotFound { .. }
            | Self::Invalid { .. } => Outcome::NotApplied,
            Self::Unavailable { outcome, .. } => *outcome,
            Self::Storage { .. } | Self::Corrupt { .. } => Outcome::Unknown,
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } | Self::Unavailable { .. } => ErrorCode::ServiceUnavailable,
            Self::Deposed { .. } => ErrorCode::ServiceNotReady,
            Self::Compacted { .. }
            | Self::HistoryPruned { .. }
            | Self::LeaseNotFound { .. }
            | Self::Invalid { .. } => ErrorCode::Internal,
            Self::Storage { .. } => ErrorCode::IoFailed,
            Self::Corrupt { .. } => ErrorCode::DataIntegrity,
        }
    }

    fn retriable(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. } | Self::Unavailable { .. } | Self::Deposed { .. }
        )
    }
}
