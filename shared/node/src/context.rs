//! What the services of a process share: metadata, peers, storage, threads.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redkite_catalog::{Catalog, Role};
use redkite_metastore::{MetaClient, MetaClientOptions, SharedKv};
use redkite_rpc::{Connector, ServerBuilder};
use redkite_runtime::{Backoff, CpuPool, HealthState, OnFailure, TaskGroup};
use redkite_storage::ObjectStore;
use redkite_types::{Coded as _, error::chain};
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::announce::Identity;
use crate::disk::DiskSpace;
use crate::error::{Error, Result};
use crate::gone::give_up_calls;
use crate::listen::Exposure;
use crate::memory::{self, MemoryBudget};
use crate::options::NodeOptions;
use crate::peers::Peers;
use crate::process::Process;
use crate::stops::Phase;

/// Pieces of work that may wait for the threads that compute, for each priority.
const CPU_QUEUE: usize = 1_024;
/// How often disks and memory are measured.
const MEASURE_EVERY: Duration = Duration::from_millis(100);
/// So many measures lie between two looks at what the allocator could return to the system.
const GIVE_BACK_EVERY: u64 = 20;

/// What the services of a process share. Clones are the same context.
#[derive(Clone)]
pub struct NodeContext {
    /// The process around it.
    pub process: Process,
    /// The metastore.
    pub kv: SharedKv,
    /// The newest view of all metadata; it follows the metastore.
    pub catalog: Arc<Catalog>,
    /// The other services.
    pub peers: Arc<Peers>,
    /// Which process this is.
    pub identity: Identity,
    /// The room on the disks that this process writes to.
    pub disk: Arc<DiskSpace>,
    /// The memory that this process may use.
    pub memory: Arc<MemoryBudget>,
    sessions: TaskGroup,
    resources: Arc<Resources>,
}

/// Made when a service first asks for them, and shared by all services of the process.
#[derive(Default)]
struct Resources {
    store: OnceCell<Arc<dyn ObjectStore>>,
    cpu: Mutex<Option<CpuPool>>,
}

impl NodeContext {
    /// Joins a deployment: finds the metastore through the root coordinator's address, and waits
    /// for both as long as it takes.
    ///
    /// # Errors
    /// [`Error::Start`] when the metadata cannot be understood.
    pub async fn join(process: Process) -> Result<Self> {
        let addresses = process.options.common.rootcoord.clone();
        let waiting = format!("no answer from rootcoord at {}", addresses.join(", "));
        process.health.set(HealthState::Starting, waiting);
        let pool = process.connector.pool().clone();
        let client = MetaClient::new(pool, addresses, MetaClientOptions::default())
            .map_err(Error::start("reach the metastore"))?;
        let kv: SharedKv = Arc::new(client);
        let (catalog, peers) = follow(&process, &kv).await?;
        let identity = Identity::ask(&peers).await;
        Ok(Self::new(process, kv, catalog, peers, identity))
    }

    /// The context of the process that hosts the metastore.
    ///
    /// # Errors
    /// [`Error::Start`] when the metadata cannot be understood.
    pub async fn host(process: Process, kv: SharedKv, identity: Identity) -> Result<Self> {
        let (catalog, peers) = follow(&process, &kv).await?;
        Ok(Self::new(process, kv, catalog, peers, identity))
    }

    fn new(
        process: Process,
        kv: SharedKv,
        catalog: Arc<Catalog>,
        peers: Arc<Peers>,
        identity: Identity,
    ) -> Self {
        let sessions = process.tasks.child("sessions");
        process.stops.add_group(Phase::Sessions, sessions.clone());
        process
            .health
            .set(HealthState::Starting, "starting the services");
        let common = &process.options.common;
        let min_free = common.min_free_space.as_u64();
        let disk = Arc::new(DiskSpace::new(process.options.local_dirs(), min_free));
        let memory = Arc::new(MemoryBudget::new(common.memory_limit.as_u64()));
        info!(
            min_free_space = min_free,
            memory_limit = memory.limit(),
            "limits"
        );
        process.tasks.spawn_cancellable(
            "measure disk and memory",
            OnFailure::Shutdown,
            measure(disk.clone(), memory.clone()),
        );
        Self {
            process,
            kv,
            catalog,
            peers,
            identity,
            disk,
            memory,
            sessions,
            resources: Arc::default(),
        }
    }

