//! RestoreSnapshot: a new collection with the rows of a snapshot, by reference. What it shares with
//! [`RestoreBundle`](super::restore_bundle::RestoreBundle) works for both.

use std::{sync::Arc, time::Duration};

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::Txn;
use redkite_proto::{
    milvus::milvus::RestoreSnapshotRequest,
    redkite::{
        datacoord::AttachSnapshotRequest,
        meta::{
            CollectionInfo, FieldInfo, IndexInfo, ObjectState, PartitionInfo, RestoreJobInfo,
            SnapshotManifest, restore_job_info,
        },
    },
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepError, StepKey};
use redkite_types::{
    CollectionId, DatabaseId, Error, ErrorCode, FieldId, IndexId, PartitionId, Result, Timestamp,
    name,
};
use serde::{Deserialize, Serialize};

use super::{
    collection,
    context::DdlContext,
    resolve,
    restore_bundle::{self, Bundle},
    restore_job::{count, end_failed, note_failure},
    steps,
};

/// How long the snapshot stays pinned if nobody ever ends the job.
const PIN_SECONDS: i64 = 86_400;
/// How often the clock is looked at while it is.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How long a step is tried while its outcome is not known: many segments take a while.
pub(super) const BUDGET: Duration = Duration::from_secs(120);

/// What is to be restored, and where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreParams {
    pub(super) job: i64,
    pub(super) request_id: String,
    pub(super) started_ms: u64,
    pub(super) snapshot: String,
    pub(super) snapshot_id: i64,
    pub(super) source: CollectionId,
    pub(super) database: DatabaseId,
    pub(super) database_name: String,
    pub(super) name: String,
    pub(super) partitions: u32,
    pub(super) indexes: u32,
    /// Segments, delete files and index builds.
    pub(super) parts: u32,
    /// Where the snapshot is, if it is not this deployment's.
    #[serde(default)]
    pub(super) bundle: Option<Bundle>,
}

/// The new ids, each the first of as many as are needed, and the time of the creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Allocated {
    pub(super) collection: CollectionId,
    first_partition: i64,
    first_index: i64,
    first_part: i64,
    timestamp: Timestamp,
}

pub(super) const ALLOCATE: StepKey<Allocated> = StepKey::new("allocate");
const PIN: StepKey<()> = StepKey::new("pin_snapshot");
const BEGIN_JOB: StepKey<()> = StepKey::new("begin_job");
const ADD_META: StepKey<()> = StepKey::new("add_meta");
const ATTACH: StepKey<()> = StepKey::new("attach_data");
const COMMIT: StepKey<()> = StepKey::new("commit");
const UNPIN: StepKey<()> = StepKey::new("unpin_snapshot");

/// Reads a request: names first, then what they stand for.
///
/// # Errors
/// Milvus's codes and texts: 1101, 1100, 800, 100, 2600.
pub async fn params(
    context: &DdlContext,
    database: &str,
    request: &RestoreSnapshotRequest,
    request_id: &str,
    now_ms: u64,
) -> Result<RestoreParams> {
    let snapshot = request.name.trim();
    name::check_snapshot(snapshot)?;
    if request.collection_name.is_empty() {
        return Err(Error::missing_parameter(
            "collection_name is required for restore snapshot",
        ));
    }
    if request.target_collection_name.is_empty() {
        return Err(Error::missing_parameter(
            "target_collection_name is required for restore snapshot",
        ));
    }
    name::check_collection(&request.target_collection_name)?;
    if request.rewrite_data {
        return Err(Error::input(
            ErrorCode::UnsupportedOperation,
            "unsupported operation: a snapshot is restored by reference, without rewriting data",
        ));
    }
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    let target = match request.target_db_name.as_str() {
        "" => database,
        given => given,
    };
    let target = resolve::database(&view, target)?;
    let found = entry.snapshots.get(snapshot).filter(|one| !one.internal);
    let found = found.ok_or_else(|| not_found(entry.id(), snapshot))?;
    Ok(RestoreParams {
        job: context.ids.alloc(1).await?,
        request_id: request_id.to_owned(),
        started_ms: now_ms,
        snapshot: snapshot.to_owned(),
        snapshot_id: found.id,
        source: entry.id(),
        database: DatabaseId(target.id),
        database_name: target.name.clone(),
        name: request.target_collection_name.clone(),
        partitions: found.partition_names.len() as u32,
        indexes: found.indexes.unsigned_abs(),
        parts: found.segment_ids.len() as u32
            + found.deltas.unsigned_abs()
            + found.builds.unsigned_abs(),
        bundle: None,
    })
}

