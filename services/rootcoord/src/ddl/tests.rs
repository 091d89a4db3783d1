//! Every saga through the free suites, and what users may rely on beyond a single saga.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{Catalog, keys};
use redkite_metastore::{MemKv, Op, SharedKv, Txn};
use redkite_proto::{
    convert::schema as convert,
    milvus::{common::KeyValuePair, milvus::*},
    redkite::{
        datacoord::{AttachSnapshotRequest, ReadBundleResponse},
        meta::{BundleInfo, BundlePlace, SegmentInfo, SnapshotInfo, SnapshotManifest, SnapshotPin},
        rootcoord::{DdlRequest, PutUser, RestoreBundleRequest, ddl_request::Command},
    },
};
use redkite_runtime::{ManualClock, OnFailure, TaskGroup};
use redkite_saga::{
    Saga, SagaConfig, SagaExecutor,
    testing::{World, assert_golden, dump, run_all},
};
use redkite_types::{
    CollectionId, CollectionSchema, DataType, DatabaseId, Error, FieldSchema, PartitionId, Result,
    Revision, SegmentId, Timestamp,
};
use tokio::sync::watch;

use super::{
    Announce, DdlContext, DdlGate, alias, alter_collection, collection, database, drop_collection,
    gate, index, load, partition, rbac, restore, restore_bundle,
};
use crate::{
    alloc::{IdAllocator, TimestampOracle},
    bootstrap::{bootstrap, bootstrap_access},
    options::RootCoordOptions,
};

mod access;
mod documented;
mod restores;
mod schema;
mod truncate;
mod weaknesses;

/// The other services: they obey unless a test has them do otherwise, and data that they drop is
/// segments in the metastore.
struct Obedient {
    kv: SharedKv,
    /// Collections whose query nodes were asked to act.
    asked: Mutex<Vec<CollectionId>>,
    /// What the query nodes answer.
    nodes_refuse: Mutex<Option<Error>>,
    /// What the data coordinator answers to an announcement.
    data_refuses: Mutex<Option<Error>>,
    /// What the proxies answer.
    proxies_refuse: Mutex<Option<Error>>,
    /// Whether the query nodes leave everybody waiting.
    silent: watch::Sender<bool>,
}

#[async_trait]
impl Announce for Obedient {
    async fn query_nodes(&self, _: Revision, id: CollectionId, _: Duration) -> Result<bool> {
        self.act(id).await
    }

    async fn tell_query_nodes(&self, _: Revision, id: CollectionId, _: Duration) -> Result<bool> {
        self.act(id).await
    }

    async fn data_coord(&self, _: Revision) -> Result<()> {
        self.data_refuses.lock().clone().map_or(Ok(()), Err)
    }

    async fn drop_data(&self, id: CollectionId, partition: Option<PartitionId>) -> Result<()> {
        let prefix = match partition {
            Some(partition) => keys::partition_segments(id, partition),
            None => keys::segments(id),
        };
        self.kv
            .txn(Txn::new().then(Op::DeletePrefix { prefix }))
            .await
            .unwrap();
        Ok(())
    }

    async fn pin_snapshot(
        &self,
        collection: CollectionId,
        name: &str,
        _: i64,
        pin: i64,
    ) -> Result<i64> {
        let mut snapshot = self.snapshot(collection, name).await;
        if snapshot.pins.iter().all(|one| one.id != pin) {
            let id = pin;
            snapshot.pins.push(SnapshotPin { id, expires_ms: 0 });
        }
        put(&self.kv, keys::snapshot(collection, name), &snapshot).await;
        Ok(snapshot.id)
    }

    async fn unpin_snapshot(&self, pin: i64) -> Result<()> {
        let view = Catalog::load(self.kv.as_ref()).await.unwrap().view();
        for snapshot in view.all_snapshots() {
            let mut snapshot = SnapshotInfo::clone(snapshot);
            snapshot.pins.retain(|one| one.id != pin);
            let key = keys::snapshot(CollectionId(snapshot.collection_id), &snapshot.name);
            put(&self.kv, key, &snapshot).await;
        }
        Ok(())
    }

