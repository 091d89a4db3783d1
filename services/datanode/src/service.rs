//! The gRPC side.

use redkite_proto::redkite::datanode::{
    BuildIndexRequest, BuildIndexResponse, data_node_server::DataNode,
};
use redkite_rpc::RpcError;
use tonic::{Request, Response, Status};

use crate::build::IndexBuilder;

/// A data node's RPCs.
pub struct DataNodeService {
    builder: IndexBuilder,
}

impl DataNodeService {
    /// Does its work with a builder.
    pub fn new(builder: IndexBuilder) -> Self {
        Self { builder }
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
}
