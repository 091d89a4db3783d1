//! What is written down of exports, each step in one transaction.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, KeyValue, MetaKv, Op, Txn, TxnOutcome, read_all};
use redkite_proto::redkite::meta::{ExportInfo, FileInfo, export_info::State};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision};

use crate::gate::CommitGate;

/// A task as it is recorded, with the revision that guards it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The task.
    pub task: ExportInfo,
    /// Its record's revision.
    pub revision: Revision,
}

/// Whether a task has ended, well or not.
pub fn has_ended(task: &ExportInfo) -> bool {
    match task.state() {
        State::Done | State::Failed => true,
        State::Init | State::Queued | State::Running | State::Dropping => false,
    }
}

/// All tasks, oldest first.
///
/// # Errors
/// Code 2 when the metastore did not answer; 1009 for a record that cannot be read.
pub async fn all(kv: &dyn MetaKv) -> Result<Vec<Recorded>> {
    let (pairs, _) = read_all(kv, keys::EXPORTS).await.map_err(unavailable)?;
    let mut tasks = pairs.iter().map(decode).collect::<Result<Vec<_>>>()?;
    tasks.sort_by_key(|one| (one.task.created_ts, one.task.task_id.clone()));
    Ok(tasks)
}

/// The task of an id.
///
/// # Errors
/// As [`all`].
pub async fn find(kv: &dyn MetaKv, id: &str) -> Result<Option<Recorded>> {
    let mut tasks = all(kv).await?;
    tasks.retain(|one| one.task.task_id == id);
    Ok(tasks.pop())
}

/// Writes a new task down; the same one again changes nothing.
///
/// # Errors
/// Code 2 when the metastore did not answer: it may be there all the same.
pub async fn add(kv: &dyn MetaKv, task: &ExportInfo) -> Result<()> {
    let txn = Txn::new()
        .when(Compare::Absent { key: key(task) })
        .then(Op::put(key(task), task.encode_to_vec()));
    kv.txn(txn).await.map_err(unavailable).map(drop)
}

/// Replaces a task's record; `None` when it was changed meanwhile, or is gone.
///
/// # Errors
/// Code 2 when the metastore did not answer: read the record again.
pub async fn replace(
    kv: &dyn MetaKv,
    before: &Recorded,
    task: ExportInfo,
) -> Result<Option<Recorded>> {
    let outcome = kv.txn(replacing(before, &task)).await;
    Ok(applied(outcome.map_err(unavailable)?, task))
}

/// [`replace`] for a record that names segments, once all their files are known to be there: from
/// then on garbage collection keeps them.
///
/// # Errors
/// As [`replace`]; code 1000 when a file is gone, because it was compacted meanwhile.
pub async fn hold(
    kv: &dyn MetaKv,
    gate: &CommitGate,
    before: &Recorded,
    task: ExportInfo,
) -> Result<Option<Recorded>> {
    let files = task.segments.iter().flat_map(|segment| &segment.files);
    let deltas = task.deltas.iter().filter_map(|delta| delta.file.as_ref());
    let files: Vec<FileInfo> = files.chain(deltas).cloned().collect();
    let outcome = gate.commit(kv, &files, replacing(before, &task)).await?;
    Ok(applied(outcome, task))
}

fn replacing(before: &Recorded, task: &ExportInfo) -> Txn {
    let put = Op::put(key(task), task.encode_to_vec());
    Txn::new().when(guard(before)).then(put)
}

fn applied(outcome: TxnOutcome, task: ExportInfo) -> Option<Recorded> {
    match outcome {
        TxnOutcome::Applied { revision } => Some(Recorded { task, revision }),
        TxnOutcome::Refused { .. } => None,
    }
}

/// Removes a task's record; whether it was as it should be.
///
/// # Errors
/// As [`replace`].
pub async fn remove(kv: &dyn MetaKv, before: &Recorded) -> Result<bool> {
    let txn = Txn::new()
        .when(guard(before))
        .then(Op::delete(key(&before.task)));
    match kv.txn(txn).await.map_err(unavailable)? {
        TxnOutcome::Applied { .. } => Ok(true),
        TxnOutcome::Refused { .. } => Ok(false),
    }
}

fn key(task: &ExportInfo) -> String {
    keys::export(CollectionId(task.collection_id), &task.task_id)
}

fn guard(recorded: &Recorded) -> Compare {
    Compare::Revision {
        key: key(&recorded.task),
        revision: recorded.revision,
    }
}

fn decode(pair: &KeyValue) -> Result<Recorded> {
    let task = ExportInfo::decode(pair.value.clone()).map_err(|error| {
        let text = format!("record {} is damaged: {error}", pair.key);
        Error::new(ErrorCode::DataIntegrity, text)
    })?;
    Ok(Recorded {
        task,
        revision: pair.revision,
    })
}

fn unavailable(error: redkite_metastore::Error) -> Error {
    Error::from_coded(&error)
}
