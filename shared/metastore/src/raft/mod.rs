//! The replicated store: everything that knows openraft, sled or redb.
//!
//! - [`node`]: [`MetaNode`], one replica
//! - [`options`]: its settings
//! - `open`: its start from the disk; `serve`: it as a store; `admin`: what operators ask of it
//! - `proposer`: concurrent writes share log entries
//! - `leader`: what only the leader does: ending leases, telling who leads
//! - `types`: openraft's type parameters and the encoding of its types
//! - [`disk`]: the trait of log engines; [`disk_sled`]: sled, made durable; [`disk_redb`]: redb;
//!   [`engine`]: which of them it is
//! - `mark`: how far the log must reach
//! - `sync`: the thread that syncs the log
//! - `log_store`, `state_machine`, `snapshot`: openraft's storage
//! - [`offline`]: what is on a stopped replica's disk, read without changing it
//! - `network`: raft's messages over gRPC, both ends

mod admin;
pub mod disk;
pub mod disk_redb;
pub mod disk_sled;
pub mod engine;
mod leader;
mod log_store;
mod mark;
mod metrics;
mod network;
pub mod node;
pub mod offline;
mod open;
pub mod options;
mod proposer;
mod serve;
mod snapshot;
mod state_machine;
mod sync;
#[cfg(test)]
mod tests;
mod types;

pub use admin::NodeStatus;
pub use engine::LogEngine;
pub use leader::Leadership;
pub use node::MetaNode;
pub use offline::{Damage, Offline, read_offline};
pub use options::MetaNodeOptions;
