//! What a read sees of a channel: published whole by the owner, never changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use redkite_proto::redkite::meta::IndexInfo;
use redkite_segment::{GrowingSnapshot, SealedSegment, Segment};
use redkite_types::{
    CollectionId, CollectionSchema, Error, ErrorCode, FieldId, PartitionId, Result, Timestamp,
};

/// The served segments of a channel as of some moment.
#[derive(Clone, Debug)]
pub(crate) struct ShardSnapshot {
    pub(crate) collection: CollectionId,
    pub(crate) schema: Arc<CollectionSchema>,
    /// Index definitions by field.
    pub(crate) indexes: Arc<HashMap<FieldId, IndexInfo>>,
    /// Partitions to serve, and whether all their segments are in memory.
    pub(crate) loaded: Arc<BTreeMap<PartitionId, bool>>,
    /// Partitions among them that cannot be read, and why, where waiting does not help.
    pub(crate) failures: Arc<BTreeMap<PartitionId, Error>>,
    /// Rows of loaded partitions that are in no committed segment.
    pub(crate) growing: Vec<Arc<GrowingSnapshot>>,
    /// Segments of loaded partitions in memory.
    pub(crate) sealed: Arc<Vec<Arc<SealedSegment>>>,
    /// A read at an earlier time would miss rows that were hidden between it and this one.
    pub(crate) whole_from: Timestamp,
    /// Every write up to here, and no later one, is in the segments. Their deletes go on growing,
    /// so a read must not look beyond.
    pub(crate) applied: Timestamp,
}

impl ShardSnapshot {
    /// Checks that some partitions (none named: all) can be read.
    ///
    /// # Errors
    /// Code 101 or 201 when something is not loaded, 103 or 202 while it is being loaded; why it
    /// cannot be loaded, such as code 1009 for a damaged file.
    pub(crate) fn check_loaded(&self, partitions: &[i64]) -> Result<()> {
        if self.loaded.is_empty() {
            return Err(Error::collection_not_loaded(self.collection));
        }
        if partitions.is_empty()
            && let Some((partition, _)) = self.loaded.iter().find(|(_, complete)| !**complete)
        {
            self.check_failures(self.failures.keys())?;
            return Err(Error::new(
                ErrorCode::CollectionNotFullyLoaded,
                format!(
                    "collection not fully loaded[collection={}][partition={partition}]",
                    self.collection
                ),
            ));
        }
        for partition in partitions {
            self.check_partition(PartitionId(*partition))?;
        }
        Ok(())
    }

    /// The segments that a read of some partitions (none named: all) has to look at.
    ///
    /// # Errors
    /// As [`ShardSnapshot::check_loaded`].
    pub(crate) fn select(&self, partitions: &[i64], ignore_growing: bool) -> Result<Vec<Segment>> {
        self.check_loaded(partitions)?;
        let wanted = |id: PartitionId| partitions.is_empty() || partitions.contains(&id.0);
        let sealed = self
            .sealed
            .iter()
            .filter(|segment| wanted(segment.meta().partition));
        let mut segments: Vec<Segment> = sealed.cloned().map(Segment::Sealed).collect();
        if !ignore_growing {
            let growing = self
                .growing
                .iter()
                .filter(|rows| wanted(rows.meta().partition));
            segments.extend(growing.cloned().map(Segment::Growing));
        }
        Ok(segments)
    }

    fn check_failures<'a>(&self, ids: impl IntoIterator<Item = &'a PartitionId>) -> Result<()> {
        let mut failures = ids.into_iter().filter_map(|id| self.failures.get(id));
        failures.next().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn check_partition(&self, partition: PartitionId) -> Result<()> {
        self.check_failures([&partition])?;
        match self.loaded.get(&partition) {
            Some(true) => Ok(()),
            Some(false) => Err(Error::new(
                ErrorCode::PartitionNotFullyLoaded,
                format!("partition not fully loaded[partition={partition}]"),
            )),
            None => Err(Error::new(
                ErrorCode::PartitionNotLoaded,
                format!("partition not loaded[partition={partition}]"),
            )),
        }
    }
}
