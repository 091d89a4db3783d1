//! How far collections are loaded.

use std::{collections::HashMap, sync::Arc};

use redkite_catalog::{CollectionEntry, view::is_partition_loaded};
use redkite_proto::{
    milvus::{
        common::LoadState,
        milvus::{
            GetLoadStateRequest, GetLoadStateResponse, GetLoadingProgressRequest,
            GetLoadingProgressResponse,
        },
    },
    redkite::querycoord::{LoadProgressRequest, SyncRequest},
    status,
};
use redkite_types::{DatabaseId, Error, ErrorCode, PartitionId, Result, Revision, name};
use tracing::debug;

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// Percent of what is loaded completely.
pub(super) const COMPLETE: i64 = 100;

/// How far the partitions that somebody asked for are loaded.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Their mean; 100 only when all of them are complete.
    pub(super) percent: i64,
    /// Why it does not go on, where it does not.
    pub(super) fail_reason: String,
}

/// Whether an error says that what was asked for is not loaded.
pub(super) fn is_not_loaded(error: &Error) -> bool {
    matches!(
        error.code,
        ErrorCode::CollectionNotLoaded | ErrorCode::PartitionNotLoaded
    )
}

/// How far the named partitions are loaded, or all that are to be loaded where none is named.
///
/// # Errors
/// Code 101 or 201 for what nobody asked to load, 200 for an unknown partition; what the query
/// coordinator answers.
pub(super) async fn progress(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    partitions: &[String],
) -> Result<Progress> {
    let wanted = wanted(entry, partitions)?;
    let message = LoadProgressRequest {
        collection_id: entry.id().0,
    };
    let coord = context.peers.query_coord()?;
    let answer = redkite_rpc::call(meta.deadline, message, |request| {
        coord.load_progress(request)
    })
    .await?;
    let mut known: HashMap<i64, _> = answer
        .partitions
        .into_iter()
        .map(|partition| (partition.partition_id, partition))
        .collect();
    let mut progress = Progress::default();
    for id in &wanted {
        // A partition that the coordinator has not heard of yet is at zero.
        let Some(said) = known.remove(&id.0) else {
            continue;
        };
        progress.percent += i64::from(said.percent);
        if progress.fail_reason.is_empty() {
            progress.fail_reason = said.fail_reason;
        }
    }
    progress.percent /= (wanted.len() as i64).max(1);
    Ok(progress)
}

/// The partitions to ask for.
fn wanted(entry: &CollectionEntry, partitions: &[String]) -> Result<Vec<PartitionId>> {
    if partitions.is_empty() {
        if !entry.is_loaded() {
            return Err(Error::collection_not_loaded(entry.name()));
        }
        let visible = entry
            .visible_partitions()
            .map(|partition| PartitionId(partition.id));
        return Ok(visible
            .filter(|id| entry.loaded_partitions.contains(id))
            .collect());
    }
    partitions
        .iter()
        .map(|name| {
            let id = PartitionId(lookup::partition(entry, name)?.id);
            if is_partition_loaded(entry, id) {
                Ok(id)
            } else if entry.is_loaded() {
                let text = ErrorCode::PartitionNotLoaded.text();
                let message = format!("{text}[partition={name}]");
                Err(Error::new(ErrorCode::PartitionNotLoaded, message))
            } else {
                Err(Error::collection_not_loaded(entry.name()))
            }
        })
        .collect()
}

/// What clients call the state of a collection or of partitions; an unknown collection is a state
/// too, not an error.
pub(crate) async fn get_load_state(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetLoadStateRequest,
) -> Result<GetLoadStateResponse> {
    let answer = |state: LoadState| {
        Ok(GetLoadStateResponse {
            status: Some(status::success()),
            state: state.into(),
        })
    };
    name::check_collection(&message.collection_name)?;
    let view = context.view();
    let database = DatabaseId(lookup::database(&view, &meta.database)?.id);
    let Some(entry) = view.collection(database, &message.collection_name) else {
        return answer(LoadState::NotExist);
    };
    match progress(context, &meta, entry, &message.partition_names).await {
        Ok(progress) if progress.percent >= COMPLETE => answer(LoadState::Loaded),
        Ok(_) => answer(LoadState::Loading),
        Err(error) if is_not_loaded(&error) => answer(LoadState::NotLoad),
        Err(error) => Err(error),
    }
}

/// Clients ask in a loop with long pauses, so an answer below 100 waits a little for a better one.
pub(crate) async fn get_loading_progress(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetLoadingProgressRequest,
) -> Result<GetLoadingProgressResponse> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &message.collection_name)?;
    let mut found = progress(context, &meta, &entry, &message.partition_names).await?;
    if found.percent < COMPLETE {
        let done = await_load(context, &meta, &entry, view.revision()).await;
        if done {
            found = progress(context, &meta, &entry, &message.partition_names).await?;
        }
    }
    if found.percent < COMPLETE && !found.fail_reason.is_empty() {
        let (name, reason) = (entry.name(), found.fail_reason);
        return Err(Error::new(
            ErrorCode::SegmentLoadFailed,
            format!(
                "{}[collection={name}]: {reason}",
                ErrorCode::SegmentLoadFailed.text()
            ),
        ));
    }
    Ok(GetLoadingProgressResponse {
        status: Some(status::success()),
        progress: found.percent,
        refresh_progress: found.percent,
    })
}

/// Whether the collection was loaded completely within the poll's time.
async fn await_load(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    revision: Revision,
) -> bool {
    let wait = context
        .options
        .load_poll
        .get()
        .min(meta.deadline.left() / 2);
    let Ok(coord) = context.peers.query_coord() else {
        return false;
    };
    let message = SyncRequest {
        revision: revision.0,
        collection_id: entry.id().0,
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        orders_only: false,
    };
    match redkite_rpc::call(meta.deadline, message, |request| coord.sync(request)).await {
        Ok(answer) => answer.done,
        Err(error) => {
            debug!(%error, "waiting for a load failed");
            false
        }
    }
}
