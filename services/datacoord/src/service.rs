//! The gRPC side.

use std::{sync::Arc, time::Duration};

use redkite_metastore::SharedKv;
use redkite_proto::redkite::datacoord::{
    AttachSnapshotRequest, AttachSnapshotResponse, CommitFlushRequest, CommitFlushResponse,
    CompactRequest, CompactResponse, CopyBundleRequest, CopyBundleResponse, CreateExportRequest,
    CreateExportResponse, CreateSnapshotRequest, CreateSnapshotResponse, DescribeIndexesRequest,
    DescribeIndexesResponse, DropDataRequest, DropDataResponse, DropExportRequest,
    DropExportResponse, DropSnapshotRequest, DropSnapshotResponse, ExportSnapshotRequest,
    ExportSnapshotResponse, ListCompactionsRequest, ListCompactionsResponse, ListExportsRequest,
    ListExportsResponse, PinSnapshotRequest, PinSnapshotResponse, ReadBundleRequest,
    ReadBundleResponse, ReadSnapshotRequest, ReadSnapshotResponse, SyncRequest, SyncResponse,
    UnpinSnapshotRequest, UnpinSnapshotResponse, data_coord_server::DataCoord,
};
use redkite_rpc::{RpcError, deadline_of};
use redkite_runtime::{Clock as _, Deadline, SystemClock};
use redkite_types::{CollectionId, PartitionId, Revision, Timestamp};
use tonic::{Request, Response, Status};

use crate::{
    Compactor, Snapshots,
    builder::Builder,
    describe::{describe, unfinished},
    drop::drop_data,
    export::Exporter,
    flush,
    gate::CommitGate,
    gc::Collector,
    snapshot::Bundles,
};

/// How long `Sync` waits for the metadata to be seen.
const SYNC_WITHIN: Duration = Duration::from_secs(10);

/// How long data nodes have to say how far builds are: whoever asks can do without.
const PROGRESS_WITHIN: Duration = Duration::from_secs(1);

/// The data coordinator's RPCs.
pub struct DataCoordService {
    kv: SharedKv,
    gate: Arc<CommitGate>,
    builder: Arc<Builder>,
    compactor: Arc<Compactor>,
    collector: Arc<Collector>,
    snapshots: Arc<Snapshots>,
    exporter: Arc<Exporter>,
    bundles: Arc<Bundles>,
}

impl DataCoordService {
    /// Works on a metastore, and commits through the gate that the collector respects.
    pub fn new(
        kv: SharedKv,
        gate: Arc<CommitGate>,
        builder: Arc<Builder>,
        compactor: Arc<Compactor>,
        collector: Arc<Collector>,
        exporter: Arc<Exporter>,
        bundles: Arc<Bundles>,
    ) -> Self {
        Self {
            kv,
            gate,
            builder,
            compactor,
            collector,
            snapshots: bundles.snapshots().clone(),
            exporter,
            bundles,
        }
    }
}

