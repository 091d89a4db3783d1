//! What compactions need of the other services.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redkite_node::Peers;
use redkite_proto::redkite::{
    datanode::{CompactRequest, CompactResponse},
    meta::ChannelOwner,
    querynode::{ChannelStatsRequest, SegmentStats},
    rootcoord::AllocRequest,
};
use redkite_rpc::{call, status::from_status};
use redkite_runtime::Deadline;
use redkite_types::{Error, ErrorCode, Result};

/// How long an allocation may take.
const ALLOC_WITHIN: Duration = Duration::from_secs(5);
/// How long an owner may take to tell of its segments.
const STATS_WITHIN: Duration = Duration::from_secs(2);

/// The other services, as compactions need them.
///
/// # Correctness
/// An id was never given out before.
#[async_trait]
pub trait Around: Send + Sync + 'static {
    /// The first of `count` consecutive ids.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn ids(&self, count: u32) -> Result<i64>;

    /// Has a data node compact segments. Dropping the future stops it.
    ///
    /// # Errors
    /// Code 1 while no data node is announced; else the data node's.
    async fn compact(&self, request: CompactRequest) -> Result<CompactResponse>;

    /// The segments that an owner serves.
    ///
    /// # Errors
    /// When it does not answer soon.
    async fn segments(&self, owner: &ChannelOwner) -> Result<Vec<SegmentStats>>;
}

/// The services of a deployment, found through the metadata.
pub struct PeersAround(pub Arc<Peers>);

#[async_trait]
impl Around for PeersAround {
    async fn ids(&self, count: u32) -> Result<i64> {
        let root = self.0.root_coord()?;
        let deadline = Deadline::after(ALLOC_WITHIN);
        let message = AllocRequest { count };
        let answer = call(deadline, message, |request| root.alloc_id(request)).await?;
        // Ids fill the positive half of an i64.
        Ok(answer.first as i64)
    }

    async fn compact(&self, request: CompactRequest) -> Result<CompactResponse> {
        let nodes = self.0.data_nodes();
        let count = nodes.len().max(1);
        let chosen = request.plan_id.unsigned_abs() as usize % count;
        let Some((_, node)) = nodes.into_iter().nth(chosen) else {
            return Err(Error::new(
                ErrorCode::ServiceNotReady,
                "service not ready[no datanode is announced]",
            ));
        };
        let answer = node.compact(tonic::Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        Ok(answer.into_inner())
    }

    async fn segments(&self, owner: &ChannelOwner) -> Result<Vec<SegmentStats>> {
        let node = self.0.query_node(&owner.address)?;
        let message = ChannelStatsRequest {
            channel: owner.channel.clone(),
            collection_id: owner.collection_id,
            guarantee_ts: 0,
        };
        let deadline = Deadline::after(STATS_WITHIN);
        let answer = call(deadline, message, |request| node.channel_stats(request)).await?;
        Ok(answer.segments)
    }
}
