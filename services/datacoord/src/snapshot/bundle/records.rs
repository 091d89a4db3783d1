//! What is written down of exports, each step in one transaction.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, KeyValue, MetaKv, Op, Txn, TxnOutcome, read_all};
use redkite_proto::redkite::meta::{
    SnapshotExportInfo, SnapshotInfo, SnapshotPin, snapshot_export_info::State,
};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision};

use super::not_found;

/// How often a change starts again because the snapshot's record has changed meanwhile.
const ATTEMPTS: usize = 64;

/// An export as it is recorded, with the revision that guards it.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) job: SnapshotExportInfo,
    pub(super) revision: Revision,
}

/// Whether a job has ended, well or not.
pub(super) fn has_ended(job: &SnapshotExportInfo) -> bool {
    match job.state() {
        State::Completed | State::Failed => true,
        State::None | State::Pending | State::Executing => false,
    }
}

/// All exports, oldest first.
pub(super) async fn all(kv: &dyn MetaKv) -> Result<Vec<Recorded>> {
    let (pairs, _) = read_all(kv, keys::SNAPSHOT_EXPORTS)
        .await
        .map_err(unavailable)?;
    let mut jobs = pairs.iter().map(recorded).collect::<Result<Vec<_>>>()?;
    jobs.sort_by_key(|one| one.job.job_id);
    Ok(jobs)
}

pub(super) async fn find(kv: &dyn MetaKv, job: i64) -> Result<Option<Recorded>> {
    let found = kv.get(&keys::snapshot_export(job)).await;
    found
        .map_err(unavailable)?
        .as_ref()
        .map(recorded)
        .transpose()
}

/// Records a new job together with its pin.
///
/// # Errors
/// Code 2600 when there is no snapshot; 2 when the metastore did not answer.
pub(super) async fn add(kv: &dyn MetaKv, job: &SnapshotExportInfo) -> Result<Revision> {
    let pin = SnapshotPin {
        id: job.job_id,
        expires_ms: 0,
    };
    let put = Op::put(keys::snapshot_export(job.job_id), job.encode_to_vec());
    for _ in 0..ATTEMPTS {
        let Some((mut snapshot, guard)) = snapshot(kv, job).await? else {
            let collection = CollectionId(job.collection_id);
            return Err(not_found(collection, &job.snapshot_name));
        };
        snapshot.pins.push(pin);
        let txn = Txn::new()
            .when(guard)
            .then(put_snapshot(&snapshot))
            .then(put.clone());
        if let TxnOutcome::Applied { revision } = kv.txn(txn).await.map_err(unavailable)? {
            return Ok(revision);
        }
    }
    Err(busy(job))
}

/// Replaces a job's record; `None` when somebody else has changed it, or it is gone.
///
/// # Errors
/// Code 2 when the metastore did not answer: read the record again.
pub(super) async fn replace(
    kv: &dyn MetaKv,
    before: &Recorded,
    job: SnapshotExportInfo,
) -> Result<Option<Recorded>> {
    let put = Op::put(keys::snapshot_export(job.job_id), job.encode_to_vec());
    let txn = Txn::new().when(before.guard()).then(put);
    Ok(match kv.txn(txn).await.map_err(unavailable)? {
        TxnOutcome::Applied { revision } => Some(Recorded { job, revision }),
        TxnOutcome::Refused { .. } => None,
    })
}

/// Records a job's end and takes its pin away. Whether it did.
///
/// # Errors
/// As [`replace`].
pub(super) async fn end(
    kv: &dyn MetaKv,
    before: &Recorded,
    job: SnapshotExportInfo,
) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let put = Op::put(keys::snapshot_export(job.job_id), job.encode_to_vec());
        let mut txn = Txn::new().when(before.guard()).then(put);
        if let Some((mut snapshot, guard)) = snapshot(kv, &job).await? {
            snapshot.pins.retain(|pin| pin.id != job.job_id);
            txn = txn.when(guard).then(put_snapshot(&snapshot));
        }
        if let TxnOutcome::Applied { .. } = kv.txn(txn).await.map_err(unavailable)? {
            return Ok(true);
        }
        if find(kv, job.job_id)
            .await?
            .is_none_or(|now| now.revision != before.revision)
        {
            return Ok(false);
        }
    }
    Err(busy(&job))
}

/// Forgets a job.
pub(super) async fn remove(kv: &dyn MetaKv, before: &Recorded) -> Result<()> {
    let key = keys::snapshot_export(before.job.job_id);
    let txn = Txn::new().when(before.guard()).then(Op::delete(key));
    kv.txn(txn).await.map_err(unavailable).map(drop)
}

impl Recorded {
    fn guard(&self) -> Compare {
        Compare::Revision {
            key: keys::snapshot_export(self.job.job_id),
            revision: self.revision,
        }
    }
}

async fn snapshot(
    kv: &dyn MetaKv,
    job: &SnapshotExportInfo,
) -> Result<Option<(SnapshotInfo, Compare)>> {
    let key = keys::snapshot(CollectionId(job.collection_id), &job.snapshot_name);
    let Some(pair) = kv.get(&key).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let guard = Compare::Revision {
        key,
        revision: pair.revision,
    };
    Ok(Some((decode(&pair)?, guard)))
}

fn put_snapshot(snapshot: &SnapshotInfo) -> Op {
    let key = keys::snapshot(CollectionId(snapshot.collection_id), &snapshot.name);
    Op::put(key, snapshot.encode_to_vec())
}

fn recorded(pair: &KeyValue) -> Result<Recorded> {
    Ok(Recorded {
        job: decode(pair)?,
        revision: pair.revision,
    })
}

fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|error| {
        let text = format!("record {} is damaged: {error}", pair.key);
        Error::new(ErrorCode::DataIntegrity, text)
    })
}

fn busy(job: &SnapshotExportInfo) -> Error {
    let name = &job.snapshot_name;
    let text = format!("the record of snapshot {name} changes too fast");
    Error::new(ErrorCode::ServiceUnavailable, text)
}

fn unavailable(error: redkite_metastore::Error) -> Error {
    Error::from_coded(&error)
}
