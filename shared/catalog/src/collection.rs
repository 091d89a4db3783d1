//! One collection in the view, with all that belongs to it.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use redkite_proto::{
    convert::{kv, schema as convert},
    milvus::common::IndexState,
    redkite::meta::{
        ChannelCheckpoint, ChannelOwner, CollectionInfo, CompactionInfo, DeltaInfo, FieldInfo,
        IndexInfo, LoadInfo, ObjectState, PartitionInfo, SegmentIndexInfo, SegmentInfo,
        SnapshotInfo,
    },
};
use redkite_types::{
    BuildId, CollectionId, CollectionSchema, DataType, DatabaseId, FieldId, FieldSchema, IndexId,
    PartitionId, SegmentId,
};

/// Collection properties under this prefix name the VikingDB type of a field, where ours does not
/// tell it.
pub const VIKINGDB_TYPE: &str = "vikingdb.type.";
/// The type of a JSON field that holds lists of integers.
pub const LIST_INT64: &str = "list<int64>";
/// The type of a JSON field that holds lists of texts.
pub const LIST_STRING: &str = "list<string>";

/// A flushed segment with its index builds.
#[derive(Clone, Debug, Default)]
pub struct SegmentEntry {
    /// Its manifest; absent only while a drop is half seen.
    pub info: Option<Arc<SegmentInfo>>,
    /// Its index builds in any state.
    pub indexes: OrdMap<BuildId, Arc<SegmentIndexInfo>>,
}

impl SegmentEntry {
    /// The finished build of an index, if there is one.
    pub fn finished(&self, index: IndexId) -> Option<&Arc<SegmentIndexInfo>> {
        self.indexes.values().find(|build| {
            build.index_id == index.0 && build.state == i32::from(IndexState::Finished)
        })
    }
}

/// One collection, with all that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct CollectionEntry {
    /// Its own record; absent only while a create or drop is half seen.
    pub(crate) info: Option<Arc<CollectionInfo>>,
    pub(crate) fields: OrdMap<FieldId, Arc<FieldInfo>>,
    pub(crate) schema: Arc<CollectionSchema>,
    /// Every partition in any state, in order of creation.
    pub partitions: OrdMap<PartitionId, Arc<PartitionInfo>>,
    /// Every index in any state.
    pub indexes: OrdMap<IndexId, Arc<IndexInfo>>,
    /// What is to be served; absent when nothing is.
    pub load: Option<Arc<LoadInfo>>,
    /// The partitions that are to be served.
    pub loaded_partitions: OrdSet<PartitionId>,
    /// Flushed segments.
    pub segments: OrdMap<SegmentId, SegmentEntry>,
    /// Flushed deletes.
    pub deltas: OrdMap<i64, Arc<DeltaInfo>>,
    /// Compaction plans, those that have ended included.
    pub compactions: OrdMap<i64, Arc<CompactionInfo>>,
    /// Snapshots by name; they may outlive the collection while they are pinned.
    pub snapshots: OrdMap<String, Arc<SnapshotInfo>>,
    /// How far each channel's log is flushed.
    pub checkpoints: OrdMap<String, Arc<ChannelCheckpoint>>,
    /// Who owns each channel.
    pub owners: OrdMap<String, Arc<ChannelOwner>>,
}

impl CollectionEntry {
    /// Its record; absent only while a create or drop is half seen.
    pub fn info(&self) -> Option<&Arc<CollectionInfo>> {
        self.info.as_ref()
    }

    /// Its id; zero when the record is absent.
    pub fn id(&self) -> CollectionId {
        CollectionId(self.info.as_ref().map_or(0, |info| info.id))
    }

    /// Its database; zero when the record is absent.
    pub fn database_id(&self) -> DatabaseId {
        DatabaseId(self.info.as_ref().map_or(0, |info| info.database_id))
    }

    /// Its name; empty when the record is absent.
    pub fn name(&self) -> &str {
        self.info.as_ref().map_or("", |info| info.name.as_str())
    }

