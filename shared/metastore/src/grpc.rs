//! The metastore as a gRPC service, over any store.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use redkite_proto::redkite::metastore as pb;
use redkite_runtime::CancellationToken;
use redkite_types::{Revision, Timestamp};
use tonic::{Request, Response, Status};

use crate::kv::SharedKv;
use crate::wire::MESSAGE_BYTES;

/// The generated server around the service.
pub type MetaServer = pb::meta_store_server::MetaStoreServer<MetaService>;

/// Serves a store to the clients of other processes.
#[derive(Clone)]
pub struct MetaService {
    kv: SharedKv,
    stop: CancellationToken,
}

impl MetaService {
    /// The server of a store, ready to be added to a listener.
    pub fn server(kv: SharedKv) -> MetaServer {
        Self::server_until(kv, CancellationToken::new())
    }

    /// [`MetaService::server`] whose watches end with `stop`: they are calls that run for ever, and
    /// a server that stops waits for its calls. Their clients go on elsewhere, or here later.
    pub fn server_until(kv: SharedKv, stop: CancellationToken) -> MetaServer {
        pb::meta_store_server::MetaStoreServer::new(Self { kv, stop })
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl pb::meta_store_server::MetaStore for MetaService {
    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetResponse>, Status> {
        let pair = self.kv.get(&request.get_ref().key).await?;
        Ok(Response::new(pb::GetResponse {
            pair: pair.map(Into::into),
        }))
    }

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let after = (!request.after.is_empty()).then_some(request.after.as_str());
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let page = self.kv.range(&request.prefix, after, limit).await?;
        Ok(Response::new(page.into()))
    }

    async fn get_as_of(
        &self,
        request: Request<pb::GetAsOfRequest>,
    ) -> Result<Response<pb::GetResponse>, Status> {
        let request = request.into_inner();
        let pair = self
            .kv
            .get_as_of(&request.key, Timestamp(request.ts))
            .await?;
        Ok(Response::new(pb::GetResponse {
            pair: pair.map(Into::into),
        }))
    }

    async fn range_as_of(
        &self,
        request: Request<pb::RangeAsOfRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let range = request.range.unwrap_or_default();
        let after = (!range.after.is_empty()).then_some(range.after.as_str());
        let limit = usize::try_from(range.limit).unwrap_or(usize::MAX);
        let ts = Timestamp(request.ts);
        let page = self.kv.range_as_of(&range.prefix, after, limit, ts).await?;
        Ok(Response::new(page.into()))
    }

    async fn prune_history(
        &self,
        request: Request<pb::PruneHistoryRequest>,
    ) -> Result<Response<pb::PruneHistoryResponse>, Status> {
        let before = Timestamp(request.get_ref().before);
        let versions = self.kv.prune_history(before).await?;
        Ok(Response::new(pb::PruneHistoryResponse { versions }))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let outcome = self.kv.txn(request.into_inner().try_into()?).await?;
        Ok(Response::new(outcome.into()))
    }

    type WatchStream = BoxStream<'static, Result<pb::WatchBatch, Status>>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let changes = self
            .kv
            .watch(&request.prefix, Revision(request.after))
            .await?;
        let changes = changes
            .map(|item| item.map(Into::into).map_err(Into::into))
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(changes.boxed()))
    }

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let ttl = Duration::from_millis(request.get_ref().ttl_ms);
        let lease = self.kv.lease_grant(ttl).await?;
        Ok(Response::new(pb::LeaseGrantResponse { lease }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<pb::LeaseKeepAliveRequest>,
    ) -> Result<Response<pb::LeaseKeepAliveResponse>, Status> {
        self.kv.lease_keep_alive(request.get_ref().lease).await?;
        Ok(Response::new(pb::LeaseKeepAliveResponse {}))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.kv.lease_revoke(request.get_ref().lease).await?;
        Ok(Response::new(pb::LeaseRevokeResponse {}))
    }
}
