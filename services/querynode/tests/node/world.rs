//! The played surroundings of a node, and short ways to talk to it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redkite_node::{DiskSpace, MemoryBudget};
use redkite_proto::{
    convert::{columns, keys, kv, schema, vectors},
    milvus::common::KeyValuePair,
    milvus::schema::{field_data::Field, i_ds::IdField, scalar_field::Data},
    redkite::{
        datacoord::CommitFlushRequest,
        meta::{ChannelCheckpoint, DeltaInfo, IndexInfo, SegmentIndexInfo, SegmentInfo},
        querynode::{
            ChannelStatsRequest, ChannelStatsResponse, FlushRequest, FlushResponse,
            HoldWritesRequest, PartitionRows, QueryRequest, QueryResponse, SearchRequest,
            SearchResponse, SegmentToServe, SyncChannelRequest, SyncChannelResponse, WriteRequest,
            query_node_server::QueryNode,
        },
    },
};
use redkite_querynode::{Coordinators, QueryNodeDeps, QueryNodeOptions, QueryNodeService};
use redkite_runtime::{CpuPool, TaskGroup};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, Error, ErrorCode, FieldSchema, NodeId,
    PrimaryKeys, Result, Revision, RowBatch, Timestamp,
};
use redkite_wal::{LocalLogStore, LocalOptions, LogStore, ObjectLogStore, ObjectOptions};
use tokio::sync::Notify;
use tonic::Request;

pub(crate) const CHANNEL: &str = "10v0";
pub(crate) const COLLECTION: i64 = 10;
pub(crate) const P1: i64 = 11;
pub(crate) const P2: i64 = 12;
pub(crate) const KEY: i64 = 100;
pub(crate) const VECTOR: i64 = 101;
pub(crate) const NUMBER: i64 = 102;

pub(crate) fn collection_schema() -> CollectionSchema {
    let key = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 2,
        ..FieldSchema::new("v", DataType::FloatVector)
    };
    let number = FieldSchema::new("n", DataType::Int64);
    let fields = vec![key, vector, number];
    CollectionSchema {
        fields,
        ..CollectionSchema::default()
    }
    .prepare()
    .unwrap()
}

/// What the coordinators have on record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) revision: u64,
    pub(crate) epoch: u64,
    pub(crate) segments: BTreeMap<i64, SegmentInfo>,
    pub(crate) indexes: BTreeMap<i64, Vec<SegmentIndexInfo>>,
    pub(crate) deltas: BTreeMap<i64, DeltaInfo>,
    pub(crate) checkpoint: Option<ChannelCheckpoint>,
    pub(crate) partitions: Vec<i64>,
    pub(crate) loaded: Vec<i64>,
    pub(crate) index_type: Option<&'static str>,
    /// Segments over which the index can never be built.
    pub(crate) failed_indexes: Vec<i64>,
    pub(crate) properties: Vec<KeyValuePair>,
    pub(crate) schema: CollectionSchema,
    /// Partitions that take no writes.
    pub(crate) closed: Vec<i64>,
}

/// The coordinators.
pub(crate) struct Played {
    clock: AtomicU64,
    pub(crate) ids: AtomicI64,
    pub(crate) meta: Mutex<Meta>,
    /// Commits wait for `gate` before they are made.
    pub(crate) hold_before: AtomicBool,
    /// Commits are made, and their answers wait for `gate`.
    pub(crate) hold_after: AtomicBool,
    pub(crate) gate: Notify,
    /// Commits that have come.
    pub(crate) commits: AtomicU64,
    /// How many of the next commits fail.
    pub(crate) failures: AtomicU64,
    /// How many of the next commits are made and answered too late.
    pub(crate) late: AtomicU64,
    /// Where the files that a commit names must be.
    store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl Coordinators for Played {
    async fn timestamps(&self, count: u32) -> Result<Timestamp> {
        Ok(Timestamp(
            self.clock.fetch_add(count.into(), Ordering::SeqCst),
        ))
    }

    async fn ids(&self, count: u32) -> Result<i64> {
        Ok(self.ids.fetch_add(count.into(), Ordering::SeqCst))
    }

    async fn commit_flush(&self, request: CommitFlushRequest) -> Result<Revision> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        if self.hold_before.load(Ordering::SeqCst) {
            self.gate.notified().await;
        }
        let fails = |left: u64| left.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            return Err(Error::internal("played failure"));
        }
        let late = self
            .late
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok();
        self.verify(&request).await?;
        let revision = self.commit(request)?;
        if late {
            return Err(Error::new(ErrorCode::Timeout, "context deadline exceeded"));
        }
        if self.hold_after.load(Ordering::SeqCst) {
            self.gate.notified().await;
        }
        Ok(revision)
    }
}