    async fn snapshot_definition(
        &self,
        collection: CollectionId,
        _: &str,
    ) -> Result<SnapshotManifest> {
        let view = Catalog::load(self.kv.as_ref()).await.unwrap().view();
        let entry = view.collection_by_id(collection).unwrap();
        Ok(SnapshotManifest {
            collection: Some(entry.info().unwrap().as_ref().clone()),
            fields: entry
                .field_records()
                .map(|one| one.as_ref().clone())
                .collect(),
            partitions: entry
                .visible_partitions()
                .map(|one| one.as_ref().clone())
                .collect(),
            indexes: entry
                .visible_indexes()
                .map(|one| one.as_ref().clone())
                .collect(),
            file_owners: vec![collection.0],
            ..SnapshotManifest::default()
        })
    }

    async fn read_bundle(&self, _: &BundlePlace) -> Result<ReadBundleResponse> {
        let view = Catalog::load(self.kv.as_ref()).await.unwrap().view();
        let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
        Ok(ReadBundleResponse {
            info: Some(BundleInfo {
                token: "t".to_owned(),
                snapshot_name: "s1".to_owned(),
                ..BundleInfo::default()
            }),
            definition: Some(self.snapshot_definition(entry.id(), "s1").await?),
            parts: 1,
            latest_ts: 1,
        })
    }

    async fn copy_bundle(&self, _: AttachSnapshotRequest) -> Result<bool> {
        Ok(true)
    }

    async fn attach_snapshot(&self, request: AttachSnapshotRequest) -> Result<()> {
        let info = SegmentInfo {
            id: request.first_id,
            collection_id: request.target_collection_id,
            partition_id: request.first_partition_id,
            ..SegmentInfo::default()
        };
        let key = keys::segment(
            CollectionId(info.collection_id),
            PartitionId(info.partition_id),
            SegmentId(info.id),
        );
        put(&self.kv, key, &info).await;
        Ok(())
    }

    async fn proxies(&self, _: Revision) -> Result<()> {
        self.proxies_refuse.lock().clone().map_or(Ok(()), Err)
    }
}

impl Obedient {
    async fn act(&self, id: CollectionId) -> Result<bool> {
        self.asked.lock().push(id);
        let mut silent = self.silent.subscribe();
        silent.wait_for(|silent| !*silent).await.unwrap();
        self.nodes_refuse.lock().clone().map_or(Ok(true), Err)
    }

    async fn snapshot(&self, collection: CollectionId, name: &str) -> SnapshotInfo {
        let found = self
            .kv
            .get(&keys::snapshot(collection, name))
            .await
            .unwrap();
        SnapshotInfo::decode(found.unwrap().value).unwrap()
    }
}

async fn put(kv: &SharedKv, key: String, record: &impl Message) {
    let txn = Txn::new().then(Op::put(key, record.encode_to_vec()));
    kv.txn(txn).await.unwrap();
}

/// A deployment without other processes.
struct Deployment {
    kv: SharedKv,
    context: Arc<DdlContext>,
    others: Arc<Obedient>,
    tasks: TaskGroup,
}

impl Deployment {
    async fn new() -> Self {
        let kv: SharedKv = Arc::new(MemKv::new());
        bootstrap(kv.as_ref(), Timestamp::new(1, 0)).await.unwrap();
        let tasks = TaskGroup::new("test");
        let others = Arc::new(Obedient {
            kv: kv.clone(),
            asked: Mutex::default(),
            nodes_refuse: Mutex::default(),
            data_refuses: Mutex::default(),
            proxies_refuse: Mutex::default(),
            silent: watch::Sender::new(false),
        });
        let context = Self::context(&kv, &others, &tasks).await;
        Self {
            kv,
            context,
            others,
            tasks,
        }
    }

