//! What can go wrong between a filter's text and its answer.

use redkite_types::{Coded, ErrorCode, FieldId};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller's filter does not parse or does not fit the schema.
    #[error(
        "failed to create query plan: cannot parse expression: {expression}, error: {problem} at position {position}"
    )]
    Invalid {
        /// The filter, cut when it is very long.
        expression: String,
        /// What was found and what was expected.
        problem: String,
        /// Characters before the place where it went wrong.
        position: usize,
    },
    /// The bytes are no plan of a version that this build knows.
    #[error("filter plan cannot be decoded: {reason}")]
    Corrupt {
        /// What is wrong with them.
        reason: String,
    },
    /// A column does not have the type or the length that the plan was made for.
    #[error("filter cannot be evaluated on field {field}: {reason}")]
    Column {
        /// The field of the column.
        field: FieldId,
        /// What was expected and what was found.
        reason: String,
    },
}

impl Error {
    pub(crate) fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt {
            reason: reason.into(),
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidParameter,
            Self::Corrupt { .. } | Self::Column { .. } => ErrorCode::Internal,
        }
    }
}

impl From<Error> for redkite_types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { .. } => Self::input(ErrorCode::InvalidParameter, error.to_string()),
            Error::Corrupt { .. } | Error::Column { .. } => Self::from_coded(&error),
        }
    }
}

/// A mistake in the filter before it is joined with the filter's text.
///
/// Boxed so that the parser's stack frames stay small: its depth limit relies on that.
pub(crate) type Flaw = Box<Mistake>;

/// What is wrong, and where.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// Byte offset into the text.
    pub(crate) at: usize,
    pub(crate) problem: String,
}

/// Makes a [`Flaw`].
pub(crate) fn flaw(at: usize, problem: impl Into<String>) -> Flaw {
    Box::new(Mistake {
        at,
        problem: problem.into(),
    })
}

/// A filter longer than this is cut where it is quoted in an error.
const QUOTED_BYTES: usize = 2_048;

impl Mistake {
    /// Adds the filter's text and turns the byte offset into a count of characters.
    pub(crate) fn in_text(self, text: &str) -> Error {
        let position = text
            .char_indices()
            .take_while(|(offset, _)| *offset < self.at)
            .count();
        let mut expression = text.to_owned();
        if text.len() > QUOTED_BYTES {
            expression.truncate(text.floor_char_boundary(QUOTED_BYTES));
            expression.push_str("...");
        }
        Error::Invalid {
            expression,
            problem: self.problem,
            position,
        }
    }
}
