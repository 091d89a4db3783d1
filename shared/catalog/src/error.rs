//! What can go wrong while reading metadata.

use redkite_types::{Coded, ErrorCode};

/// Result with the catalog's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading metadata.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The metastore did not answer; its error says whether to retry.
    #[error("reading metadata")]
    Metastore(#[source] redkite_metastore::Error),
    /// A record cannot be decoded: it was written by a newer version or is damaged.
    #[error("metadata record {key} cannot be decoded")]
    Decode {
        /// Where it stands.
        key: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The view did not reach a revision in time; retry.
    #[error("metadata revision {wanted} is not seen yet, at {seen}")]
    Behind {
        /// The revision waited for.
        wanted: u64,
        /// The newest one seen.
        seen: u64,
    },
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Metastore(error) => error.code(),
            Self::Decode { .. } => ErrorCode::DataIntegrity,
            Self::Behind { .. } => ErrorCode::ServiceUnavailable,
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Metastore(error) => error.retriable(),
            Self::Decode { .. } => false,
            Self::Behind { .. } => true,
        }
    }
}
