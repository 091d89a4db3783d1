//! What an operator may set.

use redkite_config::{Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `datacoord.snapshot` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotOptions {
    /// Whether a restore reads every file that it is going to name and compares its checksum. Without
    /// it files are compared by their sizes, and by their checksums those that were written again since the
    /// snapshot was taken, as the store says; the others when they are loaded: then what a restore costs
    /// does not depend on how much data there is.
    pub verify_checksums: bool,
}

impl Validate for SnapshotOptions {
    fn validate(&self) -> Result<()> {
        Ok(())
    }
}
