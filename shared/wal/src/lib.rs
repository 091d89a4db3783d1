//! The write-ahead log: one ordered log per channel, acknowledged only once durable.
//!
//! Owns ordering, durability, fencing and truncation. It never looks into a payload, and knows no
//! collection, row or timestamp: what a record means belongs to querynode.
//!
//! - [`log`]: the traits [`LogStore`] and [`ChannelLog`], and [`AppendFuture`]
//! - [`local`]: the implementation on local files with group commit by `fdatasync`
//! - [`object`]: the implementation on an object store, owned by epoch without clocks
//! - [`error`]: what can go wrong, and whether a write certainly did not happen
//! - `metrics`: names of what is measured
//! - `salt`: numbers that nobody else draws

pub mod error;
pub mod local;
pub mod log;
mod metrics;
pub mod object;
mod salt;

pub use error::{Error, Result};
pub use local::{LocalLogStore, LocalOptions};
pub use log::{AppendFuture, ChannelLog, Damage, LogStore, Lsn, Record, RecordStream};
pub use object::{ObjectLogStore, ObjectOptions};