impl Played {
    async fn verify(&self, request: &CommitFlushRequest) -> Result<()> {
        let segments = request.segments.iter().flat_map(|segment| &segment.files);
        let deltas = request.delta.iter().flat_map(|delta| &delta.file);
        for file in segments.chain(deltas) {
            if self.store.stat(&file.path).await.is_err() {
                return Err(Error::new(ErrorCode::IoKeyNotFound, "a file is gone"));
            }
        }
        Ok(())
    }

    fn commit(&self, request: CommitFlushRequest) -> Result<Revision> {
        let mut meta = self.meta.lock();
        if request.epoch != meta.epoch {
            return Err(Error::new(ErrorCode::ChannelMisrouted, "another owner"));
        }
        let checkpoint = request.checkpoint.unwrap();
        if meta
            .checkpoint
            .as_ref()
            .is_some_and(|known| known.lsn >= checkpoint.lsn)
        {
            return Ok(Revision(meta.revision));
        }
        meta.revision += 1;
        for segment in request.segments {
            if meta.partitions.contains(&segment.partition_id) {
                meta.segments.insert(segment.id, segment);
            }
        }
        meta.deltas
            .extend(request.delta.map(|delta| (delta.id, delta)));
        meta.checkpoint = Some(checkpoint);
        Ok(Revision(meta.revision))
    }

    /// Changes what is on record.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Meta)) {
        let mut meta = self.meta.lock();
        change(&mut meta);
        meta.revision += 1;
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// Everything that outlives a node.
pub(crate) struct World {
    pub(crate) played: Arc<Played>,
    pub(crate) store: Arc<dyn ObjectStore>,
    dir: tempfile::TempDir,
    log_in_objects: bool,
    pub(crate) object_log: ObjectOptions,
    pub(crate) options: QueryNodeOptions,
}

impl World {
    pub(crate) fn new() -> Self {
        let store = redkite_storage::open("memory://").unwrap();
        Self::with_store(tempfile::tempdir().unwrap(), store)
    }

    fn with_store(dir: tempfile::TempDir, store: Arc<dyn ObjectStore>) -> Self {
        let meta = Meta {
            partitions: vec![P1, P2],
            loaded: vec![P1, P2],
            schema: collection_schema(),
            ..Meta::default()
        };
        let played = Played {
            store: store.clone(),
            clock: AtomicU64::new(Timestamp::new(1_700_000_000_000, 0).0),
            ids: AtomicI64::new(1_000),
            meta: Mutex::new(meta),
            hold_before: AtomicBool::new(false),
            hold_after: AtomicBool::new(false),
            gate: Notify::new(),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            late: AtomicU64::new(0),
        };
        Self {
            played: Arc::new(played),
            store,
            dir,
            log_in_objects: false,
            object_log: ObjectOptions::default(),
            options: QueryNodeOptions::default(),
        }
    }

    /// A world whose nodes keep nothing on their machines.
    pub(crate) fn on_objects() -> Self {
        Self {
            log_in_objects: true,
            ..Self::new()
        }
    }

    /// The same on a store of one's own.
    pub(crate) fn on_objects_of(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            log_in_objects: true,
            ..Self::with_store(tempfile::tempdir().unwrap(), store)
        }
    }

    fn log(&self, tasks: &TaskGroup) -> Arc<dyn LogStore> {
        match self.log_in_objects {
            true => Arc::new(ObjectLogStore::new(
                self.store.clone(),
                self.object_log.clone(),
                tasks.child("logs"),
            )),
            false => Arc::new(LocalLogStore::new(self.dir.path(), LocalOptions::default())),
        }
    }

    /// The same with its files on the local disk, where they can be mapped.
    pub(crate) fn on_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        let store = redkite_storage::open(&format!("fs://{}", objects.display())).unwrap();
        Self::with_store(dir, store)
    }

    /// Sets `mmap.enabled` of the collection.
    pub(crate) fn set_mmap(&self, value: &str) {
        let pair = kv::pair("mmap.enabled", value);
        self.played.change(|meta| meta.properties = vec![pair]);
    }

    /// The files of the channel's log, oldest first.
    pub(crate) fn log_files(&self) -> Vec<std::path::PathBuf> {
        let dir = self.dir.path().join(CHANNEL);
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
            .collect();
        files.sort();
        files
    }

    /// A node that owns nothing yet.
    pub(crate) fn bare_node(&self) -> Node {
        let tasks = TaskGroup::new("node");
        let log = self.log(&tasks);
        let service = QueryNodeService::new(QueryNodeDeps {
            store: self.store.clone(),
            log,
            coordinators: self.played.clone(),
            cpu: CpuPool::new(2, 64).unwrap(),
            tasks: tasks.clone(),
            node: NodeId(1),
            options: self.options.clone(),
            disk: Arc::new(DiskSpace::unlimited()),
            memory: Arc::new(MemoryBudget::unlimited()),
        });
        Node {
            service,
            tasks,
            played: self.played.clone(),
        }
    }

    /// A node that has become the channel's owner under a new epoch.
    pub(crate) async fn node(&self) -> Node {
        self.played.change(|meta| meta.epoch += 1);
        let node = self.bare_node();
        node.sync_until_loaded().await;
        node
    }
}

