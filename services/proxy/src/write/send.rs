//! Writes to the owners of the channels.

use std::time::Duration;

use futures::future::try_join_all;
use redkite_proto::redkite::querynode::WriteRequest;
use redkite_rpc::RpcError;
use redkite_runtime::{Backoff, Deadline};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Timestamp};

use crate::{context::ProxyContext, lookup};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Sends all writes at once; the latest of their timestamps.
///
/// A write is sent again only when it certainly did not happen, and not when the node says that the
/// client must slow down. When one channel fails, the writes
/// of the others stay: like Milvus, one request is atomic within a channel only.
///
/// # Errors
/// The first channel's error; when its outcome is unknown the message says so.
pub async fn send(
    context: &ProxyContext,
    deadline: Deadline,
    writes: Vec<WriteRequest>,
) -> Result<Timestamp> {
    let calls = writes
        .into_iter()
        .map(|write| send_one(context, deadline, write));
    let times = try_join_all(calls).await?;
    Ok(times.into_iter().max().unwrap_or(Timestamp::ZERO))
}

async fn send_one(
    context: &ProxyContext,
    deadline: Deadline,
    write: WriteRequest,
) -> Result<Timestamp> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let error = match try_send(context, deadline, &write).await {
            Ok(timestamp) => return Ok(timestamp),
            Err(error) => error,
        };
        let pause = backoff.next_delay();
        if !is_certainly_not_applied(&error) || deadline.left() < pause {
            return Err(error.error);
        }
        tokio::time::sleep(pause).await;
    }
}

async fn try_send(
    context: &ProxyContext,
    deadline: Deadline,
    write: &WriteRequest,
) -> Result<Timestamp, RpcError> {
    let view = context.view();
    let entry = lookup::collection_or_id(&view, "", "", CollectionId(write.collection_id).0)?;
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
    let answer = redkite_rpc::call(deadline, write.clone(), |request| node.write(request)).await?;
    Ok(Timestamp(answer.timestamp))
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
    refused || (error.error.retriable && error.not_applied())
}
