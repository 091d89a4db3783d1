//! Milvus's error codes and the one error type that reaches a user.
//!
//! # Source
//! Codes, texts and the mapping to the older enum are facts of Milvus 3.0's wire contract.

use std::fmt;

/// Result with the user-facing [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal $(, $flag:ident)?;)*) => {
        /// A Milvus error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code this crate knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub const fn number(self) -> i32 {
                match self { $(Self::$name => $code,)* }
            }

            /// Milvus's text for the code.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same request may succeed later without being changed.
            pub const fn retriable(self) -> bool {
                match self { $(Self::$name => codes!(@flag $($flag)?),)* }
            }
        }
    };
    (@flag retriable) => { true };
    (@flag) => { false };
}

codes! {
    ServiceNotReady = 1, "service not ready", retriable;
    ServiceUnavailable = 2, "service unavailable", retriable;
    MemoryLimitExceeded = 3, "memory limit exceeded";
    TooManyRequests = 4, "too many concurrent requests, queue is full", retriable;
    Internal = 5, "service internal error";
    DiskLimitExceeded = 7, "disk limit exceeded";
    RateLimit = 8, "rate limit exceeded", retriable;
    QuotaExceeded = 9, "quota exceeded";
    Unimplemented = 10, "service unimplemented";
    TimeTickLongDelay = 11, "time tick long delay";
    ResourceInsufficient = 12, "service resource insufficient", retriable;
    CollectionNotFound = 100, "collection not found";
    CollectionNotLoaded = 101, "collection not loaded";
    CollectionLimit = 102, "exceeded the limit number of collections";
    CollectionNotFullyLoaded = 103, "collection not fully loaded", retriable;
    CollectionLoaded = 104, "collection already loaded";
    CollectionIllegalSchema = 105, "illegal collection schema";
    SchemaMismatch = 109, "collection schema mismatch";
    /// A node has not heard yet of the schema that a request was planned with.
    SchemaNotReady = 110, "collection schema version not ready", retriable;
    PartitionNotFound = 200, "partition not found";
    PartitionNotLoaded = 201, "partition not loaded";
    PartitionNotFullyLoaded = 202, "partition not fully loaded", retriable;
    CapacityExceeded = 250, "general capacity exceeded";
    ReplicaNotAvailable = 401, "replica not available";
    ChannelNotFound = 500, "channel not found";
    ChannelNotAvailable = 503, "channel not available", retriable;
    ChannelMisrouted = 507, "channel misrouted", retriable;
    SegmentNotFound = 600, "segment not found";
    SegmentNotLoaded = 601, "segment not loaded";
    SegmentLoadFailed = 604, "segment load failed";
    IndexNotFound = 700, "index not found";
    IndexNotSupported = 701, "index type not supported";
    IndexDuplicate = 702, "index duplicates";
    DatabaseNotFound = 800, "database not found";
    DatabaseLimit = 801, "exceeded the limit number of database";
    DatabaseInvalidName = 802, "invalid database name";
    NodeNotFound = 901, "node not found";
    NodeOffline = 902, "node offline";
    IoKeyNotFound = 1000, "key not found";
    IoFailed = 1001, "IO failed";
    DataIntegrity = 1009, "data integrity";
    InvalidParameter = 1100, "invalid parameter";
    MissingParameter = 1101, "missing parameter";
    ParameterTooLarge = 1102, "parameter too large";
    NotAuthenticated = 1400, "not authenticated";
    PrivilegeNotPermitted = 1401, "privilege not permitted";
    AliasNotFound = 1600, "alias not found";
    AliasCollectionNameConflict = 1601, "alias and collection name conflict";
    AliasAlreadyExists = 1602, "alias already exist";
    FieldNotFound = 1700, "field not found";
    FieldInvalidName = 1701, "field name invalid";
    /// A job that nobody knows, or that is forgotten.
    JobNotFound = 2101, "job not found";
    InconsistentRequery = 2200, "inconsistent requery", retriable;
    QueryPlanFailed = 2201, "query plan failed";
    /// A snapshot keeps its segments from being compacted for a while.
    CompactionProtected = 2317, "compaction is blocked by the protection of a snapshot";
    SnapshotNotFound = 2600, "snapshot not found";
    SnapshotPinned = 2601, "snapshot is pinned";
    UnsupportedOperation = 3000, "unsupported operation";
    /// The caller went away before there was an answer.
    Canceled = 10_000, "context canceled";
    /// The deadline that came with the request is over.
    Timeout = 10_001, "context deadline exceeded";
    Unexpected = 65_535, "unexpected error";
}

