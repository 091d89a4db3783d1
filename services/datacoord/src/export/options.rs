//! What an operator may set.

use redkite_config::{Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `datacoord.export` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportOptions {
    /// Exports that run at the same time; more wait for their turn.
    pub concurrent_tasks: usize,
    /// Exports that have not ended, at most; more are refused.
    pub max_pending: usize,
    /// How long an export that has ended is remembered.
    pub remember: HumanDuration,
    /// How long a part is tried again while no data node answers.
    pub patience: HumanDuration,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            concurrent_tasks: 2,
            max_pending: 100,
            remember: HumanDuration::secs(7 * 24 * 60 * 60),
            patience: HumanDuration::secs(10 * 60),
        }
    }
}

impl Validate for ExportOptions {
    fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("datacoord.export.concurrent_tasks", self.concurrent_tasks),
            ("datacoord.export.max_pending", self.max_pending),
        ] {
            if value == 0 {
                return Err(Error::value(key, "must not be 0"));
            }
        }
        Ok(())
    }
}
