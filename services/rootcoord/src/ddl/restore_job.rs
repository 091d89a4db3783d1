//! What the record of a restore says of its end.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Op, Txn};
use redkite_proto::redkite::meta::{RestoreJobInfo, restore_job_info};
use redkite_types::{Error, Result};

use super::{context::DdlContext, restore::RestoreParams};

/// Counts a restore's end; one whose end is tried again is counted again.
pub(super) fn count(params: &RestoreParams, result: &'static str) {
    let kind = match params.bundle {
        None => "snapshot",
        Some(_) => "bundle",
    };
    metrics::counter!("redkite_rootcoord_restores_total", "kind" => kind, "result" => result)
        .increment(1);
}

/// Writes down why the job is going to fail.
pub(super) async fn note_failure(
    context: &DdlContext,
    params: &RestoreParams,
    error: &Error,
) -> Result<()> {
    let reason = error.message.clone();
    change_job(context, params, |job| job.reason = reason).await
}

/// Ends the job; what was noted before stays the reason.
pub(super) async fn end_failed(context: &DdlContext, params: &RestoreParams) -> Result<()> {
    let finished = context.tso.now_ms().max(params.started_ms + 1);
    count(params, "failed");
    change_job(context, params, |job| {
        job.state = restore_job_info::State::Failed.into();
        job.finished_ms = finished;
        if job.reason.is_empty() {
            job.reason =
                "the restore was taken back because a service was away for too long".into();
        }
    })
    .await
}

/// Only this saga and the data coordinator's attach, which it waits for, write the record.
async fn change_job(
    context: &DdlContext,
    params: &RestoreParams,
    change: impl FnOnce(&mut RestoreJobInfo),
) -> Result<()> {
    let key = keys::restore_job(params.job);
    let found = context.kv.get(&key).await;
    let Some(pair) = found.map_err(|error| Error::from_coded(&error))? else {
        return Ok(());
    };
    let mut job = RestoreJobInfo::decode(pair.value)
        .map_err(|error| Error::internal(format!("record {key}: {error}")))?;
    change(&mut job);
    let txn = Txn::new().then(Op::put(key, job.encode_to_vec()));
    context
        .kv
        .txn(txn)
        .await
        .map_err(|error| Error::from_coded(&error))?;
    Ok(())
}
