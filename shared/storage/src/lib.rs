//! The object store: immutable files under keys, on local disk, in memory or on S3.
//!
//! Owns how bytes become durable and where objects lie. It never looks into an object: formats
//! belong to the crates that write them, and who may delete what is decided by datacoord.
//!
//! - [`store`]: the [`ObjectStore`] trait, [`open`] and [`open_with`], which pick an implementation
//! - [`options`]: what [`open_with`] needs to know
//! - `operator`: local disk and memory on opendal
//! - `durable`: local writes that survive a power cut (opendal syncs no directory)
//! - `remote`: any opendal service behind a network: deadlines, retries, parts of large objects
//! - `s3`: opening a bucket and trying it out
//! - `retry`: deadlines and retries
//! - `cache`: copies of remote objects on local disk
//! - `metrics`: every operation counted and timed
//! - [`layout`]: the only place that knows keys
//! - [`checksum`]: CRC32C of whole objects
//! - [`error`]: what can go wrong, and whether a write certainly did not happen
//! - `testing`: a real S3 server and a proxy that breaks calls to it (feature `testing`)

mod cache;
pub mod checksum;
mod durable;
pub mod error;
pub mod layout;
mod metrics;
mod operator;
pub mod options;
mod remote;
mod retry;
mod s3;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use checksum::{crc32c, crc32c_append, verify};
pub use error::{Error, Result};
pub use options::{CacheOptions, S3Options, StoreOptions, StoreUri};
pub use store::{
    LocalFile, ObjectMeta, ObjectStore, ObjectWriter, PART_BYTES, PutOutcome, cached, open,
    open_with,
};
