//! What can go wrong around work, whatever the work is.

use std::borrow::Cow;
use std::time::Duration;

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, where the kind does not matter any more.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why work was not done, or why nobody knows whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The time that came with the request is over. The work may still go on.
    #[error("deadline exceeded: {what}")]
    DeadlineExceeded {
        /// What was waited for.
        what: Cow<'static, str>,
    },
    /// A bounded queue is full; nothing was done. Try again.
    #[error("{what} is busy, its queue of {capacity} is full")]
    Busy {
        /// Whose queue.
        what: Cow<'static, str>,
        /// How many fit.
        capacity: usize,
    },
    /// There is more work than this process takes on; nothing was done. Try again later.
    #[error("{what} is at its limit, retry after {} ms", retry_after.as_millis())]
    RateLimited {
        /// Whose limit.
        what: Cow<'static, str>,
        /// A hint for the caller.
        retry_after: Duration,
    },
    /// The actor died on this message or is being rebuilt. The message may have had an effect.
    #[error("{what} was interrupted and is starting again")]
    Interrupted {
        /// Which actor.
        what: Cow<'static, str>,
    },
    /// The process, or this part of it, is stopping; nothing was done.
    #[error("{what} is stopping")]
    Stopping {
        /// Which part.
        what: Cow<'static, str>,
    },
    /// The work panicked; a mistake of ours. How far it came is unknown.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// Which work.
        what: Cow<'static, str>,
        /// What the panic said.
        message: String,
    },
    /// The system refused a thread.
    #[error("the thread {name} could not be started: {reason}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the system said.
        reason: String,
    },
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::DeadlineExceeded { .. } => ErrorCode::Timeout,
            Self::Busy { .. } => ErrorCode::TooManyRequests,
            Self::RateLimited { .. } => ErrorCode::RateLimit,
            Self::Interrupted { .. } | Self::Stopping { .. } => ErrorCode::ServiceUnavailable,
            Self::Panicked { .. } | Self::Thread { .. } => ErrorCode::Internal,
        }
    }
}

impl From<Error> for redkite_types::Error {
    fn from(error: Error) -> Self {
        Self::from_coded(&error)
    }
}

/// The text of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a text".to_owned()
    }
}
