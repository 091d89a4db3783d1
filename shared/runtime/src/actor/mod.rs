//! State owners with a bounded mailbox, rebuilt after a failure.
//!
//! Use one only where a single owner must serialise decisions over changing state *and* talk to
//! others while it does. The search path, one-shot jobs and planners are not actors.
//!
//! This module is the only place that knows ractor. What it adds: mailboxes with a capacity, no
//! global names, and a supervisor that rebuilds a dead actor from its factory instead of dying
//! with it. An actor's resources clean up in `Drop`: after a panic nothing else runs.
//!
//! - [`handle`]: sending messages
//! - [`supervisor`]: who rebuilds, when, and when no more

mod handle;
mod shell;
mod supervisor;

#[cfg(test)]
mod tests;

use std::future::Future;

pub use handle::{Handle, Reply};
pub use supervisor::{RestartPolicy, Supervisor};

use crate::error::BoxError;

/// Why an actor cannot go on. Whatever it is, the actor is rebuilt from its factory.
pub type ActorError = BoxError;

/// A state owner.
///
/// # Correctness
/// `handle` stays below 10 ms: it waits for nothing slow. Longer work goes to a task that sends
/// its outcome back as a message.
pub trait Actor: Send + 'static {
    /// What it understands: one enum with its replies inside.
    type Msg: Send + 'static;

    /// Handles one message; the next one waits.
    ///
    /// # Errors
    /// The state can no longer be trusted: the actor is dropped and built again.
    fn handle(&mut self, message: Self::Msg)
    -> impl Future<Output = Result<(), ActorError>> + Send;
}
