//! Replicas that are started again whenever they have died, and a client that goes on asking.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use prost::Message as _;
use redkite_catalog::{Catalog, CatalogView, keys};
use redkite_config::{ByteSize, HumanDuration};
use redkite_metastore::{MetaClient, MetaClientOptions, MetaKv as _, Op, Txn, TxnOutcome};
use redkite_node::{Exposure, NodeContext, NodeOptions, Process};
use redkite_proto::redkite::{
    datacoord::{AttachSnapshotRequest, ReadBundleResponse},
    meta::{BundlePlace, SegmentInfo, SnapshotManifest},
    rootcoord::{DdlRequest, ddl_request::Command},
};
use redkite_rootcoord::{
    MetastoreOptions, Replica, RootCoordOptions,
    ddl::Announce,
    run::{Host, Surroundings, start_amid},
};
use redkite_rpc::{Connector, RpcOptions, call};
use redkite_runtime::{Deadline, OnFailure, Shutdown, TaskGroup};
use redkite_types::{
    CollectionId, DatabaseId, Error, ErrorCode, PartitionId, Result, Revision, SegmentId,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};

use crate::script::{Injector, Script};

/// No single wait takes longer unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one replica is waited for before another one is asked.
const ASK_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Three replicas of the root coordinator in one process, each with its disk.
pub(crate) struct Cluster {
    _dir: TempDir,
    addresses: Vec<String>,
    connector: Connector,
    kv: MetaClient,
    tasks: TaskGroup,
    pub(crate) script: Arc<Script>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners = BTreeMap::new();
        for id in 1..=3_u64 {
            listeners.insert(id, TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let members = listeners
            .iter()
            .map(|(id, listener)| format!("{id}={}", address(listener)))
            .collect::<Vec<_>>();
        let addresses: Vec<String> = listeners.values().map(address).collect();
        let connector = Connector::new(RpcOptions::default());
        let options = MetaClientOptions::default();
        let kv = MetaClient::new(connector.pool().clone(), addresses.clone(), options).unwrap();
        let tasks = TaskGroup::new("cluster");
        let script = Arc::new(Script::default());
        for (id, listener) in listeners {
            let member = Member {
                id,
                dir: dir.path().join(id.to_string()),
                address: address(&listener),
                members: members.clone(),
                kv: kv.clone(),
                script: script.clone(),
            };
            let stop = tasks.clone();
            tasks.spawn(format!("replica {id}"), OnFailure::Log, async move {
                member.live(listener, stop).await;
            });
        }
        Self {
            _dir: dir,
            addresses,
            connector,
            kv,
            tasks,
            script,
        }
    }

    /// Asks whoever leads until there is an answer that asking again would not change, as a proxy
    /// does; always under the same request id.
    pub(crate) async fn submit(&self, request: &DdlRequest) -> Result<Revision> {
        let deadline = Deadline::after(PATIENCE);
        for address in self.addresses.iter().cycle() {
            let root = self.connector.root_coord(address).unwrap();
            let within = deadline.at_most(ASK_WITHIN);
            let asked = call(within, request.clone(), |request| root.submit(request));
            match asked.await {
                Ok(answer) => return Ok(Revision(answer.revision)),
                Err(error) if is_away(&error.error) && !deadline.expired() => {}
                Err(error) => return Err(error.error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("the addresses go round")
    }

    /// Has a definition made that is no part of the test; nobody dies.
    pub(crate) async fn prepare(&self, id: &str, command: Command) {
        self.script.arm(None, None);
        self.submit(&request(id, command)).await.unwrap();
        self.script.ended().await;
    }

    /// Puts a flushed segment into each partition of a collection.
    pub(crate) async fn fill(&self, name: &str) {
        let view = self.view().await;
        let entry = view.collection(DatabaseId::DEFAULT, name).unwrap();
        for partition in entry.visible_partitions() {
            let info = SegmentInfo {
                id: partition.id + 1_000_000_000,
                collection_id: entry.id().0,
                partition_id: partition.id,
                ..SegmentInfo::default()
            };
            let key = keys::segment(entry.id(), PartitionId(partition.id), SegmentId(info.id));
            let put = Txn::new().then(Op::put(key, info.encode_to_vec()));
            self.kv.txn(put).await.unwrap();
        }
    }

    pub(crate) async fn view(&self) -> Arc<CatalogView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Catalog::load(&self.kv).await {
                Ok(catalog) => return catalog.view(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Every collection in every state, by name; ids are left out, since a crash burns them.
    pub(crate) async fn observe(&self) -> String {
        let view = self.view().await;
        let mut lines = Vec::new();
        for entry in view.all_collections() {
            let mut line = format!("{} {:?}", entry.name(), entry.state());
            for partition in entry.partitions.values() {
                write!(line, " / {} {:?}", partition.name, partition.state()).unwrap();
            }
            write!(line, " / {} segments", entry.segments.len()).unwrap();
            lines.push(line);
        }
        lines.sort();
        lines.join("\n")
    }
}

/// Whether another replica may know better, or the same one later.
fn is_away(error: &Error) -> bool {
    error.retriable || error.code == ErrorCode::Timeout
}

pub(crate) fn request(id: &str, command: Command) -> DdlRequest {
    DdlRequest {
        request_id: id.to_owned(),
        command: Some(command),
        ..DdlRequest::default()
    }
}

/// What one replica is started from, again and again.
struct Member {
    id: u64,
    dir: PathBuf,
    address: String,
    members: Vec<String>,
    kv: MetaClient,
    script: Arc<Script>,
}

impl Member {
    /// Runs the replica until the test ends. When it dies, by the script or because it has lost the
    /// lead, it is started again at once, as a supervisor would.
    async fn live(self, listener: TcpListener, test: TaskGroup) {
        let mut listener = Some(listener);
        while !test.token().is_cancelled() {
            let socket = match listener.take() {
                Some(socket) => socket,
                None => self.bind().await,
            };
            let (deaths, mut dies) = watch::channel(0);
            let process = Process::new("rootcoord", self.options());
            let serving = self.life(deaths).serve(process.clone(), socket);
            process.tasks.spawn("serve", OnFailure::Shutdown, serving);
            tokio::select! {
                _ = dies.changed() => {}
                _ = process.tasks.failed() => {}
                () = test.token().cancelled_owned() => {}
            }
            // Nothing is ended in order: its tasks are dropped where they are.
            process.tasks.abort();
            process.stops.run(&mut Shutdown::new(PATIENCE)).await;
        }
    }

    async fn bind(&self) -> TcpListener {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpListener::bind(&self.address).await {
                Ok(listener) => return listener,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn options(&self) -> NodeOptions {
        let mut options = NodeOptions::default();
        options.common.data_dir = self.dir.clone();
        options.common.min_free_space = ByteSize::bytes(0);
        options
    }

    fn life(&self, deaths: watch::Sender<u64>) -> Life {
        let injector = Injector {
            script: self.script.clone(),
            deaths,
        };
        Life {
            metastore: MetastoreOptions {
                node_id: self.id,
                members: self.members.clone(),
                heartbeat: HumanDuration::millis(100),
                election_timeout: HumanDuration::millis(300),
                ..MetastoreOptions::default()
            },
            exposure: self.address.clone(),
            around: Surroundings {
                announce: Some(Arc::new(Obedient {
                    kv: self.kv.clone(),
                })),
                faults: Some(Arc::new(injector)),
            },
        }
    }
}

/// One life of a replica.
struct Life {
    metastore: MetastoreOptions,
    exposure: String,
    around: Surroundings,
}

impl Life {
    async fn serve(self, process: Process, listener: TcpListener) -> redkite_node::Result<()> {
        let exposure = Exposure::Network {
            listener,
            address: self.exposure,
        };
        let replica = Replica::open(&process, exposure, &self.metastore).await?;
        let host = Host::take_office(replica).await?;
        let context = NodeContext::host(process, host.kv(), host.identity).await?;
        let options = RootCoordOptions::default();
        start_amid(host, &context, options, self.around)
            .await
            .map(drop)
    }
}

/// The other services: they always obey, and data that they drop is segments in the metastore.
struct Obedient {
    kv: MetaClient,
}

#[async_trait]
impl Announce for Obedient {
    async fn query_nodes(&self, _: Revision, _: CollectionId, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn tell_query_nodes(&self, _: Revision, _: CollectionId, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn data_coord(&self, _: Revision) -> Result<()> {
        Ok(())
    }

    async fn drop_data(&self, id: CollectionId, partition: Option<PartitionId>) -> Result<()> {
        let prefix = match partition {
            Some(partition) => keys::partition_segments(id, partition),
            None => keys::segments(id),
        };
        let dropped = self.kv.txn(Txn::new().then(Op::DeletePrefix { prefix }));
        match dropped.await.map_err(|error| Error::from_coded(&error))? {
            TxnOutcome::Applied { .. } | TxnOutcome::Refused { .. } => Ok(()),
        }
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