/// A node and its process.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) service: QueryNodeService,
    tasks: TaskGroup,
    played: Arc<Played>,
}

pub(crate) fn code(status: &tonic::Status) -> i32 {
    redkite_rpc::from_status(status).error.code.number()
}

impl Node {
    /// Ends the process without a word to anybody.
    pub(crate) fn crash(self) {
        self.tasks.abort();
    }

    pub(crate) fn sync_request(&self) -> SyncChannelRequest {
        let meta = self.played.meta.lock().clone();
        let index = meta.index_type.map(|index_type| IndexInfo {
            id: 1,
            collection_id: COLLECTION,
            field_id: VECTOR,
            index_type: index_type.to_owned(),
            metric_type: "L2".to_owned(),
            ..IndexInfo::default()
        });
        let segments = meta.segments.values().map(|segment| SegmentToServe {
            segment: Some(segment.clone()),
            indexes: meta.indexes.get(&segment.id).cloned().unwrap_or_default(),
            failed_indexes: if meta.failed_indexes.contains(&segment.id) {
                vec![1]
            } else {
                Vec::new()
            },
        });
        SyncChannelRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            epoch: meta.epoch,
            revision: meta.revision,
            schema: Some(schema::to_proto("c", &meta.schema)),
            indexes: index.into_iter().collect(),
            loaded_partitions: meta.loaded.clone(),
            segments: segments.collect(),
            deltas: meta.deltas.values().cloned().collect(),
            checkpoint: meta.checkpoint.clone(),
            partitions: meta.partitions.clone(),
            properties: meta.properties.clone(),
            closed_partitions: meta.closed.clone(),
        }
    }

    pub(crate) async fn sync(&self) -> Result<SyncChannelResponse, tonic::Status> {
        let request = self.sync_request();
        Ok(self
            .service
            .sync_channel(Request::new(request))
            .await?
            .into_inner())
    }

    pub(crate) async fn sync_until_loaded(&self) {
        redkite_runtime::testing::eventually("everything is loaded", PATIENCE, || async {
            let answer = self.sync().await.unwrap();
            let done = |p: &redkite_proto::redkite::querynode::PartitionProgress| {
                p.segments == p.segments_loaded
            };
            answer.partitions.iter().all(done).then_some(())
        })
        .await;
    }

    pub(crate) async fn write(&self, request: WriteRequest) -> Result<u64, tonic::Status> {
        Ok(self
            .service
            .write(Request::new(request))
            .await?
            .into_inner()
            .timestamp)
    }

    pub(crate) async fn insert(&self, partition: i64, rows: &[(i64, i64)]) -> u64 {
        self.write(self.change(&[], partition, rows)).await.unwrap()
    }

    pub(crate) async fn upsert(&self, partition: i64, rows: &[(i64, i64)]) -> u64 {
        let keys: Vec<i64> = rows.iter().map(|row| row.0).collect();
        self.write(self.change(&keys, partition, rows))
            .await
            .unwrap()
    }

    pub(crate) async fn delete(&self, keys: &[i64]) -> u64 {
        self.write(self.change(keys, P1, &[])).await.unwrap()
    }

    /// Deletes and inserts `(key, number)`.
    pub(crate) fn change(
        &self,
        deletes: &[i64],
        partition: i64,
        rows: &[(i64, i64)],
    ) -> WriteRequest {
        let schema = collection_schema();
        let vectors = rows
            .iter()
            .flat_map(|(key, number)| [*key as f32, *number as f32]);
        let columns = vec![
            ColumnData::Int64(rows.iter().map(|row| row.0).collect()),
            ColumnData::FloatVector {
                dim: 2,
                values: vectors.collect(),
            },
            ColumnData::Int64(rows.iter().map(|row| row.1).collect()),
        ];
        let columns = columns.into_iter().zip(&schema.fields);
        let columns = columns
            .map(|(data, field)| Column::new(field.id, data))
            .collect();
        let batch = RowBatch::new(rows.len(), columns).unwrap();
        let first = self
            .played
            .ids
            .fetch_add(rows.len() as i64, Ordering::SeqCst);
        let inserts = PartitionRows {
            partition_id: partition,
            num_rows: rows.len() as u32,
            row_ids: (first..).take(rows.len()).collect(),
            fields: columns::batch_to_proto(batch, &schema),
        };
        let keys = (!deletes.is_empty()).then(|| PrimaryKeys::Int(deletes.to_vec()));
        WriteRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            delete_keys: keys.map(keys::to_proto),
            inserts: vec![inserts],
            delete_partitions: Vec::new(),
            schema_version: 0,
        }
    }

    pub(crate) fn query_request(&self) -> QueryRequest {
        let now = self.played.now();
        QueryRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            output_fields: vec![KEY, NUMBER],
            mvcc_ts: now,
            guarantee_ts: now,
            timeout_ms: 10_000,
            ..QueryRequest::default()
        }
    }

    pub(crate) async fn try_query(
        &self,
        request: QueryRequest,
    ) -> Result<QueryResponse, tonic::Status> {
        Ok(self
            .service
            .query(Request::new(request))
            .await?
            .into_inner())
    }

    /// All rows as `(key, number)`, as a strong read sees them now.
    pub(crate) async fn rows(&self) -> Vec<(i64, i64)> {
        rows_of(self.try_query(self.query_request()).await.unwrap())
    }

    pub(crate) async fn count(&self) -> u64 {
        let request = QueryRequest {
            count_only: true,
            ..self.query_request()
        };
        self.try_query(request).await.unwrap().count
    }

    pub(crate) fn search_request(&self, queries: &[[f32; 2]], k: u32) -> SearchRequest {
        let now = self.played.now();
        SearchRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            field_id: VECTOR,
            metric_type: "L2".to_owned(),
            queries: vectors::to_le_bytes(&queries.concat()),
            nq: queries.len() as u32,
            topk: k,
            mvcc_ts: now,
            guarantee_ts: now,
            output_fields: vec![NUMBER],
            timeout_ms: 10_000,
            ..SearchRequest::default()
        }
    }

    pub(crate) async fn try_search(
        &self,
        request: SearchRequest,
    ) -> Result<SearchResponse, tonic::Status> {
        Ok(self
            .service
            .search(Request::new(request))
            .await?
            .into_inner())
    }

    /// Keys of the nearest rows.
    pub(crate) async fn nearest(&self, query: [f32; 2], k: u32) -> Vec<i64> {
        let answer = self
            .try_search(self.search_request(&[query], k))
            .await
            .unwrap();
        int_keys(answer.ids)
    }

    pub(crate) async fn flush(&self) -> FlushResponse {
        self.try_flush().await.unwrap()
    }

    pub(crate) async fn try_flush(&self) -> Result<FlushResponse, tonic::Status> {
        self.flush_held(0).await
    }

    /// Has writes wait, for so long at most.
    pub(crate) async fn hold(&self, hold: i64, limit_ms: u32) {
        let request = HoldWritesRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            hold,
            limit_ms,
        };
        self.service
            .hold_writes(Request::new(request))
            .await
            .unwrap();
    }

    /// Flushes what was written before a hold; zero for no hold.
    pub(crate) async fn flush_held(&self, hold: i64) -> Result<FlushResponse, tonic::Status> {
        let request = FlushRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            wait: true,
            guarantee_ts: 0,
            hold,
        };
        Ok(self
            .service
            .flush(Request::new(request))
            .await?
            .into_inner())
    }

    pub(crate) async fn stats(&self) -> ChannelStatsResponse {
        let request = ChannelStatsRequest {
            channel: CHANNEL.to_owned(),
            collection_id: COLLECTION,
            guarantee_ts: 0,
        };
        self.service
            .channel_stats(Request::new(request))
            .await
            .unwrap()
            .into_inner()
    }
}

