//! What a channel is to serve, as the query coordinator says. Level-triggered: each order is the
//! whole truth of its revision.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use redkite_proto::{
    convert::schema,
    redkite::{
        meta::{ChannelCheckpoint, DeltaInfo, IndexInfo, SegmentIndexInfo, SegmentInfo},
        querynode::{PartitionProgress, SegmentToServe, SyncChannelRequest},
    },
};
use redkite_types::{
    CollectionId, CollectionSchema, Error, FieldId, PartitionId, Result, Revision, SegmentId,
    Timestamp,
};
use tokio::time::Instant;
use tracing::debug;

use super::{
    Progress,
    flush::FlushWaiter,
    mapping::Mapping,
    owner::Owner,
    state::{Sealed, State},
};

/// A [`SyncChannelRequest`] in our types.
#[derive(Debug)]
pub(crate) struct SyncTarget {
    pub(crate) channel: String,
    pub(crate) collection: CollectionId,
    pub(crate) epoch: u64,
    pub(crate) revision: Revision,
    pub(crate) schema: Arc<CollectionSchema>,
    pub(crate) indexes: HashMap<FieldId, IndexInfo>,
    pub(crate) loaded: BTreeSet<PartitionId>,
    pub(crate) segments: BTreeMap<SegmentId, SegmentTarget>,
    pub(crate) deltas: BTreeMap<i64, DeltaInfo>,
    pub(crate) checkpoint: Option<ChannelCheckpoint>,
    pub(crate) partitions: BTreeSet<PartitionId>,
    pub(crate) properties: Vec<(String, String)>,
    /// Partitions that take no writes.
    pub(crate) closed: BTreeSet<PartitionId>,
}

/// A committed segment and its index files, by field.
#[derive(Debug)]
pub(crate) struct SegmentTarget {
    pub(crate) info: SegmentInfo,
    pub(crate) builds: BTreeMap<FieldId, SegmentIndexInfo>,
    /// Indexes that have no file for it.
    pub(crate) without_file: BTreeSet<i64>,
}

impl SyncTarget {
    /// Takes a request apart.
    ///
    /// # Errors
    /// Code 5 when it lacks a schema with a primary key: a bug of the caller.
    pub(crate) fn from_request(request: SyncChannelRequest) -> Result<Self> {
        let schema = request
            .schema
            .ok_or_else(|| Error::internal("a channel without a schema"))?;
        let schema = schema::from_proto(schema)?;
        if !schema.fields.iter().any(|field| field.is_primary_key) {
            return Err(Error::internal("a schema without a primary key"));
        }
        let wanted: BTreeSet<i64> = request.indexes.iter().map(|index| index.id).collect();
        let segments = request.segments.into_iter();
        let segments = segments.filter_map(|segment| SegmentTarget::new(segment, &wanted));
        Ok(Self {
            channel: request.channel,
            collection: CollectionId(request.collection_id),
            epoch: request.epoch,
            revision: Revision(request.revision),
            schema: Arc::new(schema),
            indexes: request
                .indexes
                .into_iter()
                .map(|index| (FieldId(index.field_id), index))
                .collect(),
            loaded: request
                .loaded_partitions
                .into_iter()
                .map(PartitionId)
                .collect(),
            segments: segments
                .map(|segment| (SegmentId(segment.info.id), segment))
                .collect(),
            deltas: request
                .deltas
                .into_iter()
                .map(|delta| (delta.id, delta))
                .collect(),
            checkpoint: request.checkpoint,
            partitions: request.partitions.into_iter().map(PartitionId).collect(),
            closed: request
                .closed_partitions
                .into_iter()
                .map(PartitionId)
                .collect(),
            properties: request
                .properties
                .into_iter()
                .map(|pair| (pair.key, pair.value))
                .collect(),
        })
    }
}

impl SegmentTarget {
    /// Builds without a file say that the segment is searched exactly: there is nothing to open.
    fn new(segment: SegmentToServe, wanted: &BTreeSet<i64>) -> Option<Self> {
        let info = segment.segment?;
        let finished = segment.indexes.into_iter();
        let finished = finished.filter(|build| wanted.contains(&build.index_id));
        let (exact, builds): (Vec<_>, Vec<_>) = finished.partition(|build| build.files.is_empty());
        let without_file = exact.iter().map(|build| build.index_id);
        Some(Self {
            info,
            without_file: without_file.chain(segment.failed_indexes).collect(),
            builds: builds
                .into_iter()
                .map(|build| (FieldId(build.field_id), build))
                .collect(),
        })
    }
}

impl Owner {
    /// Acts on an order unless it is older than what this node knows better.
    pub(super) fn sync(&mut self, target: SyncTarget) {
        let newest = self.state.committed.max(self.state.synced);
        if target.revision < newest {
            debug!(
                channel = %self.channel.name,
                revision = target.revision.0,
                newest = newest.0,
                "order is out of date"
            );
            self.note_progress();
            return;
        }
        self.state.synced = target.revision;
        self.take_schema(target.schema);
        let mmap = self.channel.shared.deps.options.mmap;
        let (properties, indexes) = (&target.properties, &target.indexes);
        let mapping = Mapping::new(&self.state.schema, properties, indexes, mmap);
        self.state.mapping = Arc::new(mapping);
        self.state.indexes = Arc::new(target.indexes);
        self.state.forget_partitions(&target.partitions);
        self.state.known = target.partitions;
        self.state.closed = target.closed;
        let complete = self.state.complete_partitions();
        self.state.loaded = target.loaded;
        self.state.deltas = target.deltas;
        self.state.take_checkpoint(target.checkpoint.as_ref());
        self.state.take_segments(target.segments, &complete);
        self.state.take_over(Instant::now());
        self.start_loads();
        self.publish();
    }