    async fn context(kv: &SharedKv, others: &Arc<Obedient>, tasks: &TaskGroup) -> Arc<DdlContext> {
        let catalog = Catalog::load(kv.as_ref()).await.unwrap();
        let follow = catalog.clone().follow(kv.clone(), tasks.token());
        tasks.spawn("follow", OnFailure::Log, follow);
        let clock = ManualClock::new(1_700_000_000_000).shared();
        Arc::new(DdlContext {
            catalog,
            announce: others.clone(),
            ids: Arc::new(IdAllocator::open(kv.clone()).await.unwrap()),
            tso: Arc::new(TimestampOracle::open(kv.clone(), clock).await.unwrap()),
            options: RootCoordOptions {
                max_partition_num: 4,
                ..RootCoordOptions::default()
            },
            kv: kv.clone(),
        })
    }

    async fn gate(&self) -> DdlGate {
        self.gate_of(1, &self.tasks).await
    }

    /// Of a leader of some term.
    async fn gate_of(&self, term: u64, tasks: &TaskGroup) -> DdlGate {
        let registry = gate::registry(&self.context).unwrap();
        let mut config = SagaConfig::new(self.kv.clone(), term, registry, tasks.clone());
        // What does not answer is given up soon.
        config.options.budget = Some(Duration::from_millis(300));
        let executor = SagaExecutor::start(config).await.unwrap();
        DdlGate::new(self.context.clone(), executor)
    }

    /// With a collection `books`, one flushed segment in its default partition, and more.
    async fn with(commands: Vec<Command>) -> Self {
        let deployment = Self::new().await;
        let gate = deployment.gate().await;
        for command in [vec![create("books")], commands].concat() {
            submit(&gate, command).await.unwrap();
        }
        gate.close(Duration::from_secs(5)).await;
        // The suites look at the records of the saga under test alone.
        let prefix = redkite_saga::RECORD_PREFIX.to_owned();
        deployment
            .kv
            .txn(Txn::new().then(Op::DeletePrefix { prefix }))
            .await
            .unwrap();
        let view = deployment.context.fresh_view().await.unwrap();
        let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
        for partition in entry.visible_partitions() {
            let info = SegmentInfo {
                id: partition.id + 1_000_000,
                collection_id: entry.id().0,
                partition_id: partition.id,
                ..SegmentInfo::default()
            };
            let key = keys::segment(entry.id(), PartitionId(partition.id), SegmentId(info.id));
            let txn = Txn::new().then(Op::put(key, info.encode_to_vec()));
            deployment.kv.txn(txn).await.unwrap();
        }
        deployment
    }
}

async fn submit(gate: &DdlGate, command: Command) -> Result<Revision> {
    let request = DdlRequest {
        command: Some(command),
        ..DdlRequest::default()
    };
    gate.submit(request).await
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
        enable_dynamic_field: true,
        ..CollectionSchema::default()
    }
}

fn create_request(name: &str) -> CreateCollectionRequest {
    CreateCollectionRequest {
        collection_name: name.to_owned(),
        schema: convert::to_client(name, &schema()).encode_to_vec().into(),
        consistency_level: 2,
        ..CreateCollectionRequest::default()
    }
}

fn create(name: &str) -> Command {
    Command::CreateCollection(create_request(name))
}

fn create_partition(name: &str) -> Command {
    Command::CreatePartition(CreatePartitionRequest {
        collection_name: "books".into(),
        partition_name: name.into(),
        ..CreatePartitionRequest::default()
    })
}

fn create_index() -> Command {
    Command::CreateIndex(index_request())
}

fn index_request() -> CreateIndexRequest {
    CreateIndexRequest {
        collection_name: "books".into(),
        field_name: "vector".into(),
        extra_params: vec![KeyValuePair {
            key: "index_type".into(),
            value: "HNSW".into(),
        }],
        ..CreateIndexRequest::default()
    }
}

fn create_alias(alias: &str) -> Command {
    Command::CreateAlias(CreateAliasRequest {
        collection_name: "books".into(),
        alias: alias.into(),
        ..CreateAliasRequest::default()
    })
}

fn load_books() -> Command {
    Command::LoadCollection(LoadCollectionRequest {
        collection_name: "books".into(),
        ..LoadCollectionRequest::default()
    })
}

