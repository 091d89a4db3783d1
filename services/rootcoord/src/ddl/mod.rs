//! Every DDL, one file a family, each a saga.
//!
//! A request becomes parameters (`parse`, outside the locks), is checked against the metadata under
//! the locks (`Saga::check`), and then runs as steps.
//!
//! - [`context`]: what the sagas work with
//! - [`gate`]: from a request to its saga and back
//! - [`resolve`]: names to databases and collections
//! - [`steps`]: steps that several sagas share
//! - [`isolation`]: the property that isolates searches by partition key
//! - [`database`], [`collection`], [`drop_collection`], [`alter_collection`], [`alter_schema`],
//!   [`partition`], [`truncate`], [`alias`], [`index`], [`alter_index`], [`load`], [`rbac`],
//!   [`restore`], [`restore_bundle`]: the sagas

pub mod alias;
pub mod alter_collection;
pub mod alter_index;
pub mod alter_schema;
pub mod collection;
pub mod context;
pub mod database;
pub mod drop_collection;
pub mod gate;
pub mod index;
pub mod isolation;
pub mod load;
pub mod partition;
pub mod rbac;
pub mod resolve;
pub mod restore;
pub mod restore_bundle;
mod restore_job;
pub mod steps;
pub mod truncate;

pub use context::{Announce, DdlContext};
pub use gate::DdlGate;

#[cfg(test)]
mod tests;
