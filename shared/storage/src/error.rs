//! What can go wrong with an object.

use std::{fmt, sync::Arc};

use redkite_types::{Coded, ErrorCode, Outcome};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No object has this key. The caller asked for something that is gone or never was.
    #[error("object {key} not found")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The key is not one that [`crate::layout`] could have made. A bug of the caller.
    #[error("object key {key:?} is not allowed: {reason}")]
    InvalidKey {
        /// The key asked for.
        key: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The storage URI of the configuration cannot be used.
    #[error("storage uri {uri:?} is not supported: {reason}")]
    InvalidUri {
        /// The URI as configured.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk or the quota is full. Space must be made before a retry helps.
    #[error("no space left to {operation} object {key}")]
    NoSpace {
        /// `put`, `put_if_absent`, …
        operation: &'static str,
        /// The object concerned.
        key: String,
        /// The refusal of the file system or service.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file system or the service failed.
    #[error("cannot {operation} object {key}")]
    Io {
        /// `put`, `get`, `list`, …
        operation: &'static str,
        /// The object or prefix concerned.
        key: String,
        /// Whether the failure is of the kind that passes (timeouts, throttling).
        transient: bool,
        /// The failure itself.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are not those that were written. Reading again will not help; another copy may.
    #[error("object {key} is corrupt: {reason}")]
    Corrupt {
        /// The object concerned.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
}

impl Error {
    /// Whether the object simply does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a failed write certainly did not happen.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotFound { .. } | Self::InvalidKey { .. } | Self::InvalidUri { .. } => {
                Outcome::NotApplied
            }
            Self::NoSpace { .. } | Self::Io { .. } | Self::Corrupt { .. } => Outcome::Unknown,
        }
    }

    /// The same failure for one more of those who waited for the work that failed.
    pub(crate) fn shared(error: &Arc<Self>) -> Self {
        let source = || Box::new(SharedCause(error.clone()));
        match &**error {
            Self::NotFound { key } => Self::NotFound { key: key.clone() },
            Self::InvalidKey { key, reason } => Self::InvalidKey {
                key: key.clone(),
                reason,
            },
            Self::InvalidUri { uri, reason } => Self::InvalidUri {
                uri: uri.clone(),
                reason: reason.clone(),
            },
            Self::NoSpace { operation, key, .. } => Self::NoSpace {
                operation,
                key: key.clone(),
                source: source(),
            },
            Self::Io {
                operation,
                key,
                transient,
                ..
            } => Self::Io {
                operation,
                key: key.clone(),
                transient: *transient,
                source: source(),
            },
            Self::Corrupt { key, reason } => Self::Corrupt {
                key: key.clone(),
                reason: reason.clone(),
            },
        }
    }

    pub(crate) fn from_io(operation: &'static str, key: &str, error: std::io::Error) -> Self {
        let key = key.to_owned();
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound { key },
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace {
                operation,
                key,
                source: Box::new(error),
            },
            kind => Self::Io {
                operation,
                key,
                transient: matches!(
                    kind,
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::TimedOut
                ),
                source: Box::new(error),
            },
        }
    }
}

/// The cause of a failure that several share.
#[derive(Debug)]
struct SharedCause(Arc<Error>);

impl SharedCause {
    fn cause(&self) -> &(dyn std::error::Error + 'static) {
        std::error::Error::source(&*self.0).unwrap_or(&*self.0)
    }
}

impl fmt::Display for SharedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause())
    }
}

impl std::error::Error for SharedCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause().source()
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::IoKeyNotFound,
            Self::InvalidKey { .. } => ErrorCode::Internal,
            Self::InvalidUri { .. } => ErrorCode::InvalidParameter,
            Self::NoSpace { .. } => ErrorCode::DiskLimitExceeded,
            Self::Io { .. } => ErrorCode::IoFailed,
            Self::Corrupt { .. } => ErrorCode::DataIntegrity,
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Io { transient, .. } => *transient,
            Self::NotFound { .. }
            | Self::InvalidKey { .. }
            | Self::InvalidUri { .. }
            | Self::NoSpace { .. }
            | Self::Corrupt { .. } => false,
        }
    }
}
