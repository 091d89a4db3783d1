//! What an executor may be told; the defaults are right for a service.

use std::time::Duration;

/// Limits and pauses of an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaOptions {
    /// Sagas under way at once, those that wait for locks included; more are refused as busy.
    pub max_running: usize,
    /// The first pause before a step or a write is tried again.
    pub backoff_initial: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// How long one attempt of a step may take unless the step says otherwise.
    pub step_timeout: Duration,
    /// Overrides every saga's own budget for steps with an unknown outcome.
    pub budget: Option<Duration>,
    /// A step that is retried for longer is warned of, again each time this has passed.
    pub warn_after: Duration,
    /// For how long a finished saga answers a repeated request id.
    pub keep_finished_for: Duration,
    /// How many finished sagas are kept for that at most.
    pub keep_finished_max: usize,
}

impl Default for SagaOptions {
    fn default() -> Self {
        Self {
            max_running: 4_096,
            backoff_initial: Duration::from_millis(20),
            backoff_max: Duration::from_secs(5),
            step_timeout: Duration::from_secs(30),
            budget: None,
            warn_after: Duration::from_secs(60),
            keep_finished_for: Duration::from_secs(600),
            keep_finished_max: 1_000,
        }
    }
}
