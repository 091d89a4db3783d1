//! What the owner of a channel knows; changed by nobody else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use redkite_proto::redkite::meta::{DeltaInfo, IndexInfo, SegmentIndexInfo, SegmentInfo};
use redkite_segment::{GrowingSegment, SealedSegment};
use redkite_types::{
    CollectionId, CollectionSchema, Error, FieldId, PartitionId, Result, Revision, SegmentId,
    Timestamp,
};
use redkite_wal::Lsn;
use tokio::time::Instant;

use super::{
    deletes::DeleteLog, handover::Behind, mapping::Mapping, snapshot::ShardSnapshot,
    sync::SyncTarget,
};
use crate::deps::Coordinators;

/// Ids asked for at a time.
const ID_BATCH: u32 = 8;

/// A growing segment and what it takes up.
#[derive(Clone, Debug)]
pub(crate) struct Growing {
    pub(crate) rows: Arc<GrowingSegment>,
    pub(crate) id: SegmentId,
    pub(crate) partition: PartitionId,
    pub(crate) bytes: usize,
}

/// A committed segment, in memory or not.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) info: SegmentInfo,
    /// The index files that there are, by field.
    pub(crate) builds: BTreeMap<FieldId, SegmentIndexInfo>,
    pub(crate) loaded: Option<Arc<SealedSegment>>,
    /// The fields whose columns `loaded` has left in the file.
    pub(crate) mapped: BTreeSet<FieldId>,
    /// The builds that `loaded` has.
    pub(crate) opened: BTreeMap<FieldId, i64>,
    /// The load that runs.
    pub(crate) load: Option<u64>,
    pub(crate) failure: Option<LoadFailure>,
    /// Indexes that have no file for it: the rows are searched exactly, or the build failed.
    pub(crate) without_file: BTreeSet<i64>,
    /// Others are served in its place until it can take over.
    pub(crate) behind: Option<Behind>,
}

/// Why the last load failed, and when the next may be tried.
#[derive(Debug)]
pub(crate) struct LoadFailure {
    pub(crate) error: Error,
    pub(crate) times: u32,
    pub(crate) retry_at: Instant,
}

impl Sealed {
    pub(crate) fn new(info: SegmentInfo) -> Self {
        Self {
            info,
            builds: BTreeMap::new(),
            loaded: None,
            mapped: BTreeSet::new(),
            opened: BTreeMap::new(),
            load: None,
            failure: None,
            without_file: BTreeSet::new(),
            behind: None,
        }
    }

    pub(crate) fn partition(&self) -> PartitionId {
        PartitionId(self.info.partition_id)
    }

    /// Lets go of the rows; a load that runs comes to nothing.
    pub(crate) fn unload(&mut self) {
        self.loaded = None;
        self.mapped.clear();
        self.opened.clear();
        self.load = None;
        self.failure = None;
        self.behind = None;
    }
}

/// Where the channel's data stands against its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Everything before this record is in segments and delete files.
    pub(crate) lsn: Lsn,
    /// The latest write among it.
    pub(crate) ts: Timestamp,
}

/// The state of one channel.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) collection: CollectionId,
    pub(crate) schema: Arc<CollectionSchema>,
    pub(crate) indexes: Arc<HashMap<FieldId, IndexInfo>>,
    /// What loads leave in files.
    pub(crate) mapping: Arc<Mapping>,
    /// Partitions to serve.
    pub(crate) loaded: BTreeSet<PartitionId>,
    /// Partitions that existed at the last sync.
    pub(crate) known: BTreeSet<PartitionId>,
    /// Partitions that existed and do not any more.
    pub(crate) forgotten: BTreeSet<PartitionId>,
    /// Partitions that exist and take no writes.
    pub(crate) closed: BTreeSet<PartitionId>,
    /// Where rows are appended now.
    pub(crate) growing: BTreeMap<PartitionId, Growing>,
    /// Sealed, not committed yet.
    pub(crate) sealing: Vec<Growing>,
    pub(crate) sealed: BTreeMap<SegmentId, Sealed>,
    /// Segments that others have taken the place of, served until those can be.
    pub(crate) retired: BTreeMap<SegmentId, Sealed>,
    pub(crate) deltas: BTreeMap<i64, DeltaInfo>,
    pub(crate) deletes: DeleteLog,
    pub(crate) checkpoint: Checkpoint,
    /// The last record that is in memory.
    pub(crate) applied_lsn: Lsn,
    /// The latest write that is in memory.
    pub(crate) applied_ts: Timestamp,
    /// Bytes of the log since the checkpoint.
    pub(crate) log_bytes: u64,
    /// The metadata's revision after this node's last commit.
    pub(crate) committed: Revision,
    /// The revision of the last sync that was acted on.
    pub(crate) synced: Revision,
    ids: IdPool,
}

/// Ids that were allocated and not used yet.
#[derive(Debug, Default)]
struct IdPool {
    next: i64,
    left: u32,
}

