//! This process as one of the metastore's replicas: from its disk to its lead.

use std::{path::Path, sync::Arc, time::Duration};

use redkite_catalog::{Role, keys};
use redkite_metastore::{
    Compare, Leadership, MetaClient, MetaClientOptions, MetaKv, MetaNode, MetaNodeOptions,
    MetaService, Op, SharedKv, Txn,
};
use redkite_node::{Error, Exposure, Phase, Process, Result};
use redkite_proto::redkite::rootcoord::root_coord_server::RootCoordServer;
use redkite_rpc::{ChannelPool, limit_messages};
use redkite_runtime::{Backoff, OnFailure};
use redkite_types::error::chain;
use tracing::{info, warn};

use crate::{MetastoreOptions, admin, standby::Standby};

/// How long a replica with an empty disk asks the others whether they know its id.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long a replica waits before it tries again to leave its id in the group's records.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A running replica of the metastore, whether it leads or not. The others reach it already.
pub struct Replica {
    pub(crate) meta: MetaNode,
    pub(crate) standby: Arc<Standby>,
    /// Where the root coordinator will be reached.
    pub(crate) address: String,
    /// For how long it can be read what keys held.
    pub(crate) history_retention: Duration,
}

impl Replica {
    /// Opens the metastore's files of this process and takes part in the group; `exposure` says how
    /// the others reach it and, once it leads, the root coordinator.
    ///
    /// # Errors
    /// When the data directory is damaged, the disk fails, the options contradict each other, or an
    /// empty disk comes with an id that the group knows.
    pub async fn open(
        process: &Process,
        exposure: Exposure,
        options: &MetastoreOptions,
    ) -> Result<Self> {
        let address = exposure.address(Role::RootCoord);
        let replica = options.replica(process.options.meta_dir(), &address)?;
        let pool = process.connector.pool().clone();
        let others = options.others();
        if !others.is_empty() {
            refuse_known_id(&replica, &pool, &others).await?;
        }
        let node_id = replica.node_id;
        let meta = MetaNode::open(replica, pool.clone(), &process.tasks)
            .await
            .map_err(Error::start("open the metastore"))?;
        let stopping = meta.clone();
        process.stops.add(Phase::Metastore, async move {
            if let Err(error) = stopping.shutdown().await {
                warn!(error = %chain(&error), "metastore did not stop cleanly");
            }
        });
        process
            .admin
            .add(admin::raft_routes(meta.clone(), process.connector.clone()));
        let standby = Arc::new(Standby::default());
        match exposure {
            Exposure::Local => process
                .connector
                .register_local_root_coord(&address, standby.clone()),
            Exposure::Network { listener, .. } => {
                let server = process.server();
                let limit = server.max_message_size();
                let kv: SharedKv = Arc::new(meta.clone());
                let server = server
                    .add_service(MetaService::server_until(kv, process.draining()))
                    .add_service(meta.raft_service())
                    .add_service(limit_messages!(
                        RootCoordServer::from_arc(standby.clone()),
                        limit
                    ));
                process.serve(Role::RootCoord.name(), server, listener);
                let addresses = [vec![address.clone()], others].concat();
                let record = record_id(meta.clone(), pool, addresses, node_id);
                let tasks = process.tasks.child("replica");
                tasks.spawn_cancellable("record the replica's id", OnFailure::Log, record);
                process.stops.add_group(Phase::Control, tasks);
            }
        }
        Ok(Self {
            meta,
            standby,
            address,
            history_retention: options.history_retention.get(),
        })
    }

    /// The metastore as this replica serves it: only while it leads.
    pub fn kv(&self) -> SharedKv {
        Arc::new(self.meta.clone())
    }

    /// Waits, for as long as it takes, until the group has a leader; whether it is this replica.
    ///
    /// # Errors
    /// When the metastore has failed.
    pub async fn joined(&self) -> Result<bool> {
        let mut leadership = self.meta.leadership();
        let known = leadership
            .wait_for(|now| *now != Leadership::Follower { leader: None })
            .await
            .map_err(Error::start("find the metastore's leader"))?;
        Ok(matches!(*known, Leadership::Leader { .. }))
    }

    /// Whether this replica leads in a term.
    pub fn leads(&self, term: u64) -> bool {
        *self.meta.leadership().borrow() == Leadership::Leader { term }
    }

    /// Waits, for as long as it takes, until this replica leads; the term of its lead.
    ///
    /// # Errors
    /// When the metastore has failed.
    pub async fn lead(&self) -> Result<u64> {
        let mut leadership = self.meta.leadership();
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
}

/// Refuses to start on an empty disk under an id that the group knows.
///
/// A replica that has lost its disk has lost its votes and entries that others count on: under the
/// same id it could help to elect a second leader of one term, and so undo what was acknowledged.
/// Where nobody answers, as when a group is founded, this cannot be known.
async fn refuse_known_id(
    replica: &MetaNodeOptions,
    pool: &ChannelPool,
    others: &[String],
) -> Result<()> {
    if !is_empty(&replica.dir) {
        return Ok(());
    }
    let options = MetaClientOptions {
        timeout: ASK_WITHIN,
        attempt_timeout: ASK_WITHIN / 2,
        ..MetaClientOptions::default()
    };
    let client = MetaClient::new(pool.clone(), others.to_vec(), options)
        .map_err(Error::start("reach the metastore"))?;
    let id = replica.node_id;
    match client.get(&keys::replica(id)).await {
        Ok(Some(_)) => Err(Error::Failed {
            reason: format!(
                "replica {id} is known to the group, but its directory {} is empty. A replica that \
                 has lost its disk must not vote again under its old id: start it with a new \
                 metastore.node_id and metastore.join = true, add that with `redkite raft add`, and \
                 remove {id} with `redkite raft remove`",
                replica.dir.display()
            ),
        }),
        Ok(None) => Ok(()),
        Err(error) => {
            info!(error = %chain(&error), "nobody knows the group yet");
            Ok(())
        }
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Leaves the replica's id in the group's records as soon as it votes, so that it is known if its
/// disk is ever lost.
async fn record_id(meta: MetaNode, pool: ChannelPool, addresses: Vec<String>, id: u64) {
    meta.until_voter().await;
    let client = match MetaClient::new(pool, addresses, MetaClientOptions::default()) {
        Ok(client) => client,
        Err(error) => return warn!(error = %chain(&error), "replica's id not recorded"),
    };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let key = keys::replica(id);
    loop {
        let absent = Compare::Absent { key: key.clone() };
        let txn = Txn::new()
            .when(absent)
            .then(Op::put(key.clone(), id.to_string()));
        // Refused means that it is there already.
        match client.txn(txn).await {
            Ok(_) => return,
            Err(error) => info!(error = %chain(&error), "replica's id not recorded yet"),
        }
        backoff.wait().await;
    }
}