pub(super) fn locks(params: &RestoreParams) -> Vec<LockKey> {
    vec![
        steps::share_database(params.database),
        steps::take_name(params.database, &params.name),
    ]
}

fn not_found(collection: CollectionId, name: &str) -> Error {
    Error::input(
        ErrorCode::SnapshotNotFound,
        format!("collection {collection}: snapshot not found[snapshot={name}]"),
    )
}

impl RestoreParams {
    /// The job's id.
    pub fn job(&self) -> i64 {
        self.job
    }

    fn record(&self, collection: CollectionId) -> RestoreJobInfo {
        RestoreJobInfo {
            job_id: self.job,
            request_id: self.request_id.clone(),
            snapshot_name: self.snapshot.clone(),
            source_collection_id: self.source.0,
            database: self.database_name.clone(),
            collection: self.name.clone(),
            collection_id: collection.0,
            state: restore_job_info::State::Executing.into(),
            progress: 0,
            reason: String::new(),
            started_ms: self.started_ms,
            finished_ms: 0,
            total_files: 0,
            files_done: 0,
        }
    }
}

/// allocate → pin_snapshot → begin_job → add_meta (creating) → attach_data (records of segments,
/// delete files and indexes, which name the snapshot's files) → sync_querycoord → **commit** (with the
/// job's completion) → expire_proxy_caches → unpin_snapshot.
pub struct RestoreSnapshot(pub Arc<DdlContext>);

impl Saga for RestoreSnapshot {
    const KIND: &'static str = "restore_snapshot";
    const VERSION: u32 = 1;
    type Params = RestoreParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        locks(params)
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        vec![
            allocate(&self.0),
            pin(&self.0),
            begin_job(&self.0),
            add_meta(&self.0),
            attach(&self.0),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.get(ALLOCATE)?.collection)
            }),
            commit(&self.0),
            steps::expire_proxy_caches(&self.0),
            unpin(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        collection::check_new_name(&self.0, &view, params.database, &params.name)?;
        let found = view
            .collection_by_id(params.source)
            .and_then(|entry| entry.snapshots.get(&params.snapshot));
        if found.is_none_or(|snapshot| snapshot.id != params.snapshot_id) {
            return Err(not_found(params.source, &params.snapshot));
        }
        Ok(Check::Proceed)
    }

    fn budget(&self) -> Duration {
        BUDGET
    }
}

pub(super) fn allocate(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let context = context.clone();
    Step::allocate(ALLOCATE, move |cx: StepCx<RestoreParams>| {
        let context = context.clone();
        async move {
            let params = &cx.params;
            let count = 1 + params.partitions + params.indexes + params.parts;
            let first = context.ids.alloc(count).await?;
            let first_partition = first + 1;
            let first_index = first_partition + i64::from(params.partitions);
            let latest = params.bundle.as_ref().map(|bundle| bundle.latest);
            Ok(Allocated {
                collection: CollectionId(first),
                first_partition,
                first_index,
                first_part: first_index + i64::from(params.indexes),
                timestamp: later_than(&context, latest).await?,
            })
        }
    })
}

/// A timestamp at which all rows of a bundle can be seen.
async fn later_than(context: &DdlContext, latest: Option<Timestamp>) -> Result<Timestamp> {
    loop {
        let now = context.timestamp().await?;
        if latest.is_none_or(|latest| latest < now) {
            return Ok(now);
        }
        tokio::time::sleep(CATCH_UP).await;
    }
}

