//! What an operator may set.

use std::path::PathBuf;

use redkite_config::{Error, Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `datanode.bundle` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BundleOptions {
    /// Absolute directories below which users may have bundles written and read (`fs:///…`); none
    /// unless some are named. Where data nodes are on several machines they must share them.
    pub local_dirs: Vec<PathBuf>,
}

impl Validate for BundleOptions {
    fn validate(&self) -> Result<()> {
        for dir in &self.local_dirs {
            if !dir.is_absolute() {
                let reason = "has a directory that is not absolute";
                return Err(Error::value("datanode.bundle.local_dirs", reason));
            }
        }
        Ok(())
    }
}
