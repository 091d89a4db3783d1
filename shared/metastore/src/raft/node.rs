//! One replica of the metastore.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redkite_proto::redkite::metastore::raft_server;
use redkite_rpc::ChannelPool;
use redkite_runtime::{OnFailure, TaskGroup};
use redkite_types::Outcome;
use redkite_types::error::chain;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::lease::LeaseTable;
use crate::raft::disk::damaged;
use crate::raft::leader::{Leadership, Leading, fatal};
use crate::raft::log_store::LogStore;
use crate::raft::network::{Network, RaftService};
use crate::raft::open::{Opened, found_in_turn, found_or_elect};
use crate::raft::options::MetaNodeOptions;
use crate::raft::proposer::{Proposer, proposer, unavailable};
use crate::raft::types::{Raft, storage};
use crate::store::Store;

/// How long the node's own tasks may take to end.
const STOP_TASKS: Duration = Duration::from_secs(5);

/// One replica of the metastore; clones are the same replica.
///
/// It serves reads, writes and watches only while it leads; otherwise it answers
/// [`Error::NotLeader`] with the leader's address, if it is known.
#[derive(Clone)]
pub struct MetaNode {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) node_id: u64,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) store: Arc<Store>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) proposer: Proposer,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) tasks: TaskGroup,
    pub(super) request_timeout: Duration,
    /// Until then no other replica can have been elected.
    pub(super) confirmed_until: Mutex<Instant>,
    /// For so long a quorum's confirmation serves.
    pub(super) confirmed_for: Duration,
    /// Other replicas get its vote from then on.
    pub(super) votes_from: tokio::time::Instant,
}

impl MetaNode {
    /// Opens a replica and starts it. A new one founds its cluster, or waits to be added.
    ///
    /// Returns before there is a leader: see [`MetaNode::ready`]. A failure of the disk later on
    /// fails `tasks`, and with it the process.
    ///
    /// # Errors
    /// [`Error::Invalid`] settings; [`Error::Corrupt`]: the process must not start on this disk;
    /// [`Error::Storage`].
    pub async fn open(
        options: MetaNodeOptions,
        pool: ChannelPool,
        tasks: &TaskGroup,
    ) -> Result<Self> {
        options.validate()?;
        let started = Instant::now();
        let opening = options.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let log_dir = opening.dir.join("log");
            // An engine may panic on damage, also later than at its opening.
            let opened = catch_unwind(AssertUnwindSafe(|| {
                Opened::new(opening.engine.open(&log_dir)?, &opening)
            }));
            opened.unwrap_or_else(|_| Err(damaged(&log_dir, "it cannot be read")))
        });
        let opened = opened
            .await
            .map_err(|error| storage("open the metastore", error))??;
        let node = Self::start(opened, &options, pool, tasks).await?;
        let elapsed_ms = crate::wire::millis(started.elapsed());
        info!(node_id = options.node_id, elapsed_ms, dir = %options.dir.display(), "metastore open");
        Ok(node)
    }

    pub(super) async fn start(
        opened: Opened,
        options: &MetaNodeOptions,
        pool: ChannelPool,
        tasks: &TaskGroup,
    ) -> Result<Self> {
        let Opened {
            log,
            state_machine,
            pristine,
        } = opened;
        let store = state_machine.store();
        let config = options.raft_config().validate();
        let config = config.map_err(|error| Error::Invalid {
            what: chain(&error),
        })?;
        let network = Network::new(options.node_id, pool);
        let config = Arc::new(config);
        let raft = Raft::new(options.node_id, config, network, log.clone(), state_machine).await;
        let raft = raft.map_err(|error| storage("start raft", error))?;

        found_or_elect(&raft, options, pristine).await?;

        let (proposer, proposals) = proposer(options.request_timeout);
        let leases = Arc::new(LeaseTable::new());
        let (sender, leadership) = watch::channel(Leadership::Follower { leader: None });
        let leading = Leading {
            raft: raft.clone(),
            store: Arc::clone(&store),
            leases: Arc::clone(&leases),
            proposer: proposer.clone(),
            leadership: sender,
        };
        let tasks = tasks.child("metastore");
        let token = tasks.token();
        tasks.spawn(
            "metastore-proposer",
            OnFailure::Shutdown,
            proposals.run(raft.clone(), token),
        );
        tasks.spawn(
            "metastore-leader",
            OnFailure::Shutdown,
            leading.run(tasks.token()),
        );
        tasks.spawn_cancellable(
            "metastore-founder",
            OnFailure::Shutdown,
            found_in_turn(raft.clone(), options.clone(), pristine),
        );
        let request_timeout = options.request_timeout;
        let node_id = options.node_id;
        let confirmed_for = options.election_min / 2;
        let inner = Inner {
            node_id,
            raft,
            log,
            store,
            leases,
            proposer,
            leadership,
            tasks,
            request_timeout,
            confirmed_until: Mutex::new(Instant::now()),
            confirmed_for,
            votes_from: match pristine {
                true => tokio::time::Instant::now(),
                false => tokio::time::Instant::now() + confirmed_for,
            },
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Waits until the cluster has a leader and this replica knows it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none within the time; [`Error::Storage`].
    pub async fn ready(&self, within: Duration) -> Result<Leadership> {
        let mut leadership = self.inner.leadership.clone();
        let known = leadership.wait_for(|now| *now != Leadership::Follower { leader: None });
        match tokio::time::timeout(within, known).await {
            Ok(Ok(now)) => Ok(now.clone()),
            Ok(Err(_)) => Err(fatal(&self.inner.raft)),
            Err(_) => Err(unavailable(
                "the metastore has no leader yet",
                Outcome::NotApplied,
            )),
        }
    }

    /// Waits until this replica is one of those that vote. For ever, should raft end before.
    pub async fn until_voter(&self) {
        let id = self.inner.node_id;
        let mut metrics = self.inner.raft.server_metrics();
        let votes = metrics.wait_for(|now| {
            let members = now.membership_config.membership();
            members.voter_ids().any(|voter| voter == id)
        });
        if votes.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The service that the other replicas call.
    pub fn raft_service(&self) -> raft_server::RaftServer<impl raft_server::Raft + use<>> {
        RaftService {
            raft: self.inner.raft.clone(),
            votes_from: self.inner.votes_from,
        }
        .into_server()
    }

    /// Stops the replica: its tasks first, then raft, then the log. Everything that was answered
    /// is durable already.
    ///
    /// # Errors
    /// [`Error::Storage`] when raft had failed before.
    pub async fn shutdown(&self) -> Result<()> {
        if let Err(still_running) = self.inner.tasks.shutdown(STOP_TASKS).await {
            warn!(error = %still_running, "metastore tasks are slow to end");
        }
        let stopped = self.inner.raft.shutdown().await;
        let log = self.inner.log.clone();
        let joined = tokio::task::spawn_blocking(move || log.stop()).await;
        stopped.map_err(|error| storage("stop raft", error))?;
        joined.map_err(|error| storage("stop the raft log", error))
    }
}
