//! Partitions: which there are.

use std::sync::Arc;

use redkite_proto::{
    milvus::milvus::{
        BoolResponse, HasPartitionRequest, ShowPartitionsRequest, ShowPartitionsResponse, ShowType,
    },
    redkite::meta::PartitionInfo,
    status,
};
use redkite_types::{Result, limits, name};

use super::{load, utc};
use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

pub(crate) fn has_partition(
    context: &ProxyContext,
    meta: RequestContext,
    message: HasPartitionRequest,
) -> Result<BoolResponse> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &message.collection_name)?;
    name::check_partition(&message.partition_name)?;
    Ok(BoolResponse {
        status: Some(status::success()),
        value: entry.partition(&message.partition_name).is_some(),
    })
}

/// `_default` first, then in order of creation.
pub(crate) async fn show_partitions(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: ShowPartitionsRequest,
) -> Result<ShowPartitionsResponse> {
    let view = context.view();
    let (name, id) = (&message.collection_name, message.collection_id);
    let entry = lookup::collection_or_id(&view, &meta.database, name, id)?;
    let mut partitions: Vec<Arc<PartitionInfo>> = if message.partition_names.is_empty() {
        entry.visible_partitions().cloned().collect()
    } else {
        let named = message
            .partition_names
            .iter()
            .map(|name| lookup::partition(&entry, name));
        named.collect::<Result<_>>()?
    };
    partitions.sort_by_key(|partition| partition.name != limits::DEFAULT_PARTITION);

    let loaded_only = message.r#type() == ShowType::InMemory;
    let mut response = ShowPartitionsResponse {
        status: Some(status::success()),
        ..Default::default()
    };
    for partition in partitions {
        if loaded_only {
            let named = std::slice::from_ref(&partition.name);
            match load::progress(context, &meta, &entry, named).await {
                Ok(progress) => response.in_memory_percentages.push(progress.percent),
                Err(error) if load::is_not_loaded(&error) => continue,
                Err(error) => return Err(error),
            }
        }
        response.partition_names.push(partition.name.clone());
        response.partition_i_ds.push(partition.id);
        response.created_timestamps.push(partition.created_ts);
        response
            .created_utc_timestamps
            .push(utc(partition.created_ts));
    }
    Ok(response)
}