/// All metadata by name, ids left out: a crash burns ids. Keys of the allocators only say how many.
async fn observe(kv: SharedKv) -> String {
    let catalog = Catalog::load(kv.as_ref()).await.unwrap();
    let view = catalog.view();
    let mut text = String::new();
    for database in view.databases() {
        writeln!(text, "database {} {:?}", database.name, database.properties).unwrap();
        for alias in view.aliases(DatabaseId(database.id)) {
            let target = view.collection_by_id(CollectionId(alias.collection_id));
            let target = target.map(|entry| entry.name().to_owned());
            writeln!(text, "alias {} -> {target:?}", alias.alias).unwrap();
        }
    }
    for entry in view.all_collections() {
        let info = entry.info().unwrap();
        writeln!(
            text,
            "collection {}/{} {:?} schema {} {:?} properties {:?} load {:?} segments {}",
            entry.database_id(),
            entry.name(),
            entry.state(),
            entry.schema().version,
            entry
                .schema()
                .fields
                .iter()
                .map(|field| (&field.name, field.id, field.max_length, &field.type_params))
                .collect::<Vec<_>>(),
            info.properties,
            entry.load.as_ref().map(|load| load.kind()),
            entry.segments.len(),
        )
        .unwrap();
        for partition in entry.partitions.values() {
            let loaded = entry.loaded_partitions.contains(&PartitionId(partition.id));
            let state = partition.state();
            writeln!(
                text,
                "  partition {} {state:?} loaded {loaded} closed {}",
                partition.name, partition.closed
            )
            .unwrap();
        }
        for index in entry.indexes.values() {
            writeln!(
                text,
                "  index {} {} {:?} {:?}",
                index.name,
                index.index_type,
                index.params,
                index.state()
            )
            .unwrap();
        }
    }
    for snapshot in view.all_snapshots() {
        let (name, pins) = (&snapshot.name, snapshot.pins.len());
        writeln!(text, "snapshot {name} with {pins} pins").unwrap();
    }
    for job in view.restore_jobs() {
        assert!(job.finished_ms != 0, "a job that never ends: {job:?}");
    }
    writeln!(text, "{:#?}", view.access()).unwrap();
    // Whatever the view does not show must not be there either: count the raw keys.
    let keys = dump(kv.as_ref()).await;
    let counted = keys
        .lines()
        .filter(|line| !line.contains(keys::TSO_WINDOW) && !line.contains(keys::ID_WINDOW))
        // A job that failed is remembered, with the reason.
        .filter(|line| !line.contains("datacoord-meta/restore/"))
        .count();
    writeln!(text, "{counted} keys").unwrap();
    text
}

/// Runs a saga through all suites, each time in a fresh deployment.
async fn suites<S, P, Fut>(setup: Vec<Command>, saga: fn(Arc<DdlContext>) -> S, params: P)
where
    S: Saga,
    S::Params: Clone,
    P: Fn(Arc<DdlContext>) -> Fut,
    Fut: Future<Output = S::Params>,
{
    run_all(|| async {
        let deployment = Deployment::with(setup.clone()).await;
        let asked = params(deployment.context.clone()).await;
        documented::assert_locks(S::KIND, &saga(deployment.context.clone()).locks(&asked));
        let (context, kv) = (deployment.context.clone(), deployment.kv.clone());
        let tasks = deployment.tasks.clone();
        World::new(
            kv.clone(),
            move || {
                // The tasks live as long as the world.
                let _alive = &tasks;
                saga(context.clone())
            },
            move || asked.clone(),
            move || observe(kv.clone()),
        )
    })
    .await;
}

#[tokio::test]
async fn create_collection_is_all_or_nothing() {
    suites(vec![], collection::CreateCollection, |context| async move {
        collection::params(&context, "", create_request("films"))
            .await
            .unwrap()
    })
    .await;
}

#[tokio::test]
async fn drop_collection_always_comes_to_its_end() {
    suites(
        vec![create_index(), load_books()],
        drop_collection::DropCollection,
        |context| async move {
            let request = DropCollectionRequest {
                collection_name: "books".into(),
                ..DropCollectionRequest::default()
            };
            drop_collection::params(&context, "", request)
                .await
                .unwrap()
                .unwrap()
        },
    )
    .await;
}

async fn partition_params(context: Arc<DdlContext>) -> partition::PartitionParams {
    let Command::CreatePartition(request) = create_partition("p") else {
        unreachable!()
    };
    partition::create_params(&context, "", request)
        .await
        .unwrap()
}

