//! One replica of the metastore.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream};
use openraft::error::{CheckIsLeaderError, InitializeError, RaftError};
use openraft::{BasicNode, ServerState};
use redkite_proto::redkite::metastore::raft_server;
use redkite_rpc::ChannelPool;
use redkite_runtime::{Deadline, OnFailure, TaskGroup};
use redkite_types::error::chain;
use redkite_types::{Outcome, Revision};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::command::{Applied, MetaCommand};
use crate::error::{Error, Result};
use crate::history::HistoryLimits;
use crate::kv::{KeyValue, MetaKv, Page, Txn, TxnOutcome, WatchBatch, WatchStream};
use crate::lease::LeaseTable;
use crate::raft::disk::LogDisk;
use crate::raft::disk_sled::{SledDisk, damaged};
use crate::raft::leader::{Leadership, Leading, fatal};
use crate::raft::log_store::LogStore;
use crate::raft::network::{Network, RaftService};
use crate::raft::options::MetaNodeOptions;
use crate::raft::proposer::{Proposer, proposer, unavailable};
use crate::raft::snapshot::SnapshotDir;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{LogId, Raft, SnapshotMeta, storage};
use crate::store::Store;

/// How long the node's own tasks may take to end.
const STOP_TASKS: Duration = Duration::from_secs(5);
/// A snapshot asked for while another one was being written is asked for again after this.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(200);

/// One replica of the metastore; clones are the same replica.
///
/// It serves reads, writes and watches only while it leads; otherwise it answers
/// [`Error::NotLeader`] with the leader's address, if it is known.
#[derive(Clone)]
pub struct MetaNode {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    raft: Raft,
    log: LogStore,
    store: Arc<Store>,
    leases: Arc<LeaseTable>,
    proposer: Proposer,
    leadership: watch::Receiver<Leadership>,
    tasks: TaskGroup,
    request_timeout: Duration,
}

