//! When the leader dies, and what fails before that.

use std::sync::Arc;

use parking_lot::Mutex;
use redkite_saga::{Fault, FaultInjector, FaultPoint, StepError};
use redkite_types::{Error, SagaId};
use tokio::sync::watch;

/// What a step is made to fail with.
pub(crate) const WHY: &str = "the query nodes will have none of it";

/// Shared by all replicas: only the one that leads comes to any point.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The points that were passed since the last [`Script::arm`].
    passed: Vec<FaultPoint>,
    /// The number of the point at which the leader dies.
    dies_at: Option<usize>,
    /// The step that is rejected.
    rejected: Option<&'static str>,
}

impl Script {
    /// Starts over: the leader dies at the `dies_at`th point from now on, and `rejected` never works.
    pub(crate) fn arm(&self, dies_at: Option<usize>, rejected: Option<&'static str>) {
        *self.state.lock() = State {
            passed: Vec::new(),
            dies_at,
            rejected,
        };
    }

    /// The points that were passed.
    pub(crate) fn passed(&self) -> Vec<FaultPoint> {
        self.state.lock().passed.clone()
    }

    /// Waits until the leader has died, if it is to, and the end of what was asked for is written, if that
    /// has begun: the answer may come before either.
    pub(crate) async fn ended(&self) {
        let is_end = |point: &FaultPoint| match point {
            FaultPoint::AfterWrite { state, .. } => state.is_finished(),
            _ => false,
        };
        redkite_runtime::testing::eventually_true("the end is written", || {
            let state = self.state.lock();
            let passed = &state.passed;
            state.dies_at.is_none() && (passed.is_empty() || passed.iter().any(is_end))
        })
        .await;
    }

    /// Whether the leader has died.
    pub(crate) fn has_struck(&self) -> bool {
        self.state.lock().dies_at.is_none()
    }
}

/// Whether a death there can leave anything behind that one right before it does not: a record was
/// written, or there is an effect and no record of it.
pub(crate) fn matters(point: &FaultPoint) -> bool {
    match point {
        FaultPoint::BeforeStep { .. } | FaultPoint::BeforeUndo { .. } => false,
        FaultPoint::AfterStep { .. }
        | FaultPoint::AfterUndo { .. }
        | FaultPoint::BeforeWrite { .. }
        | FaultPoint::AfterWrite { .. } => true,
    }
}

/// One replica's part of the script.
pub(crate) struct Injector {
    pub(crate) script: Arc<Script>,
    /// Told of each death.
    pub(crate) deaths: watch::Sender<u64>,
}

impl FaultInjector for Injector {
    fn at(&self, _: SagaId, point: &FaultPoint) -> Fault {
        let mut state = self.script.state.lock();
        let number = state.passed.len();
        state.passed.push(point.clone());
        if state.dies_at == Some(number) {
            state.dies_at = None;
            self.deaths.send_modify(|count| *count += 1);
            return Fault::Crash;
        }
        match point {
            FaultPoint::BeforeStep { step, .. } if state.rejected == Some(*step) => {
                Fault::Fail(StepError::Rejected(Error::invalid_parameter(WHY)))
            }
            _ => Fault::None,
        }
    }
}
