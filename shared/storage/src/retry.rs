//! Deadlines and retries of remote operations.

use std::{future::Future, io, time::Duration};

use redkite_runtime::{Backoff, Deadline};
use redkite_types::Coded;

use crate::{
    error::{Error, Result},
    metrics,
};

pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long operations and their requests may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    /// One operation, retries included.
    pub(crate) timeout: Duration,
    /// One request of it.
    pub(crate) request_timeout: Duration,
}

/// Why a request failed, and whether it may be sent again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Sending it again is both harmless and of use.
    pub(crate) again: bool,
}

impl From<Error> for Failure {
    /// For requests that may run twice: everything transient is tried again.
    fn from(error: Error) -> Self {
        let again = error.retriable();
        Self { error, again }
    }
}

impl Retry {
    /// The same with so much more time for both, for requests that move many bytes.
    pub(crate) fn plus(self, more: Duration) -> Self {
        Self {
            timeout: self.timeout + more,
            request_timeout: self.request_timeout + more,
        }
    }

    /// Runs an operation until it succeeds, fails for good, or its time is over. `on_timeout`
    /// says whether a request without an answer may be sent again.
    ///
    /// # Errors
    /// The last request's failure.
    pub(crate) async fn run<T, F, Fut>(
        self,
        operation: &'static str,
        key: &str,
        on_timeout: OnTimeout,
        mut request: F,
    ) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let deadline = Deadline::after(self.timeout);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let share = deadline.at_most(self.request_timeout);
            let failure = match tokio::time::timeout_at(share.instant(), request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure {
                    error: no_answer(operation, key, self.request_timeout),
                    again: on_timeout == OnTimeout::TryAgain,
                },
            };
            let pause = backoff.next_delay();
            if !failure.again || deadline.left() <= pause {
                return Err(failure.error);
            }
            metrics::retried(operation);
            tokio::time::sleep(pause).await;
        }
    }
}

/// What becomes of a request that nobody answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTimeout {
    /// It may run twice.
    TryAgain,
    /// It may have been carried out, which sending it again would hide.
    GiveUp,
}

fn no_answer(operation: &'static str, key: &str, limit: Duration) -> Error {
    Error::Io {
        operation,
        key: key.to_owned(),
        transient: true,
        source: Box::new(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {limit:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(transient: bool) -> Error {
        Error::Io {
            operation: "get",
            key: "k".to_owned(),
            transient,
            source: "broken".into(),
        }
    }

    const RETRY: Retry = Retry {
        timeout: Duration::from_secs(30),
        request_timeout: Duration::from_secs(10),
    };

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_until_the_time_is_over() {
        let mut tries = 0;
        let answer = RETRY
            .run("get", "k", OnTimeout::TryAgain, || {
                tries += 1;
                let outcome = if tries < 10 {
                    Err(failure(true).into())
                } else {
                    Ok(tries)
                };
                std::future::ready(outcome)
            })
            .await;
        assert_eq!(answer.unwrap(), 10);

        let start = tokio::time::Instant::now();
        let error = RETRY
            .run("get", "k", OnTimeout::TryAgain, || {
                std::future::ready(Err::<(), _>(failure(true).into()))
            })
            .await
            .unwrap_err();
        assert!(error.retriable(), "{error}");
        assert!(start.elapsed() <= RETRY.timeout);
        assert!(start.elapsed() >= RETRY.timeout - LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_permanent_is_tried_once() {
        let mut tries = 0;
        let error = RETRY
            .run("get", "k", OnTimeout::TryAgain, || {
                tries += 1;
                std::future::ready(Err::<(), _>(failure(false).into()))
            })
            .await
            .unwrap_err();
        assert!(!error.retriable());
        assert_eq!(tries, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_request_is_given_up_and_sent_again_only_where_that_is_safe() {
        for (on_timeout, expected) in [(OnTimeout::TryAgain, 3), (OnTimeout::GiveUp, 1)] {
            let mut tries = 0;
            let start = tokio::time::Instant::now();
            let error = RETRY
                .run("put", "k", on_timeout, || {
                    tries += 1;
                    std::future::pending::<Result<(), Failure>>()
                })
                .await
                .unwrap_err();
            assert!(error.retriable(), "{error}");
            assert_eq!(tries, expected);
            assert!(start.elapsed() <= RETRY.timeout);
        }
    }
}
