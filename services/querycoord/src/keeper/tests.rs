use std::sync::atomic::{AtomicUsize, Ordering};

use redkite_catalog::Session;
use redkite_metastore::MemKv;
use redkite_proto::redkite::{
    meta::{CollectionInfo, LoadInfo, PartitionInfo, PartitionLoadInfo, SegmentInfo},
    querynode::{
        ChannelStatsRequest, ChannelStatsResponse, FlushRequest, FlushResponse, HoldWritesRequest,
        HoldWritesResponse, PartitionProgress as NodeProgress, QueryRequest, QueryResponse,
        ReleaseChannelResponse, SearchRequest, SearchResponse, SyncChannelRequest,
        SyncChannelResponse, WriteRequest, WriteResponse, query_node_server::QueryNode,
    },
};
use redkite_rpc::{Connector, RpcOptions};
use redkite_types::{DatabaseId, ErrorCode, NodeId, PartitionId, SegmentId, Timestamp};
use tonic::{Request, Response, Status};

use super::*;

const C: CollectionId = CollectionId(10);
const P: PartitionId = PartitionId(11);
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that loads one segment more at each call.
#[derive(Default)]
struct SlowNode {
    loaded: AtomicUsize,
    released: Mutex<Vec<String>>,
    epochs: Mutex<Vec<u64>>,
    /// Why it cannot open the channel.
    broken: Mutex<Option<Error>>,
}

#[tonic::async_trait]
impl QueryNode for SlowNode {
    async fn sync_channel(
        &self,
        request: Request<SyncChannelRequest>,
    ) -> Result<Response<SyncChannelResponse>, Status> {
        let request = request.into_inner();
        if let Some(error) = self.broken.lock().clone() {
            return Err(redkite_rpc::RpcError::from(error).into());
        }
        self.epochs.lock().push(request.epoch);
        let segments = request.segments.len();
        let loaded = self.loaded.fetch_add(1, Ordering::SeqCst).min(segments);
        let partitions = request.loaded_partitions.iter().map(|id| NodeProgress {
            partition_id: *id,
            segments: segments as i32,
            segments_loaded: loaded as i32,
            fail_reason: String::new(),
        });
        Ok(Response::new(SyncChannelResponse {
            revision: request.revision,
            partitions: partitions.collect(),
        }))
    }

    async fn release_channel(
        &self,
        request: Request<ReleaseChannelRequest>,
    ) -> Result<Response<ReleaseChannelResponse>, Status> {
        let request = request.into_inner();
        assert!(request.drop);
        self.released.lock().push(request.channel);
        Ok(Response::new(ReleaseChannelResponse {}))
    }

    async fn write(&self, _: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented("write"))
    }

    async fn search(&self, _: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        Err(Status::unimplemented("search"))
    }

    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        Err(Status::unimplemented("query"))
    }

    async fn flush(&self, _: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        Err(Status::unimplemented("flush"))
    }

    async fn channel_stats(
        &self,
        _: Request<ChannelStatsRequest>,
    ) -> Result<Response<ChannelStatsResponse>, Status> {
        Err(Status::unimplemented("channel_stats"))
    }

    async fn hold_writes(
        &self,
        _: Request<HoldWritesRequest>,
    ) -> Result<Response<HoldWritesResponse>, Status> {
        Err(Status::unimplemented("hold_writes"))
    }
}

struct World {
    kv: SharedKv,
    catalog: Arc<Catalog>,
    connector: Connector,
    keeper: Arc<Keeper>,
    tasks: TaskGroup,
}

impl World {
    async fn new() -> Self {
        let kv: SharedKv = Arc::new(MemKv::new());
        let tasks = TaskGroup::new("test");
        let catalog = Catalog::load(kv.as_ref()).await.unwrap();
        let follow = catalog.clone().follow(kv.clone(), tasks.token());
        tasks.spawn("follow", OnFailure::Log, follow);
        let connector = Connector::new(RpcOptions::default());
        let peers = Arc::new(Peers::new(catalog.clone(), Arc::new(connector.clone())));
        let keeper = Keeper::new(kv.clone(), catalog.clone(), peers, tasks.clone());
        tasks.spawn("keeper", OnFailure::Log, keeper.clone().run());
        Self {
            kv,
            catalog,
            connector,
            keeper,
            tasks,
        }
    }

    async fn put(&self, ops: Vec<Op>) -> Revision {
        match self
            .kv
            .txn(Txn {
                compares: Vec::new(),
                ops,
                ts: None,
            })
            .await
            .unwrap()
        {
            TxnOutcome::Applied { revision } => revision,
            TxnOutcome::Refused { .. } => unreachable!("nothing was compared"),
        }
    }

    async fn start_node(&self, id: u64, address: &str) -> (Arc<SlowNode>, Session) {
        let node = Arc::new(SlowNode::default());
        self.connector
            .register_local_query_node(address, node.clone());
        let session = Session::register(
            self.kv.clone(),
            Role::QueryNode,
            NodeId(id),
            address,
            Timestamp::new(id, 0),
            Duration::from_secs(60),
        )
        .await
        .unwrap();
        (node, session)
    }

