//! Codes, HTTP statuses, the envelope.

use redkite_types::{Error, ErrorCode};
use serde_json::{Value, json};

use crate::http::message::HttpAnswer;

/// What an operation answers: its `data`.
pub type Outcome = Result<Value, Failure>;

/// A failure as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// VikingDB's code.
    pub code: i32,
    /// What is wrong.
    pub message: String,
}

/// Statuses and codes.
macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $code:literal, $text:literal;)*) => {
        impl Failure {
            $(
                $(#[$doc])*
                pub fn $name(detail: impl AsRef<str>) -> Self {
                    let detail = detail.as_ref();
                    let message = match detail {
                        "" => $text.to_owned(),
                        _ => format!("{}:{detail}", $text),
                    };
                    Self { status: $status, code: $code, message }
                }
            )*
        }
    };
}

failures! {
    /// The signature is missing or wrong.
    unauthorized = 401, 1_000_001, "unauthorized";
    /// The key's user lacks a privilege.
    no_permission = 403, 1_000_002, "no permission";
    /// The request makes no sense.
    invalid = 400, 1_000_003, "invalid request";
    /// The name is taken.
    collection_exists = 400, 1_000_004, "collection exist";
    /// There is no such collection.
    no_collection = 400, 1_000_005, "collection not exist";
    /// Not in this state.
    not_allowed = 400, 1_000_006, "operation not allowed";
    /// No row has the key.
    no_data = 400, 1_000_011, "data not found";
    /// Not served.
    not_implemented = 400, 1_000_024, "api not implemented";
    /// Ours.
    internal = 500, 1_000_028, "Internal error";
    /// Too much at a time; clients try again.
    quota = 429, 1_000_029, "quota limit";
    /// There is no such task.
    no_task = 404, 1_000_035, "task not exist";
}

impl Failure {
    /// The answer to a path that is not served.
    pub fn unserved(method: &str, path: &str) -> Self {
        Self {
            status: 404,
            ..Self::not_implemented(format!("{method} {path}"))
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = &error.message;
        match error.code {
            ErrorCode::CollectionNotFound => Self::no_collection(""),
            ErrorCode::RateLimit | ErrorCode::TooManyRequests => Self::quota(text),
            ErrorCode::UnsupportedOperation | ErrorCode::Unimplemented => Self::not_allowed(text),
            ErrorCode::InvalidParameter
            | ErrorCode::MissingParameter
            | ErrorCode::ParameterTooLarge
            | ErrorCode::CollectionIllegalSchema
            | ErrorCode::SchemaMismatch
            | ErrorCode::QueryPlanFailed
            | ErrorCode::FieldNotFound
            | ErrorCode::FieldInvalidName => Self::invalid(text),
            _ => Self::internal(text),
        }
    }
}

/// The JSON of an answer.
pub fn envelope(request_id: &str, outcome: Outcome) -> HttpAnswer {
    let (status, body) = match outcome {
        Ok(data) => {
            let mut body = json!({
                "code": 0,
                "message": "success",
                "request_id": request_id,
            });
            if !data.is_null() {
                body["data"] = data;
            }
            (200, body)
        }
        Err(failure) => (
            failure.status,
            json!({
                "code": failure.code,
                "message": failure.message,
                "request_id": request_id,
            }),
        ),
    };
    HttpAnswer {
        status,
        body: body.to_string(),
    }
}
