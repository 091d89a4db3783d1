//! The object store: immutable files under keys, on local disk or in memory, later on S3.
//!
//! Owns how bytes become durable and where objects lie. It never looks into an object: formats
//! belong to the crates that write them, and who may delete what is decided by datacoord.
//!
//! - [`store`]: the [`ObjectStore`] trait and [`open`], which picks an implementation by URI
//! - `operator`: the implementation on opendal; the only place that knows opendal
//! - `durable`: local writes that survive a power cut (opendal syncs no directory)
//! - [`layout`]: the only place that knows keys
//! - [`checksum`]: CRC32C of whole objects
//! - [`error`]: what can go wrong, and whether a write certainly did not happen

pub mod checksum;
mod durable;
pub mod error;
pub mod layout;
mod operator;
pub mod store;

pub use checksum::{crc32c, crc32c_append, verify};
pub use error::{Error, Result};
pub use store::{LocalFile, ObjectMeta, ObjectStore, PutOutcome, open};