    async fn wait(&self, revision: Revision) {
        assert!(
            self.keeper.wait(revision, Some(C), PATIENCE).await,
            "not settled in time"
        );
    }

    fn owner(&self) -> Option<(u64, u64)> {
        let view = self.catalog.view();
        let entry = view.collection_by_id(C)?;
        entry
            .owners
            .get("10v0")
            .map(|owner| (owner.node_id, owner.epoch))
    }
}

fn put(key: String, record: &impl Message) -> Op {
    Op::put(key, record.encode_to_vec())
}

fn collection(state: ObjectState) -> Op {
    let info = CollectionInfo {
        id: C.0,
        database_id: 1,
        name: "c".into(),
        channels: vec!["10v0".into()],
        state: state.into(),
        ..CollectionInfo::default()
    };
    put(keys::collection(DatabaseId(1), C), &info)
}

fn partition() -> Op {
    let info = PartitionInfo {
        id: P.0,
        collection_id: C.0,
        ..PartitionInfo::default()
    };
    put(keys::partition(C, P), &info)
}

fn loaded_with_segments(count: i64) -> Vec<Op> {
    let load = LoadInfo {
        collection_id: C.0,
        ..LoadInfo::default()
    };
    let of_partition = PartitionLoadInfo {
        collection_id: C.0,
        partition_id: P.0,
    };
    let mut ops = vec![
        put(keys::load(C), &load),
        put(keys::partition_load(C, P), &of_partition),
    ];
    for id in 20..20 + count {
        let segment = SegmentInfo {
            id,
            collection_id: C.0,
            partition_id: P.0,
            channel: "10v0".into(),
            ..SegmentInfo::default()
        };
        ops.push(put(keys::segment(C, P, SegmentId(id)), &segment));
    }
    ops
}

#[tokio::test]
async fn a_collection_waits_for_a_node_and_is_then_owned_and_loaded() {
    let world = World::new().await;
    let revision = world
        .put(vec![collection(ObjectState::Creating), partition()])
        .await;
    assert!(
        !world
            .keeper
            .wait(revision, Some(C), Duration::from_millis(50))
            .await
    );
    let (node, _session) = world.start_node(1, "local://querynode/1").await;
    world.wait(revision).await;
    assert_eq!(world.owner(), Some((1, 1)));
    assert_eq!(world.keeper.load_progress(C), []);

    let revision = world.put(loaded_with_segments(3)).await;
    world.wait(revision).await;
    let progress = world.keeper.load_progress(C);
    assert_eq!((progress[0].partition_id, progress[0].percent), (P.0, 100));
    assert!(node.loaded.load(Ordering::SeqCst) >= 3);
    world.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_restarted_node_gets_its_channels_back_under_a_new_epoch() {
    let world = World::new().await;
    let (_node, _session) = world.start_node(1, "local://querynode/a").await;
    let revision = world
        .put(vec![collection(ObjectState::Created), partition()])
        .await;
    world.wait(revision).await;
    // The same address under a new id: the former process is gone.
    let (node, _session) = world.start_node(2, "local://querynode/a").await;
    let key = keys::channel_owner("10v0");
    redkite_runtime::testing::eventually_true("the channel has a new owner", || {
        world.owner() == Some((2, 2))
    })
    .await;
    let revision = world.kv.get(&key).await.unwrap().unwrap().revision;
    world.wait(revision).await;
    assert_eq!(node.epochs.lock().last(), Some(&2));
    world.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_collection_that_cannot_be_served_says_why_and_is_tried_again() {
    let world = World::new().await;
    let (node, _session) = world.start_node(1, "local://querynode/1").await;
    let damaged = Error::new(ErrorCode::DataIntegrity, "log file 7 is corrupt");
    *node.broken.lock() = Some(damaged);
    let mut ops = loaded_with_segments(1);
    ops.extend([collection(ObjectState::Created), partition()]);
    let revision = world.put(ops).await;
    redkite_runtime::testing::eventually_true("the failure is known", || {
        world
            .keeper
            .only_failures_left()
            .is_some_and(|failures| failures == [(C, "log file 7 is corrupt".to_owned())])
    })
    .await;
    let progress = world.keeper.load_progress(C);
    assert_eq!(progress[0].fail_reason, "log file 7 is corrupt");
    *node.broken.lock() = None;
    world.wait(revision).await;
    assert_eq!(world.keeper.only_failures_left(), Some(Vec::new()));
    assert_eq!(world.keeper.load_progress(C)[0].fail_reason, "");
    world.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_dropped_collection_is_taken_from_its_owner() {
    let world = World::new().await;
    let (node, _session) = world.start_node(1, "local://querynode/1").await;
    let revision = world
        .put(vec![collection(ObjectState::Created), partition()])
        .await;
    world.wait(revision).await;
    let revision = world.put(vec![collection(ObjectState::Dropping)]).await;
    world.wait(revision).await;
    assert_eq!(*node.released.lock(), ["10v0"]);
    assert_eq!(world.owner(), None);
    world.tasks.shutdown(PATIENCE).await.unwrap();
}
