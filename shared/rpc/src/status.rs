//! Our errors as `tonic::Status` and back.
//!
//! The status itself carries a code and a text for foreign clients. What our own callers need
//! beyond that rides in the binary metadata [`ERROR_HEADER`].

use std::time::Duration;

use prost::Message as _;
use redkite_types::{Coded, Error, ErrorCode, Outcome};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The metadata key of the error's details.
pub const ERROR_HEADER: &str = "redkite-error-bin";

/// Longer texts are cut: a status travels in HTTP/2 headers, which are limited to 16 KiB.
const MAX_MESSAGE: usize = 2048;

/// What tonic says about a message beyond the limit, on either side.
const TOO_LARGE: &str = "message length too large";

/// The error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The error as the service made it, or as the transport's failure looks to a user.
    pub error: Error,
    /// For writes: whether the call certainly had no effect. `None` when the service did not say.
    pub outcome: Option<Outcome>,
    /// Where the leader is, when the service that was asked is not.
    pub leader_hint: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl RpcError {
    /// An error without further details.
    pub fn new(error: Error) -> Self {
        Self {
            error,
            outcome: None,
            leader_hint: None,
            retry_after: None,
        }
    }

    /// Says whether the call had an effect.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Says where the leader is.
    #[must_use]
    pub fn with_leader_hint(mut self, address: impl Into<String>) -> Self {
        self.leader_hint = Some(address.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The time is over; `outcome` says whether the call was sent.
    pub fn timeout(what: &str, outcome: Outcome) -> Self {
        Self::new(Error::new(ErrorCode::Timeout, what)).with_outcome(outcome)
    }

    /// Whether the call certainly had no effect.
    pub fn not_applied(&self) -> bool {
        self.outcome == Some(Outcome::NotApplied)
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for RpcError {}

impl Coded for RpcError {
    fn code(&self) -> ErrorCode {
        self.error.code
    }

    fn retriable(&self) -> bool {
        self.error.retriable
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}

impl From<redkite_runtime::Error> for RpcError {
    fn from(error: redkite_runtime::Error) -> Self {
        use redkite_runtime::Error as Runtime;
        let (outcome, retry_after) = match &error {
            Runtime::Busy { .. } | Runtime::Stopping { .. } | Runtime::Thread { .. } => {
                (Outcome::NotApplied, None)
            }
            Runtime::RateLimited { retry_after, .. } => (Outcome::NotApplied, Some(*retry_after)),
            Runtime::DeadlineExceeded { .. }
            | Runtime::Interrupted { .. }
            | Runtime::Panicked { .. } => (Outcome::Unknown, None),
        };
        Self {
            error: error.into(),
            outcome: Some(outcome),
            leader_hint: None,
            retry_after,
        }
    }
}

impl From<RpcError> for Error {
    fn from(error: RpcError) -> Self {
        error.error
    }
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        to_status(&error)
    }
}

impl From<Status> for RpcError {
    fn from(status: Status) -> Self {
        from_status(&status)
    }
}

/// The details as they travel. Numbers are never used again for anything else.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ErrorDetails {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(bool, tag = "2")]
    retriable: bool,
    #[prost(bool, tag = "3")]
    is_input_error: bool,
    /// 0 unsaid, 1 not applied, 2 unknown.
    #[prost(uint32, tag = "4")]
    outcome: u32,
    #[prost(string, tag = "5")]
    message: String,
    /// Empty when unknown.
    #[prost(string, tag = "6")]
    leader_hint: String,
    /// 0 without a hint.
    #[prost(uint64, tag = "7")]
    retry_after_ms: u64,
}

/// Writes an error for the wire.
pub fn to_status(error: &RpcError) -> Status {
    let message = cut(&error.error.message);
    let details = ErrorDetails {
        code: error.error.code.number(),
        retriable: error.error.retriable,
        is_input_error: error.error.is_input_error,
        outcome: match error.outcome {
            None => 0,
            Some(Outcome::NotApplied) => 1,
            Some(Outcome::Unknown) => 2,
        },
        message: message.to_owned(),
        leader_hint: error.leader_hint.clone().unwrap_or_default(),
        retry_after_ms: error.retry_after.map_or(0, |pause| {
            u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).max(1)
        }),
    };
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(
        ERROR_HEADER,
        MetadataValue::from_bytes(&details.encode_to_vec()),
    );
    Status::with_metadata(grpc_code(&error.error), message, metadata)
}

/// Reads an error from the wire, or from the transport below it.
pub fn from_status(status: &Status) -> RpcError {
    let details = status
        .metadata()
        .get_bin(ERROR_HEADER)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| ErrorDetails::decode(bytes).ok());
    match details {
        Some(details) => from_details(details),
        None => foreign(status),
    }
}

fn from_details(details: ErrorDetails) -> RpcError {
    RpcError {
        error: Error {
            // A newer service may use codes that we do not know; its other words still hold.
            code: ErrorCode::from_number(details.code).unwrap_or(ErrorCode::Unexpected),
            message: details.message,
            retriable: details.retriable,
            is_input_error: details.is_input_error,
        },
        outcome: match details.outcome {
            1 => Some(Outcome::NotApplied),
            2 => Some(Outcome::Unknown),
            _ => None,
        },
        leader_hint: Some(details.leader_hint).filter(|hint| !hint.is_empty()),
        retry_after: Some(Duration::from_millis(details.retry_after_ms))
            .filter(|pause| !pause.is_zero()),
    }
}

/// A status that no handler of ours made: the transport's, tonic's own, or a foreign server's.
fn foreign(status: &Status) -> RpcError {
    let message = status.message();
    if message.contains(TOO_LARGE) {
        return too_large(message);
    }
    match status.code() {
        // tonic reports a client-side timeout as cancelled.
        Code::Cancelled | Code::DeadlineExceeded => RpcError::timeout(
            &format!("the call was not answered in time: {message}"),
            Outcome::Unknown,
        ),
        Code::Unavailable => unavailable(status),
        // A connection that broke in the middle; the source is there only when it was ours.
        Code::Unknown | Code::Internal | Code::Aborted if is_local(status) => unavailable(status),
        Code::ResourceExhausted => Error::new(ErrorCode::TooManyRequests, message).into(),
        Code::InvalidArgument | Code::OutOfRange => {
            Error::input(ErrorCode::InvalidParameter, message).into()
        }
        Code::Unauthenticated => Error::new(ErrorCode::NotAuthenticated, message).into(),
        Code::PermissionDenied => Error::new(ErrorCode::PrivilegeNotPermitted, message).into(),
        Code::Unimplemented => Error::new(ErrorCode::Unimplemented, message).into(),
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => Error::internal(format!("{}: {message}", status.code())).into(),
    }
}

/// The service cannot be reached, or was lost on the way.
fn unavailable(status: &Status) -> RpcError {
    let mut chain = std::error::Error::source(status);
    let mut outcome = Outcome::Unknown;
    while let Some(cause) = chain {
        // Without a connection nothing was sent.
        if cause.is::<tonic::ConnectError>() {
            outcome = Outcome::NotApplied;
        }
        chain = cause.source();
    }
    let text = format!(
        "service unavailable: {}",
        redkite_types::error::chain(status)
    );
    RpcError::new(Error::new(ErrorCode::ServiceUnavailable, cut(&text))).with_outcome(outcome)
}

fn is_local(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The clear form of tonic's error about a message beyond the limit.
pub(crate) fn too_large(message: &str) -> RpcError {
    let text = message.trim_start_matches("Error, ");
    RpcError::new(Error::input(
        ErrorCode::ParameterTooLarge,
        format!("{}: {text}", ErrorCode::ParameterTooLarge.text()),
    ))
    .with_outcome(Outcome::NotApplied)
}

/// Refuses a request beyond the limit before it is sent. tonic would too, but as a broken stream
/// that looks like a lost connection.
///
/// # Errors
/// `ParameterTooLarge`; nothing was sent.
pub fn check_size(message: &impl prost::Message, limit: usize) -> Result<(), Status> {
    let size = message.encoded_len();
    if size > limit {
        let text = format!("encoded {TOO_LARGE}: found {size} bytes, the limit is: {limit} bytes");
        return Err(to_status(&too_large(&text)));
    }
    Ok(())
}

/// Whether tonic made this status because a message was beyond the limit.
pub(crate) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains(TOO_LARGE)
}

/// The gRPC code for clients that know nothing else.
fn grpc_code(error: &Error) -> Code {
    match error.code {
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::Canceled => Code::Cancelled,
        ErrorCode::TooManyRequests
        | ErrorCode::RateLimit
        | ErrorCode::QuotaExceeded
        | ErrorCode::MemoryLimitExceeded
        | ErrorCode::DiskLimitExceeded
        | ErrorCode::ParameterTooLarge => Code::ResourceExhausted,
        ErrorCode::NotAuthenticated => Code::Unauthenticated,
        ErrorCode::PrivilegeNotPermitted => Code::PermissionDenied,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::CollectionNotFound
        | ErrorCode::PartitionNotFound
        | ErrorCode::ChannelNotFound
        | ErrorCode::SegmentNotFound
        | ErrorCode::IndexNotFound
        | ErrorCode::DatabaseNotFound
        | ErrorCode::NodeNotFound
        | ErrorCode::AliasNotFound => Code::NotFound,
        ErrorCode::Internal | ErrorCode::Unexpected | ErrorCode::DataIntegrity => Code::Internal,
        _ if error.is_input_error => Code::InvalidArgument,
        _ if error.retriable => Code::Unavailable,
        _ => Code::FailedPrecondition,
    }
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_detail_survives_the_wire() {
        let errors = [
            RpcError::new(Error::collection_not_found("default", "x")),
            RpcError::new(Error::invalid_parameter("dim is 0")).with_outcome(Outcome::NotApplied),
            RpcError::new(Error::new(ErrorCode::ServiceNotReady, "not the leader"))
                .with_outcome(Outcome::NotApplied)
                .with_leader_hint("10.0.0.2:19531"),
            RpcError::new(Error::new(ErrorCode::RateLimit, "full"))
                .with_outcome(Outcome::Unknown)
                .with_retry_after(Duration::from_millis(50)),
        ];
        for error in errors {
            assert_eq!(from_status(&to_status(&error)), error);
        }
    }

    #[test]
    fn every_code_survives_the_wire() {
        for code in ErrorCode::ALL {
            let error = RpcError::new(Error::new(*code, "x"));
            let status = to_status(&error);
            assert_ne!(status.code(), Code::Ok);
            assert_eq!(from_status(&status).error.code, *code);
        }
    }

    #[test]
    fn a_code_of_a_newer_service_keeps_its_other_words() {
        let details = ErrorDetails {
            code: 424_242,
            retriable: true,
            message: "something new".to_owned(),
            ..ErrorDetails::default()
        };
        let error = from_details(details).error;
        assert_eq!((error.code, error.retriable), (ErrorCode::Unexpected, true));
        assert_eq!(error.message, "something new");
    }

    #[test]
    fn the_transports_errors_get_a_meaning() {
        for code in [Code::Cancelled, Code::DeadlineExceeded] {
            let error = from_status(&Status::new(code, "Timeout expired"));
            assert_eq!(error.error.code, ErrorCode::Timeout);
            assert_eq!(error.outcome, Some(Outcome::Unknown));
        }
        let lost = from_status(&Status::unavailable("connection reset"));
        assert_eq!(lost.error.code, ErrorCode::ServiceUnavailable);
        assert!(lost.error.retriable && lost.outcome == Some(Outcome::Unknown));

        let large = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
        );
        let error = from_status(&large);
        assert_eq!(error.error.code, ErrorCode::ParameterTooLarge);
        assert!(error.error.message.contains("found 9 bytes"), "{error}");
    }

    #[test]
    fn a_long_message_is_cut_between_letters() {
        let error = RpcError::new(Error::internal("ä".repeat(5_000)));
        let status = to_status(&error);
        assert!(status.message().len() <= MAX_MESSAGE);
        assert!(from_status(&status).error.message.len() <= MAX_MESSAGE);
    }
}
