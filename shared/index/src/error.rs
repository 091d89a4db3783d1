//! What can go wrong in an index.

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A query or a row matrix does not have the index's dimension.
    #[error("vector dimension mismatch, expected vector size {expected}, actual {actual}")]
    DimMismatch {
        /// What the index has.
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// A vector holds NaN or an infinity; nothing can be near to it.
    #[error("value of {what} is not a number or infinite")]
    NotFinite {
        /// Which vector.
        what: String,
    },
    /// A parameter is unknown, out of range or of the wrong type; the text is Milvus's.
    #[error("{message}: invalid parameter")]
    InvalidParameter {
        /// Names the parameter, its value and its range.
        message: String,
    },
    /// The index type is not one this engine has.
    #[error("invalid parameter[expected=valid index][actual=invalid index type: {index_type}]")]
    InvalidIndexType {
        /// As the caller wrote it.
        index_type: String,
    },
    /// More rows than a graph can address.
    #[error("{rows} rows are more than the {limit} an index can hold")]
    TooManyRows {
        /// What was given.
        rows: usize,
        /// What is possible.
        limit: usize,
    },
    /// The borrowed raw vectors do not belong to this index.
    #[error("raw vectors are [{raw_rows}, {raw_dim}], the index is [{rows}, {dim}]")]
    RawMismatch {
        /// Rows lent.
        raw_rows: usize,
        /// Dimension lent.
        raw_dim: usize,
        /// Rows indexed.
        rows: usize,
        /// Dimension indexed.
        dim: usize,
    },
    /// A vector could not be read from its file.
    #[error("cannot read the vector of row {row}")]
    Unread {
        /// Which one.
        row: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The stop flag was raised.
    #[error("cancelled by the caller")]
    Cancelled,
    /// The file is not an index file or was damaged; fetch it again.
    #[error("index file is corrupt: {what}")]
    Corrupt {
        /// Which part.
        what: String,
    },
    /// The file was written by a newer Redkite.
    #[error("index file has format version {found}, this build reads up to {supported}")]
    UnsupportedVersion {
        /// In the file.
        found: u32,
        /// Newest that can be read.
        supported: u32,
    },
    /// Reading or writing the file failed.
    #[error("index file {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether a vector was not in memory and the search was not to wait for it: search again where
    /// waiting is allowed.
    pub fn would_wait(&self) -> bool {
        matches!(self, Self::Unread { source, .. }
            if source.kind() == std::io::ErrorKind::WouldBlock)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidParameter {
            message: message.into(),
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

impl From<redkite_types::Stopped> for Error {
    fn from(_: redkite_types::Stopped) -> Self {
        Self::Cancelled
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::DimMismatch { .. }
            | Self::NotFinite { .. }
            | Self::InvalidParameter { .. }
            | Self::InvalidIndexType { .. } => ErrorCode::InvalidParameter,
            Self::TooManyRows { .. } => ErrorCode::ParameterTooLarge,
            Self::RawMismatch { .. } => ErrorCode::Internal,
            Self::Cancelled => ErrorCode::ServiceUnavailable,
            Self::Corrupt { .. } | Self::UnsupportedVersion { .. } => ErrorCode::DataIntegrity,
            Self::Io { .. } | Self::Unread { .. } => ErrorCode::IoFailed,
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Cancelled | Self::Io { .. } | Self::Unread { .. } => true,
            Self::DimMismatch { .. }
            | Self::NotFinite { .. }
            | Self::InvalidParameter { .. }
            | Self::InvalidIndexType { .. }
            | Self::TooManyRows { .. }
            | Self::RawMismatch { .. }
            | Self::Corrupt { .. }
            | Self::UnsupportedVersion { .. } => false,
        }
    }
}
