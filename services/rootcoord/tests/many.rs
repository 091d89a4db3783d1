//! A hundred thousand partitions in one deployment: they are made, listed, and there again after a restart, in
//! bounded time and memory.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use prost::Message as _;
use redkite_catalog::{Catalog, CatalogView};
use redkite_metastore::{MemKv, SharedKv};
use redkite_proto::{
    convert::schema as convert,
    milvus::milvus::{CreateCollectionRequest, CreatePartitionRequest, DropPartitionRequest},
    redkite::{
        datacoord::{AttachSnapshotRequest, ReadBundleResponse},
        meta::{BundlePlace, SnapshotManifest},
        rootcoord::{DdlRequest, ddl_request::Command},
    },
};
use redkite_rootcoord::{
    RootCoordOptions,
    alloc::{IdAllocator, TimestampOracle},
    bootstrap::bootstrap,
    ddl::{Announce, DdlContext, DdlGate, gate::registry},
};
use redkite_runtime::{OnFailure, SystemClock, TaskGroup};
use redkite_saga::{SagaConfig, SagaExecutor};
use redkite_types::{
    CollectionId, CollectionSchema, DataType, DatabaseId, Error, FieldSchema, PartitionId, Result,
    Revision, Timestamp,
};

const COLLECTIONS: usize = 100;
const PARTITIONS: usize = 1_000;
/// Partitions that are made one by one beside the many, and the time that all of them may take. It is
/// generous: a step that looks at every partition of the deployment takes more.
const ONE_BY_ONE: usize = 20;
const ONE_BY_ONE_WITHIN: Duration = Duration::from_secs(10);
/// For reading everything after a restart, in a build without optimisation.
const RESTART_WITHIN: Duration = Duration::from_secs(120);
/// Bytes that one process's view may take for each partition.
const BYTES_PER_PARTITION: usize = 1_500;

/// There are no other services.
struct Alone;

