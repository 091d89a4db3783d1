//! Flushing: from growing segments into files.
//!
//! A flush answers once the rows are in committed segments, so that the state which clients ask
//! for afterwards is "flushed" at the first time of asking.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redkite_catalog::{CatalogView, CollectionEntry};
use redkite_proto::{
    milvus::{
        milvus::{
            FlushAllRequest, FlushAllResponse, FlushRequest, FlushResponse,
            GetFlushAllStateRequest, GetFlushAllStateResponse, GetFlushStateRequest,
            GetFlushStateResponse,
        },
        schema::LongArray,
    },
    redkite::{meta::ObjectState, querynode},
    status,
};
use redkite_runtime::Clock as _;
use redkite_types::{CollectionId, DatabaseId, Result, SegmentId};
use tracing::debug;

use super::{server, stats};
use crate::{
    context::{ProxyContext, RequestContext},
    lookup, owners,
};

/// Collections that `FlushAll` flushes at a time.
const AT_A_TIME: usize = 8;
/// How long an answer waits for this proxy's view to show the new segments.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// What one flush of a collection did.
struct Flushed {
    /// Segments that hold what it sealed.
    segments: Vec<i64>,
    /// Every write of every channel up to this timestamp is in files.
    timestamp: u64,
}

pub(crate) async fn flush(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: FlushRequest,
) -> Result<FlushResponse> {
    let view = context.view();
    let entries = message
        .collection_names
        .iter()
        .map(|name| Ok((name, lookup::collection(&view, &meta.database, name)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut response = FlushResponse {
        status: Some(status::success()),
        db_name: meta.database.clone(),
        ..FlushResponse::default()
    };
    for (name, entry) in entries {
        let flushed = flush_collection(context, &meta, &entry).await?;
        // Clients look their collections up by the name that they used.
        let name = || name.clone();
        let earlier = entry.segments.keys().map(|segment| segment.0).collect();
        response.coll_seg_i_ds.insert(
            name(),
            LongArray {
                data: flushed.segments,
            },
        );
        response
            .flush_coll_seg_i_ds
            .insert(name(), LongArray { data: earlier });
        response.coll_flush_ts.insert(name(), flushed.timestamp);
        let seconds = redkite_runtime::SystemClock.unix_millis() / 1_000;
        response.coll_seal_times.insert(name(), seconds as i64);
    }
    Ok(response)
}

/// Flushes the channels of a collection and waits until this proxy sees what came of it.
async fn flush_collection(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
) -> Result<Flushed> {
    let (deadline, collection_id) = (meta.deadline, entry.id().0);
    let answers = owners::call_owners(context, deadline, entry, |node, channel| async move {
        let message = querynode::FlushRequest {
            channel,
            collection_id,
            wait: true,
            guarantee_ts: 0,
            hold: 0,
        };
        redkite_rpc::call(deadline, message, |request| node.flush(request)).await
    })
    .await?;
    let timestamp = answers
        .iter()
        .map(|(_, answer)| answer.flush_ts)
        .min()
        .unwrap_or(0);
    let segments: Vec<i64> = answers
        .into_iter()
        .flat_map(|(_, answer)| answer.segment_ids)
        .collect();
    await_segments(context, meta, entry.id(), &segments).await;
    Ok(Flushed {
        segments,
        timestamp,
    })
}

/// Waits, not for ever, until the view shows the segments.
async fn await_segments(
    context: &ProxyContext,
    meta: &RequestContext,
    collection: CollectionId,
    segments: &[i64],
) {
    let seen = || {
        let view = context.view();
        view.collection_by_id(collection)
            .is_none_or(|entry| segments.iter().all(|segment| is_flushed(entry, *segment)))
    };
    let mut revisions = context.catalog.subscribe();
    let all_seen = revisions.wait_for(|_| seen());
    if meta
        .deadline
        .at_most(SEEN_WITHIN)
        .timeout("segments", all_seen)
        .await
        .is_err()
    {
        debug!(%collection, ?segments, "flushed segments are not seen yet");
    }
}

/// Whether a segment is in files, or was and has been compacted.
fn is_flushed(entry: &CollectionEntry, segment: i64) -> bool {
    let is_source = || {
        let mut plans = entry.compactions.values();
        plans.any(|plan| plan.sources.contains(&segment))
    };
    entry.segments.contains_key(&SegmentId(segment)) || is_source()
}

pub(crate) async fn get_flush_state(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetFlushStateRequest,
) -> Result<GetFlushStateResponse> {
    let view = context.view();
    let entries = if message.collection_name.is_empty() {
        holders(&view, &message.segment_i_ds)
    } else {
        vec![lookup::collection(
            &view,
            &meta.database,
            &message.collection_name,
        )?]
    };
    let mut flushed = true;
    for entry in entries {
        // One that is neither in files nor growing is gone: compacted or dropped.
        let missing: BTreeSet<i64> = message
            .segment_i_ds
            .iter()
            .copied()
            .filter(|segment| !is_flushed(&entry, *segment))
            .collect();
        flushed &= missing.is_empty() || !is_growing(context, &meta, &entry, &missing).await?;
    }
    Ok(GetFlushStateResponse {
        status: Some(status::success()),
        flushed,
    })
}

/// The collections that may hold segments of which only the ids are known.
fn holders(view: &CatalogView, segments: &[i64]) -> Vec<Arc<CollectionEntry>> {
    let all_flushed = segments.iter().all(|segment| {
        view.all_collections()
            .any(|entry| is_flushed(entry, *segment))
    });
    if all_flushed {
        return Vec::new();
    }
    let visible = view
        .all_collections()
        .filter(|entry| entry.state() == ObjectState::Created);
    visible.cloned().collect()
}

async fn is_growing(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    segments: &BTreeSet<i64>,
) -> Result<bool> {
    let stats = stats::channel_stats(context, meta, entry).await?;
    Ok(stats
        .iter()
        .flat_map(|(_, stats)| &stats.segments)
        .any(|segment| segment.growing && segments.contains(&segment.segment_id)))
}

/// Flushes every collection of the named database, or of all where none is named.
pub(crate) async fn flush_all(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: FlushAllRequest,
) -> Result<FlushAllResponse> {
    let entries = in_scope(&context.view(), &message.db_name)?;
    let timestamp = server::now(context, &meta).await?;
    stream::iter(entries)
        .map(|entry| {
            let (context, meta) = (context.clone(), meta.clone());
            async move {
                let flushed = flush_collection(&context, &meta, &entry).await;
                // A collection that was dropped meanwhile has nothing to flush any more.
                flushed.map(|_| ()).or_else(|error| {
                    if lookup::is_absent(&error) {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })
            }
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect::<()>()
        .await?;
    {
        let mut flushed_all = context.flushed_all.lock();
        let reached = flushed_all.entry(message.db_name).or_default();
        *reached = timestamp.max(*reached);
    }
    Ok(FlushAllResponse {
        status: Some(status::success()),
        flush_all_ts: timestamp,
        ..FlushAllResponse::default()
    })
}

fn in_scope(view: &CatalogView, database: &str) -> Result<Vec<Arc<CollectionEntry>>> {
    if database.is_empty() {
        let databases = view.databases();
        return Ok(databases
            .flat_map(|database| view.collections(DatabaseId(database.id)))
            .cloned()
            .collect());
    }
    let id = DatabaseId(lookup::database(view, database)?.id);
    Ok(view.collections(id).cloned().collect())
}

/// Flushed when a `FlushAll` of this proxy reached the timestamp, or every channel's files do, or
/// nothing is growing at all.
pub(crate) async fn get_flush_all_state(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetFlushAllStateRequest,
) -> Result<GetFlushAllStateResponse> {
    let wanted = message.flush_all_ts;
    let mut flushed = true;
    if wanted > flushed_up_to(context, &message.db_name) {
        for entry in in_scope(&context.view(), &message.db_name)? {
            flushed &= reached(&entry, wanted) || nothing_grows(context, &meta, &entry).await?;
        }
    }
    Ok(GetFlushAllStateResponse {
        status: Some(status::success()),
        flushed,
        ..GetFlushAllStateResponse::default()
    })
}

/// How far this proxy has flushed a database, or all of them where none is named.
fn flushed_up_to(context: &ProxyContext, database: &str) -> u64 {
    let flushed_all = context.flushed_all.lock();
    let reached = |name: &str| flushed_all.get(name).copied().unwrap_or(0);
    reached(database).max(reached(""))
}

fn reached(entry: &CollectionEntry, timestamp: u64) -> bool {
    entry.channels().iter().all(|channel| {
        entry
            .checkpoints
            .get(channel)
            .is_some_and(|checkpoint| checkpoint.ts >= timestamp)
    })
}

async fn nothing_grows(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
) -> Result<bool> {
    let stats = stats::channel_stats(context, meta, entry).await?;
    Ok(stats
        .iter()
        .flat_map(|(_, stats)| &stats.segments)
        .all(|segment| !segment.growing || segment.rows == 0))
}
