//! A proxy over metadata in memory and services that answer what a test wants.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{Catalog, Lease, keys};
use redkite_config::ByteSize;
use redkite_metastore::{MemKv, MetaKv, Op, Txn, TxnOutcome};
use redkite_proto::{
    convert::{kv, schema},
    redkite::{datacoord::*, meta, querycoord, querynode, rootcoord::*},
};
use redkite_rpc::RpcError;
use redkite_runtime::{OnFailure, TaskGroup};
use redkite_types::{
    CollectionId, CollectionSchema, DataType, DatabaseId, Error, ErrorCode, FieldId, FieldSchema,
    IndexId, NodeId, PartitionId, Result, Revision, SegmentId,
};
use tonic::{Request, Response, Status};

use crate::{Front, Identity, Life, ProxyContext, ProxyOptions, SecurityOptions, Services};

pub(crate) const COLLECTION: &str = "books";
pub(crate) const COLLECTION_ID: CollectionId = CollectionId(10);
pub(crate) const DEFAULT_PARTITION: PartitionId = PartitionId(11);
pub(crate) const PARTITION: &str = "2024";
pub(crate) const PARTITION_ID: PartitionId = PartitionId(12);
pub(crate) const INDEX_ID: i64 = 13;
pub(crate) const ALIAS: &str = "library";
pub(crate) const NODE: u64 = 7;
pub(crate) const CREATED: u64 = 1_700_000_000_000 << 18;
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);

