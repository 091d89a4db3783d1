//! One delete file in the place of many.
//!
//! Delete files of a channel pile up, one a flush, as long as an older segment is not written again,
//! and every load reads all of them. Merged they are one file with the same deletes in the order of
//! their times; those that hit no row any more are left out. Loads, exports and snapshots find the new
//! record or the old ones: they change places in one transaction. What still names the old files keeps
//! them, and a load that has begun with them finds them for as long as replaced segments' files are kept.

use prost::Message as _;
use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::{Compare, MetaKv, Op, Txn, TxnOutcome};
use redkite_proto::redkite::{
    datanode::CompactRequest,
    meta::{CompactionInfo, DeltaInfo, FileInfo, compaction_info::State},
};
use redkite_types::{Error, ErrorCode, Revision, Timestamp};
use tracing::info;

use super::{
    Compactor, facts,
    records::{self, End, Recorded},
};
use crate::gate::CommitGate;

impl Compactor {
    /// One attempt to carry out a plan that merges delete files.
    pub(super) async fn merge_deletes(
        &self,
        entry: &CollectionEntry,
        recorded: &Recorded,
    ) -> Result<(), End> {
        let sources = sources(entry, &recorded.plan)?;
        let recorded = self.begin(recorded).await?;
        let plan = &recorded.plan;
        let target = plan.targets.first().copied().unwrap_or_default();
        let request = CompactRequest {
            plan_id: plan.plan_id,
            deltas: sources.clone(),
            delta_target: target,
            channel: plan.channel.clone(),
            deletes_needed_after: facts::deletes_needed_after(entry, &plan.channel).0,
            ..CompactRequest::default()
        };
        let answer = self.around.compact(request).await?;
        let (kv, now) = (&*self.kv, self.now());
        let made = answer.delta.as_ref();
        let revision = commit(kv, &self.gate, entry, &recorded, &sources, made, now).await?;
        info!(
            plan = plan.plan_id,
            revision = revision.0,
            channel = plan.channel,
            delete_files = sources.len(),
            deletes_read = answer.rows_read,
            deletes_written = answer.rows_written,
            "delete files merged"
        );
        metrics::counter!("redkite_datacoord_delete_files_merged_total")
            .increment(sources.len() as u64);
        Ok(())
    }
}

/// The records of the plan's delete files.
fn sources(entry: &CollectionEntry, plan: &CompactionInfo) -> Result<Vec<DeltaInfo>, End> {
    let find = |id: &i64| {
        let found = entry.deltas.values().find(|delta| delta.id == *id);
        let found = found.ok_or_else(|| End::Impossible(gone(*id)))?;
        Ok(found.as_ref().clone())
    };
    plan.delta_sources.iter().map(find).collect()
}

fn gone(delta: i64) -> String {
    format!("delete file {delta} is gone")
}

/// Puts the new delete file, if there is one, in the place of the others and completes the plan, at
/// once. Files are left where they are.
///
/// # Errors
/// [`End`]; after `Failed` it may have been committed.
async fn commit(
    kv: &dyn MetaKv,
    gate: &CommitGate,
    entry: &CollectionEntry,
    recorded: &Recorded,
    sources: &[DeltaInfo],
    made: Option<&DeltaInfo>,
    now: Timestamp,
) -> Result<Revision, End> {
    let plan = &recorded.plan;
    let files: Vec<FileInfo> = made
        .and_then(|delta| delta.file.clone())
        .into_iter()
        .collect();
    let replaced = sources.iter().filter_map(|source| source.file.as_ref());
    let completed = CompactionInfo {
        state: State::Completed.into(),
        targets: made.map(|delta| delta.id).into_iter().collect(),
        finished_ts: now.0,
        borrowed_files: replaced.map(|file| file.path.clone()).collect(),
        ..plan.clone()
    };
    for _ in 0..records::ATTEMPTS {
        let mut txn = guards(kv, entry, recorded, sources).await?;
        for source in sources {
            txn = txn.then(Op::delete(keys::delta(entry.id(), source.id)));
        }
        if let Some(delta) = made {
            let key = keys::delta(entry.id(), delta.id);
            txn = txn.then(Op::put(key, delta.encode_to_vec()));
        }
        match gate
            .commit(kv, &files, txn.then(records::put(&completed)))
            .await?
        {
            TxnOutcome::Applied { revision } => return Ok(revision),
            // Something has changed since it was read: look again.
            TxnOutcome::Refused { .. } => {}
        }
    }
    Err(records::met_changes(plan))
}

/// Conditions that make sure that the plan is this attempt's and the delete files are those that were
/// read. One that nothing needs any more may have been let go meanwhile.
async fn guards(
    kv: &dyn MetaKv,
    entry: &CollectionEntry,
    recorded: &Recorded,
    sources: &[DeltaInfo],
) -> Result<Txn, End> {
    let current = records::executing(kv, entry.id(), recorded.plan.plan_id).await?;
    if current.is_none_or(|current| current.revision != recorded.revision) {
        return Err(End::NotOurs);
    }
    let collection = records::live_collection(kv, entry).await?;
    let collection =
        collection.ok_or_else(|| End::Impossible("the collection is gone".to_owned()))?;
    let mut txn = Txn::new().when(records::guard(recorded)).when(collection);
    for source in sources {
        let key = keys::delta(entry.id(), source.id);
        let found = kv.get(&key).await.map_err(records::unavailable)?;
        let found = found.ok_or_else(|| End::Impossible(gone(source.id)))?;
        if records::decode::<DeltaInfo>(&found)? != *source {
            let reason = format!("delete file {} has changed since it was read", source.id);
            return Err(Error::new(ErrorCode::ServiceUnavailable, reason).into());
        }
        txn = txn.when(Compare::Revision {
            key,
            revision: found.revision,
        });
    }
    Ok(txn)
}
