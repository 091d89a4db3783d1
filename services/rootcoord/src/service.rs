//! The gRPC side.

use std::sync::Arc;

use redkite_metastore::MetaNode;
use redkite_node::{DiskSpace, DiskUse};
use redkite_proto::redkite::rootcoord::{
    AllocRequest, AllocResponse, ChangeReplicasRequest, ChangeReplicasResponse, DdlRequest,
    DdlResponse, RestoreBundleRequest, RestoreSnapshotRequest, RestoreSnapshotResponse,
    ddl_request::Command, root_coord_server::RootCoord,
};
use redkite_rpc::RpcError;
use redkite_types::{Error, ErrorCode};
use tonic::{Request, Response, Status};

use crate::{
    admin::raft,
    alloc::{IdAllocator, TimestampOracle},
    ddl::DdlGate,
};

/// Timestamps or ids that one call may ask for.
const MAX_ALLOC: u32 = 1 << 20;
/// What a definition takes up on the disk, generously.
const DEFINITION_BYTES: u64 = 64 << 10;

/// The root coordinator's RPCs.
pub struct RootCoordService {
    gate: Arc<DdlGate>,
    ids: Arc<IdAllocator>,
    tso: Arc<TimestampOracle>,
    disk: Arc<DiskSpace>,
    meta: MetaNode,
}

impl RootCoordService {
    /// Answers from a gate and the allocators; `disk` and `meta` are this replica's.
    pub fn new(
        gate: Arc<DdlGate>,
        ids: Arc<IdAllocator>,
        tso: Arc<TimestampOracle>,
        disk: Arc<DiskSpace>,
        meta: MetaNode,
    ) -> Self {
        Self {
            gate,
            ids,
            tso,
            disk,
            meta,
        }
    }
}

/// Whether a command makes something new, which may wait until there is space on the disk. Others
/// change or remove, and may be what makes space.
fn creates(request: &DdlRequest) -> bool {
    matches!(
        request.command,
        Some(
            Command::CreateDatabase(_)
                | Command::CreateCollection(_)
                | Command::CreatePartition(_)
                | Command::CreateAlias(_)
                | Command::CreateIndex(_)
                | Command::CreateUser(_)
                | Command::CreateRole(_)
                | Command::CreatePrivilegeGroup(_)
        )
    )
}

#[tonic::async_trait]
impl RootCoord for RootCoordService {
    async fn submit(&self, request: Request<DdlRequest>) -> Result<Response<DdlResponse>, Status> {
        let request = request.into_inner();
        if creates(&request) {
            self.disk
                .claim(DiskUse::User, DEFINITION_BYTES)
                .map_err(RpcError::from)?;
        }
        let revision = self.gate.submit(request).await.map_err(RpcError::from)?;
        Ok(Response::new(DdlResponse {
            revision: revision.0,
        }))
    }

    async fn restore_snapshot(
        &self,
        request: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        self.disk
            .claim(DiskUse::User, DEFINITION_BYTES)
            .map_err(RpcError::from)?;
        let begun = self.gate.restore(request.into_inner()).await;
        let (job_id, revision) = begun.map_err(RpcError::from)?;
        Ok(Response::new(RestoreSnapshotResponse {
            job_id,
            revision: revision.0,
        }))
    }

    async fn restore_bundle(
        &self,
        request: Request<RestoreBundleRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        self.disk
            .claim(DiskUse::User, DEFINITION_BYTES)
            .map_err(RpcError::from)?;
        let begun = self.gate.restore_bundle(request.into_inner()).await;
        let (job_id, revision) = begun.map_err(RpcError::from)?;
        Ok(Response::new(RestoreSnapshotResponse {
            job_id,
            revision: revision.0,
        }))
    }

    async fn alloc_timestamp(
        &self,
        request: Request<AllocRequest>,
    ) -> Result<Response<AllocResponse>, Status> {
        let count = checked_count(&request)?;
        let first = self.tso.alloc(count).await.map_err(RpcError::from)?;
        // Behind the allocation: a successor that was elected before it has given out later ones.
        let confirmed = self.meta.confirm_lead().await;
        confirmed.map_err(|error| RpcError::from(Error::from_coded(&error)))?;
        Ok(Response::new(AllocResponse {
            first: first.0,
            count,
        }))
    }

    async fn alloc_id(
        &self,
        request: Request<AllocRequest>,
    ) -> Result<Response<AllocResponse>, Status> {
        let count = checked_count(&request)?;
        let first = self.ids.alloc(count).await.map_err(RpcError::from)?;
        Ok(Response::new(AllocResponse {
            first: first.unsigned_abs(),
            count,
        }))
    }

    async fn change_replicas(
        &self,
        request: Request<ChangeReplicasRequest>,
    ) -> Result<Response<ChangeReplicasResponse>, Status> {
        let change = request.into_inner().change.ok_or_else(|| {
            RpcError::from(Error::invalid_parameter("a change without a replica"))
        })?;
        let changed = raft::change(&self.meta, change).await;
        let status = changed.map_err(|error| RpcError::from(Error::from_coded(&error)))?;
        Ok(Response::new(ChangeReplicasResponse {
            status: status.to_string(),
        }))
    }
}

fn checked_count(request: &Request<AllocRequest>) -> Result<u32, Status> {
    match request.get_ref().count {
        count @ 1..=MAX_ALLOC => Ok(count),
        count => Err(RpcError::from(Error::input(
            ErrorCode::InvalidParameter,
            format!("count should be in range [1, {MAX_ALLOC}], but got {count}"),
        ))
        .into()),
    }
}