/// A proxy with its surroundings.
pub(crate) struct Fixture {
    pub(crate) context: Arc<ProxyContext>,
    pub(crate) front: Front,
    pub(crate) fake: Arc<Fake>,
    tasks: TaskGroup,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Fixture {
    /// A proxy with the database `default` and nothing in it.
    pub(crate) async fn new() -> Self {
        Self::with_options(ProxyOptions::default()).await
    }

    /// The same with a limit of a client's message.
    pub(crate) async fn with_limit(max_message_size: ByteSize) -> Self {
        Self::with_options(ProxyOptions {
            max_message_size,
            ..ProxyOptions::default()
        })
        .await
    }

    /// The same with authorization switched on.
    pub(crate) async fn guarded() -> Self {
        let security = SecurityOptions {
            authorization: true,
        };
        Self::with_all_options(ProxyOptions::default(), security).await
    }

    async fn with_options(options: ProxyOptions) -> Self {
        Self::with_all_options(options, SecurityOptions::default()).await
    }

    async fn with_all_options(options: ProxyOptions, security: SecurityOptions) -> Self {
        let kv = Arc::new(MemKv::new());
        let catalog = Catalog::load(kv.as_ref()).await.unwrap();
        let tasks = TaskGroup::new("test");
        let follow = catalog.clone().follow(kv.clone(), tasks.token());
        tasks.spawn("catalog", OnFailure::Log, follow);
        let fake = Arc::new(Fake {
            exports: Mutex::default(),
            kv,
            ..Fake::default()
        });
        let identity = Identity {
            node: NodeId(1),
            address: "local://proxy/1".to_owned(),
            deploy_mode: "STANDALONE",
        };
        let context = ProxyContext::new(
            catalog,
            Arc::new(FakeServices(fake.clone())),
            options,
            &security,
            identity,
            Life {
                tasks: tasks.clone(),
                lease: Lease::endless(),
                leaving: tasks.token(),
            },
        );
        let fixture = Self {
            front: Front::new(context.clone()),
            context,
            fake,
            tasks,
        };
        fixture.put_database(1, "default").await;
        fixture
    }

    /// The same with a collection of two channels, which has two partitions and an alias.
    pub(crate) async fn with_collection() -> Self {
        let fixture = Self::new().await;
        fixture.put_collection().await;
        fixture
    }

    /// Makes a collection of two channels, which has two partitions and an alias.
    pub(crate) async fn put_collection(&self) {
        let prepared = test_schema();
        let info = meta::CollectionInfo {
            id: COLLECTION_ID.0,
            database_id: 1,
            name: COLLECTION.to_owned(),
            description: "some books".to_owned(),
            enable_dynamic_field: true,
            properties: vec![kv::pair("collection.ttl.seconds", 60)],
            consistency_level: 2,
            channels: vec!["10v0".to_owned(), "10v1".to_owned()],
            created_ts: CREATED,
            updated_ts: CREATED + 5,
            ..meta::CollectionInfo::default()
        };
        let mut records = vec![(
            keys::collection(DatabaseId(1), COLLECTION_ID),
            info.encode_to_vec(),
        )];
        for (position, field) in (0..).zip(&prepared.fields) {
            let schema = Some(schema::field_to_proto(field));
            let record = meta::FieldInfo {
                collection_id: COLLECTION_ID.0,
                position,
                schema,
            };
            records.push((keys::field(COLLECTION_ID, field.id), record.encode_to_vec()));
        }
        for (id, name) in [(DEFAULT_PARTITION, "_default"), (PARTITION_ID, PARTITION)] {
            let record = meta::PartitionInfo {
                id: id.0,
                name: name.to_owned(),
                created_ts: CREATED,
                collection_id: COLLECTION_ID.0,
                ..meta::PartitionInfo::default()
            };
            records.push((keys::partition(COLLECTION_ID, id), record.encode_to_vec()));
        }
        let alias = meta::AliasInfo {
            alias: ALIAS.to_owned(),
            database_id: 1,
            collection_id: COLLECTION_ID.0,
            created_ts: CREATED,
        };
        records.push((keys::alias(DatabaseId(1), ALIAS), alias.encode_to_vec()));
        self.put(records).await;
        self.own().await;
    }

    /// Writes records and waits until the proxy sees them.
    pub(crate) async fn put(&self, records: Vec<(String, Vec<u8>)>) -> Revision {
        let revision = self.fake.write(records).await;
        self.context
            .catalog
            .at_least(revision, VISIBLE_WITHIN)
            .await
            .unwrap();
        revision
    }

    /// Makes changes and waits until the proxy sees them.
    pub(crate) async fn commit(&self, txn: Txn) {
        let revision = self.fake.commit(txn).await;
        let seen = self.context.catalog.at_least(revision, VISIBLE_WITHIN);
        seen.await.unwrap();
    }

    /// Writes something that nobody looks at.
    pub(crate) async fn touch(&self) -> Revision {
        self.put(vec![("other/key".to_owned(), b"x".to_vec())])
            .await
    }

    pub(crate) async fn put_database(&self, id: i64, name: &str) {
        let record = meta::DatabaseInfo {
            id,
            name: name.to_owned(),
            created_ts: CREATED,
            properties: vec![kv::pair("database.max.collections", 10)],
            state: 0,
        };
        self.put(vec![(
            keys::database(DatabaseId(id)),
            record.encode_to_vec(),
        )])
        .await;
    }

    /// Gives every channel an owner.
    pub(crate) async fn own(&self) {
        let owner = |channel: &str| {
            let record = meta::ChannelOwner {
                channel: channel.to_owned(),
                collection_id: COLLECTION_ID.0,
                node_id: NODE,
                address: "local://querynode/7".to_owned(),
                epoch: 1,
            };
            (keys::channel_owner(channel), record.encode_to_vec())
        };
        self.put(vec![owner("10v0"), owner("10v1")]).await;
    }

    /// Takes the channels' owners away.
    pub(crate) async fn disown(&self) {
        let txn = ["10v0", "10v1"]
            .into_iter()
            .fold(Txn::new(), |txn, channel| {
                txn.then(Op::delete(keys::channel_owner(channel)))
            });
        self.commit(txn).await;
    }

    /// Asks for partitions to be served.
    pub(crate) async fn load(&self, partitions: &[PartitionId]) {
        let load = meta::LoadInfo {
            collection_id: COLLECTION_ID.0,
            replica_number: 1,
            ..meta::LoadInfo::default()
        };
        let mut records = vec![(keys::load(COLLECTION_ID), load.encode_to_vec())];
        for partition in partitions {
            let record = meta::PartitionLoadInfo {
                collection_id: COLLECTION_ID.0,
                partition_id: partition.0,
            };
            let key = keys::partition_load(COLLECTION_ID, *partition);
            records.push((key, record.encode_to_vec()));
        }
        self.put(records).await;
    }

    /// Creates an index on the vector field.
    pub(crate) async fn index(&self) {
        let record = meta::IndexInfo {
            id: INDEX_ID,
            collection_id: COLLECTION_ID.0,
            field_id: 101,
            name: "vector".to_owned(),
            index_type: "HNSW".to_owned(),
            metric_type: "COSINE".to_owned(),
            params: vec![
                kv::pair("index_type", "HNSW"),
                kv::pair("params", r#"{"M": 8}"#),
            ],
            created_ts: CREATED,
            state: 0,
        };
        self.put(vec![(
            keys::index(COLLECTION_ID, IndexId(INDEX_ID)),
            record.encode_to_vec(),
        )])
        .await;
    }
}

fn test_schema() -> CollectionSchema {
    let id = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 4,
        ..FieldSchema::new("vector", DataType::FloatVector)
    };
    let schema = CollectionSchema {
        fields: vec![id, vector],
        enable_dynamic_field: true,
        ..CollectionSchema::default()
    };
    let prepared = schema.prepare().unwrap();
    assert_eq!(prepared.fields[1].id, FieldId(101));
    prepared
}

/// A segment of the test's collection as its manifest.
pub(crate) fn segment(id: i64, rows: i64) -> (String, Vec<u8>) {
    let record = meta::SegmentInfo {
        id,
        collection_id: COLLECTION_ID.0,
        partition_id: DEFAULT_PARTITION.0,
        channel: "10v0".to_owned(),
        rows,
        format_version: 1,
        ..meta::SegmentInfo::default()
    };
    (
        keys::segment(COLLECTION_ID, DEFAULT_PARTITION, SegmentId(id)),
        record.encode_to_vec(),
    )
}

/// All other services, in one.
#[derive(Default)]
pub(crate) struct Fake {
    kv: Arc<MemKv>,
    /// Commands that were submitted.
    pub(crate) submitted: Mutex<Vec<DdlRequest>>,
    /// What the next submissions are refused with.
    pub(crate) refusals: Mutex<VecDeque<Error>>,
    /// Held while a submission runs.
    pub(crate) gate: tokio::sync::RwLock<()>,
    /// Percent and reason by partition.
    pub(crate) progress: Mutex<Vec<querycoord::PartitionProgress>>,
    /// The same after somebody waited.
    pub(crate) progress_later: Mutex<Vec<querycoord::PartitionProgress>>,
    /// What the data coordinator says of indexes.
    pub(crate) indexes: Mutex<Vec<IndexProgress>>,
    /// The same after it caught up.
    pub(crate) indexes_later: Mutex<Vec<IndexProgress>>,
    /// What each owner says of its channel.
    pub(crate) stats: Mutex<querynode::ChannelStatsResponse>,
    /// Segments that a flush makes, for the first channel that is asked.
    pub(crate) to_flush: Mutex<Vec<i64>>,
    /// Compactions that were asked for.
    pub(crate) compactions: Mutex<Vec<CompactRequest>>,
    /// What they are answered.
    pub(crate) compaction_id: AtomicI64,
    /// Exports that were asked for.
    pub(crate) exports: Mutex<Vec<meta::ExportInfo>>,
    /// Plans of every compaction.
    pub(crate) plans: Mutex<Vec<meta::CompactionInfo>>,
    /// Timestamps that were given.
    pub(crate) clock: AtomicU64,
}

impl Fake {
    async fn write(&self, records: Vec<(String, Vec<u8>)>) -> Revision {
        let txn = records.into_iter().fold(Txn::new(), |txn, (key, value)| {
            txn.then(Op::Put {
                key,
                value: value.into(),
                lease: 0,
            })
        });
        self.commit(txn).await
    }

