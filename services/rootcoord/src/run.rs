//! Puts the root coordinator together and starts it.

use std::{sync::Arc, time::Duration};

use prost::Message;
use redkite_catalog::{Lease, Role, keys};
use redkite_config::Validate;
use redkite_metastore::{Leadership, MetaKv, Op, SharedKv, Txn, read_all};
use redkite_node::{Error, Exposure, Identity, NodeContext, Phase, Process, Result};
use redkite_proto::redkite::meta::Session;
use redkite_runtime::{HealthState, OnFailure, SystemClock, TaskGroup};
use redkite_saga::{FaultInjector, SagaConfig, SagaExecutor};
use redkite_types::{NodeId, error::chain};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    MetastoreOptions, Replica, RootCoordOptions, RootCoordService,
    alloc::{IdAllocator, TimestampOracle},
    announce::PeerAnnounce,
    bootstrap::{bootstrap, bootstrap_access},
    ddl::{Announce, DdlContext, DdlGate, gate::registry},
    stamped::{StampedKv, prune_history},
};

/// How long sagas may take to come to a step's end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The sections of the configuration that are the root coordinator's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Limits.
    pub rootcoord: RootCoordOptions,
    /// The group of replicas.
    pub metastore: MetastoreOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.metastore.validate()
    }
}

/// A replica that leads, and what must come before all else.
pub struct Host {
    replica: Replica,
    term: u64,
    kv: SharedKv,
    ids: Arc<IdAllocator>,
    tso: Arc<TimestampOracle>,
    /// This process.
    pub identity: Identity,
}

impl Host {
    /// Waits until the replica leads, and takes over the ids and the timestamps. A lead that is lost
    /// meanwhile, as happens while a group is founded, is waited for again.
    ///
    /// # Errors
    /// When the disk fails or a record is damaged.
    pub async fn take_office(replica: Replica) -> Result<Self> {
        loop {
            let term = replica.lead().await?;
            match Self::take_over(&replica).await {
                Ok((ids, tso, identity)) => {
                    return Ok(Self {
                        kv: StampedKv::shared(replica.kv(), tso.clone()),
                        replica,
                        term,
                        ids: Arc::new(ids),
                        tso,
                        identity,
                    });
                }
                Err(error) if replica.leads(term) => return Err(error),
                Err(error) => info!(term, error = %chain(&error), "the lead was lost at once"),
            }
        }
    }

    async fn take_over(replica: &Replica) -> Result<(IdAllocator, Arc<TimestampOracle>, Identity)> {
        let kv = replica.kv();
        let failed = Error::start::<redkite_types::Error>;
        let ids = IdAllocator::open(kv.clone())
            .await
            .map_err(failed("open the ids"))?;
        let tso = TimestampOracle::open(kv.clone(), SystemClock::shared())
            .await
            .map_err(failed("open the timestamps"))?;
        let tso = Arc::new(tso);
        let kv = StampedKv::shared(kv, tso.clone());
        let started = tso.alloc(1).await.map_err(failed("take a timestamp"))?;
        let id = ids.alloc(1).await.map_err(failed("take an id"))?;
        bootstrap(kv.as_ref(), started)
            .await
            .map_err(failed("make the default database"))?;
        forget_local_sessions(kv.as_ref())
            .await
            .map_err(Error::start("end the sessions of an earlier process"))?;
        let identity = Identity {
            node: NodeId(id.unsigned_abs()),
            started,
        };
        Ok((ids, tso, identity))
    }

    /// The metastore, with a time on each change that history is kept of.
    pub fn kv(&self) -> SharedKv {
        self.kv.clone()
    }
}

/// Ends the sessions of services that lived in an earlier process together with this metastore:
/// whoever has its disk now knows that they are gone.
async fn forget_local_sessions(kv: &dyn MetaKv) -> redkite_metastore::Result<()> {
    let (sessions, _) = read_all(kv, keys::SESSIONS).await?;
    let mut txn = Txn::new();
    for pair in sessions {
        let session = Session::decode(pair.value);
        if session.is_ok_and(|session| Exposure::is_local(&session.address)) {
            txn = txn.then(Op::delete(pair.key));
        }
    }
    if !txn.ops.is_empty() {
        kv.txn(txn).await?;
    }
    Ok(())
}

/// What a test puts in the place of what surrounds a root coordinator.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// The other services; without it those that are announced.
    pub announce: Option<Arc<dyn Announce>>,
    /// Makes sagas fail and the process die.
    pub faults: Option<Arc<dyn FaultInjector>>,
}

/// How long readiness waits for the sagas of an earlier process.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// The sagas that an earlier process has left half done, which go on by themselves.
#[must_use = "a server is ready once they have ended"]
pub struct TakenOver(watch::Receiver<bool>);

impl TakenOver {
    /// Waits until each of them has ended or is stuck, but not for ever: what they wait for may be
    /// away for long, and everything else can be served without it.
    pub async fn settled(self) {
        self.settled_within(SETTLED_WITHIN).await;
    }

    async fn settled_within(mut self, within: Duration) {
        let settled = self.0.wait_for(|settled| *settled);
        // The sender goes when the process stops.
        if tokio::time::timeout(within, settled).await.is_err() {
            warn!("sagas of an earlier process still run: ready without them");
        }
    }
}

