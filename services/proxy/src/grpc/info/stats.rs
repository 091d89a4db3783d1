//! How many rows there are.

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::kv,
    milvus::milvus::{
        GetCollectionStatisticsRequest, GetCollectionStatisticsResponse,
        GetPartitionStatisticsRequest, GetPartitionStatisticsResponse,
    },
    redkite::{
        meta::ChannelOwner,
        querynode::{ChannelStatsRequest, ChannelStatsResponse},
    },
    status,
};
use redkite_types::{PartitionId, Result};

use crate::{
    context::{ProxyContext, RequestContext},
    lookup, owners,
};

const ROW_COUNT: &str = "row_count";

pub(crate) async fn get_collection_statistics(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetCollectionStatisticsRequest,
) -> Result<GetCollectionStatisticsResponse> {
    let entry = lookup::collection(&context.view(), &meta.database, &message.collection_name)?;
    let rows = rows(context, &meta, &entry, |partition| {
        // What is left of a dropped partition no longer counts.
        entry
            .visible_partitions()
            .any(|visible| visible.id == partition.0)
    });
    Ok(GetCollectionStatisticsResponse {
        status: Some(status::success()),
        stats: vec![kv::pair(ROW_COUNT, rows.await?)],
    })
}

pub(crate) async fn get_partition_statistics(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetPartitionStatisticsRequest,
) -> Result<GetPartitionStatisticsResponse> {
    let entry = lookup::collection(&context.view(), &meta.database, &message.collection_name)?;
    let wanted = PartitionId(lookup::partition(&entry, &message.partition_name)?.id);
    let rows = rows(context, &meta, &entry, |partition| partition == wanted).await?;
    Ok(GetPartitionStatisticsResponse {
        status: Some(status::success()),
        stats: vec![kv::pair(ROW_COUNT, rows)],
    })
}

async fn rows(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    counts: impl Fn(PartitionId) -> bool,
) -> Result<i64> {
    let stats = channel_stats(context, meta, entry).await?;
    Ok(stats
        .iter()
        .flat_map(|(_, stats)| &stats.partitions)
        .filter(|partition| counts(PartitionId(partition.partition_id)))
        .map(|partition| partition.rows)
        .sum())
}

/// What the owners say about the channels of a collection.
pub(super) async fn channel_stats(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
) -> Result<Vec<(Arc<ChannelOwner>, ChannelStatsResponse)>> {
    let (deadline, collection_id) = (meta.deadline, entry.id().0);
    owners::call_owners(context, deadline, entry, |node, channel| async move {
        let message = ChannelStatsRequest {
            channel,
            collection_id,
            guarantee_ts: 0,
        };
        redkite_rpc::call(deadline, message, |request| node.channel_stats(request)).await
    })
    .await
}
