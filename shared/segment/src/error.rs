//! What can go wrong in a segment.

use redkite_types::{Coded, ErrorCode, FieldId, SegmentId};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A segment could not be written, read or searched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rows that do not belong into the segment. A bug of the caller: requests are checked before.
    #[error("rows do not fit segment {segment}: {reason}")]
    BadRows {
        /// The segment.
        segment: SegmentId,
        /// What was expected and what was found.
        reason: String,
    },
    /// The segment holds no column of this field.
    #[error("segment {segment} has no column of field {field}")]
    NoField {
        /// The segment.
        segment: SegmentId,
        /// The field.
        field: FieldId,
    },
    /// The segment has as many rows as a row number can count. Seal it and begin another.
    #[error("segment {segment} is full")]
    Full {
        /// The segment.
        segment: SegmentId,
    },
    /// The filter failed on this segment's columns.
    #[error("cannot filter segment {segment}")]
    Filter {
        /// The segment.
        segment: SegmentId,
        /// Why.
        #[source]
        source: redkite_expr::Error,
    },
    /// The vector engine refused or was stopped.
    #[error("cannot search segment {segment}")]
    Search {
        /// The segment.
        segment: SegmentId,
        /// Why.
        #[source]
        source: redkite_index::Error,
    },
    /// The stop flag was raised: nobody waits for the answer any more.
    #[error("cancelled by the caller")]
    Cancelled,
    /// A file does not hold what its manifest or its format says. Another copy may.
    #[error("file {path} is corrupt: {reason}")]
    Corrupt {
        /// The object.
        path: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file was written by a newer Redkite.
    #[error("file {path} has format version {found}, this build reads up to {supported}")]
    UnsupportedVersion {
        /// The object.
        path: String,
        /// In the file.
        found: u32,
        /// Newest that can be read.
        supported: u32,
    },
    /// Encoding a file failed.
    #[error("cannot encode the file of segment {segment}")]
    Encode {
        /// The segment.
        segment: SegmentId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row could not be written as an export has it.
    #[error("cannot write rows of an export")]
    Export {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object store failed.
    #[error(transparent)]
    Storage(#[from] redkite_storage::Error),
}

impl Error {
    pub(crate) fn corrupt(path: &str, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn search(segment: SegmentId, source: redkite_index::Error) -> Self {
        match source {
            redkite_index::Error::Cancelled => Self::Cancelled,
            source => Self::Search { segment, source },
        }
    }
}

impl Error {
    /// Whether the search met a vector that is not in memory, and was not to wait for it.
    pub fn would_wait(&self) -> bool {
        matches!(self, Self::Search { source, .. } if source.would_wait())
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::BadRows { .. } | Self::Encode { .. } | Self::Export { .. } => ErrorCode::Internal,
            Self::NoField { .. } => ErrorCode::FieldNotFound,
            Self::Full { .. } | Self::Cancelled => ErrorCode::ServiceUnavailable,
            Self::Filter { source, .. } => source.code(),
            Self::Search { source, .. } => source.code(),
            Self::Corrupt { .. } | Self::UnsupportedVersion { .. } => ErrorCode::DataIntegrity,
            Self::Storage(source) => source.code(),
        }
    }

    fn retriable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Cancelled => true,
            Self::BadRows { .. }
            | Self::Encode { .. }
            | Self::Export { .. }
            | Self::NoField { .. }
            | Self::Corrupt { .. }
            | Self::UnsupportedVersion { .. } => false,
            Self::Filter { source, .. } => source.retriable(),
            Self::Search { source, .. } => source.retriable(),
            Self::Storage(source) => source.retriable(),
        }
    }
}
