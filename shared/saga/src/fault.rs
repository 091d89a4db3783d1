//! Making steps fail and the process die at chosen points, for tests.

use redkite_types::SagaId;

use crate::record::State;
use crate::spec::StepError;

/// A moment in a saga's life at which a test may interfere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// A step is about to run.
    BeforeStep {
        /// Which.
        step: &'static str,
        /// Counts from zero in this process.
        attempt: u32,
    },
    /// A step has run; what it did is not recorded yet, unless it is a metadata step.
    AfterStep {
        /// Which.
        step: &'static str,
        /// Counts from zero in this process.
        attempt: u32,
    },
    /// An undo is about to run.
    BeforeUndo {
        /// Of which step.
        step: &'static str,
        /// Counts from zero in this process.
        attempt: u32,
    },
    /// An undo has run; as [`FaultPoint::AfterStep`].
    AfterUndo {
        /// Of which step.
        step: &'static str,
        /// Counts from zero in this process.
        attempt: u32,
    },
    /// The record is about to be written.
    BeforeWrite {
        /// What it says.
        state: State,
        /// What it says.
        cursor: usize,
    },
    /// The record is written.
    AfterWrite {
        /// What it says.
        state: State,
        /// What it says.
        cursor: usize,
    },
}

/// What happens there.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing unusual.
    None,
    /// The step or undo answers this: instead of running (before), or although it ran (after).
    /// Without meaning at a write, and after a metadata step, whose commit cannot be doubted.
    Fail(StepError),
    /// A call runs twice (before); only the second answer counts.
    Twice,
    /// The executor stops without another write, as if the process had died.
    Crash,
}

/// Decides what happens at each point.
pub trait FaultInjector: Send + Sync {
    /// Called once each time a saga comes to a point.
    fn at(&self, saga: SagaId, point: &FaultPoint) -> Fault;
}

impl<F: Fn(SagaId, &FaultPoint) -> Fault + Send + Sync> FaultInjector for F {
    fn at(&self, saga: SagaId, point: &FaultPoint) -> Fault {
        self(saga, point)
    }
}
