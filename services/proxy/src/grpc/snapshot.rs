//! Snapshots: taken, shown, pinned and dropped.
//!
//! # Source
//! Codes and texts are facts of Milvus 3.0's wire contract.

pub(crate) mod bundle;
mod place;
pub(crate) mod restore;

use std::{sync::Arc, time::Duration};

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    milvus::{
        common::{MsgBase, Status},
        milvus::{
            CreateSnapshotRequest, DescribeSnapshotRequest, DescribeSnapshotResponse,
            DropSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse,
            PinSnapshotDataRequest, PinSnapshotDataResponse, UnpinSnapshotDataRequest,
        },
    },
    redkite::{datacoord, meta::SnapshotInfo},
    status,
};
use redkite_types::{Error, ErrorCode, Result, Revision, limits, name};
use tracing::debug;

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// The property, of a request's base or of a collection, that has a snapshot flushed first.
const FLUSH: &str = "snapshot.flush";
/// How long an answer waits for this proxy's view to show what it tells.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn create_snapshot(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: CreateSnapshotRequest,
) -> Result<Status> {
    let name = checked_name(&message.name)?;
    let entry = collection(context, &meta, &message.collection_name, "create snapshot")?;
    let request = datacoord::CreateSnapshotRequest {
        collection_id: entry.id().0,
        name: name.to_owned(),
        description: message.description,
        compaction_protection_seconds: message.compaction_protection_seconds,
        internal: false,
        pin_seconds: 0,
        flush: wants_flush(message.base.as_ref(), &entry)?,
    };
    let coord = context.peers.data_coord()?;
    let taken = redkite_rpc::call(meta.deadline, request, |request| {
        coord.create_snapshot(request)
    })
    .await?;
    await_revision(context, taken.revision).await;
    Ok(status::success())
}

/// Whether a snapshot is to have every row that was acknowledged, not only those that are flushed:
/// as the request says, else as the collection's property does.
fn wants_flush(base: Option<&MsgBase>, entry: &CollectionEntry) -> Result<bool> {
    let asked = base.and_then(|base| base.properties.get(FLUSH));
    match asked.map(String::as_str).or_else(|| entry.property(FLUSH)) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Error::invalid_parameter(format!(
            "{FLUSH} should be true or false, but got {other}"
        ))),
    }
}

pub(crate) async fn drop_snapshot(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: DropSnapshotRequest,
) -> Result<Status> {
    let name = checked_name(&message.name)?;
    let entry = collection(context, &meta, &message.collection_name, "drop snapshot")?;
    if entry
        .snapshots
        .get(name)
        .is_some_and(|found| found.internal)
    {
        // It is the server's own: to users there is none of that name.
        return Ok(status::success());
    }
    let request = datacoord::DropSnapshotRequest {
        collection_id: entry.id().0,
        name: name.to_owned(),
    };
    let coord = context.peers.data_coord()?;
    let dropped = redkite_rpc::call(meta.deadline, request, |request| {
        coord.drop_snapshot(request)
    })
    .await?;
    await_revision(context, dropped.revision).await;
    Ok(status::success())
}

pub(crate) fn list_snapshots(
    context: &ProxyContext,
    meta: RequestContext,
    message: ListSnapshotsRequest,
) -> Result<ListSnapshotsResponse> {
    let entry = collection(context, &meta, &message.collection_name, "ListSnapshots")?;
    let visible = entry.snapshots.values().filter(|one| !one.internal);
    Ok(ListSnapshotsResponse {
        status: Some(status::success()),
        snapshots: visible.map(|snapshot| snapshot.name.clone()).collect(),
    })
}

