//! The gRPC side: checks the message, calls one plain method, converts the answer.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use redkite_proto::redkite::querynode::{
    ChannelStatsRequest, ChannelStatsResponse, FlushRequest, FlushResponse, HoldWritesRequest,
    HoldWritesResponse, QueryRequest, QueryResponse, ReleaseChannelRequest, ReleaseChannelResponse,
    SearchRequest, SearchResponse, SyncChannelRequest, SyncChannelResponse, WriteRequest,
    WriteResponse, query_node_server::QueryNode,
};
use redkite_rpc::RpcError;
use redkite_runtime::Deadline;
use redkite_types::{Outcome, Timestamp};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::{
    channel::{self, SyncTarget},
    deps::{QueryNodeDeps, Shared},
    read,
    registry::Registry,
};

/// How long statistics may wait for writes, where the caller does not say.
const STATS_WITHIN: Duration = Duration::from_secs(5);
/// How long a flush waits for the writes that it must seal.
const GUARANTEE_WITHIN: Duration = Duration::from_secs(30);
/// How long writes are held at most.
const HELD_AT_MOST: Duration = Duration::from_secs(10);

/// The query node's RPCs.
#[derive(Clone)]
pub struct QueryNodeService {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
}

impl QueryNodeService {
    /// A node that owns no channel yet.
    pub fn new(deps: QueryNodeDeps) -> Self {
        let shared = Shared::new(deps);
        Self {
            registry: Arc::new(Registry::new(shared.clone())),
            shared,
        }
    }

    /// Gives every channel up: what is being written is written, and the logs are closed. Rows that
    /// are in no segment yet are replayed from there by the next owner.
    pub async fn close(&self) {
        self.registry.close().await;
    }
}

#[tonic::async_trait]
impl QueryNode for QueryNodeService {
    async fn sync_channel(
        &self,
        request: Request<SyncChannelRequest>,
    ) -> Result<Response<SyncChannelResponse>, Status> {
        let target = SyncTarget::from_request(request.into_inner()).map_err(RpcError::from)?;
        let registry = self.registry.clone();
        // A channel that is being opened must not be left half open when the caller leaves.
        let work = async move { registry.sync(target).await }.in_current_span();
        let synced = self.shared.deps.tasks.detach("sync channel", work).await;
        let progress = synced.map_err(RpcError::from)?.map_err(RpcError::from)?;
        let (revision, partitions) = (progress.synced.0, progress.partitions);
        Ok(Response::new(SyncChannelResponse {
            revision,
            partitions,
        }))
    }

    async fn release_channel(
        &self,
        request: Request<ReleaseChannelRequest>,
    ) -> Result<Response<ReleaseChannelResponse>, Status> {
        let request = request.into_inner();
        let registry = self.registry.clone();
        let work = async move {
            registry
                .release(&request.channel, request.epoch, request.drop)
                .await
        };
        let released = self.shared.deps.tasks.detach("release channel", work).await;
        released.map_err(RpcError::from)?.map_err(RpcError::from)?;
        Ok(Response::new(ReleaseChannelResponse {}))
    }

    async fn write(
        &self,
        request: Request<WriteRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        let request = request.into_inner();
        let refused = |error| RpcError::new(error).with_outcome(Outcome::NotApplied);
        let channel = self.registry.get(&request.channel).map_err(refused)?;
        let has_rows = !request.inserts.is_empty();
        let admitted = self.registry.admit(request.encoded_len(), has_rows);
        let pending = admitted.map_err(refused)?;
        let timestamp = channel.write(request, pending).await?.0;
        Ok(Response::new(WriteResponse { timestamp }))
    }

    async fn search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<SearchResponse>, Status> {
        let request = request.into_inner();
        let channel = self
            .registry
            .get(&request.channel)
            .map_err(RpcError::from)?;
        let answer = Box::pin(read::search(&self.shared.deps, &channel, request)).await;
        Ok(Response::new(answer.map_err(RpcError::from)?))
    }

    async fn query(
        &self,
        request: Request<QueryRequest>,
    ) -> Result<Response<QueryResponse>, Status> {
        let request = request.into_inner();
        let channel = self
            .registry
            .get(&request.channel)
            .map_err(RpcError::from)?;
        let answer = Box::pin(read::query(&self.shared.deps, &channel, request)).await;
        Ok(Response::new(answer.map_err(RpcError::from)?))
    }

    async fn flush(
        &self,
        request: Request<FlushRequest>,
    ) -> Result<Response<FlushResponse>, Status> {
        let request = request.into_inner();
        let channel = self
            .registry
            .get(&request.channel)
            .map_err(RpcError::from)?;
        if request.guarantee_ts != 0 {
            let guarantee = Timestamp(request.guarantee_ts);
            let reached = channel
                .times()
                .wait(guarantee, Deadline::after(GUARANTEE_WITHIN));
            reached.await.map_err(RpcError::from)?;
        }
        let flushed = match request.hold {
            0 => channel.flush(request.wait).await,
            hold => channel.flush_held(request.wait, hold).await,
        };
        let flushed = flushed.map_err(RpcError::from)?;
        let segment_ids = channel::raw_ids(&flushed.segments);
        Ok(Response::new(FlushResponse {
            segment_ids,
            flush_ts: flushed.ts.0,
        }))
    }

    async fn hold_writes(
        &self,
        request: Request<HoldWritesRequest>,
    ) -> Result<Response<HoldWritesResponse>, Status> {
        let request = request.into_inner();
        let channel = self
            .registry
            .get(&request.channel)
            .map_err(RpcError::from)?;
        let limit = Duration::from_millis(request.limit_ms.into()).min(HELD_AT_MOST);
        let held = channel.hold(request.hold, limit).await;
        held.map_err(RpcError::from)?;
        Ok(Response::new(HoldWritesResponse {}))
    }

    async fn channel_stats(
        &self,
        request: Request<ChannelStatsRequest>,
    ) -> Result<Response<ChannelStatsResponse>, Status> {
        let channel = self
            .registry
            .get(&request.get_ref().channel)
            .map_err(RpcError::from)?;
        let guarantee = Timestamp(request.get_ref().guarantee_ts);
        let deadline = redkite_rpc::deadline_of(&request, STATS_WITHIN);
        Ok(Response::new(
            channel
                .stats(guarantee, deadline)
                .await
                .map_err(RpcError::from)?,
        ))
    }
}
