//! A replica as a [`MetaKv`].

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream};
use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, RaftError};
use redkite_types::error::chain;
use redkite_types::{Outcome, Revision, Timestamp};
use tokio::sync::watch;

use crate::command::{Applied, MetaCommand};
use crate::error::{Error, Result};
use crate::kv::{KeyValue, MetaKv, Page, Txn, TxnOutcome, WatchBatch, WatchStream};
use crate::raft::leader::Leadership;
use crate::raft::node::MetaNode;
use crate::raft::proposer::unavailable;
use crate::raft::types::storage;

impl MetaNode {
    fn votes_alone(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(self.inner.node_id) && voters.next().is_none()
    }

    pub(super) fn check_leads(&self) -> Result<()> {
        match &*self.inner.leadership.borrow() {
            Leadership::Leader { .. } => Ok(()),
            Leadership::Follower { leader } => Err(Error::NotLeader {
                leader: leader.clone(),
            }),
        }
    }

    /// Returns once it is certain that no other replica was elected before the call.
    ///
    /// # Correctness
    /// A quorum that has confirmed a leader votes for no other within an election timeout, so one
    /// round of messages serves for half of that. One of it that was restarted has forgotten what it
    /// confirmed, and votes for nobody for as long. Instants go on while a process is stopped.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Unavailable`] without a quorum.
    pub async fn confirm_lead(&self) -> Result<()> {
        self.check_leads()?;
        let asked = Instant::now();
        if self.votes_alone() || asked < *self.inner.confirmed_until.lock() {
            return Ok(());
        }
        self.read_barrier().await?;
        let mut until = self.inner.confirmed_until.lock();
        *until = (*until).max(asked + self.inner.confirmed_for);
        Ok(())
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

    async fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        self.read_barrier().await?;
        self.inner.store.get_as_of(key, ts)
    }

    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        self.read_barrier().await?;
        self.inner.store.range_as_of(prefix, after, limit, ts)
    }

    async fn prune_history(&self, before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        while let Some((command, versions)) = self.inner.store.next_prune(before) {
            self.write(command).await?;
            gone += versions;
        }
        Ok(gone)
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