fn pin(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let (run, undo) = (context.clone(), context.clone());
    Step::call(PIN, move |cx: StepCx<RestoreParams>| {
        let context = run.clone();
        async move {
            let params = &cx.params;
            let pinned = context
                .announce
                .pin_snapshot(params.source, &params.snapshot, PIN_SECONDS, params.job)
                .await;
            match pinned {
                Ok(snapshot) if snapshot == params.snapshot_id => Ok(()),
                Ok(_) => Err(StepError::Rejected(not_found(
                    params.source,
                    &params.snapshot,
                ))),
                Err(error) => Err(rejected_if_final(error)),
            }
        }
    })
    .undo_call(move |cx| {
        let context = undo.clone();
        async move { Ok(context.announce.unpin_snapshot(cx.params.job).await?) }
    })
}

/// From here on the job can be asked for, and a failure is its state.
pub(super) fn begin_job(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let context = context.clone();
    Step::meta(BEGIN_JOB, |cx: &StepCx<RestoreParams>| {
        let record = cx.params.record(cx.get(ALLOCATE)?.collection);
        Ok(Txn::new().then(steps::put(keys::restore_job(cx.params.job), &record)))
    })
    .undo_call(move |cx| {
        let context = context.clone();
        async move { Ok(end_failed(&context, &cx.params).await?) }
    })
}

pub(super) fn add_meta(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let context = context.clone();
    Step::meta_async(ADD_META, move |cx: StepCx<RestoreParams>| {
        let context = context.clone();
        async move {
            let params = &cx.params;
            let made = cx.get(ALLOCATE)?;
            let read = definition(&context, params).await;
            match read.and_then(|manifest| copy(params, &made, &manifest)) {
                Ok(txn) => Ok(txn),
                Err(error) => {
                    note_failure(&context, params, &error).await?;
                    Err(error)
                }
            }
        }
    })
    .undo_meta(|cx| {
        Ok(cx.find(ALLOCATE)?.map_or_else(Txn::new, |made| {
            collection::remove_meta(cx.params.database, made.collection)
        }))
    })
}

pub(super) fn attach(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let (run, undo) = (context.clone(), context.clone());
    Step::call(ATTACH, move |cx: StepCx<RestoreParams>| {
        let context = run.clone();
        async move {
            let params = &cx.params;
            let made = cx.get(ALLOCATE)?;
            let request = attach_request(params, &made);
            if params.bundle.is_none() {
                // Files that are named instead of copied may still have to be read.
                restore_bundle::copied(&context, params, &request).await?;
            }
            let attached = context.announce.attach_snapshot(request).await;
            if let Err(error) = attached {
                if !error.retriable {
                    note_failure(&context, params, &error).await?;
                }
                return Err(rejected_if_final(error));
            }
            Ok(())
        }
    })
    .undo_call(move |cx| {
        let context = undo.clone();
        async move {
            if let Some(made) = cx.find(ALLOCATE)? {
                context.announce.drop_data(made.collection, None).await?;
            }
            Ok(())
        }
    })
    .timeout(restore_bundle::COPY_WITHIN)
}

pub(super) fn commit(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let context = context.clone();
    Step::meta_async(COMMIT, move |cx: StepCx<RestoreParams>| {
        let context = context.clone();
        async move {
            let params = &cx.params;
            let made = cx.get(ALLOCATE)?;
            let key = keys::collection(params.database, made.collection);
            let found = context.kv.get(&key).await;
            let pair = found.map_err(|error| Error::from_coded(&error))?;
            let pair = pair.ok_or_else(|| Error::internal(format!("record {key} is gone")))?;
            let mut info = CollectionInfo::decode(pair.value)
                .map_err(|error| Error::internal(format!("record {key}: {error}")))?;
            info.state = ObjectState::Created.into();
            let job = RestoreJobInfo {
                state: restore_job_info::State::Completed.into(),
                progress: 100,
                finished_ms: context.tso.now_ms().max(params.started_ms + 1),
                ..params.record(made.collection)
            };
            count(params, "completed");
            Ok(Txn::new()
                .then(steps::put_collection(&info))
                .then(steps::put(keys::restore_job(params.job), &job)))
        }
    })
    .pivot()
}