/// What an operator asks of a replica.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The replica's id.
    pub node_id: u64,
    /// Its role as raft names it.
    pub state: String,
    /// The current term.
    pub term: u64,
    /// Id of the leader, if known.
    pub leader: Option<u64>,
    /// All members with their addresses, learners among them.
    pub members: Vec<(u64, String)>,
    /// Those that vote.
    pub voters: Vec<u64>,
    /// Index of the last entry of the log.
    pub last_log: u64,
    /// Index of the last entry that was applied.
    pub applied: u64,
    /// Index of the last entry in the snapshot.
    pub snapshot: u64,
    /// The store's revision.
    pub revision: Revision,
    /// Bytes of the log on the disk.
    pub log_bytes: u64,
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
            let disk = SledDisk::open(&opening.dir.join("log"))?;
            Opened::new(Arc::new(disk), &opening)
        });
        let opened = opened
            .await
            .map_err(|error| storage("open the metastore", error))??;
        let node = Self::start(opened, &options, pool, tasks).await?;
        let elapsed_ms = crate::wire::millis(started.elapsed());
        info!(node_id = options.node_id, elapsed_ms, dir = %options.dir.display(), "metastore open");
        Ok(node)
    }

    async fn start(
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
        let request_timeout = options.request_timeout;
        let node_id = options.node_id;
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

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The service that the other replicas call.
    pub fn raft_service(&self) -> raft_server::RaftServer<impl raft_server::Raft + use<>> {
        RaftService {
            raft: self.inner.raft.clone(),
        }
        .into_server()
    }

    /// The state of this replica.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn status(&self) -> Result<NodeStatus> {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Ok(NodeStatus {
            node_id: self.inner.node_id,
            state: format!("{:?}", metrics.state),
            term: metrics.current_term,
            leader: metrics.current_leader,
            members: membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone()))
                .collect(),
            voters: membership.voter_ids().collect(),
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            revision: self.inner.store.revision(),
            log_bytes: self.inner.log.size_bytes()?,
        })
    }

    /// Writes a snapshot now and waits until the log behind it may be purged.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Unavailable`].
    pub async fn snapshot_now(&self) -> Result<()> {
        let raft = &self.inner.raft;
        let applied = raft.metrics().borrow().last_applied;
        let deadline = Deadline::after(self.inner.request_timeout);
        while !deadline.expired() {
            // Of no effect while another one is being written, which may be too old for us.
            raft.trigger()
                .snapshot()
                .await
                .map_err(|error| storage("write a snapshot", error))?;
            let written = raft.wait(Some(deadline.left().min(SNAPSHOT_RETRY)));
            if written
                .metrics(|now| now.snapshot >= applied, "snapshot")
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        Err(unavailable("the snapshot takes too long", Outcome::Unknown))
    }

    /// Adds a replica that follows without a vote, and waits until it has caught up.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::Unavailable`], [`Error::Invalid`], [`Error::Storage`].
    pub async fn add_learner(&self, node_id: u64, address: &str) -> Result<()> {
        self.check_leads()?;
        let added = self
            .inner
            .raft
            .add_learner(node_id, BasicNode::new(address), true)
            .await;
        added.map(drop).map_err(|error| membership_failure(&error))
    }

    /// Makes these replicas, members already, the ones that vote; others are removed.
    ///
    /// # Errors
    /// As [`MetaNode::add_learner`].
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<()> {
        self.check_leads()?;
        let changed = self.inner.raft.change_membership(voters, false).await;
        changed
            .map(drop)
            .map_err(|error| membership_failure(&error))
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

    fn votes_alone(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(self.inner.node_id) && voters.next().is_none()
    }

    fn check_leads(&self) -> Result<()> {
        match &*self.inner.leadership.borrow() {
            Leadership::Leader { .. } => Ok(()),
            Leadership::Follower { leader } => Err(Error::NotLeader {
                leader: leader.clone(),
            }),
        }
    }

    /// Returns once this replica's state shows every write that was answered before the call.
    async fn read_barrier(&self) -> Result<()> {
        self.check_leads()?;
        let state = self.inner.raft.server_metrics().borrow().state;
        if state == ServerState::Leader && self.votes_alone() {
            // Nobody else can have answered a write: no other can be elected without this
            // replica's own vote, and this one answers only what it has applied.
            return Ok(());
        }
        let barrier = self.inner.raft.ensure_linearizable();
        match tokio::time::timeout(self.inner.request_timeout, barrier).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(Error::NotLeader {
                    leader: forward.leader_node.map(|node| node.addr),
                })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(error)))) => {
                Err(unavailable(&chain(&error), Outcome::NotApplied))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(storage("read through raft", error)),
            Err(_) => Err(unavailable(
                "no quorum confirmed the read",
                Outcome::NotApplied,
            )),
        }
    }

    async fn write(&self, command: MetaCommand) -> Result<Applied> {
        command.validate()?;
        self.check_leads()?;
        self.inner.proposer.propose(command).await
    }
}

/// Founds the cluster on a new disk; a lone voter stands for election at once, because there is
/// nobody whose silence it has to wait for.
async fn found_or_elect(raft: &Raft, options: &MetaNodeOptions, pristine: bool) -> Result<()> {
    let failed = |error| storage("start raft", error);
    if pristine && !options.founders.is_empty() {
        let members = options.founders.iter();
        let members: BTreeMap<_, _> = members
            .map(|(id, address)| (*id, BasicNode::new(address)))
            .collect();
        return match raft.initialize(members).await {
            // Not allowed: another founder was faster, and this replica has heard of it.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(storage("found the metastore's cluster", error)),
        };
    }
    let node_id = options.node_id;
    let start = raft.with_raft_state(move |state| {
        let members = state.membership_state.effective().membership().clone();
        let alone = members.voter_ids().eq([node_id]);
        alone.then(|| state.vote_ref().leader_id().term)
    });
    let Some(term) = start.await.map_err(failed)? else {
        return Ok(());
    };
    raft.trigger().elect().await.map_err(failed)?;
    let elected = raft.wait(Some(options.request_timeout));
    let elected = elected
        .metrics(|now| now.current_term > term, "own election")
        .await;
    elected
        .map(drop)
        .map_err(|error| storage("start raft", error))
}

type MembershipError = RaftError<u64, openraft::error::ClientWriteError<u64, BasicNode>>;

