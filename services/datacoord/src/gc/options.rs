//! How often objects are collected, and how long they are kept.

use redkite_config::{Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `datacoord.gc` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcOptions {
    /// Whether objects are collected by themselves; on demand they always are.
    pub enabled: bool,
    /// How often.
    pub interval: HumanDuration,
    /// An object that nothing names is kept for so long after it was written: it may be part of a
    /// flush, build or compaction that has not been committed yet.
    pub grace: HumanDuration,
    /// How long the objects of a dropped collection or partition are kept after they were written,
    /// and the segments that a compaction has replaced after it: reads that began before may need
    /// them.
    pub dropped_grace: HumanDuration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::secs(600),
            grace: HumanDuration::secs(3_600),
            dropped_grace: HumanDuration::secs(60),
        }
    }
}

impl Validate for GcOptions {
    fn validate(&self) -> Result<()> {
        if self.interval.get().is_zero() {
            return Err(Error::value("datacoord.gc.interval", "must not be 0"));
        }
        Ok(())
    }
}