#[tonic::async_trait]
impl DataCoord for DataCoordService {
    async fn commit_flush(
        &self,
        request: Request<CommitFlushRequest>,
    ) -> Result<Response<CommitFlushResponse>, Status> {
        let revision = flush::commit(self.kv.as_ref(), &self.gate, request.get_ref())
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(CommitFlushResponse {
            revision: revision.0,
        }))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let revision = Revision(request.into_inner().revision);
        self.builder
            .wait(revision, SYNC_WITHIN)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(SyncResponse {}))
    }

    async fn drop_data(
        &self,
        request: Request<DropDataRequest>,
    ) -> Result<Response<DropDataResponse>, Status> {
        let request = request.into_inner();
        let partition = (request.partition_id != 0).then_some(PartitionId(request.partition_id));
        let collection = CollectionId(request.collection_id);
        let now = SystemClock.unix_millis();
        let revision = drop_data(self.kv.as_ref(), collection, partition, now)
            .await
            .map_err(RpcError::from)?;
        self.collector.after_drop();
        Ok(Response::new(DropDataResponse {
            revision: revision.0,
        }))
    }

    async fn describe_indexes(
        &self,
        request: Request<DescribeIndexesRequest>,
    ) -> Result<Response<DescribeIndexesResponse>, Status> {
        // The rest is for the way back.
        let within = deadline_of(&request, 2 * PROGRESS_WITHIN).left() / 2;
        let request = request.into_inner();
        let collection = CollectionId(request.collection_id);
        let up_to = Timestamp(request.timestamp);
        let view = || self.builder.catalog().view();
        let builds = view()
            .collection_by_id(collection)
            .map(|entry| unfinished(entry, up_to))
            .unwrap_or_default();
        let deadline = Deadline::after(within.min(PROGRESS_WITHIN));
        let progress = self.builder.progress(&builds, deadline).await;
        // A build may have ended meanwhile.
        let indexes = view()
            .collection_by_id(collection)
            .map(|entry| describe(entry, up_to, &progress))
            .unwrap_or_default();
        Ok(Response::new(DescribeIndexesResponse { indexes }))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        let planned = self.compactor.request(request.into_inner()).await;
        Ok(Response::new(planned.map_err(RpcError::from)?))
    }

    async fn list_compactions(
        &self,
        request: Request<ListCompactionsRequest>,
    ) -> Result<Response<ListCompactionsResponse>, Status> {
        Ok(Response::new(self.compactor.list(request.get_ref())))
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let taken = self.snapshots.create(request.get_ref()).await;
        let (snapshot, revision) = taken.map_err(RpcError::from)?;
        Ok(Response::new(CreateSnapshotResponse {
            snapshot: Some(snapshot),
            revision: revision.0,
        }))
    }

    async fn drop_snapshot(
        &self,
        request: Request<DropSnapshotRequest>,
    ) -> Result<Response<DropSnapshotResponse>, Status> {
        let request = request.into_inner();
        let collection = CollectionId(request.collection_id);
        let dropped = self
            .snapshots
            .drop_snapshot(collection, &request.name)
            .await;
        let revision = dropped.map_err(RpcError::from)?.0;
        self.collector.after_drop();
        Ok(Response::new(DropSnapshotResponse { revision }))
    }

    async fn pin_snapshot(
        &self,
        request: Request<PinSnapshotRequest>,
    ) -> Result<Response<PinSnapshotResponse>, Status> {
        let request = request.into_inner();
        let collection = CollectionId(request.collection_id);
        let (name, ttl, id) = (&request.name, request.ttl_seconds, request.pin_id);
        let pinned = self.snapshots.pin(collection, name, ttl, id).await;
        let (pin_id, snapshot) = pinned.map_err(RpcError::from)?;
        Ok(Response::new(PinSnapshotResponse {
            pin_id,
            snapshot: Some(snapshot),
        }))
    }

    async fn unpin_snapshot(
        &self,
        request: Request<UnpinSnapshotRequest>,
    ) -> Result<Response<UnpinSnapshotResponse>, Status> {
        let pin = request.into_inner().pin_id;
        self.snapshots.unpin(pin).await.map_err(RpcError::from)?;
        Ok(Response::new(UnpinSnapshotResponse {}))
    }

    async fn read_snapshot(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<ReadSnapshotResponse>, Status> {
        let request = request.into_inner();
        let collection = CollectionId(request.collection_id);
        let read = self.snapshots.definition(collection, &request.name).await;
        let (snapshot, definition) = read.map_err(RpcError::from)?;
        Ok(Response::new(ReadSnapshotResponse {
            snapshot: Some(snapshot),
            definition: Some(definition),
        }))
    }

    async fn attach_snapshot(
        &self,
        request: Request<AttachSnapshotRequest>,
    ) -> Result<Response<AttachSnapshotResponse>, Status> {
        let request = request.get_ref();
        let attached = match request.bundle {
            None => self.snapshots.attach(request).await,
            Some(_) => self.bundles.attach(request).await,
        };
        attached.map_err(RpcError::from)?;
        Ok(Response::new(AttachSnapshotResponse {}))
    }

    async fn export_snapshot(
        &self,
        request: Request<ExportSnapshotRequest>,
    ) -> Result<Response<ExportSnapshotResponse>, Status> {
        let created = self.bundles.create(request.get_ref()).await;
        let (job_id, revision) = created.map_err(RpcError::from)?;
        Ok(Response::new(ExportSnapshotResponse {
            job_id,
            revision: revision.0,
        }))
    }

    async fn read_bundle(
        &self,
        request: Request<ReadBundleRequest>,
    ) -> Result<Response<ReadBundleResponse>, Status> {
        let place = request.into_inner().place.unwrap_or_default();
        let read = self.bundles.read(&place).await;
        Ok(Response::new(read.map_err(RpcError::from)?))
    }

    async fn copy_bundle(
        &self,
        request: Request<CopyBundleRequest>,
    ) -> Result<Response<CopyBundleResponse>, Status> {
        let request = request.into_inner().attach.unwrap_or_default();
        let copied = self.bundles.copy_in(&request).await;
        let done = copied.map_err(RpcError::from)?;
        Ok(Response::new(CopyBundleResponse { done }))
    }

    async fn create_export(
        &self,
        request: Request<CreateExportRequest>,
    ) -> Result<Response<CreateExportResponse>, Status> {
        let task = request.into_inner().task.unwrap_or_default();
        self.exporter.create(task).await.map_err(RpcError::from)?;
        Ok(Response::new(CreateExportResponse {}))
    }

    async fn list_exports(
        &self,
        request: Request<ListExportsRequest>,
    ) -> Result<Response<ListExportsResponse>, Status> {
        let tasks = self.exporter.list(&request.get_ref().task_id).await;
        Ok(Response::new(ListExportsResponse {
            tasks: tasks.map_err(RpcError::from)?,
        }))
    }

    async fn drop_export(
        &self,
        request: Request<DropExportRequest>,
    ) -> Result<Response<DropExportResponse>, Status> {
        let found = self.exporter.drop_task(&request.get_ref().task_id).await;
        Ok(Response::new(DropExportResponse {
            found: found.map_err(RpcError::from)?,
        }))
    }
}
