//! What an operator can set.

use serde::{Deserialize, Serialize};

use redkite_config::Secret;
use redkite_types::limits;

/// Limits of what may exist; names as in Milvus's configuration, section `rootcoord`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootCoordOptions {
    /// Partitions of one collection.
    pub max_partition_num: usize,
    /// Collections of the deployment.
    pub max_collection_num: usize,
    /// Databases of the deployment.
    pub max_database_num: usize,
    /// Password of the user `root` when a deployment starts for the first time.
    pub default_root_password: Secret,
}

impl Default for RootCoordOptions {
    fn default() -> Self {
        Self {
            max_partition_num: limits::DEFAULT_MAX_PARTITIONS,
            max_collection_num: limits::MAX_COLLECTIONS,
            max_database_num: limits::MAX_DATABASES,
            default_root_password: "Milvus".into(),
        }
    }
}
