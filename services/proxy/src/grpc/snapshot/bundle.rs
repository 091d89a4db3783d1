//! Snapshots that travel: exported as bundles, and restored from them.

use std::sync::Arc;

use redkite_proto::{
    milvus::milvus::{
        ExportSnapshotInfo, ExportSnapshotRequest, ExportSnapshotResponse,
        GetExportSnapshotStateRequest, GetExportSnapshotStateResponse,
        RestoreExternalSnapshotRequest, RestoreExternalSnapshotResponse,
    },
    redkite::{
        datacoord,
        meta::{SnapshotExportInfo, snapshot_export_info::State},
        rootcoord,
    },
    status,
};
use redkite_types::{Error, ErrorCode, Result};

use super::{await_revision, checked_name, collection, find, place, restore::patiently};
use crate::context::{ProxyContext, RequestContext};

/// What the last part of a bundle's URI is.
const METADATA: &str = "/metadata.json";

pub(crate) async fn export_snapshot(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: ExportSnapshotRequest,
) -> Result<ExportSnapshotResponse> {
    let name = checked_name(&message.name)?;
    let entry = collection(context, &meta, &message.collection_name, "export snapshot")?;
    find(&entry, name)?;
    if message.target_s3_path.is_empty() {
        return Err(Error::missing_parameter(
            "target_s3_path is required for export snapshot",
        ));
    }
    let request = datacoord::ExportSnapshotRequest {
        collection_id: entry.id().0,
        name: name.to_owned(),
        database: meta.database.clone(),
        collection: entry.name().to_owned(),
        place: Some(place::parse(
            &message.target_s3_path,
            &message.external_spec,
        )?),
    };
    let coord = context.peers.data_coord()?;
    let begun = redkite_rpc::call(meta.deadline, request, |request| {
        coord.export_snapshot(request)
    })
    .await?;
    await_revision(context, begun.revision).await;
    Ok(ExportSnapshotResponse {
        status: Some(status::success()),
        job_id: begun.job_id,
        ..ExportSnapshotResponse::default()
    })
}

pub(crate) fn get_export_snapshot_state(
    context: &ProxyContext,
    _: RequestContext,
    message: GetExportSnapshotStateRequest,
) -> Result<GetExportSnapshotStateResponse> {
    let view = context.view();
    let job = view.snapshot_export(message.job_id).ok_or_else(|| {
        Error::input(
            ErrorCode::JobNotFound,
            format!("export snapshot job not found: jobID={}", message.job_id),
        )
    })?;
    Ok(GetExportSnapshotStateResponse {
        status: Some(status::success()),
        info: Some(shown(job)),
    })
}

fn shown(job: &SnapshotExportInfo) -> ExportSnapshotInfo {
    let (done, total) = match job.total_bytes {
        0 => (job.files_done, job.total_files),
        bytes => (job.bytes_done, bytes),
    };
    let copied = (done * 100).checked_div(total).unwrap_or_default() as i32;
    ExportSnapshotInfo {
        job_id: job.job_id,
        snapshot_name: job.snapshot_name.clone(),
        db_name: job.database.clone(),
        collection_name: job.collection.clone(),
        // The numbers are the same.
        state: job.state,
        // All copied is not all done.
        progress: match job.state() {
            State::Completed => 100,
            State::None | State::Pending | State::Executing | State::Failed => copied.min(99),
        },
        reason: job.reason.clone(),
        start_time: job.started_ms,
        time_cost: match job.finished_ms {
            0 => 0,
            finished => finished.saturating_sub(job.started_ms).max(1),
        },
        total_files: job.total_files,
        copied_files: job.files_done,
        snapshot_metadata_uri: job.metadata_uri.clone(),
        total_bytes: job.total_bytes,
    }
}

pub(crate) async fn restore_external_snapshot(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: RestoreExternalSnapshotRequest,
) -> Result<RestoreExternalSnapshotResponse> {
    let uri = &message.snapshot_metadata_uri;
    if uri.is_empty() {
        return Err(Error::missing_parameter(
            "snapshot_metadata_uri is required for restore external snapshot",
        ));
    }
    let root = uri.strip_suffix(METADATA).ok_or_else(|| {
        let text = format!("snapshot_metadata_uri {uri} does not end in {METADATA}");
        Error::invalid_parameter(text)
    })?;
    let request = rootcoord::RestoreBundleRequest {
        request_id: context.unique_id(),
        database: meta.database.clone(),
        collection: message.target_collection_name.clone(),
        place: Some(place::parse(root, &message.external_spec)?),
    };
    let begun = patiently(context, &meta, || begin(context, &meta, request.clone())).await?;
    await_revision(context, begun.revision).await;
    Ok(RestoreExternalSnapshotResponse {
        status: Some(status::success()),
        job_id: begun.job_id,
    })
}

async fn begin(
    context: &ProxyContext,
    meta: &RequestContext,
    request: rootcoord::RestoreBundleRequest,
) -> Result<rootcoord::RestoreSnapshotResponse> {
    let root = context.peers.root_coord()?;
    let begun = redkite_rpc::call(meta.deadline, request, |request| {
        root.restore_bundle(request)
    });
    Ok(begun.await?)
}
