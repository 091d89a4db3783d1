//! Calls to the owners of a collection's channels.

use std::{future::Future, sync::Arc};

use futures::future;
use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::{meta::ChannelOwner, querynode::query_node_server::QueryNode};
use redkite_rpc::RpcError;
use redkite_runtime::Deadline;
use redkite_types::{Error, ErrorCode, Result};

use crate::{context::ProxyContext, lookup};

/// Calls the owner of each channel at once and collects the answers in the channels' order.
///
/// While a channel has no owner, or its owner is going, the call is made again with whoever owns
/// it then, until the deadline. So `call` must bear to be made twice.
///
/// # Errors
/// The first error that is not worth a retry, or the last one when the time is over.
pub async fn call_owners<T, F, Call>(
    context: &ProxyContext,
    deadline: Deadline,
    collection: &CollectionEntry,
    call: F,
) -> Result<Vec<(Arc<ChannelOwner>, T)>>
where
    F: Fn(Arc<dyn QueryNode>, String) -> Call,
    Call: Future<Output = Result<T, RpcError>>,
{
    if let [channel] = collection.channels() {
        let answer = call_owner(context, deadline, collection, channel, &call).await?;
        return Ok(vec![answer]);
    }
    let calls = collection
        .channels()
        .iter()
        .map(|channel| call_owner(context, deadline, collection, channel, &call));
    future::try_join_all(calls).await
}

async fn call_owner<T, F, Call>(
    context: &ProxyContext,
    deadline: Deadline,
    collection: &CollectionEntry,
    channel: &str,
    call: &F,
) -> Result<(Arc<ChannelOwner>, T)>
where
    F: Fn(Arc<dyn QueryNode>, String) -> Call,
    Call: Future<Output = Result<T, RpcError>>,
{
    let mut patience = context.patience(deadline);
    // Who owned it a moment ago most likely does.
    let mut owner = owner_in(collection, channel);
    loop {
        let error = match call_at(context, owner, channel, call).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if !error.retriable || !patience.another_try().await {
            return Err(error);
        }
        // A collection that was dropped meanwhile gets no owner any more: say so at once.
        let now = lookup::collection_or_id(&context.view(), "", "", collection.id().0)?;
        owner = owner_in(&now, channel);
    }
}

async fn call_at<T, F, Call>(
    context: &ProxyContext,
    owner: Result<Arc<ChannelOwner>>,
    channel: &str,
    call: &F,
) -> Result<(Arc<ChannelOwner>, T)>
where
    F: Fn(Arc<dyn QueryNode>, String) -> Call,
    Call: Future<Output = Result<T, RpcError>>,
{
    let owner = owner?;
    let node = context.peers.query_node(&owner.address)?;
    Ok((owner, call(node, channel.to_owned()).await?))
}

fn owner_in(collection: &CollectionEntry, channel: &str) -> Result<Arc<ChannelOwner>> {
    let owner = collection.owners.get(channel).cloned();
    owner.ok_or_else(|| {
        Error::new(
            ErrorCode::ChannelNotAvailable,
            format!("channel not available[channel={channel}][it has no owner yet]"),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redkite_proto::redkite::querynode::{ChannelStatsRequest, ChannelStatsResponse};
    use redkite_types::DatabaseId;

    use super::*;
    use crate::testing::{COLLECTION, Fixture};

    async fn stats(
        fixture: &Fixture,
        within: Duration,
    ) -> Result<Vec<(Arc<ChannelOwner>, ChannelStatsResponse)>> {
        let deadline = Deadline::after(within);
        let view = fixture.context.view();
        let entry = view.collection(DatabaseId::DEFAULT, COLLECTION).unwrap();
        call_owners(
            &fixture.context,
            deadline,
            entry,
            |node, channel| async move {
                let message = ChannelStatsRequest {
                    channel,
                    collection_id: 0,
                    guarantee_ts: 0,
                };
                redkite_rpc::call(deadline, message, |request| node.channel_stats(request)).await
            },
        )
        .await
    }

    #[tokio::test]
    async fn a_channel_is_asked_for_until_somebody_owns_it() {
        let fixture = Fixture::with_collection().await;
        fixture.disown().await;
        let asked = stats(&fixture, Duration::from_secs(20));
        let (asked, ()) = future::join(asked, fixture.own()).await;
        assert_eq!(asked.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn the_last_error_is_the_answer_when_the_time_is_over() {
        let fixture = Fixture::with_collection().await;
        fixture.disown().await;
        let error = stats(&fixture, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ChannelNotAvailable);
    }
}