impl State {
    /// Nothing in memory yet, everything before the checkpoint in files.
    pub(crate) fn new(target: &SyncTarget) -> Self {
        let checkpoint = match &target.checkpoint {
            Some(checkpoint) => Checkpoint {
                lsn: Lsn(checkpoint.lsn.max(1)),
                ts: Timestamp(checkpoint.ts),
            },
            None => Checkpoint {
                lsn: Lsn(1),
                ts: Timestamp::ZERO,
            },
        };
        Self {
            collection: target.collection,
            schema: target.schema.clone(),
            indexes: Arc::default(),
            mapping: Arc::default(),
            loaded: BTreeSet::new(),
            known: target.partitions.clone(),
            forgotten: BTreeSet::new(),
            closed: target.closed.clone(),
            growing: BTreeMap::new(),
            sealing: Vec::new(),
            sealed: BTreeMap::new(),
            retired: BTreeMap::new(),
            deltas: BTreeMap::new(),
            deletes: DeleteLog::default(),
            checkpoint,
            applied_lsn: Lsn(checkpoint.lsn.0 - 1),
            applied_ts: checkpoint.ts,
            log_bytes: 0,
            committed: Revision(0),
            synced: Revision(0),
            ids: IdPool::default(),
        }
    }

    /// An id that nobody else has.
    pub(crate) async fn take_id(&mut self, coordinators: &dyn Coordinators) -> Result<i64> {
        if self.ids.left == 0 {
            self.ids.next = coordinators.ids(ID_BATCH).await?;
            self.ids.left = ID_BATCH;
        }
        let id = self.ids.next;
        self.ids.next += 1;
        self.ids.left -= 1;
        Ok(id)
    }

    /// Whether there is something that a flush would commit.
    pub(crate) fn is_dirty(&self) -> bool {
        self.applied_lsn >= self.checkpoint.lsn || !self.sealing.is_empty()
    }

    /// Bytes of rows and deletes that are in no committed segment.
    pub(crate) fn growing_bytes(&self) -> usize {
        let all = self.growing.values().chain(&self.sealing);
        let rows: usize = all.map(|growing| growing.bytes).sum();
        rows + self.deletes.bytes()
    }

    /// Rows that take new ones now.
    pub(crate) fn growing_rows(&self) -> usize {
        self.growing
            .values()
            .map(|growing| growing.rows.snapshot().rows())
            .sum()
    }

    /// Partitions to serve, and whether all their segments are in memory.
    pub(crate) fn completeness(&self) -> BTreeMap<PartitionId, bool> {
        let mut complete: BTreeMap<PartitionId, bool> = self
            .loaded
            .iter()
            .map(|partition| (*partition, true))
            .collect();
        for sealed in self.sealed.values().filter(|sealed| !sealed.is_covered()) {
            if let Some(complete) = complete.get_mut(&sealed.partition()) {
                *complete = false;
            }
        }
        complete
    }

    /// Why partitions to serve cannot be read, where waiting does not help.
    pub(crate) fn failures(&self) -> BTreeMap<PartitionId, Error> {
        let missing = self
            .sealed
            .iter()
            .filter(|(_, sealed)| !sealed.is_covered());
        let failed = missing.filter_map(|(id, sealed)| {
            let error = &sealed.failure.as_ref()?.error;
            let lasting = !error.retriable && self.loaded.contains(&sealed.partition());
            lasting.then(|| {
                let outer = format!("segment {id} cannot be loaded");
                (sealed.partition(), error.clone().context(outer))
            })
        });
        failed.collect()
    }

    /// The segments in memory of the partitions to serve, those left out that others stand in for.
    fn served(&self) -> impl Iterator<Item = &Sealed> {
        let current = self
            .sealed
            .values()
            .filter(|sealed| sealed.behind.is_none());
        let served = current.chain(self.retired.values());
        served.filter(|sealed| sealed.loaded.is_some() && self.loaded.contains(&sealed.partition()))
    }

    /// Every segment in memory: deletes go to all of them.
    pub(crate) fn in_memory(&self) -> impl Iterator<Item = &Arc<SealedSegment>> {
        let all = self.sealed.values().chain(self.retired.values());
        all.filter_map(|sealed| sealed.loaded.as_ref())
    }

    /// What reads are to see now.
    pub(crate) fn snapshot(&self) -> ShardSnapshot {
        ShardSnapshot {
            collection: self.collection,
            schema: self.schema.clone(),
            indexes: self.indexes.clone(),
            loaded: Arc::new(self.completeness()),
            failures: Arc::new(self.failures()),
            growing: self.growing_snapshots(),
            sealed: Arc::new(self.served().filter_map(|one| one.loaded.clone()).collect()),
            whole_from: self.whole_from(),
            applied: self.applied_ts,
        }
    }

    /// Hidden rows are left out of compacted segments up to this time.
    fn whole_from(&self) -> Timestamp {
        let applied = self.served().map(|sealed| sealed.info.deletes_applied_ts);
        Timestamp(applied.max().unwrap_or(0))
    }

    /// [`State::snapshot`] when only growing rows have changed since `before`.
    pub(crate) fn snapshot_after_write(&self, before: &ShardSnapshot) -> ShardSnapshot {
        ShardSnapshot {
            growing: self.growing_snapshots(),
            applied: self.applied_ts,
            ..before.clone()
        }
    }

    fn growing_snapshots(&self) -> Vec<Arc<redkite_segment::GrowingSnapshot>> {
        let all = self.sealing.iter().chain(self.growing.values());
        let served = all.filter(|growing| self.loaded.contains(&growing.partition));
        let snapshots = served.map(|growing| growing.rows.snapshot());
        snapshots.filter(|snapshot| snapshot.rows() > 0).collect()
    }
}
