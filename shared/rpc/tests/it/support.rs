//! A coordinator that does as its requests say, on a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use redkite_config::{ByteSize, HumanDuration};
use redkite_proto::redkite::datacoord::data_coord_server::{DataCoord, DataCoordServer};
use redkite_proto::redkite::datacoord::{
    AttachSnapshotRequest, AttachSnapshotResponse, CommitFlushRequest, CommitFlushResponse,
    CompactRequest, CompactResponse, CopyBundleRequest, CopyBundleResponse, CreateExportRequest,
    CreateExportResponse, CreateSnapshotRequest, CreateSnapshotResponse, DescribeIndexesRequest,
    DescribeIndexesResponse, DropDataRequest, DropDataResponse, DropExportRequest,
    DropExportResponse, DropSnapshotRequest, DropSnapshotResponse, ExportSnapshotRequest,
    ExportSnapshotResponse, IndexProgress, ListCompactionsRequest, ListCompactionsResponse,
    ListExportsRequest, ListExportsResponse, PinSnapshotRequest, PinSnapshotResponse,
    ReadBundleRequest, ReadBundleResponse, ReadSnapshotRequest, ReadSnapshotResponse, SyncRequest,
    SyncResponse, UnpinSnapshotRequest, UnpinSnapshotResponse,
};
use redkite_rpc::{Admit, RpcError, RpcOptions, ServerBuilder, limit_messages};
use redkite_runtime::{Deadline, Health, OnFailure, TaskGroup};
use redkite_types::{Error, ErrorCode, Outcome};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tonic::{Request, Response, Status};

/// Messages above this are refused.
pub(crate) const LIMIT: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Coord {
    pub(crate) calls: AtomicUsize,
    /// Calls of `sync` with revision 1 wait for a permit.
    pub(crate) gate: Semaphore,
    pub(crate) entered: Notify,
    pub(crate) trace: parking_lot::Mutex<Option<String>>,
}

impl Default for Coord {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            entered: Notify::new(),
            trace: parking_lot::Mutex::default(),
        }
    }
}

#[tonic::async_trait]
impl DataCoord for Coord {
    async fn commit_flush(
        &self,
        request: Request<CommitFlushRequest>,
    ) -> Result<Response<CommitFlushResponse>, Status> {
        let channel = request.into_inner().channel;
        if channel.is_empty() {
            panic!("no channel");
        }
        let revision = channel.len() as u64;
        Ok(Response::new(CommitFlushResponse { revision }))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.trace.lock() = redkite_telemetry::trace::trace_id(&tracing::Span::current());
        if request.into_inner().revision == 1 {
            self.entered.notify_one();
            self.gate.acquire().await.unwrap().forget();
        }
        Ok(Response::new(SyncResponse {}))
    }

    async fn drop_data(
        &self,
        request: Request<DropDataRequest>,
    ) -> Result<Response<DropDataResponse>, Status> {
        Err(refusal(request.into_inner().collection_id).into())
    }

    async fn describe_indexes(
        &self,
        request: Request<DescribeIndexesRequest>,
    ) -> Result<Response<DescribeIndexesResponse>, Status> {
        let length = usize::try_from(request.into_inner().collection_id).unwrap();
        let index = IndexProgress {
            fail_reason: "x".repeat(length),
            ..IndexProgress::default()
        };
        Ok(Response::new(DescribeIndexesResponse {
            indexes: vec![index],
        }))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        Err(refusal(request.into_inner().collection_id).into())
    }

    async fn list_compactions(
        &self,
        request: Request<ListCompactionsRequest>,
    ) -> Result<Response<ListCompactionsResponse>, Status> {
        Err(refusal(request.into_inner().collection_id).into())
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn drop_snapshot(
        &self,
        _: Request<DropSnapshotRequest>,
    ) -> Result<Response<DropSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn pin_snapshot(
        &self,
        _: Request<PinSnapshotRequest>,
    ) -> Result<Response<PinSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn unpin_snapshot(
        &self,
        _: Request<UnpinSnapshotRequest>,
    ) -> Result<Response<UnpinSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn read_snapshot(
        &self,
        _: Request<ReadSnapshotRequest>,
    ) -> Result<Response<ReadSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn attach_snapshot(
        &self,
        _: Request<AttachSnapshotRequest>,
    ) -> Result<Response<AttachSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn export_snapshot(
        &self,
        _: Request<ExportSnapshotRequest>,
    ) -> Result<Response<ExportSnapshotResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn read_bundle(
        &self,
        _: Request<ReadBundleRequest>,
    ) -> Result<Response<ReadBundleResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn copy_bundle(
        &self,
        _: Request<CopyBundleRequest>,
    ) -> Result<Response<CopyBundleResponse>, Status> {
        Err(Status::unimplemented("not by the fake"))
    }

    async fn create_export(
        &self,
        _: Request<CreateExportRequest>,
    ) -> Result<Response<CreateExportResponse>, Status> {
        Err(refusal(0).into())
    }

    async fn list_exports(
        &self,
        _: Request<ListExportsRequest>,
    ) -> Result<Response<ListExportsResponse>, Status> {
        Err(refusal(0).into())
    }

    async fn drop_export(
        &self,
        _: Request<DropExportRequest>,
    ) -> Result<Response<DropExportResponse>, Status> {
        Err(refusal(0).into())
    }
}

/// What `drop_data` answers.
pub(crate) fn refusal(collection_id: i64) -> RpcError {
    let message = format!("not the leader for collection {collection_id}");
    RpcError::new(Error::new(ErrorCode::ServiceNotReady, message))
        .with_outcome(Outcome::NotApplied)
        .with_leader_hint("10.0.0.9:1")
        .with_retry_after(Duration::from_millis(7))
}

pub(crate) fn options() -> RpcOptions {
    RpcOptions {
        max_message_size: ByteSize(LIMIT as u64),
        drain_limit: HumanDuration::secs(20),
        ..RpcOptions::default()
    }
}

/// For callers that may send and take anything, as Milvus's SDKs do.
pub(crate) fn unlimited() -> RpcOptions {
    RpcOptions {
        max_message_size: ByteSize::gib(1),
        ..RpcOptions::default()
    }
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) coord: Arc<Coord>,
    pub(crate) health: Health,
    pub(crate) group: TaskGroup,
}

/// A server on a free port.
pub(crate) async fn start(options: RpcOptions) -> Running {
    start_if(options, Arc::new(|| std::future::ready(true).boxed())).await
}

/// A server on a free port that answers while it may.
pub(crate) async fn start_if(options: RpcOptions, admit: Admit) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let coord = Arc::new(Coord::default());
    let health = Health::new();
    let group = TaskGroup::new("server");
    let builder = ServerBuilder::new(options, health.clone()).only_if(admit);
    let service = DataCoordServer::from_arc(Arc::clone(&coord));
    let service = limit_messages!(service, builder.max_message_size());
    let serving = builder.add_service(service).serve(listener, group.token());
    group.spawn("grpc", OnFailure::Shutdown, serving);
    Running {
        address,
        coord,
        health,
        group,
    }
}
