//! What exists, where it is and how far it is: answers that change nothing, flushes and compactions.

pub(crate) mod collections;
pub(crate) mod compaction;
pub(crate) mod flush;
pub(crate) mod indexes;
pub(crate) mod load;
pub(crate) mod names;
pub(crate) mod partitions;
pub(crate) mod segments;
pub(crate) mod server;
pub(crate) mod stats;

use redkite_types::Timestamp;

/// Unix milliseconds of a timestamp, as replies have beside it.
fn utc(timestamp: u64) -> u64 {
    Timestamp(timestamp).physical_ms()
}

#[cfg(test)]
mod tests;
