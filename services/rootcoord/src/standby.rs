//! A root coordinator's address before it leads, and while another one does.

use std::sync::{Arc, OnceLock};

use redkite_proto::redkite::rootcoord::{
    AllocRequest, AllocResponse, ChangeReplicasRequest, ChangeReplicasResponse, DdlRequest,
    DdlResponse, RestoreBundleRequest, RestoreSnapshotRequest, RestoreSnapshotResponse,
    root_coord_server::RootCoord,
};
use redkite_rpc::RpcError;
use redkite_types::{Error, ErrorCode};
use tonic::{Request, Response, Status};

use crate::RootCoordService;

/// Answers from the service once this replica leads; until then with code 1: ask whoever is
/// announced.
#[derive(Default)]
pub struct Standby {
    active: OnceLock<Arc<RootCoordService>>,
}

impl Standby {
    /// Lets the service answer from now on.
    pub(crate) fn activate(&self, service: RootCoordService) {
        // A process leads once: it ends when it has lost the lead.
        let _ = self.active.set(Arc::new(service));
    }

    fn active(&self) -> Result<&RootCoordService, Status> {
        let active = self.active.get().map(AsRef::as_ref);
        active.ok_or_else(|| {
            RpcError::from(Error::new(
                ErrorCode::ServiceNotReady,
                "service not ready[this root coordinator stands by]",
            ))
            .into()
        })
    }
}

#[tonic::async_trait]
impl RootCoord for Standby {
    async fn submit(&self, request: Request<DdlRequest>) -> Result<Response<DdlResponse>, Status> {
        self.active()?.submit(request).await
    }

    async fn restore_bundle(
        &self,
        request: Request<RestoreBundleRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        self.active()?.restore_bundle(request).await
    }

    async fn restore_snapshot(
        &self,
        request: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        self.active()?.restore_snapshot(request).await
    }

    async fn alloc_timestamp(
        &self,
        request: Request<AllocRequest>,
    ) -> Result<Response<AllocResponse>, Status> {
        self.active()?.alloc_timestamp(request).await
    }

    async fn alloc_id(
        &self,
        request: Request<AllocRequest>,
    ) -> Result<Response<AllocResponse>, Status> {
        self.active()?.alloc_id(request).await
    }

    async fn change_replicas(
        &self,
        request: Request<ChangeReplicasRequest>,
    ) -> Result<Response<ChangeReplicasResponse>, Status> {
        self.active()?.change_replicas(request).await
    }
}