#[tokio::test]
async fn create_partition_is_all_or_nothing() {
    let setup = || vec![create_index(), load_books()];
    suites(setup(), partition::CreatePartition, partition_params).await;
    suites(setup(), partition::CreatePartitionV1, partition_params).await;
}

#[tokio::test]
async fn drop_partition_always_comes_to_its_end() {
    suites(
        vec![create_partition("p")],
        partition::DropPartition,
        |context| async move {
            let request = DropPartitionRequest {
                collection_name: "books".into(),
                partition_name: "p".into(),
                ..DropPartitionRequest::default()
            };
            partition::drop_params(&context, "", request).await.unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn load_and_release_are_one_step() {
    suites(vec![create_index()], load::Load, |context| async move {
        let request = LoadCollectionRequest {
            collection_name: "books".into(),
            ..LoadCollectionRequest::default()
        };
        load::load_collection_params(&context, "", request)
            .await
            .unwrap()
    })
    .await;
    suites(
        vec![create_index(), load_books()],
        load::Release,
        |context| async move {
            let request = ReleaseCollectionRequest {
                collection_name: "books".into(),
                ..ReleaseCollectionRequest::default()
            };
            load::release_collection_params(&context, "", request)
                .await
                .unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn aliases_are_one_step() {
    suites(vec![], alias::PutAlias, |context| async move {
        alias::put_params(&context, "", "books", "a", false)
            .await
            .unwrap()
    })
    .await;
    suites(
        vec![create_alias("a")],
        alias::DropAlias,
        |context| async move { alias::drop_params(&context, "", "a").await.unwrap() },
    )
    .await;
}

#[tokio::test]
async fn indexes_are_one_step() {
    suites(vec![], index::CreateIndex, |context| async move {
        index::create_params(&context, "", index_request())
            .await
            .unwrap()
    })
    .await;
    suites(
        vec![create_index()],
        index::DropIndex,
        |context| async move {
            let request = DropIndexRequest {
                collection_name: "books".into(),
                index_name: "vector".into(),
                ..DropIndexRequest::default()
            };
            index::drop_params(&context, "", request)
                .await
                .unwrap()
                .unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn databases_are_one_step() {
    let create = CreateDatabaseRequest {
        db_name: "d".into(),
        ..CreateDatabaseRequest::default()
    };
    let request = create.clone();
    suites(vec![], database::CreateDatabase, move |_| {
        let params = database::create_params(request.clone()).unwrap();
        async move { params }
    })
    .await;
    let existing = vec![Command::CreateDatabase(create)];
    suites(
        existing.clone(),
        database::AlterDatabase,
        |context| async move {
            let request = AlterDatabaseRequest {
                db_name: "d".into(),
                properties: vec![KeyValuePair {
                    key: "k".into(),
                    value: "v".into(),
                }],
                ..AlterDatabaseRequest::default()
            };
            database::alter_params(&context, request).await.unwrap()
        },
    )
    .await;
    suites(existing, database::DropDatabase, |context| async move {
        database::drop_params(&context, "d").await.unwrap().unwrap()
    })
    .await;
}

#[tokio::test]
async fn altering_and_renaming_a_collection_are_one_step() {
    suites(
        vec![],
        alter_collection::AlterCollection,
        |context| async move {
            let request = AlterCollectionRequest {
                collection_name: "books".into(),
                properties: vec![KeyValuePair {
                    key: "k".into(),
                    value: "v".into(),
                }],
                ..AlterCollectionRequest::default()
            };
            alter_collection::alter_params(&context, "", request)
                .await
                .unwrap()
        },
    )
    .await;
    suites(
        vec![],
        alter_collection::RenameCollection,
        |context| async move {
            let request = RenameCollectionRequest {
                old_name: "books".into(),
                new_name: "tomes".into(),
                ..RenameCollectionRequest::default()
            };
            alter_collection::rename_params(&context, "", request)
                .await
                .unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn step_lists_are_pinned() {
    let deployment = Deployment::new().await;
    assert_golden(
        &gate::registry(&deployment.context).unwrap(),
        include_str!("sagas.golden"),
    );
}

#[tokio::test]
async fn concurrent_creates_of_one_name_make_one_collection() {
    let deployment = Deployment::new().await;
    let gate = deployment.gate().await;
    let all = (0..16).map(|_| submit(&gate, create("books")));
    for outcome in futures::future::join_all(all).await {
        outcome.unwrap();
    }
    let view = deployment.context.fresh_view().await.unwrap();
    assert_eq!(view.all_collections().count(), 1);
}

#[tokio::test]
async fn what_is_wrong_has_milvus_s_code_and_text() {
    let deployment = Deployment::with(vec![create_alias("a"), create_partition("p")]).await;
    let gate = deployment.gate().await;
    let other = FieldSchema::new("other", DataType::Bool);
    let mut different = schema();
    different.fields.push(other);
    let drop = |name: &str| {
        Command::DropCollection(DropCollectionRequest {
            collection_name: name.into(),
            ..DropCollectionRequest::default()
        })
    };
    let drop_partition = |name: &str| {
        Command::DropPartition(DropPartitionRequest {
            collection_name: "books".into(),
            partition_name: name.into(),
            ..DropPartitionRequest::default()
        })
    };
    let in_database = |name: &str| {
        Command::CreateCollection(CreateCollectionRequest {
            db_name: name.into(),
            ..create_request("films")
        })
    };
    let duplicate = Command::CreateCollection(CreateCollectionRequest {
        schema: convert::to_client("books", &different)
            .encode_to_vec()
            .into(),
        ..create_request("books")
    });
    let cases = [
        (
            duplicate,
            65_535,
            "create duplicate collection with different parameters",
        ),
        (
            in_database("nope"),
            800,
            "database not found[database=nope]",
        ),
        (create("a"), 1601, "conflicts with an existing alias"),
        (
            drop("a"),
            65_535,
            "cannot drop the collection via alias = a",
        ),
        (
            drop("books"),
            65_535,
            "because it has associated aliases [a]",
        ),
        (
            drop_partition("_default"),
            1100,
            "default partition cannot be deleted",
        ),
        (
            load_books(),
            700,
            "there is no vector index on field: [vector]",
        ),
        (
            create_alias("books"),
            1601,
            "alias and collection name conflict",
        ),
    ];
    for (command, code, text) in cases {
        let error = submit(&gate, command.clone()).await.unwrap_err();
        assert_eq!(error.code.number(), code, "{command:?}: {error}");
        assert!(error.message.contains(text), "{command:?}: {error}");
    }
    // Doing it again, and dropping what is not there, succeeds.
    for command in [
        create("books"),
        create_alias("a"),
        drop("nope"),
        drop_partition("nope"),
    ] {
        submit(&gate, command).await.unwrap();
    }
    for name in ["q", "r"] {
        submit(&gate, create_partition(name)).await.unwrap();
    }
    let error = submit(&gate, create_partition("s")).await.unwrap_err();
    assert!(
        error
            .message
            .contains("partition number (4) exceeds max configuration (4)")
    );
}

#[tokio::test]
async fn a_loaded_partition_cannot_be_dropped_until_it_is_released() {
    let deployment =
        Deployment::with(vec![create_index(), create_partition("p"), load_books()]).await;
    let gate = deployment.gate().await;
    let drop = Command::DropPartition(DropPartitionRequest {
        collection_name: "books".into(),
        partition_name: "p".into(),
        ..DropPartitionRequest::default()
    });
    let error = submit(&gate, drop.clone()).await.unwrap_err();
    assert!(
        error
            .message
            .contains("partition is loaded, please release it first"),
        "{error}"
    );
    let release = Command::ReleasePartitions(ReleasePartitionsRequest {
        collection_name: "books".into(),
        partition_names: vec!["p".into()],
        ..ReleasePartitionsRequest::default()
    });
    submit(&gate, release).await.unwrap();
    submit(&gate, drop).await.unwrap();
    let view = deployment.context.fresh_view().await.unwrap();
    let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
    assert!(entry.is_loaded());
    assert_eq!(entry.partitions.len(), 1);
}
