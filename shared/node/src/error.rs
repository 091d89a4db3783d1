//! Why a process cannot start, or had to stop.

use std::path::PathBuf;

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, where only its text matters any more.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a process cannot start, or had to stop. Printed to the operator as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used; the operator's to fix.
    #[error(transparent)]
    Config(#[from] redkite_config::Error),
    /// Logs, traces or metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] redkite_telemetry::Error),
    /// An address that cannot be listened on: it is taken, or not this machine's.
    #[error("cannot listen on {address}, choose another one with {flag}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What sets it.
        flag: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Nobody can be told where this process is.
    #[error("others cannot reach {listen}: set common.advertised_host (--advertise)")]
    Unreachable {
        /// The address listened on.
        listen: String,
    },
    /// The data directory cannot be used.
    #[error("data directory {path} cannot be used")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another process works on the data directory.
    #[error("data directory {path} is in use by another process{holder}")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Which process, as ` (pid 1)`, where known.
        holder: String,
    },
    /// A part of the process did not start.
    #[error("cannot {what}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// Something that the process needs has failed, so it stopped.
    #[error("stopped because of a failure: {reason}")]
    Failed {
        /// The task that failed, and why.
        reason: String,
    },
}

impl Error {
    /// An adapter for `map_err`: says what was tried.
    pub fn start<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Start {
            what,
            source: source.into(),
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Config(error) => error.code(),
            Self::Listen { .. } | Self::Unreachable { .. } => ErrorCode::InvalidParameter,
            Self::DataDir { .. } => ErrorCode::IoFailed,
            Self::Telemetry(_) | Self::Locked { .. } | Self::Start { .. } | Self::Failed { .. } => {
                ErrorCode::Internal
            }
        }
    }
}