    /// The configuration that every process has.
    pub fn options(&self) -> &NodeOptions {
        &self.process.options
    }

    /// The tasks of one role, stopped in [`Phase::Control`].
    pub fn control_tasks(&self, role: Role) -> TaskGroup {
        let tasks = self.process.tasks.child(role.name());
        self.process.stops.add_group(Phase::Control, tasks.clone());
        tasks
    }

    pub(crate) fn sessions(&self) -> &TaskGroup {
        &self.sessions
    }

    /// Makes a role reachable, and returns the address under which it is: `local` registers it for
    /// direct calls, `network` adds it to a server.
    pub fn expose(
        &self,
        role: Role,
        exposure: Exposure,
        local: impl FnOnce(&Connector, &str),
        network: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> String {
        let address = exposure.address(role);
        match exposure {
            Exposure::Local => local(&self.process.connector, &address),
            Exposure::Network { listener, .. } => {
                let server = network(self.process.server());
                self.process.serve(role.name(), server, listener);
            }
        }
        address
    }

    /// The object store; opened, and tried out where it is remote, by the first who asks.
    ///
    /// # Errors
    /// [`Error::Start`], also when it does not answer within `storage.timeout`.
    pub async fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let store = self
            .resources
            .store
            .get_or_try_init(|| async {
                redkite_storage::open_with(&self.options().store_options())
                    .await
                    .map_err(Error::start("open the object store"))
            })
            .await?;
        Ok(store.clone())
    }

    /// The threads that compute; started by the first who asks.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn cpu(&self) -> Result<CpuPool> {
        let mut slot = self.resources.cpu.lock();
        if let Some(cpu) = &*slot {
            return Ok(cpu.clone());
        }
        let cpu = CpuPool::for_this_machine(CPU_QUEUE).map_err(Error::start("start threads"))?;
        Ok(slot.insert(cpu).clone())
    }
}

/// Measures again and again what is left.
async fn measure(disk: Arc<DiskSpace>, memory: Arc<MemoryBudget>) {
    let mut was_low = None;
    for round in 0_u64.. {
        let (measured_disk, measured_memory) = (disk.clone(), memory.clone());
        let measured = tokio::task::spawn_blocking(move || {
            measured_disk.measure();
            if round.is_multiple_of(GIVE_BACK_EVERY) {
                memory::give_back();
            }
            measured_memory.measure();
        });
        // It fails only while the process stops.
        let _ = measured.await;
        let low = disk.is_low();
        match (&was_low, &low) {
            (None, Some(dir)) => {
                warn!(dir = %dir.display(), "the disk is nearly full: writes of users are refused");
            }
            (Some(_), None) => info!("the disk has space again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        was_low = low;
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

/// Reads all metadata and keeps following it; waits while the metastore is not there.
async fn follow(process: &Process, kv: &SharedKv) -> Result<(Arc<Catalog>, Arc<Peers>)> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let catalog = loop {
        match Catalog::load(kv.as_ref()).await {
            Ok(catalog) => break catalog,
            Err(error) if error.retriable() => {
                warn!(error = %chain(&error), "metadata not read yet");
            }
            Err(error) => return Err(Error::start("read the metadata")(error)),
        }
        backoff.wait().await;
    };
    let tasks = process.tasks.child("metadata");
    let following = catalog.clone().follow(kv.clone(), tasks.token());
    tasks.spawn("follow the metadata", OnFailure::Shutdown, following);
    let giving_up = give_up_calls(catalog.clone(), process.connector.clone());
    tasks.spawn_cancellable("give up calls", OnFailure::Shutdown, giving_up);
    process.stops.add_group(Phase::Metadata, tasks);
    let peers = Arc::new(Peers::new(catalog.clone(), process.connector.clone()));
    Ok((catalog, peers))
}
