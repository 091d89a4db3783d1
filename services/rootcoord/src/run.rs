//! Puts the root coordinator together and starts it.

use std::{sync::Arc, time::Duration};

use prost::Message;
use redkite_catalog::{Role, keys};
use redkite_config::Validate;
use redkite_metastore::{
    Leadership, MetaKv, MetaNode, MetaNodeOptions, MetaService, Op, SharedKv, Txn, read_all,
};
use redkite_node::{Error, Exposure, Identity, NodeContext, Phase, Process, Result};
use redkite_proto::redkite::{meta::Session, rootcoord::root_coord_server::RootCoordServer};
use redkite_rpc::limit_messages;
use redkite_runtime::{OnFailure, SystemClock};
use redkite_saga::{SagaConfig, SagaExecutor};
use redkite_types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tracing::warn;

use crate::{
    RootCoordOptions, RootCoordService,
    alloc::{IdAllocator, TimestampOracle},
    announce::PeerAnnounce,
    bootstrap::{bootstrap, bootstrap_access},
    ddl::{DdlContext, DdlGate, gate::registry},
};

/// Id of the metastore's only replica.
const REPLICA: u64 = 1;
/// How long sagas may take to come to a step's end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The sections of the configuration that are the root coordinator's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Limits.
    pub rootcoord: RootCoordOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        Ok(())
    }
}

/// The metastore's replica of this process, which leads, and what must come before all else.
pub struct Host {
    exposure: Exposure,
    meta: MetaNode,
    term: u64,
    ids: Arc<IdAllocator>,
    tso: Arc<TimestampOracle>,
    /// This process.
    pub identity: Identity,
}

impl Host {
    /// Opens the metastore and waits until this replica leads; the others reach it and the root
    /// coordinator as `exposure` says.
    ///
    /// # Errors
    /// When the data directory is damaged or the disk fails.
    pub async fn open(process: &Process, exposure: Exposure) -> Result<Self> {
        let address = exposure.address(Role::RootCoord);
        let options = MetaNodeOptions::single(REPLICA, process.options.meta_dir(), address);
        let pool = process.connector.pool().clone();
        let meta = MetaNode::open(options, pool, &process.tasks)
            .await
            .map_err(Error::start("open the metastore"))?;
        let stopping = meta.clone();
        process.stops.add(Phase::Metastore, async move {
            if let Err(error) = stopping.shutdown().await {
                warn!(error = %redkite_types::error::chain(&error), "metastore did not stop cleanly");
            }
        });
        let term = lead(meta.leadership()).await?;
        let kv: SharedKv = Arc::new(meta.clone());
        let failed = Error::start::<redkite_types::Error>;
        let ids = IdAllocator::open(kv.clone())
            .await
            .map_err(failed("open the ids"))?;
        let tso = TimestampOracle::open(kv.clone(), SystemClock::shared())
            .await
            .map_err(failed("open the timestamps"))?;
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
        Ok(Self {
            exposure,
            meta,
            term,
            ids: Arc::new(ids),
            tso: Arc::new(tso),
            identity,
        })
    }

    /// The metastore.
    pub fn kv(&self) -> SharedKv {
        Arc::new(self.meta.clone())
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

async fn lead(mut leadership: watch::Receiver<Leadership>) -> Result<u64> {
    loop {
        if let Leadership::Leader { term } = *leadership.borrow_and_update() {
            return Ok(term);
        }
        leadership
            .changed()
            .await
            .map_err(Error::start("lead the metastore"))?;
    }
}

/// Starts the root coordinator and announces it. When another replica takes the lead, the process
/// stops: what it knows and holds is the other one's now.
///
/// # Errors
/// When a saga's record cannot be understood, or the metastore fails.
pub async fn start(host: Host, context: &NodeContext, options: RootCoordOptions) -> Result<()> {
    let tasks = context.control_tasks(Role::RootCoord);
    let leadership = host.meta.leadership();
    tasks.spawn_cancellable(
        "leadership",
        OnFailure::Shutdown,
        deposed(leadership, host.term),
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
        announce: Arc::new(PeerAnnounce(context.peers.clone())),
        ids: host.ids.clone(),
        tso: host.tso.clone(),
        options,
    });
    let registry = registry(&ddl).map_err(Error::start("register the sagas"))?;
    let config = SagaConfig::new(context.kv.clone(), host.term, registry, tasks);
    let executor = SagaExecutor::start(config)
        .await
        .map_err(Error::start("take over the sagas"))?;
    let gate = Arc::new(DdlGate::new(ddl, executor));
    let closing = gate.clone();
    context.process.stops.add(
        Phase::Control,
        async move { closing.close(CLOSE_WITHIN).await },
    );

    let routes = crate::admin::routes(context.kv.clone(), host.meta.clone(), gate.clone());
    context.process.admin.add(routes);
    let service = Arc::new(RootCoordService::new(
        gate,
        host.ids,
        host.tso,
        context.disk.clone(),
    ));
    let address = context.expose(
        Role::RootCoord,
        host.exposure,
        |connector, address| connector.register_local_root_coord(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server
                .add_service(MetaService::server_until(
                    context.kv.clone(),
                    context.process.draining(),
                ))
                .add_service(host.meta.raft_service())
                .add_service(limit_messages!(
                    RootCoordServer::from_arc(service.clone()),
                    limit
                ))
        },
    );
    context.announce(Role::RootCoord, &address).await
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

/// The root coordinator as a process of its own.
///
/// # Errors
/// As [`Host::open`] and [`start`].
pub async fn run(process: Process, config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let host = Host::open(&process, exposure).await?;
    let context = NodeContext::host(process, host.kv(), host.identity).await?;
    start(host, &context, config.rootcoord).await
}