    /// Rows of another shape need segments of their own.
    fn take_schema(&mut self, schema: Arc<CollectionSchema>) {
        if *self.state.schema == *schema {
            return;
        }
        let same_fields = self.state.schema.fields == schema.fields;
        self.state.schema = schema;
        if !same_fields {
            self.state.adopt_schema();
            self.request_flush(FlushWaiter::nobody());
            // Without rows there was nothing to seal.
            self.state
                .growing
                .retain(|_, growing| growing.rows.snapshot().rows() > 0);
            let left = std::mem::take(&mut self.state.growing);
            self.state.sealing.extend(left.into_values());
        }
    }

    /// Publishes how far the partitions to serve are loaded.
    pub(super) fn note_progress(&self) {
        let progress = self.state.progress();
        self.channel.progress.send_replace(progress);
    }
}

impl State {
    /// Has every segment in memory answer for the fields that the schema has got.
    fn adopt_schema(&self) {
        for growing in self.growing.values().chain(&self.sealing) {
            growing.rows.adopt(&self.schema);
        }
        for segment in self.in_memory() {
            segment.adopt(&self.schema);
        }
    }

    /// Sees the rows of files that no write of this log has made: those of a restored snapshot. Their
    /// checkpoint comes with them, and says up to when they count.
    fn take_checkpoint(&mut self, checkpoint: Option<&ChannelCheckpoint>) {
        let known = checkpoint.filter(|one| one.lsn <= self.applied_lsn.next().0);
        if let Some(checkpoint) = known {
            self.applied_ts = self.applied_ts.max(Timestamp(checkpoint.ts));
        }
    }

    /// Drops everything of partitions that were there and are not any more. One that nobody has
    /// heard of yet is newer than the order, not older.
    fn forget_partitions(&mut self, existing: &BTreeSet<PartitionId>) {
        let gone: Vec<PartitionId> = self.known.difference(existing).copied().collect();
        for partition in gone {
            self.forgotten.insert(partition);
            self.growing.remove(&partition);
            self.sealing
                .retain(|growing| growing.partition != partition);
            self.sealed
                .retain(|_, sealed| sealed.partition() != partition);
            self.retired
                .retain(|_, sealed| sealed.partition() != partition);
        }
    }

    /// Takes over which segments there are, and lets go of what is not to be served. `complete` are
    /// the partitions that reads found whole until now.
    fn take_segments(
        &mut self,
        target: BTreeMap<SegmentId, SegmentTarget>,
        complete: &BTreeSet<PartitionId>,
    ) {
        self.retire(&target);
        for (id, segment) in target {
            // Its commit is known here before its answer: it is handed over then.
            if self.sealing.iter().any(|sealing| sealing.id == id) {
                continue;
            }
            let is_new = !self.sealed.contains_key(&id);
            let behind = is_new
                .then(|| self.behind(&segment.info, complete))
                .flatten();
            let sealed = self
                .sealed
                .entry(id)
                .or_insert_with(|| Sealed::new(segment.info.clone()));
            sealed.info = segment.info;
            sealed.builds = segment.builds;
            sealed.without_file = segment.without_file;
            sealed.behind = sealed.behind.take().or(behind);
        }
        for sealed in self.sealed.values_mut() {
            if self.loaded.contains(&sealed.partition()) {
                sealed.drop_indexes();
            } else {
                sealed.unload();
            }
        }
    }

    /// How far the partitions to serve are loaded.
    fn progress(&self) -> Progress {
        let mut partitions: BTreeMap<PartitionId, PartitionProgress> = BTreeMap::new();
        for partition in &self.loaded {
            let progress = PartitionProgress {
                partition_id: partition.0,
                ..PartitionProgress::default()
            };
            partitions.insert(*partition, progress);
        }
        for sealed in self.sealed.values() {
            let Some(progress) = partitions.get_mut(&sealed.partition()) else {
                continue;
            };
            progress.segments += 1;
            progress.segments_loaded += i32::from(sealed.is_covered());
            if let Some(failure) = &sealed.failure
                && !sealed.is_covered()
                && progress.fail_reason.is_empty()
            {
                progress.fail_reason.clone_from(&failure.error.message);
            }
        }
        Progress {
            synced: self.synced,
            partitions: partitions.into_values().collect(),
            loading: self.sealed.values().any(Sealed::is_awaited),
        }
    }
}

impl Sealed {
    /// Lets go of indexes that are not to be used any more.
    pub(super) fn drop_indexes(&mut self) {
        let Some(loaded) = &mut self.loaded else {
            return;
        };
        let gone: Vec<FieldId> = self
            .opened
            .keys()
            .filter(|field| !self.builds.contains_key(field))
            .copied()
            .collect();
        for field in gone {
            *loaded = loaded.without_index(field);
            self.opened.remove(&field);
        }
    }
}
