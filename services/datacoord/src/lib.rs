//! Where data is, and what work on it is due.
//!
//! Owns segments and their files, channel checkpoints and index builds. Never holds rows: it moves
//! metadata, and gives work to datanodes.
//!
//! - [`flush`]: commits a flush in one transaction
//! - [`plan`]: which index builds are due (pure)
//! - [`builder`]: has them built, and commits or retries
//! - [`compaction`]: merges segments and applies deletes, from policy to commit
//! - [`describe`]: how far indexes are built (pure)
//! - [`drop`]: removes what a dropped collection or partition leaves behind
//! - [`service`]: the gRPC side
//! - [`run`]: puts it together and starts it

pub mod builder;
pub mod compaction;
pub mod describe;
pub mod drop;
pub mod flush;
pub mod plan;
pub mod run;
pub mod service;

pub use builder::Builder;
pub use compaction::Compactor;
pub use service::DataCoordService;
