//! The gRPC side.

use redkite_proto::redkite::datanode::{
    BuildIndexRequest, BuildIndexResponse, CompactRequest, CompactResponse, ExportPartRequest,
    ExportPartResponse, FinishExportRequest, FinishExportResponse, RemoveExportRequest,
    RemoveExportResponse, data_node_server::DataNode,
};
use redkite_rpc::RpcError;
use tonic::{Request, Response, Status};

use crate::{build::IndexBuilder, compact::Compactor, export::Exporter};

/// A data node's RPCs.
pub struct DataNodeService {
    builder: IndexBuilder,
    compactor: Compactor,
    exporter: Exporter,
}

impl DataNodeService {
    /// Does its work with these.
    pub fn new(builder: IndexBuilder, compactor: Compactor, exporter: Exporter) -> Self {
        Self {
            builder,
            compactor,
            exporter,
        }
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

    async fn export_part(
        &self,
        request: Request<ExportPartRequest>,
    ) -> Result<Response<ExportPartResponse>, Status> {
        let part = self.exporter.part(request.into_inner()).await;
        Ok(Response::new(part.map_err(RpcError::from)?))
    }

    async fn finish_export(
        &self,
        request: Request<FinishExportRequest>,
    ) -> Result<Response<FinishExportResponse>, Status> {
        let finished = self.exporter.finish(request.into_inner()).await;
        Ok(Response::new(finished.map_err(RpcError::from)?))
    }

    async fn remove_export(
        &self,
        request: Request<RemoveExportRequest>,
    ) -> Result<Response<RemoveExportResponse>, Status> {
        let removed = self.exporter.remove(request.into_inner()).await;
        Ok(Response::new(removed.map_err(RpcError::from)?))
    }
}
