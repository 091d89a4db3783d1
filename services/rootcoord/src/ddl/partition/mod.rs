//! CreatePartition and DropPartition.
//!
//! - `create`, `drop`: the sagas

mod create;
mod drop;

use redkite_proto::milvus::milvus::{CreatePartitionRequest, DropPartitionRequest};
use redkite_saga::LockKey;
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result, name};
use serde::{Deserialize, Serialize};

pub use self::{
    create::{CreatePartition, CreatePartitionV1},
    drop::DropPartition,
};
use super::{context::DdlContext, resolve, steps};

/// A partition by its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionParams {
    database: DatabaseId,
    collection: CollectionId,
    collection_name: String,
    partition: String,
}

/// Reads a request to create.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 in partition-key mode; 65535 for a bad name.
pub async fn create_params(
    context: &DdlContext,
    database: &str,
    request: CreatePartitionRequest,
) -> Result<PartitionParams> {
    name::check_partition(&request.partition_name)?;
    params(
        context,
        database,
        request.collection_name,
        request.partition_name,
        "create",
    )
    .await
}

/// Reads a request to drop.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 in partition-key mode and for the default partition.
pub async fn drop_params(
    context: &DdlContext,
    database: &str,
    request: DropPartitionRequest,
) -> Result<PartitionParams> {
    name::check_partition(&request.partition_name)?;
    params(
        context,
        database,
        request.collection_name,
        request.partition_name,
        "drop",
    )
    .await
}

async fn params(
    context: &DdlContext,
    database: &str,
    collection: String,
    partition: String,
    verb: &str,
) -> Result<PartitionParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &collection)?;
    if entry.schema().partition_key().is_some() {
        return Err(Error::input(
            ErrorCode::InvalidParameter,
            format!("disable {verb} partition if partition key mode is used"),
        ));
    }
    Ok(PartitionParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: collection,
        partition,
    })
}

impl PartitionParams {
    fn locks(&self) -> Vec<LockKey> {
        vec![
            steps::share_database(self.database),
            steps::take_collection(self.collection),
        ]
    }
}