pub(crate) fn describe_snapshot(
    context: &ProxyContext,
    meta: RequestContext,
    message: DescribeSnapshotRequest,
) -> Result<DescribeSnapshotResponse> {
    let name = checked_name(&message.name)?;
    let entry = collection(
        context,
        &meta,
        &message.collection_name,
        "describe snapshot",
    )?;
    let snapshot = find(&entry, name)?;
    let manifest = snapshot.manifest.as_ref();
    Ok(DescribeSnapshotResponse {
        status: Some(status::success()),
        name: snapshot.name.clone(),
        description: snapshot.description.clone(),
        collection_name: entry.name().to_owned(),
        partition_names: snapshot.partition_names.clone(),
        create_ts: snapshot.ts as i64,
        s3_location: manifest.map(|file| file.path.clone()).unwrap_or_default(),
    })
}

pub(crate) async fn pin_snapshot_data(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: PinSnapshotDataRequest,
) -> Result<PinSnapshotDataResponse> {
    let name = checked_name(&message.name)?;
    if message.ttl_seconds < 0 {
        return Err(Error::invalid_parameter("ttl_seconds must be non-negative"));
    }
    if message.ttl_seconds > limits::MAX_PIN_SECONDS {
        return Err(Error::invalid_parameter(format!(
            "ttl_seconds exceeds maximum of {} (30 days)",
            limits::MAX_PIN_SECONDS
        )));
    }
    let entry = collection(
        context,
        &meta,
        &message.collection_name,
        "pin snapshot data",
    )?;
    find(&entry, name)?;
    let request = datacoord::PinSnapshotRequest {
        collection_id: entry.id().0,
        name: name.to_owned(),
        ttl_seconds: message.ttl_seconds,
        pin_id: 0,
    };
    let coord = context.peers.data_coord()?;
    let pinned = redkite_rpc::call(meta.deadline, request, |request| {
        coord.pin_snapshot(request)
    })
    .await?;
    Ok(PinSnapshotDataResponse {
        status: Some(status::success()),
        pin_id: pinned.pin_id,
    })
}

pub(crate) async fn unpin_snapshot_data(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: UnpinSnapshotDataRequest,
) -> Result<Status> {
    if message.pin_id <= 0 {
        return Err(Error::invalid_parameter(format!(
            "pin_id {} must be positive",
            message.pin_id
        )));
    }
    let view = context.view();
    let is_job = view.restore_job(message.pin_id).is_some()
        || view.snapshot_export(message.pin_id).is_some();
    if is_job {
        // A job's own pin ends with the job; to users it is none of theirs.
        return Ok(status::success());
    }
    let request = datacoord::UnpinSnapshotRequest {
        pin_id: message.pin_id,
    };
    let coord = context.peers.data_coord()?;
    redkite_rpc::call(meta.deadline, request, |request| {
        coord.unpin_snapshot(request)
    })
    .await?;
    Ok(status::success())
}

/// A snapshot's name as it counts: without the blanks around it.
fn checked_name(given: &str) -> Result<&str> {
    let name = given.trim();
    name::check_snapshot(name)?;
    Ok(name)
}

fn collection(
    context: &ProxyContext,
    meta: &RequestContext,
    collection: &str,
    what: &str,
) -> Result<Arc<CollectionEntry>> {
    if collection.is_empty() {
        return Err(Error::missing_parameter(format!(
            "collection_name is required for {what}"
        )));
    }
    lookup::collection(&context.view(), &meta.database, collection)
}

/// The snapshot of a name that users see.
fn find<'a>(entry: &'a CollectionEntry, name: &str) -> Result<&'a Arc<SnapshotInfo>> {
    let found = entry.snapshots.get(name);
    found.filter(|snapshot| !snapshot.internal).ok_or_else(|| {
        let collection = entry.id();
        Error::input(
            ErrorCode::SnapshotNotFound,
            format!("collection {collection}: snapshot not found[snapshot={name}]"),
        )
    })
}

/// Who hears that something is done expects to see it.
async fn await_revision(context: &ProxyContext, revision: u64) {
    let seen = context.catalog.at_least(Revision(revision), SEEN_WITHIN);
    if let Err(error) = seen.await {
        debug!(%error, "a change of a snapshot is not seen yet");
    }
}
