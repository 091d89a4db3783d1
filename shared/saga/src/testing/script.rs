//! A fault injector that follows a script and keeps a protocol.

use std::sync::Arc;

use parking_lot::Mutex;
use redkite_types::{Error, SagaId};

use crate::fault::{Fault, FaultInjector, FaultPoint};
use crate::spec::StepError;

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailHow {
    /// It answers that it was rejected, and was not run.
    Rejected,
    /// Its outcome is unknown, and it was not run.
    UnknownBefore,
    /// Its outcome is unknown, and it was run; metadata steps cannot fail so.
    UnknownAfter,
}

/// Which step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailAt {
    /// Its name.
    pub step: &'static str,
    /// How.
    pub how: FailHow,
    /// At how many attempts.
    pub times: u32,
}

/// Fails one step, crashes at one point, runs calls twice, as told; and notes every point.
#[derive(Clone, Debug, Default)]
pub struct Script {
    fail: Option<FailAt>,
    crash_at: Option<usize>,
    calls_twice: bool,
    points: Arc<Mutex<Vec<FaultPoint>>>,
}

impl Script {
    /// Does nothing but keep the protocol.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails a step.
    #[must_use]
    pub fn failing(mut self, fail: FailAt) -> Self {
        self.fail = Some(fail);
        self
    }

    /// Crashes at the point with this position in the protocol.
    #[must_use]
    pub fn crashing_at(mut self, point: usize) -> Self {
        self.crash_at = Some(point);
        self
    }

    /// Runs every call and every undo by call twice.
    #[must_use]
    pub fn calling_twice(mut self) -> Self {
        self.calls_twice = true;
        self
    }

    /// All points that were passed.
    pub fn points(&self) -> Vec<FaultPoint> {
        self.points.lock().clone()
    }

    /// Whether the point at which to crash was reached.
    pub fn has_crashed(&self) -> bool {
        self.crash_at
            .is_some_and(|point| point < self.points.lock().len())
    }

    fn failure(&self, point: &FaultPoint) -> Option<StepError> {
        let fail = self.fail?;
        let error = Error::unexpected(format!("injected at {}", fail.step));
        match (point, fail.how) {
            (FaultPoint::BeforeStep { step, attempt }, FailHow::Rejected)
                if *step == fail.step && *attempt < fail.times =>
            {
                Some(StepError::Rejected(error))
            }
            (FaultPoint::BeforeStep { step, attempt }, FailHow::UnknownBefore)
            | (FaultPoint::AfterStep { step, attempt }, FailHow::UnknownAfter)
                if *step == fail.step && *attempt < fail.times =>
            {
                Some(StepError::Unknown(error))
            }
            _ => None,
        }
    }
}

impl FaultInjector for Script {
    fn at(&self, _saga: SagaId, point: &FaultPoint) -> Fault {
        let mut points = self.points.lock();
        points.push(point.clone());
        if self.crash_at == Some(points.len() - 1) {
            return Fault::Crash;
        }
        drop(points);
        if let Some(error) = self.failure(point) {
            return Fault::Fail(error);
        }
        let is_before = matches!(
            point,
            FaultPoint::BeforeStep { .. } | FaultPoint::BeforeUndo { .. }
        );
        if self.calls_twice && is_before {
            Fault::Twice
        } else {
            Fault::None
        }
    }
}
