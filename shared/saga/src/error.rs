//! What can go wrong around a saga.

use std::sync::Arc;

use redkite_types::{Coded, ErrorCode, Outcome, SagaId};

use crate::record::State;

/// Result with the saga executor's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong around a saga.
///
/// It can be cloned because every caller that waits for one saga gets the same answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The saga ended without effect, for this reason; it is the answer to the user, as it is.
    #[error(transparent)]
    Failed(redkite_types::Error),
    /// An undo was rejected: the saga waits for a human, its locks stay held.
    #[error("saga {id} is stuck after a failure: {reason}")]
    Stuck {
        /// Which saga.
        id: SagaId,
        /// Why it could not be undone.
        reason: String,
    },
    /// Another executor has taken over; ask the new leader with the same request id.
    #[error("this executor was deposed by a newer one")]
    Fenced,
    /// The executor stops; the next one continues what was recorded. Ask it with the same request id.
    #[error("the saga executor is stopping")]
    Stopped,
    /// As many sagas are under way as may be.
    #[error("too many sagas are under way, limit is {limit}")]
    Busy {
        /// That limit.
        limit: usize,
    },
    /// The metastore failed before the saga was recorded.
    #[error("saga was not recorded")]
    Store {
        /// Why.
        #[source]
        source: Arc<redkite_metastore::Error>,
    },
    /// A record cannot be read; the executor must not start on it.
    #[error("saga record {key} is corrupt: {what}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// No such kind and version is registered; the caller's bug.
    #[error("saga {kind}/v{version} is not registered")]
    NotRegistered {
        /// The kind.
        kind: String,
        /// The version.
        version: u32,
    },
    /// A saga's definition contradicts itself; its author's bug.
    #[error("saga {kind}/v{version} is ill-defined: {what}")]
    Definition {
        /// The kind.
        kind: &'static str,
        /// The version.
        version: u32,
        /// What is wrong with it.
        what: String,
    },
    /// The request id was used before for a saga of another kind.
    #[error("request id {request_id} was used before for saga {kind}")]
    RequestIdReused {
        /// The id.
        request_id: String,
        /// The kind of saga it was used for.
        kind: String,
    },
    /// No such saga is known.
    #[error("saga {id} not found")]
    NotFound {
        /// Which.
        id: SagaId,
    },
    /// The saga's state does not allow that.
    #[error("saga {id} is {state}, which does not allow to {verb}")]
    WrongState {
        /// Which saga.
        id: SagaId,
        /// Its state.
        state: State,
        /// What was wanted.
        verb: &'static str,
    },
    /// A bug of ours.
    #[error("saga executor is broken: {what}")]
    Internal {
        /// What does not add up.
        what: String,
    },
}

impl Error {
    pub(crate) fn store(source: redkite_metastore::Error) -> Self {
        Self::Store {
            source: Arc::new(source),
        }
    }

    /// Whether the saga that this answers certainly has no effect, now and later.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_)
            | Self::Busy { .. }
            | Self::NotRegistered { .. }
            | Self::Definition { .. }
            | Self::RequestIdReused { .. }
            | Self::NotFound { .. }
            | Self::WrongState { .. } => Outcome::NotApplied,
            Self::Store { source } => source.outcome(),
            Self::Stuck { .. }
            | Self::Fenced
            | Self::Stopped
            | Self::Corrupt { .. }
            | Self::Internal { .. } => Outcome::Unknown,
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Failed(error) => error.code,
            Self::Fenced | Self::Stopped => ErrorCode::ServiceUnavailable,
            Self::Busy { .. } => ErrorCode::TooManyRequests,
            Self::Store { source } => source.code(),
            Self::Corrupt { .. } => ErrorCode::DataIntegrity,
            Self::RequestIdReused { .. } | Self::NotFound { .. } | Self::WrongState { .. } => {
                ErrorCode::InvalidParameter
            }
            Self::Stuck { .. }
            | Self::NotRegistered { .. }
            | Self::Definition { .. }
            | Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Failed(error) => error.retriable,
            Self::Store { source } => source.retriable(),
            Self::Fenced | Self::Stopped | Self::Busy { .. } => true,
            Self::Stuck { .. }
            | Self::Corrupt { .. }
            | Self::NotRegistered { .. }
            | Self::Definition { .. }
            | Self::RequestIdReused { .. }
            | Self::NotFound { .. }
            | Self::WrongState { .. }
            | Self::Internal { .. } => false,
        }
    }
}

impl From<Error> for redkite_types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Failed(error) => error,
            other => Self::from_coded(&other),
        }
    }
}