/// Starts the root coordinator and announces it; answers what it goes on with. When another replica
/// takes the lead, the process stops: what it knows and holds is the other one's now, and started
/// again it stands by.
///
/// # Errors
/// When a saga's record cannot be understood, or the metastore fails.
pub async fn start(
    host: Host,
    context: &NodeContext,
    options: RootCoordOptions,
) -> Result<TakenOver> {
    start_amid(host, context, options, Surroundings::default()).await
}

/// [`start`] in surroundings of a test's own.
///
/// # Errors
/// As [`start`].
pub async fn start_amid(
    host: Host,
    context: &NodeContext,
    options: RootCoordOptions,
    around: Surroundings,
) -> Result<TakenOver> {
    let tasks = context.control_tasks(Role::RootCoord);
    let leadership = host.replica.meta.leadership();
    tasks.spawn_cancellable(
        "leadership",
        OnFailure::Shutdown,
        deposed(leadership, host.term),
    );

    tasks.spawn_cancellable(
        "history",
        OnFailure::Log,
        prune_history(
            host.kv.clone(),
            host.tso.clone(),
            host.replica.history_retention,
        ),
    );
    bootstrap_access(
        context.kv.as_ref(),
        context.identity.started,
        &options.default_root_password,
    )
    .await
    .map_err(Error::start("make the first user"))?;
    let ddl = Arc::new(DdlContext {
        kv: context.kv.clone(),
        catalog: context.catalog.clone(),
        announce: around
            .announce
            .unwrap_or_else(|| Arc::new(PeerAnnounce(context.peers.clone()))),
        ids: host.ids.clone(),
        tso: host.tso.clone(),
        options,
    });
    let registry = registry(&ddl).map_err(Error::start("register the sagas"))?;
    let config = SagaConfig {
        faults: around.faults,
        ..SagaConfig::new(context.kv.clone(), host.term, registry, tasks.clone())
    };
    let executor = SagaExecutor::start(config)
        .await
        .map_err(Error::start("take over the sagas"))?;
    let taken_over = watch_taken_over(&executor, &tasks);
    let gate = Arc::new(DdlGate::new(ddl, executor));
    let closing = gate.clone();
    context.process.stops.add(
        Phase::Control,
        async move { closing.close(CLOSE_WITHIN).await },
    );

    let routes = crate::admin::routes(context.kv.clone(), &gate, context.process.draining());
    context.process.admin.add(routes);
    host.replica.standby.activate(RootCoordService::new(
        gate,
        host.ids,
        host.tso,
        context.disk.clone(),
        host.replica.meta,
    ));
    context
        .announce(Role::RootCoord, &host.replica.address, Lease::new())
        .await?;
    Ok(taken_over)
}

/// Follows the sagas that an executor has found when it was started.
fn watch_taken_over(executor: &SagaExecutor, tasks: &TaskGroup) -> TakenOver {
    let (sender, receiver) = watch::channel(executor.list().is_empty());
    if !*receiver.borrow() {
        let executor = executor.clone();
        let work = async move {
            executor.idle().await;
            sender.send_replace(true);
        };
        tasks.spawn_cancellable("sagas taken over", OnFailure::Log, work);
    }
    TakenOver(receiver)
}

/// Fails as soon as this replica does not lead in its term any more.
async fn deposed(mut leadership: watch::Receiver<Leadership>, term: u64) -> Result<()> {
    let lost = leadership
        .wait_for(|now| *now != Leadership::Leader { term })
        .await;
    // The channel closes when the metastore has failed, which is as bad.
    drop(lost);
    Err(Error::Failed {
        reason: format!("the metastore's lead of term {term} is lost"),
    })
}

/// The root coordinator as a process of its own. Returns once it serves: as the one that leads, or
/// standing by while another one does.
///
/// # Errors
/// As [`Replica::open`], [`Host::take_office`] and [`start`].
pub async fn run(process: Process, config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let replica = Replica::open(&process, exposure, &config.metastore).await?;
    process
        .health
        .set(HealthState::Starting, "the metastore has no leader yet");
    if replica.joined().await? {
        return serve(process, replica, config.rootcoord).await;
    }
    info!("another root coordinator leads, this one stands by");
    let tasks = process.tasks.child("standby");
    let (standing_by, stop) = (process.clone(), tasks.token());
    tasks.spawn("standby", OnFailure::Shutdown, async move {
        let serving = serve(standing_by, replica, config.rootcoord);
        stop.run_until_cancelled(serving).await.unwrap_or(Ok(()))
    });
    process.stops.add_group(Phase::Control, tasks);
    Ok(())
}

/// Serves as the root coordinator from the moment that the replica leads.
async fn serve(process: Process, replica: Replica, options: RootCoordOptions) -> Result<()> {
    let host = Host::take_office(replica).await?;
    let context = NodeContext::host(process, host.kv(), host.identity).await?;
    let taken_over = start(host, &context, options).await?;
    taken_over.settled().await;
    info!("this root coordinator leads");
    // A standby was ready before it led, and making the context has said otherwise.
    context.process.health.ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_waits_for_what_was_cut_off_but_not_for_ever() {
        let (sender, receiver) = watch::channel(false);
        let long = Duration::from_secs(600);
        let waiting = TakenOver(receiver.clone()).settled_within(long);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        sender.send_replace(true);
        waiting.await;
        let (_still_runs, receiver) = watch::channel(false);
        TakenOver(receiver).settled_within(Duration::ZERO).await;
    }
}
