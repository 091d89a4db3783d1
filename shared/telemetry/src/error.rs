//! What can go wrong when telemetry starts.

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why telemetry could not be started; the process should not start either.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's `log_filter` is not a filter.
    #[error("telemetry.log_filter is not a valid filter: {filter}")]
    LogFilter {
        /// The text as configured.
        filter: String,
        /// What the parser says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The exporter of traces could not be made, as a rule because the endpoint is no URL.
    #[error("traces cannot be exported to {endpoint}")]
    Exporter {
        /// The endpoint as configured.
        endpoint: String,
        /// What the exporter says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system refused the exporter's thread.
    #[error("the thread of the trace exporter could not be started")]
    Thread {
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else in this process installed a subscriber or a recorder before us.
    #[error("another {what} is already installed in this process")]
    Installed {
        /// Which of the two.
        what: &'static str,
    },
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::LogFilter { .. } | Self::Exporter { .. } => ErrorCode::InvalidParameter,
            Self::Thread { .. } | Self::Installed { .. } => ErrorCode::Internal,
        }
    }
}
