//! Trying an author's function again: its guard and its pace.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use redkite_runtime::Backoff;
use redkite_types::{Error as UserError, ErrorCode};
use tokio::time::Instant;

use crate::shared::Shared;
use crate::spec::StepError;

/// Runs an author's future; a panic or a timeout leaves its outcome unknown.
pub(crate) async fn guarded<T>(
    future: impl Future<Output = Result<T, StepError>>,
    limit: Duration,
    name: &'static str,
) -> Result<T, StepError> {
    match tokio::time::timeout(limit, AssertUnwindSafe(future).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(StepError::Unknown(UserError::internal(format!(
            "step {name} panicked"
        )))),
        Err(_elapsed) => Err(StepError::Unknown(UserError::new(
            ErrorCode::Timeout,
            format!("step {name} did not answer within {limit:?}"),
        ))),
    }
}

/// Counts attempts and paces them.
pub(crate) struct Retries {
    pub(crate) attempt: u32,
    began: Instant,
    warned: Duration,
    warn_after: Duration,
    budget: Option<Duration>,
    backoff: Backoff,
}

impl Retries {
    pub(crate) fn new(shared: &Shared, budget: Option<Duration>) -> Self {
        let options = &shared.options;
        Self {
            attempt: 0,
            began: Instant::now(),
            warned: Duration::ZERO,
            warn_after: options.warn_after,
            budget,
            backoff: Backoff::new(options.backoff_initial, options.backoff_max),
        }
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget
            .is_some_and(|budget| self.began.elapsed() >= budget)
    }

    pub(crate) fn warning_due(&mut self) -> Option<Duration> {
        let elapsed = self.began.elapsed();
        if elapsed < self.warned + self.warn_after {
            return None;
        }
        self.warned = elapsed;
        Some(elapsed)
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        self.attempt += 1;
        self.backoff.next_delay()
    }
}