    /// The records of its fields.
    pub fn field_records(&self) -> impl Iterator<Item = &Arc<FieldInfo>> {
        self.fields.values()
    }

    /// Its channels, one a shard.
    pub fn channels(&self) -> &[String] {
        self.info
            .as_ref()
            .map_or(&[], |info| info.channels.as_slice())
    }

    /// Its state; `Dropped` when the record is absent.
    pub fn state(&self) -> ObjectState {
        self.info
            .as_ref()
            .map_or(ObjectState::Dropped, |info| info.state())
    }

    /// Its schema.
    pub fn schema(&self) -> &Arc<CollectionSchema> {
        &self.schema
    }

    /// A property's value.
    pub fn property(&self, key: &str) -> Option<&str> {
        kv::get(&self.info.as_ref()?.properties, key)
    }

    /// The JSON fields that are said to hold lists, by [`LIST_INT64`] or [`LIST_STRING`].
    pub fn list_fields(&self, kind: &str) -> impl Iterator<Item = FieldId> {
        let is_one = move |field: &&FieldSchema| {
            let named = self.property(&format!("{VIKINGDB_TYPE}{}", field.name));
            field.data_type == DataType::Json && named == Some(kind)
        };
        self.schema
            .fields
            .iter()
            .filter(is_one)
            .map(|field| field.id)
    }

    /// The partitions that users see, in order of creation.
    pub fn visible_partitions(&self) -> impl Iterator<Item = &Arc<PartitionInfo>> {
        self.partitions
            .values()
            .filter(|partition| partition.state() == ObjectState::Created)
    }

    /// The visible partition of a name.
    pub fn partition(&self, name: &str) -> Option<&Arc<PartitionInfo>> {
        self.visible_partitions()
            .find(|partition| partition.name == name)
    }

    /// The indexes that users see.
    pub fn visible_indexes(&self) -> impl Iterator<Item = &Arc<IndexInfo>> {
        self.indexes
            .values()
            .filter(|index| index.state() == ObjectState::Created)
    }

    /// The visible index on a field, of which there is one at most.
    pub fn index_on(&self, field: FieldId) -> Option<&Arc<IndexInfo>> {
        self.visible_indexes()
            .find(|index| index.field_id == field.0)
    }

    /// The visible index of a name.
    pub fn index(&self, name: &str) -> Option<&Arc<IndexInfo>> {
        self.visible_indexes().find(|index| index.name == name)
    }

    /// Whether anything of it is to be served.
    pub fn is_loaded(&self) -> bool {
        self.load.is_some() && !self.loaded_partitions.is_empty()
    }

    /// Whether nothing at all is known of it any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.info.is_none()
            && self.fields.is_empty()
            && self.partitions.is_empty()
            && self.indexes.is_empty()
            && self.load.is_none()
            && self.loaded_partitions.is_empty()
            && self.segments.is_empty()
            && self.deltas.is_empty()
            && self.compactions.is_empty()
            && self.snapshots.is_empty()
            && self.checkpoints.is_empty()
            && self.owners.is_empty()
    }

    /// Puts the schema together again after its record or a field has changed.
    pub(crate) fn rebuild_schema(&mut self) -> redkite_types::Result<()> {
        let mut records: Vec<&Arc<FieldInfo>> = self.fields.values().collect();
        records.sort_by_key(|record| record.position);
        let fields = records
            .into_iter()
            .filter_map(|record| record.schema.clone())
            .map(convert::field_from_proto)
            .collect::<redkite_types::Result<Vec<_>>>()?;
        let info = self.info.as_deref();
        self.schema = Arc::new(CollectionSchema {
            description: info
                .map(|info| info.description.clone())
                .unwrap_or_default(),
            fields,
            enable_dynamic_field: info.is_some_and(|info| info.enable_dynamic_field),
            version: info.map_or(0, |info| info.schema_version),
        });
        Ok(())
    }
}