    async fn commit(&self, txn: Txn) -> Revision {
        match self.kv.txn(txn).await.unwrap() {
            TxnOutcome::Applied { revision, .. } => revision,
            TxnOutcome::Refused { .. } => unreachable!("the transaction compares nothing"),
        }
    }
}

struct FakeServices(Arc<Fake>);

impl Services for FakeServices {
    fn root_coord(&self) -> Result<Arc<dyn root_coord_server::RootCoord>> {
        Ok(self.0.clone())
    }

    fn data_coord(&self) -> Result<Arc<dyn data_coord_server::DataCoord>> {
        Ok(self.0.clone())
    }

    fn query_coord(&self) -> Result<Arc<dyn querycoord::query_coord_server::QueryCoord>> {
        Ok(self.0.clone())
    }

    fn query_node(
        &self,
        address: &str,
    ) -> Result<Arc<dyn querynode::query_node_server::QueryNode>> {
        assert_eq!(address, "local://querynode/7");
        Ok(self.0.clone())
    }
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not by the fake"))
}

#[tonic::async_trait]
impl root_coord_server::RootCoord for Fake {
    async fn submit(&self, request: Request<DdlRequest>) -> Result<Response<DdlResponse>, Status> {
        self.submitted.lock().push(request.into_inner());
        let _open = self.gate.read().await;
        let refusal = self.refusals.lock().pop_front();
        if let Some(error) = refusal {
            return Err(RpcError::new(error).into());
        }
        let revision = self
            .write(vec![("other/ddl".to_owned(), Vec::new())])
            .await
            .0;
        Ok(Response::new(DdlResponse { revision }))
    }

