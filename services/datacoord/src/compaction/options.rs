//! What an operator may set.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `datacoord.compaction` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactionOptions {
    /// Whether segments are compacted without being asked to; a client may always ask.
    pub enabled: bool,
    /// Segments are merged up to this size of their files.
    pub segment_target_size: ByteSize,
    /// Segments below half of the target size that do not fill one together are merged when there
    /// are so many of about the same size.
    pub min_small_segments: usize,
    /// A segment is written again when more than this share of its rows is deleted or expired.
    pub delete_share: f64,
    /// A segment is written again when more delete files than this may hit it.
    pub max_delete_files: usize,
    /// Delete files of a channel are merged when there are so many of about the same size.
    pub min_delete_files: usize,
    /// How often it is looked for what is due.
    pub interval: HumanDuration,
    /// Compactions that run at the same time; each takes memory for about three times the target
    /// size on a data node.
    pub concurrent_plans: usize,
    /// Rows that were deleted or have expired for less than this are kept, because a read that
    /// began before, such as an iterator, may still want them. A compaction that a client asks for
    /// does not wait for it.
    pub retention: HumanDuration,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            segment_target_size: ByteSize::mib(512),
            min_small_segments: 8,
            delete_share: 0.2,
            max_delete_files: 64,
            min_delete_files: 8,
            interval: HumanDuration::secs(10),
            concurrent_plans: 2,
            retention: HumanDuration::secs(120),
        }
    }
}

impl Validate for CompactionOptions {
    fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: &str| {
            Err(Error::value(format!("datacoord.compaction.{key}"), problem))
        };
        if self.segment_target_size.as_u64() == 0 {
            return refuse("segment_target_size", "must not be 0");
        }
        if self.min_small_segments < 2 {
            return refuse("min_small_segments", "must be at least 2");
        }
        if self.min_delete_files < 2 {
            return refuse("min_delete_files", "must be at least 2");
        }
        if !(self.delete_share > 0.0 && self.delete_share <= 1.0) {
            return refuse("delete_share", "must be above 0 and at most 1");
        }
        if self.interval.get().is_zero() {
            return refuse("interval", "must not be 0");
        }
        if self.concurrent_plans == 0 {
            return refuse("concurrent_plans", "must not be 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_names_its_key() {
        CompactionOptions::default().validate().unwrap();
        let bad = CompactionOptions {
            delete_share: f64::NAN,
            ..CompactionOptions::default()
        };
        let error = bad.validate().unwrap_err();
        assert!(error.to_string().contains("delete_share"), "{error}");
    }
}
