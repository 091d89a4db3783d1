//! An error as Milvus's `common.Status`, and back.
//!
//! Business errors travel in a status with gRPC OK; clients look at the code *and* at the older
//! enum, so both are always set.

use redkite_types::{Error, ErrorCode, Result};

use crate::milvus::common::{ErrorCode as LegacyCode, Status};

/// Key of `extra_info` that marks an error of the caller's input.
pub const IS_INPUT_ERROR: &str = "is_input_error";
/// Key of `extra_info` that a mutation's reply must carry as soon as there is any `extra_info`.
pub const REPORT_VALUE: &str = "report_value";

/// The status of a request that succeeded.
pub fn success() -> Status {
    Status::default()
}

/// The status of a request that failed.
///
/// `reason` and `detail` both carry the whole message, as Milvus does. An input error is never
/// marked retriable, whatever the error says.
pub fn failure(error: &Error) -> Status {
    let mut status = Status {
        code: error.code.number(),
        reason: error.message.clone(),
        detail: error.message.clone(),
        retriable: error.retriable && !error.is_input_error,
        ..Status::default()
    };
    status.error_code = error.code.legacy();
    if error.is_input_error {
        status
            .extra_info
            .insert(IS_INPUT_ERROR.to_owned(), true.to_string());
    }
    status
}

/// The status of either outcome.
pub fn from_result<T>(result: &Result<T>) -> Status {
    match result {
        Ok(_) => success(),
        Err(error) => failure(error),
    }
}

/// The failed status for a `MutationResult`.
///
/// pymilvus reads `report_value` as an integer from any non-empty `extra_info` of a mutation and
/// raises its own error when it is absent, which would hide ours.
pub fn mutation_failure(error: &Error) -> Status {
    let mut status = failure(error);
    if !status.extra_info.is_empty() {
        status
            .extra_info
            .insert(REPORT_VALUE.to_owned(), 0.to_string());
    }
    status
}

/// Reads a status.
///
/// # Errors
/// The error that the status carries. A code that this build does not know becomes 65535 with the
/// number in front of the message; a status with only the older enum is read from that.
pub fn check(status: &Status) -> Result<()> {
    let legacy = status.error_code;
    if status.code == 0 && legacy == LegacyCode::Success as i32 {
        return Ok(());
    }
    let message = if status.reason.is_empty() {
        &status.detail
    } else {
        &status.reason
    };
    let known = if status.code == 0 {
        from_legacy(legacy)
    } else {
        ErrorCode::from_number(status.code)
    };
    let (code, message) = match known {
        Some(code) if message.is_empty() => (code, code.text().to_owned()),
        Some(code) => (code, message.clone()),
        None => (
            ErrorCode::Unexpected,
            format!("[code={}][error_code={legacy}] {message}", status.code),
        ),
    };
    Err(Error {
        code,
        message,
        retriable: status.retriable,
        is_input_error: status
            .extra_info
            .get(IS_INPUT_ERROR)
            .is_some_and(|flag| flag == "true"),
    })
}

/// The first code that maps to a number of the older enum.
fn from_legacy(legacy: i32) -> Option<ErrorCode> {
    if legacy == LegacyCode::UnexpectedError as i32 {
        return Some(ErrorCode::Unexpected);
    }
    ErrorCode::ALL
        .iter()
        .copied()
        .find(|code| code.legacy() == legacy)
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        failure(error)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        failure(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_zero_in_both_enums() {
        let status = success();
        assert_eq!((status.code, status.error_code), (0, 0));
        assert!(status.extra_info.is_empty());
        check(&status).unwrap();
    }

    #[test]
    fn every_code_survives_the_trip_and_sets_both_enums() {
        for &code in ErrorCode::ALL {
            for is_input_error in [false, true] {
                let error = Error {
                    code,
                    message: format!("{}[x=1]", code.text()),
                    retriable: code.retriable() && !is_input_error,
                    is_input_error,
                };
                let status = failure(&error);
                assert_ne!(status.code, 0);
                assert_ne!(status.error_code, 0);
                assert_eq!(status.reason, status.detail);
                assert_eq!(check(&status).unwrap_err(), error);
                assert_eq!(from_result::<()>(&Err(error)), status);
            }
        }
    }

    #[test]
    fn older_enum_has_the_names_that_clients_branch_on() {
        let legacy = |code: ErrorCode| failure(&Error::new(code, "")).error_code();
        assert_eq!(
            legacy(ErrorCode::CollectionNotFound),
            LegacyCode::CollectionNotExists
        );
        assert_eq!(legacy(ErrorCode::IndexNotFound), LegacyCode::IndexNotExist);
        assert_eq!(legacy(ErrorCode::RateLimit), LegacyCode::RateLimit);
        assert_eq!(
            legacy(ErrorCode::SchemaMismatch),
            LegacyCode::SchemaMismatch
        );
        assert_eq!(
            legacy(ErrorCode::InvalidParameter),
            LegacyCode::IllegalArgument
        );
        assert_eq!(legacy(ErrorCode::Unexpected), LegacyCode::UnexpectedError);
        for &code in ErrorCode::ALL {
            assert!(LegacyCode::try_from(code.legacy()).is_ok());
            // pymilvus turns a query that fails with 26 into an empty list.
            assert_ne!(code.legacy(), LegacyCode::EmptyCollection as i32);
            assert_ne!(code.number(), LegacyCode::EmptyCollection as i32);
        }
    }

    #[test]
    fn an_input_error_is_never_retriable() {
        let error = Error {
            code: ErrorCode::RateLimit,
            message: "m".to_owned(),
            retriable: true,
            is_input_error: true,
        };
        assert!(!failure(&error).retriable);
    }

    #[test]
    fn a_mutation_with_extra_info_has_a_report_value() {
        let status = mutation_failure(&Error::invalid_parameter("x"));
        assert_eq!(status.extra_info[IS_INPUT_ERROR], "true");
        status.extra_info[REPORT_VALUE].parse::<i64>().unwrap();
        assert!(
            mutation_failure(&Error::internal("x"))
                .extra_info
                .is_empty()
        );
    }

    #[test]
    fn foreign_statuses_are_errors_too() {
        let unknown = Status {
            code: 1903,
            reason: "replicate".to_owned(),
            ..Status::default()
        };
        let error = check(&unknown).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unexpected);
        assert!(error.message.contains("1903") && error.message.contains("replicate"));

        let only_legacy = Status {
            error_code: LegacyCode::RateLimit as i32,
            ..Status::default()
        };
        let error = check(&only_legacy).unwrap_err();
        assert_eq!(error.code, ErrorCode::RateLimit);
        assert_eq!(error.message, ErrorCode::RateLimit.text());
        let plain = Status {
            error_code: LegacyCode::UnexpectedError as i32,
            ..Status::default()
        };
        assert_eq!(check(&plain).unwrap_err().code, ErrorCode::Unexpected);
    }
}