    async fn alloc_timestamp(
        &self,
        _: Request<AllocRequest>,
    ) -> Result<Response<AllocResponse>, Status> {
        let first = CREATED + 1_000 + self.clock.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(AllocResponse { first, count: 1 }))
    }

    async fn alloc_id(&self, _: Request<AllocRequest>) -> Result<Response<AllocResponse>, Status> {
        no()
    }

    async fn restore_snapshot(
        &self,
        _: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        no()
    }

    async fn change_replicas(
        &self,
        _: Request<ChangeReplicasRequest>,
    ) -> Result<Response<ChangeReplicasResponse>, Status> {
        no()
    }

    async fn restore_bundle(
        &self,
        _: Request<RestoreBundleRequest>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        no()
    }
}

#[tonic::async_trait]
impl data_coord_server::DataCoord for Fake {
    async fn commit_flush(
        &self,
        _: Request<CommitFlushRequest>,
    ) -> Result<Response<CommitFlushResponse>, Status> {
        no()
    }

    async fn sync(&self, _: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        *self.indexes.lock() = self.indexes_later.lock().clone();
        Ok(Response::new(SyncResponse {}))
    }

    async fn drop_data(
        &self,
        _: Request<DropDataRequest>,
    ) -> Result<Response<DropDataResponse>, Status> {
        no()
    }

    async fn describe_indexes(
        &self,
        _: Request<DescribeIndexesRequest>,
    ) -> Result<Response<DescribeIndexesResponse>, Status> {
        Ok(Response::new(DescribeIndexesResponse {
            indexes: self.indexes.lock().clone(),
        }))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        self.compactions.lock().push(request.into_inner());
        let compaction_id = self.compaction_id.load(Ordering::Relaxed);
        Ok(Response::new(CompactResponse {
            compaction_id,
            plans: i32::from(compaction_id != 0),
        }))
    }

    async fn list_compactions(
        &self,
        request: Request<ListCompactionsRequest>,
    ) -> Result<Response<ListCompactionsResponse>, Status> {
        let wanted = request.into_inner().compaction_id;
        let mut plans = self.plans.lock().clone();
        plans.retain(|plan| wanted == 0 || plan.trigger_id == wanted);
        Ok(Response::new(ListCompactionsResponse {
            plans,
            revision: 0,
        }))
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        no()
    }

    async fn drop_snapshot(
        &self,
        _: Request<DropSnapshotRequest>,
    ) -> Result<Response<DropSnapshotResponse>, Status> {
        no()
    }

    async fn pin_snapshot(
        &self,
        _: Request<PinSnapshotRequest>,
    ) -> Result<Response<PinSnapshotResponse>, Status> {
        no()
    }

    async fn unpin_snapshot(
        &self,
        _: Request<UnpinSnapshotRequest>,
    ) -> Result<Response<UnpinSnapshotResponse>, Status> {
        no()
    }

    async fn read_snapshot(
        &self,
        _: Request<ReadSnapshotRequest>,
    ) -> Result<Response<ReadSnapshotResponse>, Status> {
        no()
    }

    async fn attach_snapshot(
        &self,
        _: Request<AttachSnapshotRequest>,
    ) -> Result<Response<AttachSnapshotResponse>, Status> {
        no()
    }

    async fn export_snapshot(
        &self,
        _: Request<ExportSnapshotRequest>,
    ) -> Result<Response<ExportSnapshotResponse>, Status> {
        no()
    }

    async fn read_bundle(
        &self,
        _: Request<ReadBundleRequest>,
    ) -> Result<Response<ReadBundleResponse>, Status> {
        no()
    }

    async fn copy_bundle(
        &self,
        _: Request<CopyBundleRequest>,
    ) -> Result<Response<CopyBundleResponse>, Status> {
        no()
    }

