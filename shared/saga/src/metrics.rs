//! The executor's metrics.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};

use crate::record::State;

pub(crate) fn started(kind: &'static str) {
    counter!("redkite_saga_started_total", "kind" => kind).increment(1);
    gauge!("redkite_saga_running").increment(1.0);
}

/// Balances [`started`], whatever became of the saga.
pub(crate) fn left() {
    gauge!("redkite_saga_running").decrement(1.0);
}

pub(crate) fn finished(kind: &'static str, state: State, took: Duration) {
    counter!("redkite_saga_finished_total", "kind" => kind, "state" => state.as_str()).increment(1);
    histogram!("redkite_saga_total_seconds", "kind" => kind).record(took.as_secs_f64());
}

pub(crate) fn stuck(change: f64) {
    gauge!("redkite_saga_stuck").increment(change);
}

pub(crate) fn step(kind: &'static str, step: &'static str, took: Duration) {
    histogram!("redkite_saga_step_seconds", "kind" => kind, "step" => step)
        .record(took.as_secs_f64());
}

pub(crate) fn retried(kind: &'static str, step: &'static str) {
    counter!("redkite_saga_retries_total", "kind" => kind, "step" => step).increment(1);
}

pub(crate) fn written() {
    counter!("redkite_saga_writes_total").increment(1);
}
