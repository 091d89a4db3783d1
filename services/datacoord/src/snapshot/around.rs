//! What snapshots need of the other services.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use redkite_node::Peers;
use redkite_proto::redkite::{
    meta::ChannelOwner,
    proxy,
    querynode::{ChannelStatsRequest, FlushRequest, HoldWritesRequest},
    rootcoord::AllocRequest,
};
use redkite_rpc::call;
use redkite_runtime::Deadline;
use redkite_types::{Result, Revision, Timestamp};
use tracing::warn;

/// How long an allocation may take.
const ALLOC_WITHIN: Duration = Duration::from_secs(5);
/// How long an owner may take to tell how far it has flushed.
const STATS_WITHIN: Duration = Duration::from_secs(2);
/// How long writes may have to wait for all channels to stand still.
const HELD_WITHIN: Duration = Duration::from_secs(5);
/// How long an owner may take to write what it has in memory.
const FLUSH_WITHIN: Duration = Duration::from_secs(600);
/// How long a proxy may take to show a change.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);

/// The other services, as snapshots need them.
///
/// # Correctness
/// An id was never given out before, a timestamp is later than all that were.
#[async_trait]
pub trait SnapshotAround: Send + Sync + 'static {
    /// The first of `count` consecutive ids.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn ids(&self, count: u32) -> Result<i64>;

    /// A new timestamp.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn timestamp(&self) -> Result<Timestamp>;

    /// Up to when every write of a channel is in committed segments: `now`, a timestamp that was
    /// just given out, when there is none that is not.
    ///
    /// # Errors
    /// When the owner does not answer soon.
    async fn flushed(&self, owner: &ChannelOwner, now: Timestamp) -> Result<Timestamp>;

    /// Has a channel's writes wait for a moment; none is on its way when this returns.
    ///
    /// # Errors
    /// Retriable while the owner is away.
    async fn hold(&self, owner: &ChannelOwner, hold: i64) -> Result<()>;

    /// Has exactly what was written before a hold began put into committed segments. Writes go on as
    /// soon as that is sealed.
    ///
    /// # Errors
    /// Code 2 when the hold has ended before; retriable while the owner is away.
    async fn flush_held(&self, owner: &ChannelOwner, hold: i64, now: Timestamp) -> Result<()>;

    /// Waits a little until every proxy shows a revision; one that does not is slow, not wrong.
    async fn show_proxies(&self, revision: Revision);
}

/// The services of a deployment, found through the metadata.
pub struct PeersAround(pub Arc<Peers>);

#[async_trait]
impl SnapshotAround for PeersAround {
    async fn ids(&self, count: u32) -> Result<i64> {
        let root = self.0.root_coord()?;
        let deadline = Deadline::after(ALLOC_WITHIN);
        let message = AllocRequest { count };
        let answer = call(deadline, message, |request| root.alloc_id(request)).await?;
        // Ids fill the positive half of an i64.
        Ok(answer.first as i64)
    }

    async fn timestamp(&self) -> Result<Timestamp> {
        let root = self.0.root_coord()?;
        let deadline = Deadline::after(ALLOC_WITHIN);
        let message = AllocRequest { count: 1 };
        let answer = call(deadline, message, |request| root.alloc_timestamp(request)).await?;
        Ok(Timestamp(answer.first))
    }

    async fn flushed(&self, owner: &ChannelOwner, now: Timestamp) -> Result<Timestamp> {
        let node = self.0.query_node(&owner.address)?;
        let message = ChannelStatsRequest {
            channel: owner.channel.clone(),
            collection_id: owner.collection_id,
            guarantee_ts: now.0,
        };
        let deadline = Deadline::after(STATS_WITHIN);
        let answer = call(deadline, message, |request| node.channel_stats(request)).await?;
        Ok(Timestamp(answer.flushed_ts))
    }

    async fn hold(&self, owner: &ChannelOwner, hold: i64) -> Result<()> {
        let node = self.0.query_node(&owner.address)?;
        let message = HoldWritesRequest {
            channel: owner.channel.clone(),
            collection_id: owner.collection_id,
            hold,
            limit_ms: HELD_WITHIN.as_millis() as u32,
        };
        let deadline = Deadline::after(HELD_WITHIN);
        call(deadline, message, |request| node.hold_writes(request)).await?;
        Ok(())
    }

    async fn flush_held(&self, owner: &ChannelOwner, hold: i64, now: Timestamp) -> Result<()> {
        let node = self.0.query_node(&owner.address)?;
        let message = FlushRequest {
            channel: owner.channel.clone(),
            collection_id: owner.collection_id,
            wait: true,
            guarantee_ts: now.0,
            hold,
        };
        let deadline = Deadline::after(FLUSH_WITHIN);
        call(deadline, message, |request| node.flush(request)).await?;
        Ok(())
    }

    async fn show_proxies(&self, revision: Revision) {
        let calls = self.0.proxies().into_iter().map(|(id, proxy)| async move {
            let message = proxy::SyncRequest {
                revision: revision.0,
            };
            let deadline = Deadline::after(SHOWN_WITHIN);
            if let Err(error) = call(deadline, message, |request| proxy.sync(request)).await {
                warn!(proxy = id, error = %error.error, "a proxy does not show a snapshot yet");
            }
        });
        join_all(calls).await;
    }
}