#[async_trait]
impl Announce for Alone {
    async fn query_nodes(&self, _: Revision, _: CollectionId, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn tell_query_nodes(&self, _: Revision, _: CollectionId, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn data_coord(&self, _: Revision) -> Result<()> {
        Ok(())
    }

    async fn drop_data(&self, _: CollectionId, _: Option<PartitionId>) -> Result<()> {
        Ok(())
    }

    async fn pin_snapshot(&self, _: CollectionId, _: &str, _: i64, _: i64) -> Result<i64> {
        Err(Error::internal("no snapshots here"))
    }

    async fn unpin_snapshot(&self, _: i64) -> Result<()> {
        Err(Error::internal("no snapshots here"))
    }

    async fn snapshot_definition(&self, _: CollectionId, _: &str) -> Result<SnapshotManifest> {
        Err(Error::internal("no snapshots here"))
    }

    async fn read_bundle(&self, _: &BundlePlace) -> Result<ReadBundleResponse> {
        Err(Error::internal("no snapshots here"))
    }

    async fn copy_bundle(&self, _: AttachSnapshotRequest) -> Result<bool> {
        Err(Error::internal("no snapshots here"))
    }

    async fn attach_snapshot(&self, _: AttachSnapshotRequest) -> Result<()> {
        Err(Error::internal("no snapshots here"))
    }

    async fn proxies(&self, _: Revision) -> Result<()> {
        Ok(())
    }
}

/// A root coordinator on a store that outlives it.
struct Life {
    gate: DdlGate,
    catalog: Arc<Catalog>,
    tasks: TaskGroup,
}

impl Life {
    async fn start(kv: &SharedKv, epoch: u64) -> Self {
        let tasks = TaskGroup::new("life");
        let catalog = Catalog::load(kv.as_ref()).await.unwrap();
        let following = catalog.clone().follow(kv.clone(), tasks.token());
        tasks.spawn("follow", OnFailure::Log, following);
        let tso = TimestampOracle::open(kv.clone(), SystemClock::shared());
        let context = Arc::new(DdlContext {
            kv: kv.clone(),
            catalog: catalog.clone(),
            announce: Arc::new(Alone),
            ids: Arc::new(IdAllocator::open(kv.clone()).await.unwrap()),
            tso: Arc::new(tso.await.unwrap()),
            options: RootCoordOptions::default(),
        });
        let sagas = registry(&context).unwrap();
        let config = SagaConfig::new(kv.clone(), epoch, sagas, tasks.clone());
        let executor = SagaExecutor::start(config).await.unwrap();
        Self {
            gate: DdlGate::new(context, executor),
            catalog,
            tasks,
        }
    }

    async fn submit(&self, command: Command) -> Result<Revision> {
        let request = DdlRequest {
            command: Some(command),
            ..DdlRequest::default()
        };
        self.gate.submit(request).await
    }

    async fn view(&self, revision: Revision) -> Arc<CatalogView> {
        let seen = self.catalog.at_least(revision, Duration::from_secs(30));
        seen.await.unwrap()
    }
}

fn schema() -> CollectionSchema {
    let id = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 4,
        ..FieldSchema::new("vector", DataType::FloatVector)
    };
    CollectionSchema {
        fields: vec![id, vector],
        ..CollectionSchema::default()
    }
}

fn create(name: &str, schema: &CollectionSchema, partitions: usize) -> Command {
    Command::CreateCollection(CreateCollectionRequest {
        collection_name: name.to_owned(),
        schema: convert::to_client(name, schema).encode_to_vec().into(),
        num_partitions: partitions as i64,
        ..CreateCollectionRequest::default()
    })
}

fn create_partition(number: usize) -> Command {
    Command::CreatePartition(CreatePartitionRequest {
        collection_name: "plain".to_owned(),
        partition_name: format!("p{number}"),
        ..CreatePartitionRequest::default()
    })
}

fn drop_partition(number: usize) -> Command {
    Command::DropPartition(DropPartitionRequest {
        collection_name: "plain".to_owned(),
        partition_name: format!("p{number}"),
        ..DropPartitionRequest::default()
    })
}

/// Counts what clients see, by listing it; and that names can be looked up.
fn listed(view: &CatalogView) -> usize {
    let mut count = 0;
    for entry in view.collections(DatabaseId::DEFAULT) {
        let names: Vec<&str> = entry
            .visible_partitions()
            .map(|partition| partition.name.as_str())
            .collect();
        for name in [names.first(), names.last()] {
            assert!(entry.partition(name.unwrap()).is_some());
        }
        count += names.len();
    }
    count
}

/// Resident memory of this process that no file backs.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_partitions_are_made_listed_and_read_again() {
    let kv: SharedKv = Arc::new(MemKv::new());
    bootstrap(kv.as_ref(), Timestamp::new(1, 0)).await.unwrap();
    let life = Life::start(&kv, 1).await;
    let mut by_key = schema();
    by_key.fields.push(FieldSchema {
        is_partition_key: true,
        ..FieldSchema::new("tenant", DataType::Int64)
    });
    let began = Instant::now();
    let mut last = Revision(0);
    for number in 0..COLLECTIONS {
        let name = format!("c{number}");
        last = life
            .submit(create(&name, &by_key, PARTITIONS))
            .await
            .unwrap();
    }
    println!(
        "{} partitions made in {:?}",
        COLLECTIONS * PARTITIONS,
        began.elapsed()
    );
    let began = Instant::now();
    let view = life.view(last).await;
    assert_eq!(listed(&view), COLLECTIONS * PARTITIONS);
    println!("listed in {:?}", began.elapsed());
    drop(view);

    // One more takes no longer because of the many.
    life.submit(create("plain", &schema(), 0)).await.unwrap();
    let began = Instant::now();
    for number in 0..ONE_BY_ONE {
        life.submit(create_partition(number)).await.unwrap();
    }
    for number in 0..ONE_BY_ONE / 2 {
        last = life.submit(drop_partition(number)).await.unwrap();
    }
    let took = began.elapsed();
    println!("{ONE_BY_ONE} made and half of them dropped in {took:?}");
    assert!(took < ONE_BY_ONE_WITHIN, "{took:?}");
    let all = COLLECTIONS * PARTITIONS + 1 + ONE_BY_ONE / 2;
    let seen = life.view(last).await;
    assert_eq!(listed(&seen), all);

    // A second process beside it, as a standby that takes over: its view is all that is new.
    let (before, began) = (anonymous_bytes(), Instant::now());
    let next = Life::start(&kv, 2).await;
    let (took, bytes) = (began.elapsed(), anonymous_bytes().saturating_sub(before));
    println!("read again in {took:?}, {} bytes a partition", bytes / all);
    assert!(took < RESTART_WITHIN, "{took:?}");
    assert!(
        bytes < all * BYTES_PER_PARTITION,
        "{} bytes a partition",
        bytes / all
    );
    let view = next.view(last).await;
    assert_eq!(listed(&view), all);
    next.submit(create_partition(ONE_BY_ONE)).await.unwrap();
    let fenced = life.submit(create_partition(ONE_BY_ONE + 1)).await;
    fenced.unwrap_err();
    life.tasks.cancel();
    next.tasks.cancel();
}
