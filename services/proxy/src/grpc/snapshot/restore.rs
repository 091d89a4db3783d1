//! Snapshots restored into new collections, as jobs.

use std::sync::Arc;

use redkite_proto::{
    milvus::milvus::{
        GetRestoreSnapshotStateRequest, GetRestoreSnapshotStateResponse,
        ListRestoreSnapshotJobsRequest, ListRestoreSnapshotJobsResponse, RestoreSnapshotInfo,
        RestoreSnapshotRequest, RestoreSnapshotResponse,
    },
    redkite::{meta::RestoreJobInfo, rootcoord},
    status,
};
use redkite_types::{Error, ErrorCode, Result};
use tracing::warn;

use super::await_revision;
use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

pub(crate) async fn restore_snapshot(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: RestoreSnapshotRequest,
) -> Result<RestoreSnapshotResponse> {
    let request = rootcoord::RestoreSnapshotRequest {
        request_id: context.unique_id(),
        database: meta.database.clone(),
        command: Some(message),
    };
    let begun = patiently(context, &meta, || begin(context, &meta, request.clone())).await?;
    await_revision(context, begun.revision).await;
    Ok(RestoreSnapshotResponse {
        status: Some(status::success()),
        job_id: begun.job_id,
    })
}

/// Asks again while the root coordinator is away and there is time: the same request finds the same
/// job.
pub(super) async fn patiently<T, F>(
    context: &ProxyContext,
    meta: &RequestContext,
    mut ask: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut patience = context.patience(meta.deadline);
    loop {
        let error = match ask().await {
            Ok(begun) => return Ok(begun),
            Err(error) => error,
        };
        let away = matches!(
            error.code,
            ErrorCode::ServiceNotReady | ErrorCode::ServiceUnavailable
        );
        if !away || !error.retriable {
            return Err(error);
        }
        warn!(error = %error.message, client_request_id = meta.request_id, "restore asked for again");
        if !patience.another_try().await {
            return Err(error);
        }
    }
}

async fn begin(
    context: &ProxyContext,
    meta: &RequestContext,
    request: rootcoord::RestoreSnapshotRequest,
) -> Result<rootcoord::RestoreSnapshotResponse> {
    let root = context.peers.root_coord()?;
    let begun = redkite_rpc::call(meta.deadline, request, |request| {
        root.restore_snapshot(request)
    });
    Ok(begun.await?)
}

pub(crate) fn get_restore_snapshot_state(
    context: &ProxyContext,
    _: RequestContext,
    message: GetRestoreSnapshotStateRequest,
) -> Result<GetRestoreSnapshotStateResponse> {
    let view = context.view();
    let job = view.restore_job(message.job_id).ok_or_else(|| {
        Error::input(
            ErrorCode::JobNotFound,
            format!("restore job not found: jobID={}", message.job_id),
        )
    })?;
    Ok(GetRestoreSnapshotStateResponse {
        status: Some(status::success()),
        info: Some(shown(job)),
    })
}

pub(crate) fn list_restore_snapshot_jobs(
    context: &ProxyContext,
    meta: RequestContext,
    message: ListRestoreSnapshotJobsRequest,
) -> Result<ListRestoreSnapshotJobsResponse> {
    let view = context.view();
    let database = lookup::database(&view, &meta.database)?;
    let target = match message.collection_name.as_str() {
        "" => None,
        name => Some(lookup::collection(&view, &meta.database, name)?.id()),
    };
    let wanted = view.restore_jobs().filter(|job| match target {
        Some(collection) => job.collection_id == collection.0,
        None => job.database == database.name,
    });
    Ok(ListRestoreSnapshotJobsResponse {
        status: Some(status::success()),
        jobs: wanted.map(|job| shown(job)).collect(),
    })
}

fn shown(job: &RestoreJobInfo) -> RestoreSnapshotInfo {
    RestoreSnapshotInfo {
        job_id: job.job_id,
        snapshot_name: job.snapshot_name.clone(),
        db_name: job.database.clone(),
        collection_name: job.collection.clone(),
        // The numbers are the same.
        state: job.state,
        progress: job.progress,
        reason: job.reason.clone(),
        start_time: job.started_ms,
        time_cost: match job.finished_ms {
            0 => 0,
            finished => finished.saturating_sub(job.started_ms).max(1),
        },
    }
}
