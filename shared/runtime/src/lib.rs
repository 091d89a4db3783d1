//! How a process runs: tasks, deadlines, actors, CPU work, admission, health, shutdown.
//!
//! It owns every way to start concurrent work. It never knows what the work is about: no services,
//! no network, no storage.
//!
//! - [`tasks`]: [`TaskGroup`], the only place that spawns tokio tasks
//! - [`shutdown`]: the signals that stop a process, and its phases with their time limits
//! - [`deadline`]: [`Deadline`], which comes with a request and goes along with it
//! - [`actor`]: state owners with a bounded mailbox, rebuilt after a failure
//! - [`cpu`]: [`CpuPool`], for work that computes
//! - [`admission`]: refusing work at once instead of queueing it without end
//! - [`backoff`]: growing, jittered pauses
//! - [`clock`], [`random`]: time and chance, both replaceable in tests
//! - [`health`]: what a process says about itself
//! - [`hold`]: places at which tests of whole processes stop one
//! - [`testing`]: helpers for tests

pub mod actor;
pub mod admission;
pub mod backoff;
pub mod clock;
pub mod cpu;
pub mod deadline;
pub mod error;
pub mod health;
pub mod hold;
pub mod random;
pub mod shutdown;
pub mod tasks;
pub mod testing;

pub use actor::{Actor, ActorError, Handle, Reply, Supervisor};
pub use admission::{Admission, Permit};
pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use cpu::{CpuPool, Priority};
pub use deadline::Deadline;
pub use error::{BoxError, Error, Result};
pub use health::{Health, HealthState};
pub use hold::hold_here;
pub use random::Random;
pub use shutdown::{Shutdown, shutdown_signal};
pub use tasks::{OnFailure, StillRunning, TaskGroup, TaskOutput};
pub use tokio_util::sync::CancellationToken;
