//! Garbage collection: deletes objects that nothing names.
//!
//! Objects are listed first and references read after that, so that whatever was named when its
//! object was listed is seen to be. What was written but is not committed yet is kept by its age;
//! what is committed later than the reading is found by reading again, with commits shut out,
//! before anything is deleted (see [`crate::gate`]). Whatever cannot be read protects all that it
//! might name.
//!
//! - [`references`]: who names what, read from the metastore
//! - [`plan`]: what may go (pure)
//! - [`collector`]: rounds, at intervals and on demand
//! - [`options`]: how often, and how long things are kept

pub mod collector;
pub mod options;
pub mod plan;
pub mod references;

#[cfg(test)]
mod tests;

pub use collector::{Collector, Round};
pub use options::GcOptions;
pub use plan::{Garbage, Plan, plan};
pub use references::References;
