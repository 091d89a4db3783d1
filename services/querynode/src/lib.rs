//! The query node: the online data plane.
//!
//! It owns the channels that it was given: their log's head, the rows that are not in segment files
//! yet, the segments in memory, and the answers to searches and queries over all of them. It keeps
//! nothing durable of its own: a node that is killed is replaced by an empty one, which replays the
//! log from the channel's checkpoint. It never decides what is to be served, and writes no metadata
//! but through the data coordinator.
//!
//! Writes of one channel go through one task, its owner ([`channel`]); reads take the snapshot that
//! the owner published last, without a lock and without a mailbox.
//!
//! - [`run`]: puts it together and starts it
//! - [`service`]: the RPCs, thin
//! - [`deps`]: what a node needs from its process, and from the coordinators
//! - [`options`]: what an operator may set
//! - `registry`: which channels this node owns, by name and epoch
//! - [`channel`]: one channel: write loop, recovery, load, flush, snapshots
//! - `orphans`: logs that a crash has left behind
//! - `read`: search and query on a snapshot
//! - `stats`: rows and segments of a channel
//! - `metrics`: what is measured

pub mod channel;
pub mod deps;
mod metrics;
pub mod options;
mod orphans;
mod read;
mod registry;
pub mod run;
pub mod service;
mod stats;

pub use deps::{Coordinators, PeerCoordinators, QueryNodeDeps};
pub use options::{Mmap, QueryNodeOptions};
pub use service::QueryNodeService;
