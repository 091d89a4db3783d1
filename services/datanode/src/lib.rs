//! The data node: work that needs processors and no state.
//!
//! It builds indexes over segment files, compacts segments, exports rows and copies snapshots. It owns nothing and remembers
//! nothing: a node that is
//! killed is replaced by an empty one, and what it was doing is given out again. It never decides
//! what is built or compacted, and writes no metadata.
//!
//! - [`build`]: builds one index over one segment
//! - `progress`: how far the builds are that run now
//! - [`compact`]: writes the rows of some segments that still count as new ones
//! - `deletes`: writes the deletes of some delete files as one file
//! - [`export`]: writes rows as files for other programs
//! - [`bundle`]: copies snapshots to where they need nothing of this deployment, and back
//! - [`service`]: the gRPC side
//! - [`run`]: puts it together and starts it

pub mod build;
pub mod bundle;
pub mod compact;
mod deletes;
pub mod export;
mod progress;
pub mod run;
pub mod service;
#[cfg(test)]
mod tests;

pub use build::IndexBuilder;
pub use bundle::{BundleOptions, Bundler};
pub use compact::Compactor;
pub use export::{ExportOptions, Exporter};
pub use service::DataNodeService;
