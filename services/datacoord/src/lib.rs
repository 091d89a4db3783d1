//! Where data is, and what work on it is due.
//!
//! Owns segments and their files, channel checkpoints and index builds. Never holds rows: it moves
//! metadata, and gives work to datanodes.
//!
//! - [`flush`]: commits a flush in one transaction
//! - [`plan`]: which index builds are due (pure)
//! - [`builder`]: has them built, and commits or retries
//! - [`compaction`]: merges segments and applies deletes, from policy to commit
//! - [`progress`]: which data node is at which build, and how far it is
//! - [`describe`]: how far indexes are built (pure)
//! - [`drop`]: removes the records of a dropped collection or partition
//! - [`export`]: rows of a collection, as of one time, as files for other programs
//! - [`gate`]: no record names a file that is not there, or that is just being deleted
//! - [`gc`]: deletes files that no record names
//! - [`fsck`]: checks records and files
//! - [`snapshot`]: snapshots, which keep files, and pins, which keep snapshots
//! - [`admin`]: collection and check for operators
//! - [`service`]: the gRPC side
//! - [`run`]: puts it together and starts it

pub mod admin;
pub mod builder;
pub mod compaction;
pub mod describe;
pub mod drop;
pub mod export;
pub mod flush;
pub mod fsck;
pub mod gate;
pub mod gc;
pub mod plan;
pub mod progress;
pub mod run;
pub mod service;
pub mod snapshot;

pub use builder::Builder;
pub use compaction::Compactor;
pub use gate::CommitGate;
pub use service::DataCoordService;
pub use snapshot::Snapshots;
