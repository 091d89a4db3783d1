//! The gRPC side.

use redkite_proto::redkite::datanode::{
    BuildIndexRequest, BuildIndexResponse, CompactRequest, CompactResponse,
    data_node_server::DataNode,
};
use redkite_rpc::RpcError;
use tonic::{Request, Response, Status};

use crate::{build::IndexBuilder, compact::Compactor};

/// A data node's RPCs.
pub struct DataNodeService {
    builder: IndexBuilder,
    compactor: Compactor,
}

impl DataNodeService {
    /// Does its work with these.
    pub fn new(builder: IndexBuilder, compactor: Compactor) -> Self {
        Self { builder, compactor }
    }
}

#[tonic::async_trait]
impl DataNode for DataNodeService {
    async fn build_index(
        &self,
        request: Request<BuildIndexRequest>,
    ) -> Result<Response<BuildIndexResponse>, Status> {
        let built = self
            .builder
            .build(request.into_inner())
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(built))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        let compacted = self
            .compactor
            .compact(request.into_inner())
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(compacted))
    }
}
