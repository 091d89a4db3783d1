//! Segments: which are flushed, which are served, and by whom.

use std::{collections::BTreeSet, sync::Arc};

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    milvus::{
        common::{SegmentLevel, SegmentState},
        milvus::{
            GetPersistentSegmentInfoRequest, GetPersistentSegmentInfoResponse,
            GetQuerySegmentInfoRequest, GetQuerySegmentInfoResponse, GetReplicasRequest,
            GetReplicasResponse, PersistentSegmentInfo, QuerySegmentInfo, ReplicaInfo,
            ShardReplica,
        },
    },
    redkite::{meta::ChannelOwner, querynode::SegmentStats},
    status,
};
use redkite_types::{FieldId, Result};

use super::stats;
use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// The resource group that every node is in.
const RESOURCE_GROUP: &str = "__default_resource_group";

/// Flushed segments, from the metadata alone.
pub(crate) fn get_persistent_segment_info(
    context: &ProxyContext,
    meta: RequestContext,
    message: GetPersistentSegmentInfoRequest,
) -> Result<GetPersistentSegmentInfoResponse> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &message.collection_name)?;
    meta.caller.must_see(&view, &entry)?;
    let flushed = i32::from(SegmentState::Flushed);
    let wanted = message.states.is_empty() || message.states.contains(&flushed);
    let infos = entry
        .segments
        .values()
        .filter_map(|segment| segment.info.as_ref())
        .filter(|_| wanted)
        .map(|segment| PersistentSegmentInfo {
            segment_id: segment.id,
            collection_id: segment.collection_id,
            partition_id: segment.partition_id,
            num_rows: segment.rows,
            state: flushed,
            level: SegmentLevel::L1.into(),
            // Only a compaction puts rows in the order of their keys.
            is_sorted: !segment.compacted_from.is_empty(),
            storage_version: segment.format_version.into(),
            insert_channel: segment.channel.clone(),
            compaction_from: segment.compacted_from.clone(),
        })
        .collect();
    Ok(GetPersistentSegmentInfoResponse {
        status: Some(status::success()),
        infos,
    })
}

/// Served segments, from those who serve them.
pub(crate) async fn get_query_segment_info(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetQuerySegmentInfoRequest,
) -> Result<GetQuerySegmentInfoResponse> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &message.collection_name)?;
    meta.caller.must_see(&view, &entry)?;
    let mut response = GetQuerySegmentInfoResponse {
        status: Some(status::success()),
        infos: Vec::new(),
    };
    if !entry.is_loaded() {
        return Ok(response);
    }
    for (owner, stats) in stats::channel_stats(context, &meta, &entry).await? {
        let served = stats
            .segments
            .iter()
            .filter(|segment| segment.growing || segment.loaded);
        response
            .infos
            .extend(served.map(|segment| query_segment(&entry, &owner, segment)));
    }
    Ok(response)
}

fn query_segment(
    entry: &CollectionEntry,
    owner: &ChannelOwner,
    segment: &SegmentStats,
) -> QuerySegmentInfo {
    let index = segment
        .indexed_fields
        .iter()
        .find_map(|field| entry.index_on(FieldId(*field)));
    let state = if segment.growing {
        SegmentState::Growing
    } else {
        SegmentState::Sealed
    };
    QuerySegmentInfo {
        segment_id: segment.segment_id,
        collection_id: entry.id().0,
        partition_id: segment.partition_id,
        mem_size: segment.memory_bytes,
        num_rows: segment.rows,
        index_name: index.map(|index| index.name.clone()).unwrap_or_default(),
        index_id: index.map_or(0, |index| index.id),
        state: state.into(),
        node_ids: vec![owner.node_id as i64],
        level: SegmentLevel::L1.into(),
        ..QuerySegmentInfo::default()
    }
}

/// The one replica of a loaded collection: the owners of its channels.
pub(crate) fn get_replicas(
    context: &ProxyContext,
    meta: RequestContext,
    message: GetReplicasRequest,
) -> Result<GetReplicasResponse> {
    let (name, id) = (&message.collection_name, message.collection_id);
    let view = context.view();
    let entry = lookup::collection_or_id(&view, &meta.database, name, id)?;
    meta.caller.must_see(&view, &entry)?;
    let replicas = if entry.is_loaded() {
        vec![replica(&entry, message.with_shard_nodes)]
    } else {
        Vec::new()
    };
    Ok(GetReplicasResponse {
        status: Some(status::success()),
        replicas,
    })
}

fn replica(entry: &CollectionEntry, with_shard_nodes: bool) -> ReplicaInfo {
    let owners = entry
        .channels()
        .iter()
        .filter_map(|channel| entry.owners.get(channel));
    let nodes: BTreeSet<i64> = owners.clone().map(|owner| owner.node_id as i64).collect();
    let shard = |owner: &Arc<ChannelOwner>| ShardReplica {
        leader_id: owner.node_id as i64,
        leader_addr: owner.address.clone(),
        dm_channel_name: owner.channel.clone(),
        node_ids: if with_shard_nodes {
            vec![owner.node_id as i64]
        } else {
            Vec::new()
        },
    };
    ReplicaInfo {
        // There is one, so the collection's own id tells it from all others.
        replica_id: entry.id().0,
        collection_id: entry.id().0,
        partition_ids: entry
            .loaded_partitions
            .iter()
            .map(|partition| partition.0)
            .collect(),
        shard_replicas: owners.map(shard).collect(),
        node_ids: nodes.into_iter().collect(),
        resource_group_name: RESOURCE_GROUP.to_owned(),
        num_outbound_node: Default::default(),
    }
}
