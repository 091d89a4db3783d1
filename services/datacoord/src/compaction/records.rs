//! What is written down of compactions, each step in one transaction.

use prost::Message;
use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::{Compare, KeyValue, MetaKv, Op, Txn, TxnOutcome, read_all};
use redkite_proto::redkite::meta::{
    CollectionInfo, CompactionInfo, FileInfo, ObjectState, PartitionInfo, SegmentInfo,
    SnapshotInfo, compaction_info::State,
};
use redkite_storage::layout;
use redkite_types::{
    CollectionId, Error, ErrorCode, PartitionId, Result, Revision, SegmentId, Timestamp,
};

use super::facts;
use crate::gate::CommitGate;

/// How often a commit starts again because something that it relies on has changed.
pub(super) const ATTEMPTS: usize = 16;

/// A plan as it is recorded, with the revision that guards it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The plan.
    pub plan: CompactionInfo,
    /// Its record's revision.
    pub revision: Revision,
}

/// Why a plan ends without being committed.
#[derive(Debug)]
pub enum End {
    /// Somebody else ended it or goes on with it, or the collection is gone.
    NotOurs,
    /// It can never be committed.
    Impossible(String),
    /// Not now.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Writes new plans down, all or none; `None` when the collection or a source has gone meanwhile.
///
/// # Errors
/// Code 2 when the metastore did not answer: they may be there all the same, and will be carried
/// out.
pub async fn add(
    kv: &dyn MetaKv,
    entry: &CollectionEntry,
    plans: &[CompactionInfo],
) -> Result<Option<Revision>> {
    let Some(guard) = live_collection(kv, entry).await? else {
        return Ok(None);
    };
    let mut txn = Txn::new().when(guard);
    for plan in plans {
        for source in &plan.sources {
            txn = txn.when(Compare::Exists {
                key: source_key(plan, *source),
            });
        }
        for source in &plan.delta_sources {
            txn = txn.when(Compare::Exists {
                key: keys::delta(entry.id(), *source),
            });
        }
        txn = txn.then(put(plan));
    }
    match kv.txn(txn).await.map_err(unavailable)? {
        TxnOutcome::Applied { revision } => Ok(Some(revision)),
        TxnOutcome::Refused { .. } => Ok(None),
    }
}

/// The plan as it is recorded now; `None` when it has ended or is gone.
///
/// # Errors
/// Code 2 when the metastore did not answer; retry.
pub async fn executing(
    kv: &dyn MetaKv,
    collection: CollectionId,
    plan: i64,
) -> Result<Option<Recorded>> {
    let found = kv.get(&keys::compaction(collection, plan)).await;
    let Some(pair) = found.map_err(unavailable)? else {
        return Ok(None);
    };
    let plan: CompactionInfo = decode(&pair)?;
    let revision = pair.revision;
    let executing = plan.state() == State::Executing;
    Ok(executing.then_some(Recorded { plan, revision }))
}

/// Replaces a plan's record; `None` when it has been changed meanwhile.
///
/// # Errors
/// Code 2 when the metastore did not answer: read the record again.
pub async fn replace(
    kv: &dyn MetaKv,
    before: &Recorded,
    plan: CompactionInfo,
) -> Result<Option<Recorded>> {
    let txn = Txn::new().when(guard(before)).then(put(&plan));
    match kv.txn(txn).await.map_err(unavailable)? {
        TxnOutcome::Applied { revision } => Ok(Some(Recorded { plan, revision })),
        TxnOutcome::Refused { .. } => Ok(None),
    }
}

/// Ends a plan that was not committed.
///
/// # Errors
/// As [`replace`].
pub async fn fail(kv: &dyn MetaKv, before: &Recorded, reason: &str, now: Timestamp) -> Result<()> {
    let plan = CompactionInfo {
        state: State::Failed.into(),
        fail_reason: reason.to_owned(),
        finished_ts: now.0,
        ..before.plan.clone()
    };
    replace(kv, before, plan).await.map(drop)
}

/// Puts new segments in the place of the sources, at once: the sources and their index builds go,
/// delete files that nothing needs any more go, the plan is completed. `entry` is the collection at
/// some revision at which the plan was recorded, `sources` the segments that were read.
///
/// Files are left where they are.
///
/// # Errors
/// [`End`]; after `Failed` it may have been committed.
pub async fn commit(
    kv: &dyn MetaKv,
    gate: &CommitGate,
    entry: &CollectionEntry,
    recorded: &Recorded,
    sources: &[SegmentInfo],
    made: &[SegmentInfo],
    now: Timestamp,
) -> Result<Revision, End> {
    let plan = &recorded.plan;
    let files: Vec<FileInfo> = made.iter().flat_map(|one| one.files.clone()).collect();
    for _ in 0..ATTEMPTS {
        let mut txn = guards(kv, entry, recorded, sources, now).await?;
        for source in sources {
            let (collection, partition, id) = place(plan, source.id);
            let builds = keys::segment_indexes(collection);
            txn = txn
                .then(Op::delete(source_key(plan, source.id)))
                .then(Op::DeletePrefix {
                    prefix: format!("{builds}{partition}/{id}/"),
                });
        }
        for segment in made {
            let key = source_key(plan, segment.id);
            txn = txn.then(Op::put(
                key,
                with_ancestors(segment, sources).encode_to_vec(),
            ));
        }
        for delta in unneeded_after(entry, sources, made) {
            txn = txn.then(Op::delete(keys::delta(entry.id(), delta)));
        }
        txn = txn.then(put(&CompactionInfo {
            state: State::Completed.into(),
            targets: made.iter().map(|segment| segment.id).collect(),
            finished_ts: now.0,
            borrowed_files: borrowed_files(entry, plan, sources),
            ..plan.clone()
        }));
        match gate.commit(kv, &files, txn).await? {
            TxnOutcome::Applied { revision } => return Ok(revision),
            // Something has changed since it was read: look again.
            TxnOutcome::Refused { .. } => {}
        }
    }
    Err(met_changes(plan))
}

/// What is said of a plan whose commit was refused again and again.
pub(super) fn met_changes(plan: &CompactionInfo) -> End {
    End::Failed(Error::new(
        ErrorCode::ServiceUnavailable,
        format!(
            "compaction plan {} met changing metadata too often",
            plan.plan_id
        ),
    ))
}

/// Files of the sources and of their indexes that lie outside the sources' own places, because they
/// came with a snapshot.
fn borrowed_files(
    entry: &CollectionEntry,
    plan: &CompactionInfo,
    sources: &[SegmentInfo],
) -> Vec<String> {
    let mut borrowed = Vec::new();
    for source in sources {
        let (collection, partition, id) = place(plan, source.id);
        let own = layout::segment_prefix(collection, partition, id);
        let builds = entry.segments.get(&id);
        let builds = builds.into_iter().flat_map(|found| found.indexes.values());
        let files = source
            .files
            .iter()
            .chain(builds.flat_map(|build| &build.files));
        let foreign = files.filter(|file| !file.path.starts_with(&own));
        borrowed.extend(foreign.map(|file| file.path.clone()));
    }
    borrowed
}

/// Removes plans that ended long ago, and delete files that nothing needs any more.
///
/// # Errors
/// Code 2 when the metastore did not answer; it is done again.
pub async fn tidy(kv: &dyn MetaKv, entry: &CollectionEntry, old: &[i64]) -> Result<usize> {
    let segments: Vec<&SegmentInfo> = facts::infos(entry).collect();
    let deltas = facts::unneeded(entry.deltas.values().map(AsRef::as_ref), &segments);
    if old.is_empty() && deltas.is_empty() {
        return Ok(0);
    }
    let mut txn = Txn::new();
    for plan in old {
        txn = txn.then(Op::delete(keys::compaction(entry.id(), *plan)));
    }
    for delta in &deltas {
        txn = txn.then(Op::delete(keys::delta(entry.id(), *delta)));
    }
    kv.txn(txn).await.map_err(unavailable)?;
    Ok(deltas.len())
}

/// Conditions that make sure that everything is as the plan takes it to be.
async fn guards(
    kv: &dyn MetaKv,
    entry: &CollectionEntry,
    recorded: &Recorded,
    sources: &[SegmentInfo],
    now: Timestamp,
) -> Result<Txn, End> {
    let plan = &recorded.plan;
    let current = executing(kv, entry.id(), plan.plan_id).await?;
    if current.is_none_or(|current| current.revision != recorded.revision) {
        return Err(End::NotOurs);
    }
    let collection = live_collection(kv, entry).await?;
    let collection =
        collection.ok_or_else(|| End::Impossible("the collection is gone".to_owned()))?;
    let partition = live_partition(kv, plan).await?;
    let partition = partition.ok_or_else(|| End::Impossible("the partition is gone".to_owned()))?;
    let mut txn = Txn::new()
        .when(guard(recorded))
        .when(collection)
        .when(partition);
    // Not as the view has them: one may have been taken while the plan was carried out.
    let (snapshots, _) = read_all(kv, &keys::snapshots(entry.id()))
        .await
        .map_err(unavailable)?;
    let snapshots = snapshots
        .iter()
        .map(decode)
        .collect::<Result<Vec<SnapshotInfo>>>()?;
    for source in sources {
        let reason = facts::protected_by(entry, source.id, Some(plan.plan_id), now);
        let reason = reason.or_else(|| {
            let name = facts::protecting_snapshot(snapshots.iter(), source.id, now)?;
            Some(format!("snapshot {name} keeps it from being compacted"))
        });
        if let Some(reason) = reason {
            return Err(End::Impossible(format!("segment {}: {reason}", source.id)));
        }
        let key = source_key(plan, source.id);
        let found = kv.get(&key).await.map_err(unavailable)?;
        let found = found.ok_or_else(|| End::Impossible(gone(source.id)))?;
        if decode::<SegmentInfo>(&found)? != *source {
            let reason = format!("segment {} has changed since it was read", source.id);
            return Err(End::Failed(Error::new(
                ErrorCode::ServiceUnavailable,
                reason,
            )));
        }
        txn = txn.when(Compare::Revision {
            key,
            revision: found.revision,
        });
    }
    Ok(txn)
}

/// What is said of a source that is not there any more.
pub fn gone(segment: i64) -> String {
    format!("segment {segment} is gone")
}

fn unneeded_after(
    entry: &CollectionEntry,
    sources: &[SegmentInfo],
    made: &[SegmentInfo],
) -> Vec<i64> {
    let is_source = |id: i64| sources.iter().any(|source| source.id == id);
    let rest = facts::infos(entry).filter(|segment| !is_source(segment.id));
    let after: Vec<&SegmentInfo> = rest.chain(made).collect();
    facts::unneeded(entry.deltas.values().map(AsRef::as_ref), &after)
}

/// Ancestors that a segment names at most: enough for a node that was away for a while.
const MAX_ANCESTORS: usize = 256;

fn with_ancestors(segment: &SegmentInfo, sources: &[SegmentInfo]) -> SegmentInfo {
    let parents = sources.iter().flat_map(|source| &source.compacted_from);
    let earlier = sources.iter().flat_map(|source| &source.ancestors);
    let mut ancestors: Vec<i64> = Vec::new();
    for ancestor in parents.chain(earlier).take(MAX_ANCESTORS * 4) {
        if ancestors.len() < MAX_ANCESTORS && !ancestors.contains(ancestor) {
            ancestors.push(*ancestor);
        }
    }
    SegmentInfo {
        ancestors,
        ..segment.clone()
    }
}

fn place(plan: &CompactionInfo, segment: i64) -> (CollectionId, PartitionId, SegmentId) {
    (
        CollectionId(plan.collection_id),
        PartitionId(plan.partition_id),
        SegmentId(segment),
    )
}

fn source_key(plan: &CompactionInfo, segment: i64) -> String {
    let (collection, partition, segment) = place(plan, segment);
    keys::segment(collection, partition, segment)
}

pub(super) fn put(plan: &CompactionInfo) -> Op {
    let key = keys::compaction(CollectionId(plan.collection_id), plan.plan_id);
    Op::put(key, plan.encode_to_vec())
}

pub(super) fn guard(recorded: &Recorded) -> Compare {
    let plan = &recorded.plan;
    Compare::Revision {
        key: keys::compaction(CollectionId(plan.collection_id), plan.plan_id),
        revision: recorded.revision,
    }
}

/// A guard that the collection stays as it is; `None` when it is gone or going.
pub(super) async fn live_collection(
    kv: &dyn MetaKv,
    entry: &CollectionEntry,
) -> Result<Option<Compare>> {
    let key = keys::collection(entry.database_id(), entry.id());
    let Some(pair) = kv.get(&key).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let live = decode::<CollectionInfo>(&pair)?.state() == ObjectState::Created;
    Ok(live.then_some(Compare::Revision {
        key,
        revision: pair.revision,
    }))
}

/// A guard that the partition stays as it is; `None` when it is gone or going.
async fn live_partition(kv: &dyn MetaKv, plan: &CompactionInfo) -> Result<Option<Compare>> {
    let (collection, partition, _) = place(plan, 0);
    let key = keys::partition(collection, partition);
    let Some(pair) = kv.get(&key).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let live = decode::<PartitionInfo>(&pair)?.state() == ObjectState::Created;
    Ok(live.then_some(Compare::Revision {
        key,
        revision: pair.revision,
    }))
}

pub(super) fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|error| {
        Error::new(
            ErrorCode::DataIntegrity,
            format!("record {} is damaged: {error}", pair.key),
        )
    })
}

pub(super) fn unavailable(error: redkite_metastore::Error) -> Error {
    Error::from_coded(&error)
}
