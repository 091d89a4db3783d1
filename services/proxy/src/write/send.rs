//! Writes to the owners of the channels.

use futures::future::try_join_all;
use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::{meta::ObjectState, querynode::WriteRequest};
use redkite_rpc::RpcError;
use redkite_runtime::Deadline;
use redkite_types::{CollectionId, Error, ErrorCode, PartitionId, Result, Timestamp};

use crate::{context::ProxyContext, lookup};

/// Sends all writes at once; the latest of their timestamps.
///
/// A write is sent again only when it certainly did not happen, and not when the node says that the
/// client must slow down. `planned` is the collection as the writes were made: where a partition has
/// given its name to another one since, that one is written to. When one channel fails, the writes
/// of the others stay: like Milvus, one request is atomic within a channel only.
///
/// # Errors
/// The first channel's error; when its outcome is unknown the message says so. Code 200 for a
/// partition that was dropped.
pub async fn send(
    context: &ProxyContext,
    deadline: Deadline,
    planned: &CollectionEntry,
    writes: Vec<WriteRequest>,
) -> Result<Timestamp> {
    let calls = writes
        .into_iter()
        .map(|write| send_one(context, deadline, planned, write));
    let times = try_join_all(calls).await?;
    Ok(times.into_iter().max().unwrap_or(Timestamp::ZERO))
}

async fn send_one(
    context: &ProxyContext,
    deadline: Deadline,
    planned: &CollectionEntry,
    write: WriteRequest,
) -> Result<Timestamp> {
    let mut patience = context.patience(deadline);
    loop {
        let error = match try_send(context, deadline, planned, &write).await {
            Ok(timestamp) => return Ok(timestamp),
            Err(error) => error,
        };
        if !is_certainly_not_applied(&error) || !patience.another_try().await {
            return Err(error.error);
        }
    }
}

async fn try_send(
    context: &ProxyContext,
    deadline: Deadline,
    planned: &CollectionEntry,
    write: &WriteRequest,
) -> Result<Timestamp, RpcError> {
    let view = context.view();
    let entry = lookup::collection_or_id(&view, "", "", CollectionId(write.collection_id).0)?;
    let mut write = write.clone();
    follow_names(planned, &entry, &mut write)?;
    let owner = entry.owners.get(&write.channel).ok_or_else(|| {
        Error::new(
            ErrorCode::ChannelNotAvailable,
            format!(
                "channel not available[channel={}][it has no owner yet]",
                write.channel
            ),
        )
    })?;
    let node = context.peers.query_node(&owner.address)?;
    let answer = redkite_rpc::call(deadline, write, |request| node.write(request)).await?;
    Ok(Timestamp(answer.timestamp))
}

/// Puts the partitions of today in the place of those that have been truncated since: they have
/// their names.
fn follow_names(
    planned: &CollectionEntry,
    now: &CollectionEntry,
    write: &mut WriteRequest,
) -> Result<()> {
    let inserts = write.inserts.iter_mut();
    let inserts = inserts.map(|rows| &mut rows.partition_id);
    for id in inserts.chain(&mut write.delete_partitions) {
        let found = now.partitions.get(&PartitionId(*id));
        if found.is_some_and(|found| found.state() == ObjectState::Created) {
            continue;
        }
        let was = planned.partitions.get(&PartitionId(*id));
        let was = was.ok_or_else(|| Error::partition_not_found(&id.to_string()))?;
        let heir = now.partition(&was.name);
        let heir = heir.ok_or_else(|| Error::partition_not_found(&was.name))?;
        *id = heir.id;
    }
    Ok(())
}

/// Whether sending the write again cannot write it twice, and is for us to do.
///
/// Not where memory is full: the client has to slow down, and meanwhile its rows are to be in its
/// memory, not in ours.
fn is_certainly_not_applied(error: &RpcError) -> bool {
    if error.error.code == ErrorCode::RateLimit {
        return false;
    }
    let refused = matches!(
        error.error.code,
        ErrorCode::ChannelNotAvailable | ErrorCode::ChannelNotFound | ErrorCode::ChannelMisrouted
    );
    // The node knows of a truncation or a drop that our view is going to show.
    let gone = error.error.code == ErrorCode::PartitionNotFound && error.not_applied();
    refused || gone || (error.error.retriable && error.not_applied())
}