pub(crate) const PATIENCE: Duration = redkite_runtime::testing::PATIENCE;

pub(crate) fn int_keys(ids: Option<redkite_proto::milvus::schema::IDs>) -> Vec<i64> {
    match ids.unwrap().id_field.unwrap() {
        IdField::IntId(keys) => keys.data,
        other => panic!("keys are {other:?}"),
    }
}

pub(crate) fn numbers(field: redkite_proto::milvus::schema::FieldData) -> Vec<i64> {
    match field.field.unwrap() {
        Field::Scalars(scalars) => match scalars.data.unwrap() {
            Data::LongData(numbers) => numbers.data,
            other => panic!("numbers are {other:?}"),
        },
        other => panic!("numbers are {other:?}"),
    }
}

pub(crate) fn rows_of(answer: QueryResponse) -> Vec<(i64, i64)> {
    let mut fields = answer.fields.into_iter();
    let keys = numbers(fields.next().unwrap());
    let numbers = numbers(fields.next().unwrap());
    assert_eq!(int_keys(answer.ids), keys);
    keys.into_iter().zip(numbers).collect()
}

/// An encoded filter.
pub(crate) fn filter(text: &str) -> Vec<u8> {
    let schema = collection_schema();
    let plan = redkite_expr::compile(text, &redkite_expr::Templates::new(), &schema).unwrap();
    plan.encode().unwrap()
}