impl ErrorCode {
    /// The code with this number.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.number() == number)
    }

    /// The number of the older `common.ErrorCode` enum, which clients still check.
    pub const fn legacy(self) -> i32 {
        match self.number() {
            1 | 110 => 56,
            100 => 4,
            1100..=1102 => 5,
            904 => 50,
            200 | 400 | 501 => 15,
            401 | 503 | 506 | 905 => 46,
            3 => 52,
            7 => 54,
            11 | 505 => 55,
            8 => 49,
            9 => 48,
            700 => 25,
            600 => 47,
            109 => 62,
            _ => 1,
        }
    }
}

/// Whether a failed write certainly did not happen.
///
/// After [`Outcome::Unknown`] whatever was derived from the store must be thrown away and read
/// again: the write may have been applied, or may still be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write was not applied and never will be.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

/// What every crate's error can say about itself.
pub trait Coded: std::error::Error {
    /// Milvus's code.
    fn code(&self) -> ErrorCode;

    /// Whether the same request may succeed later without being changed.
    fn retriable(&self) -> bool {
        self.code().retriable()
    }
}

/// The error that reaches a user: a Milvus code and a message that names what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Milvus's code.
    pub code: ErrorCode,
    /// What happened, with the names and numbers involved.
    pub message: String,
    /// Whether the same request may succeed later without being changed.
    pub retriable: bool,
    /// Whether the caller's input is to blame; such an error is never retriable.
    pub is_input_error: bool,
}

impl Error {
    /// An error with the code's own retriable flag and a message taken as it is.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retriable: code.retriable(),
            is_input_error: false,
        }
    }

    /// The caller's input is wrong (code 1100). The message ends in Milvus's `: invalid parameter`.
    pub fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::input(
            ErrorCode::InvalidParameter,
            format!("{}: {}", message.into(), ErrorCode::InvalidParameter.text()),
        )
    }

    /// A required parameter is absent (code 1101).
    pub fn missing_parameter(message: impl Into<String>) -> Self {
        Self::input(
            ErrorCode::MissingParameter,
            format!("{}: {}", message.into(), ErrorCode::MissingParameter.text()),
        )
    }

    /// An error of the caller's input under another code, message taken as it is.
    pub fn input(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retriable: false,
            is_input_error: true,
        }
    }

    /// A plain error without a code of its own (65535).
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unexpected, message)
    }

    /// A fault of ours (code 5).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// Milvus's text for an absent collection (code 100).
    pub fn collection_not_found(database: &str, collection: &str) -> Self {
        Self::new(
            ErrorCode::CollectionNotFound,
            format!("collection not found[database={database}][collection={collection}]"),
        )
    }

    /// Milvus's text for an absent partition (code 200).
    pub fn partition_not_found(partition: &str) -> Self {
        Self::new(
            ErrorCode::PartitionNotFound,
            format!("partition not found[partition={partition}]"),
        )
    }

    /// Milvus's text for an absent database (code 800).
    pub fn database_not_found(database: &str) -> Self {
        Self::new(
            ErrorCode::DatabaseNotFound,
            format!("database not found[database={database}]"),
        )
    }

    /// Milvus's text for a collection that is not loaded (code 101).
    pub fn collection_not_loaded(collection: impl fmt::Display) -> Self {
        Self::new(
            ErrorCode::CollectionNotLoaded,
            format!("collection not loaded[collection={collection}]"),
        )
    }

    /// Takes any coded error as it is, with its whole chain in the message.
    pub fn from_coded(error: &impl Coded) -> Self {
        Self {
            code: error.code(),
            message: chain(error),
            retriable: error.retriable(),
            is_input_error: false,
        }
    }

    /// The same error with words in front, as Milvus wraps messages: `outer: inner`.
    #[must_use]
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.message = format!("{outer}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn retriable(&self) -> bool {
        self.retriable
    }
}

/// Writes an error and its causes as `outer: inner: innermost`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_come_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
        assert_eq!(ErrorCode::from_number(-1), None);
    }

    #[test]
    fn legacy_numbers_follow_the_contract() {
        assert_eq!(ErrorCode::CollectionNotFound.legacy(), 4);
        assert_eq!(ErrorCode::InvalidParameter.legacy(), 5);
        assert_eq!(ErrorCode::IndexNotFound.legacy(), 25);
        assert_eq!(ErrorCode::RateLimit.legacy(), 49);
        assert_eq!(ErrorCode::SchemaMismatch.legacy(), 62);
        assert_eq!(ErrorCode::Unexpected.legacy(), 1);
    }

    #[test]
    fn input_errors_are_never_retriable() {
        assert!(!Error::invalid_parameter("x").retriable);
        assert!(Error::new(ErrorCode::RateLimit, "x").retriable);
    }
}
