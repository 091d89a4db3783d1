//! What an owner is to serve, from the metadata.

use redkite_catalog::{CollectionEntry, SegmentEntry};
use redkite_proto::{
    convert::schema,
    milvus::common::IndexState,
    redkite::{
        meta::{ChannelOwner, ObjectState, PartitionInfo},
        querynode::{SegmentToServe, SyncChannelRequest},
    },
};
use redkite_types::{IndexId, PartitionId, Revision};

/// Everything that the owner of a channel has to know.
pub fn sync_channel(
    entry: &CollectionEntry,
    owner: &ChannelOwner,
    revision: Revision,
) -> SyncChannelRequest {
    let on_channel = |channel: &str| channel == owner.channel;
    let segments = entry.segments.values().filter_map(|segment| {
        let info = segment
            .info
            .as_ref()
            .filter(|info| on_channel(&info.channel))?;
        let finished = segment
            .indexes
            .values()
            .filter(|build| build.state == i32::from(IndexState::Finished))
            .map(|build| build.as_ref().clone());
        let visible = entry.visible_indexes().map(|index| index.id);
        let failed = visible.filter(|index| has_failed(segment, IndexId(*index)));
        Some(SegmentToServe {
            segment: Some(info.as_ref().clone()),
            indexes: finished.collect(),
            failed_indexes: failed.collect(),
        })
    });
    SyncChannelRequest {
        channel: owner.channel.clone(),
        collection_id: owner.collection_id,
        epoch: owner.epoch,
        revision: revision.0,
        schema: Some(schema::to_proto(entry.name(), entry.schema())),
        indexes: entry
            .visible_indexes()
            .map(|index| index.as_ref().clone())
            .collect(),
        loaded_partitions: served_partitions(entry)
            .map(|partition| partition.0)
            .collect(),
        segments: segments.collect(),
        deltas: entry
            .deltas
            .values()
            .filter(|delta| on_channel(&delta.channel))
            .map(|delta| delta.as_ref().clone())
            .collect(),
        checkpoint: entry
            .checkpoints
            .get(&owner.channel)
            .map(|checkpoint| checkpoint.as_ref().clone()),
        partitions: entry
            .partitions
            .values()
            .filter(|partition| exists(partition))
            .map(|partition| partition.id)
            .collect(),
        closed_partitions: entry
            .partitions
            .values()
            .filter(|partition| partition.closed)
            .map(|partition| partition.id)
            .collect(),
        properties: entry
            .info()
            .map(|info| info.properties.clone())
            .unwrap_or_default(),
    }
}

/// Whether the last build of an index over a segment has failed for good.
fn has_failed(segment: &SegmentEntry, index: IndexId) -> bool {
    let mut builds = segment.indexes.values().rev();
    segment.finished(index).is_none()
        && builds
            .find(|build| build.index_id == index.0)
            .is_some_and(|build| build.state() == IndexState::Failed)
}

/// The partitions that are to be served: asked for, and not being dropped.
pub fn served_partitions(entry: &CollectionEntry) -> impl Iterator<Item = PartitionId> {
    let loaded = entry.is_loaded();
    entry
        .loaded_partitions
        .iter()
        .copied()
        .filter(move |partition| {
            loaded
                && entry
                    .partitions
                    .get(partition)
                    .is_some_and(|found| exists(found))
        })
}

/// Whether a partition has rows as far as its channels' owners go. One that has been truncated has
/// them until no proxy reads it any more.
fn exists(partition: &PartitionInfo) -> bool {
    match partition.state() {
        ObjectState::Created | ObjectState::Creating => true,
        ObjectState::Dropping => partition.closed,
        ObjectState::Dropped => false,
    }
}
