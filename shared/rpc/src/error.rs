//! What can go wrong before there is a call.

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server ended, or why there is no way to a service. The errors of calls are
/// [`crate::RpcError`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin server failed.
    #[error("the admin server failed")]
    Admin {
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The text is no address of a service.
    #[error("`{address}` is not an address such as 127.0.0.1:19530")]
    Address {
        /// The text as given.
        address: String,
        /// What the parser says.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Admin { .. } => ErrorCode::Internal,
            Self::Address { .. } => ErrorCode::InvalidParameter,
        }
    }
}

impl From<Error> for redkite_types::Error {
    fn from(error: Error) -> Self {
        Self::from_coded(&error)
    }
}