fn membership_failure(error: &MembershipError) -> Error {
    use openraft::error::ClientWriteError;
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => Error::NotLeader {
            leader: forward.leader_node.as_ref().map(|node| node.addr.clone()),
        },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Error::Invalid { what: chain(error) }
        }
        RaftError::Fatal(fatal) => storage("change the members", chain(fatal)),
    }
}

/// What is read from the disk before raft starts.
struct Opened {
    log: LogStore,
    state_machine: StateMachine,
    pristine: bool,
}

impl Opened {
    /// Blocks.
    fn new(disk: Arc<dyn LogDisk>, options: &MetaNodeOptions) -> Result<Self> {
        let log_dir = options.dir.join("log");
        let log = LogStore::open(disk, options.node_id, &log_dir)?;
        let (snapshots, snapshot) = SnapshotDir::open(&options.dir.join("snapshot"))?;
        let pristine = log.is_pristine()?;
        check_together(
            &log,
            snapshot.as_ref().map(|(meta, _)| meta),
            pristine,
            &log_dir,
        )?;
        let limits = HistoryLimits {
            batches: options.history_batches,
            ..Default::default()
        };
        let make_store = |state| Store::with_limits(state, limits);
        let state_machine = StateMachine::open(snapshots, snapshot, make_store)?;
        Ok(Self {
            log,
            state_machine,
            pristine,
        })
    }
}

/// Checks that log and snapshot are of one replica's life.
fn check_together(
    log: &LogStore,
    snapshot: Option<&SnapshotMeta>,
    pristine: bool,
    log_dir: &Path,
) -> Result<()> {
    let in_snapshot = snapshot.and_then(|meta| meta.last_log_id);
    if pristine && in_snapshot.is_some() {
        return Err(damaged(
            log_dir,
            "it is empty, but there is a snapshot: the log was lost",
        ));
    }
    let purged = log.purged()?;
    if purged > in_snapshot {
        let what = format!("it was purged to {purged:?}, the snapshot ends at {in_snapshot:?}");
        return Err(damaged(log_dir, what));
    }
    Ok(())
}

#[async_trait]
impl MetaKv for MetaNode {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.read_barrier().await?;
        self.inner.store.get(key)
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.read_barrier().await?;
        self.inner.store.range(prefix, after, limit)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.write(MetaCommand::Txn(txn)).await?.into_txn()
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        self.check_leads()?;
        let changes = self.inner.store.follow(prefix, after)?.boxed();
        let lost = lost_leadership(self.inner.leadership.clone()).boxed();
        // A replica that is cut off would show nothing new for ever: the watcher must go to
        // whoever leads.
        let watched = stream::unfold(Some((changes, lost)), |watching| async {
            let (mut changes, mut lost) = watching?;
            let item: Option<Result<WatchBatch>> = tokio::select! {
                biased;
                item = changes.next() => item,
                error = &mut lost => Some(Err(error)),
            };
            match item? {
                Ok(batch) => Some((Ok(batch), Some((changes, lost)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(watched.boxed())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<u64> {
        let lease = self
            .write(MetaCommand::LeaseGrant { ttl })
            .await?
            .into_lease()?;
        self.inner.leases.insert(lease, ttl);
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: u64) -> Result<()> {
        self.read_barrier().await?;
        if self.inner.leases.keep_alive(lease) {
            Ok(())
        } else {
            Err(Error::LeaseNotFound { lease })
        }
    }

    async fn lease_revoke(&self, lease: u64) -> Result<()> {
        self.write(MetaCommand::LeaseEnd {
            leases: vec![lease],
        })
        .await?;
        self.inner.leases.remove(lease);
        Ok(())
    }
}

/// Waits until this replica leads no more, or leads again in another term.
async fn lost_leadership(mut leadership: watch::Receiver<Leadership>) -> Error {
    let before = leadership.borrow_and_update().clone();
    let leader = match leadership.wait_for(|now| *now != before).await {
        Ok(now) => match &*now {
            Leadership::Follower { leader } => leader.clone(),
            Leadership::Leader { .. } => None,
        },
        Err(_) => None,
    };
    Error::NotLeader { leader }
}