    async fn create_export(
        &self,
        request: Request<CreateExportRequest>,
    ) -> Result<Response<CreateExportResponse>, Status> {
        self.exports.lock().extend(request.into_inner().task);
        Ok(Response::new(CreateExportResponse {}))
    }

    async fn list_exports(
        &self,
        request: Request<ListExportsRequest>,
    ) -> Result<Response<ListExportsResponse>, Status> {
        let id = request.into_inner().task_id;
        let mut tasks = self.exports.lock().clone();
        tasks.retain(|task| id.is_empty() || task.task_id == id);
        Ok(Response::new(ListExportsResponse { tasks }))
    }

    async fn drop_export(
        &self,
        request: Request<DropExportRequest>,
    ) -> Result<Response<DropExportResponse>, Status> {
        let id = request.into_inner().task_id;
        self.exports.lock().retain(|task| task.task_id != id);
        Ok(Response::new(DropExportResponse { found: true }))
    }
}

#[tonic::async_trait]
impl querycoord::query_coord_server::QueryCoord for Fake {
    async fn sync(
        &self,
        _: Request<querycoord::SyncRequest>,
    ) -> Result<Response<querycoord::SyncResponse>, Status> {
        let later = std::mem::take(&mut *self.progress_later.lock());
        let done = !later.is_empty();
        if done {
            *self.progress.lock() = later;
        }
        Ok(Response::new(querycoord::SyncResponse { done }))
    }

    async fn load_progress(
        &self,
        request: Request<querycoord::LoadProgressRequest>,
    ) -> Result<Response<querycoord::LoadProgressResponse>, Status> {
        assert_eq!(request.into_inner().collection_id, COLLECTION_ID.0);
        let partitions = self.progress.lock().clone();
        Ok(Response::new(querycoord::LoadProgressResponse {
            partitions,
        }))
    }
}

#[tonic::async_trait]
impl querynode::query_node_server::QueryNode for Fake {
    async fn sync_channel(
        &self,
        _: Request<querynode::SyncChannelRequest>,
    ) -> Result<Response<querynode::SyncChannelResponse>, Status> {
        no()
    }

    async fn release_channel(
        &self,
        _: Request<querynode::ReleaseChannelRequest>,
    ) -> Result<Response<querynode::ReleaseChannelResponse>, Status> {
        no()
    }

    async fn write(
        &self,
        _: Request<querynode::WriteRequest>,
    ) -> Result<Response<querynode::WriteResponse>, Status> {
        no()
    }

    async fn search(
        &self,
        _: Request<querynode::SearchRequest>,
    ) -> Result<Response<querynode::SearchResponse>, Status> {
        no()
    }

    async fn query(
        &self,
        _: Request<querynode::QueryRequest>,
    ) -> Result<Response<querynode::QueryResponse>, Status> {
        no()
    }

    async fn flush(
        &self,
        request: Request<querynode::FlushRequest>,
    ) -> Result<Response<querynode::FlushResponse>, Status> {
        assert!(request.into_inner().wait);
        let segment_ids = std::mem::take(&mut *self.to_flush.lock());
        if !segment_ids.is_empty() {
            self.write(segment_ids.iter().map(|id| segment(*id, 100)).collect())
                .await;
        }
        let flush_ts = CREATED + 100 + segment_ids.len() as u64;
        Ok(Response::new(querynode::FlushResponse {
            segment_ids,
            flush_ts,
        }))
    }

    async fn channel_stats(
        &self,
        _: Request<querynode::ChannelStatsRequest>,
    ) -> Result<Response<querynode::ChannelStatsResponse>, Status> {
        Ok(Response::new(self.stats.lock().clone()))
    }

    async fn hold_writes(
        &self,
        _: Request<querynode::HoldWritesRequest>,
    ) -> Result<Response<querynode::HoldWritesResponse>, Status> {
        no()
    }
}

/// The code of a status, which must be set in both enums or in none.
#[track_caller]
pub(crate) fn code_of(status: Option<redkite_proto::milvus::common::Status>) -> i32 {
    let status = status.expect("every reply has a status");
    assert_eq!(status.code == 0, status.error_code == 0, "{status:?}");
    status.code
}

/// The code of an unavailable service.
pub(crate) fn away() -> Error {
    Error::new(
        ErrorCode::ServiceNotReady,
        "service not ready[rootcoord is not announced]",
    )
}
