//! What an operator may set.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// What is mapped where neither field, index nor collection say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mmap {
    /// Nothing but indexes that are meant to stay on disk.
    Off,
    /// Vectors that searches only look up one by one, to score exactly what an index in memory has
    /// found by its codes: they are read from the segment's file, which the system keeps in memory as long
    /// as there is some to spare.
    #[default]
    Vectors,
    /// Vectors, columns and indexes.
    All,
}

/// Section `querynode` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryNodeOptions {
    /// Rows of a channel that are in no segment file are flushed when they take up this much.
    pub segment_max_size: ByteSize,
    /// The same, in rows.
    pub segment_max_rows: u64,
    /// A channel is flushed when its log has grown by this much since its last checkpoint; bounds
    /// how long a restart takes.
    pub log_max_size: ByteSize,
    /// Rows and deletes of all channels that are in no segment file may take up this much, together
    /// with the writes on their way; writes are refused beyond.
    pub growing_memory_limit: ByteSize,
    /// Bytes of one channel's writes that may wait or be on their way into the log.
    pub write_queue_size: ByteSize,
    /// Writes of one channel that may wait.
    pub write_queue_length: usize,
    /// Segments that are encoded and written at the same time.
    pub flush_concurrency: usize,
    /// Segments that are loaded at the same time.
    pub load_concurrency: usize,
    /// What stays in files and is mapped of collections that do not say (`mmap.enabled`).
    pub mmap: Mmap,
    /// Decoded columns of such collections that are kept in memory for the next read.
    pub column_cache_size: ByteSize,
    /// Whether rows that are in no segment file get indexes in memory, so that a search need not
    /// compare with every one of them. Without, it does, and finds exactly the nearest ones.
    pub interim_index: bool,
    /// How long an order to load waits for its end before it answers how far it is.
    pub load_wait: HumanDuration,
    /// How long a read may take when its caller does not say.
    pub read_timeout: HumanDuration,
}

impl Default for QueryNodeOptions {
    fn default() -> Self {
        Self {
            segment_max_size: ByteSize::mib(512),
            segment_max_rows: 4_000_000,
            log_max_size: ByteSize::gib(1),
            growing_memory_limit: ByteSize::gib(2),
            write_queue_size: ByteSize::mib(256),
            write_queue_length: 1_024,
            flush_concurrency: 2,
            load_concurrency: 4,
            mmap: Mmap::Vectors,
            column_cache_size: ByteSize::mib(256),
            interim_index: true,
            load_wait: HumanDuration::millis(200),
            read_timeout: HumanDuration::secs(60),
        }
    }
}

impl Validate for QueryNodeOptions {
    fn validate(&self) -> Result<()> {
        let positive = [
            ("querynode.segment_max_size", self.segment_max_size.as_u64()),
            ("querynode.segment_max_rows", self.segment_max_rows),
            ("querynode.log_max_size", self.log_max_size.as_u64()),
            (
                "querynode.growing_memory_limit",
                self.growing_memory_limit.as_u64(),
            ),
            ("querynode.write_queue_size", self.write_queue_size.as_u64()),
            (
                "querynode.write_queue_length",
                self.write_queue_length as u64,
            ),
            ("querynode.flush_concurrency", self.flush_concurrency as u64),
            ("querynode.load_concurrency", self.load_concurrency as u64),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::value(key, "must not be 0"));
            }
        }
        if self.segment_max_rows > u64::from(u32::MAX / 2) {
            return Err(Error::value(
                "querynode.segment_max_rows",
                "must be at most 2147483647",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_names_its_key() {
        QueryNodeOptions::default().validate().unwrap();
        let bad = QueryNodeOptions {
            write_queue_length: 0,
            ..QueryNodeOptions::default()
        };
        let error = bad.validate().unwrap_err();
        assert!(error.to_string().contains("write_queue_length"), "{error}");
        assert!(serde_json::from_str::<QueryNodeOptions>(r#"{"segment": 1}"#).is_err());
    }
}
