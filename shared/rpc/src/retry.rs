//! When to try again, within a budget.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redkite_runtime::{Backoff, Deadline};
use redkite_types::Coded as _;

use crate::status::RpcError;

/// What one first attempt adds to the budget: retries may be a tenth of the traffic.
const EARNED: f64 = 0.1;
/// What a process may spend when it was quiet.
const RESERVE: f64 = 10.0;

/// Bounds the retries of a whole process, so that an overload is not multiplied. Clones share it.
#[derive(Clone, Debug)]
pub struct RetryBudget(Arc<Mutex<f64>>);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(RESERVE)))
    }
}

impl RetryBudget {
    /// A full budget.
    pub fn new() -> Self {
        Self::default()
    }

    fn earn(&self) {
        let mut tokens = self.0.lock();
        *tokens = (*tokens + EARNED).min(RESERVE);
    }

    fn spend(&self) -> bool {
        let mut tokens = self.0.lock();
        let affordable = *tokens >= 1.0;
        if affordable {
            *tokens -= 1.0;
        }
        affordable
    }
}

/// How one kind of call is retried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: u32,
    /// The pause before the second attempt; doubles.
    pub initial_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// Whether the call may run twice. If not, it is retried only when it certainly had no effect.
    pub idempotent: bool,
    /// What all calls share.
    pub budget: RetryBudget,
}

impl Retry {
    /// Three attempts of a call that may run twice, 20 ms apart and more.
    pub fn idempotent(budget: RetryBudget) -> Self {
        Self {
            attempts: 3,
            initial_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(500),
            idempotent: true,
            budget,
        }
    }

    /// The same for a call that must not run twice.
    pub fn not_idempotent(budget: RetryBudget) -> Self {
        Self {
            idempotent: false,
            ..Self::idempotent(budget)
        }
    }

    /// Calls until it succeeds or there is a reason not to try again: the error is final, the
    /// attempts, the budget or the time are used up, or nobody knows whether a call that must not
    /// run twice was applied. `attempt` gets its number from 0, to choose another replica.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn run<T, F, S>(&self, deadline: Deadline, mut attempt: F) -> Result<T, RpcError>
    where
        F: FnMut(u32) -> S,
        S: Future<Output = Result<T, RpcError>>,
    {
        self.budget.earn();
        let mut backoff = Backoff::new(self.initial_backoff, self.max_backoff);
        let mut number = 0;
        loop {
            let error = match attempt(number).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            number += 1;
            let harmless = self.idempotent || error.not_applied();
            if number >= self.attempts || !error.retriable() || !harmless {
                return Err(error);
            }
            let pause = backoff
                .next_delay()
                .max(error.retry_after.unwrap_or_default());
            if pause >= deadline.left() || !self.budget.spend() {
                return Err(error);
            }
            metrics::counter!("redkite_rpc_retries_total").increment(1);
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use redkite_types::{Error, ErrorCode, Outcome};

    use super::*;

    fn lost() -> RpcError {
        RpcError::new(Error::new(ErrorCode::ServiceUnavailable, "lost"))
            .with_outcome(Outcome::Unknown)
    }

    async fn attempts(retry: &Retry, deadline: Deadline, error: RpcError) -> u32 {
        let count = Cell::new(0);
        let outcome: Result<(), _> = retry
            .run(deadline, |number| {
                assert_eq!(number, count.get());
                count.set(number + 1);
                let error = error.clone();
                async { Err(error) }
            })
            .await;
        assert_eq!(outcome, Err(error));
        count.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_help_and_cannot_harm_is_tried_again() {
        let minute = Deadline::after(Duration::from_secs(60));
        let safe = Retry::idempotent(RetryBudget::new());
        let unsafe_ = Retry::not_idempotent(RetryBudget::new());
        assert_eq!(attempts(&safe, minute, lost()).await, 3);
        assert_eq!(attempts(&unsafe_, minute, lost()).await, 1);
        let refused = lost().with_outcome(Outcome::NotApplied);
        assert_eq!(attempts(&unsafe_, minute, refused).await, 3);
        let final_ = RpcError::new(Error::invalid_parameter("no"));
        assert_eq!(attempts(&safe, minute, final_).await, 1);
        let later = lost().with_retry_after(Duration::from_secs(90));
        assert_eq!(attempts(&safe, minute, later).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_bounds_retries_under_overload() {
        let retry = Retry::idempotent(RetryBudget::new());
        let mut retries = 0;
        for _ in 0..200 {
            let far = Deadline::after(Duration::from_secs(60));
            retries += attempts(&retry, far, lost()).await - 1;
        }
        // The reserve and a tenth of the traffic.
        assert!((25..=30).contains(&retries), "{retries}");
    }
}