fn unpin(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let context = context.clone();
    Step::call(UNPIN, move |cx: StepCx<RestoreParams>| {
        let context = context.clone();
        async move { Ok(context.announce.unpin_snapshot(cx.params.job).await?) }
    })
}

pub(super) fn rejected_if_final(error: Error) -> StepError {
    if error.retriable {
        StepError::Unknown(error)
    } else {
        StepError::Rejected(error)
    }
}

/// What the target's data is made of.
pub(super) fn attach_request(params: &RestoreParams, made: &Allocated) -> AttachSnapshotRequest {
    AttachSnapshotRequest {
        collection_id: params.source.0,
        name: params.snapshot.clone(),
        job_id: params.job,
        target_database_id: params.database.0,
        target_collection_id: made.collection.0,
        first_partition_id: made.first_partition,
        first_index_id: made.first_index,
        first_id: made.first_part,
        bundle: params.bundle.as_ref().map(Bundle::place),
        bundle_token: params
            .bundle
            .as_ref()
            .map(|bundle| bundle.token.clone())
            .unwrap_or_default(),
    }
}

async fn definition(context: &DdlContext, params: &RestoreParams) -> Result<SnapshotManifest> {
    let Some(bundle) = &params.bundle else {
        let (source, name) = (params.source, &params.snapshot);
        return context.announce.snapshot_definition(source, name).await;
    };
    let read = context.announce.read_bundle(&bundle.place()).await?;
    let mut definition = read.definition.unwrap_or_default();
    if read.info.unwrap_or_default().token != bundle.token {
        return Err(Error::new(
            ErrorCode::DataIntegrity,
            "the bundle was replaced by another one while it was restored",
        ));
    }
    // Its files are copied.
    definition.file_owners.clear();
    Ok(definition)
}

/// The new collection's records, still creating.
fn copy(params: &RestoreParams, made: &Allocated, manifest: &SnapshotManifest) -> Result<Txn> {
    let source = manifest.collection.as_ref();
    let source = source.ok_or_else(|| Error::internal("a snapshot without its collection"))?;
    let counted = manifest.partitions.len() == params.partitions as usize
        && manifest.indexes.len() == params.indexes as usize;
    if !counted {
        return Err(Error::new(
            ErrorCode::DataIntegrity,
            format!(
                "the manifest of snapshot {} does not fit its record",
                params.snapshot
            ),
        ));
    }
    let collection = made.collection;
    let info = CollectionInfo {
        id: collection.0,
        database_id: params.database.0,
        name: params.name.clone(),
        channels: (0..source.channels.len())
            .map(|shard| keys::channel_name(collection, shard))
            .collect(),
        created_ts: made.timestamp.0,
        updated_ts: made.timestamp.0,
        state: ObjectState::Creating.into(),
        borrows_from: manifest.file_owners.clone(),
        ..source.clone()
    };
    let mut txn = Txn::new().then(steps::put_collection(&info));
    for field in &manifest.fields {
        let id = field.schema.as_ref().map_or(0, |schema| schema.field_id);
        let field = FieldInfo {
            collection_id: collection.0,
            ..field.clone()
        };
        txn = txn.then(steps::put(keys::field(collection, FieldId(id)), &field));
    }
    for (id, partition) in (made.first_partition..).zip(&manifest.partitions) {
        let partition = PartitionInfo {
            id,
            collection_id: collection.0,
            created_ts: made.timestamp.0,
            closed: false,
            ..partition.clone()
        };
        txn = txn.then(steps::put(
            keys::partition(collection, PartitionId(id)),
            &partition,
        ));
    }
    for (id, index) in (made.first_index..).zip(&manifest.indexes) {
        let index = IndexInfo {
            id,
            collection_id: collection.0,
            created_ts: made.timestamp.0,
            ..index.clone()
        };
        txn = txn.then(steps::put(keys::index(collection, IndexId(id)), &index));
    }
    Ok(txn)
}
