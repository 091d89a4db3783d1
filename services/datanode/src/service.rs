//! The gRPC side.

use redkite_proto::redkite::datanode::{
    BuildIndexRequest, BuildIndexResponse, BuildProgressRequest, BuildProgressResponse,
    CompactRequest, CompactResponse, CopyFilesRequest, CopyFilesResponse, CountRowsRequest,
    CountRowsResponse, ExportPartRequest, ExportPartResponse, FinishBundleRequest,
    FinishBundleResponse, FinishExportRequest, FinishExportResponse, OpenBundleRequest,
    OpenBundleResponse, ReadBundleRequest, ReadBundleResponse, RemoveBundleRequest,
    RemoveBundleResponse, RemoveExportRequest, RemoveExportResponse, data_node_server::DataNode,
};
use redkite_rpc::RpcError;
use tonic::{Request, Response, Status};

use crate::{build::IndexBuilder, bundle::Bundler, compact::Compactor, export::Exporter};

/// A data node's RPCs.
pub struct DataNodeService {
    builder: IndexBuilder,
    compactor: Compactor,
    exporter: Exporter,
    bundler: Bundler,
}

impl DataNodeService {
    /// Does its work with these.
    pub fn new(
        builder: IndexBuilder,
        compactor: Compactor,
        exporter: Exporter,
        bundler: Bundler,
    ) -> Self {
        Self {
            builder,
            compactor,
            exporter,
            bundler,
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

    async fn build_progress(
        &self,
        request: Request<BuildProgressRequest>,
    ) -> Result<Response<BuildProgressResponse>, Status> {
        let builds = self.builder.progress(&request.get_ref().build_ids);
        Ok(Response::new(BuildProgressResponse { builds }))
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

    async fn open_bundle(
        &self,
        request: Request<OpenBundleRequest>,
    ) -> Result<Response<OpenBundleResponse>, Status> {
        let done = self.bundler.open(request.into_inner()).await;
        Ok(Response::new(done.map_err(RpcError::from)?))
    }

    async fn copy_files(
        &self,
        request: Request<CopyFilesRequest>,
    ) -> Result<Response<CopyFilesResponse>, Status> {
        let done = self.bundler.copy(request.into_inner()).await;
        Ok(Response::new(done.map_err(RpcError::from)?))
    }

    async fn finish_bundle(
        &self,
        request: Request<FinishBundleRequest>,
    ) -> Result<Response<FinishBundleResponse>, Status> {
        let done = self.bundler.finish(request.into_inner()).await;
        Ok(Response::new(done.map_err(RpcError::from)?))
    }

    async fn remove_bundle(
        &self,
        request: Request<RemoveBundleRequest>,
    ) -> Result<Response<RemoveBundleResponse>, Status> {
        let done = self.bundler.remove(request.into_inner()).await;
        Ok(Response::new(done.map_err(RpcError::from)?))
    }

    async fn read_bundle(
        &self,
        request: Request<ReadBundleRequest>,
    ) -> Result<Response<ReadBundleResponse>, Status> {
        let done = self.bundler.read(request.into_inner()).await;
        Ok(Response::new(done.map_err(RpcError::from)?))
    }

    async fn count_rows(
        &self,
        request: Request<CountRowsRequest>,
    ) -> Result<Response<CountRowsResponse>, Status> {
        let counted = self.exporter.count(request.into_inner()).await;
        Ok(Response::new(counted.map_err(RpcError::from)?))
    }
}
