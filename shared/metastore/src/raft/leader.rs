//! What only the leader does, and who leads.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use redkite_runtime::CancellationToken;
use redkite_types::error::chain;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::command::MetaCommand;
use crate::error::{Error, Result};
use crate::lease::LeaseTable;
use crate::raft::metrics;
use crate::raft::proposer::Proposer;
use crate::raft::types::{Raft, storage};
use crate::store::Store;

/// Leases ended by one command.
const EXPIRY_CHUNK: usize = 1_000;
/// A leader that could not reach a quorum tries again after this.
const OFFICE_RETRY: Duration = Duration::from_millis(200);
/// Leases that could not be ended are tried again after this.
const EXPIRY_RETRY: Duration = Duration::from_millis(100);

/// Whether this replica leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It leads, and its state shows everything that was ever answered.
    Leader {
        /// The term, greater than that of every earlier leader: what writes are fenced with.
        term: u64,
    },
    /// It does not lead, or not yet.
    Follower {
        /// Address of the leader, if known.
        leader: Option<String>,
    },
}

/// The task that follows elections and, while this replica leads, ends leases.
pub(super) struct Leading {
    pub(super) raft: Raft,
    pub(super) store: Arc<Store>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) proposer: Proposer,
    pub(super) leadership: watch::Sender<Leadership>,
}

impl Leading {
    /// Runs until the node stops.
    ///
    /// # Errors
    /// [`Error::Storage`] when raft itself ended: the process must stop.
    pub(super) async fn run(self, token: CancellationToken) -> Result<()> {
        match token.run_until_cancelled(self.follow()).await {
            Some(error) => {
                self.resign(None);
                Err(error)
            }
            None => Ok(()),
        }
    }

    async fn follow(&self) -> Error {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (state, term, leader) = {
                let now = metrics.borrow_and_update();
                let leader = now.current_leader.filter(|leader| *leader != now.id);
                let members = now.membership_config.membership();
                let node = leader.and_then(|leader| members.get_node(&leader));
                (
                    now.state,
                    now.vote.leader_id().term,
                    node.map(|node| node.addr.clone()),
                )
            };
            let in_order = if state == ServerState::Leader {
                self.take_office(term).await
            } else {
                self.resign(leader);
                true
            };
            let changed = tokio::select! {
                changed = metrics.changed() => changed,
                () = tokio::time::sleep(OFFICE_RETRY), if !in_order => Ok(()),
                never = self.end_leases() => match never {},
            };
            if changed.is_err() {
                return fatal(&self.raft);
            }
        }
    }

    /// Announces the leadership once this replica's state shows everything that was answered;
    /// whether that is done.
    async fn take_office(&self, term: u64) -> bool {
        if *self.leadership.borrow() == (Leadership::Leader { term }) {
            return true;
        }
        self.resign(None);
        match self.raft.ensure_linearizable().await {
            Ok(_) => {
                let state = self.store.snapshot();
                self.leases.reset(state.leases());
                info!(term, revision = state.revision().0, "metastore leads");
                self.leadership.send_replace(Leadership::Leader { term });
                metrics::leads(true);
                true
            }
            Err(error) => {
                warn!(term, error = %error, "metastore cannot take the lead yet");
                false
            }
        }
    }

    fn resign(&self, leader: Option<String>) {
        self.leadership.send_if_modified(|now| {
            let next = Leadership::Follower { leader };
            let changed = *now != next;
            *now = next;
            changed
        });
        metrics::leads(false);
    }

    /// Ends leases whose time is over, for as long as this replica leads.
    async fn end_leases(&self) -> std::convert::Infallible {
        loop {
            self.leases.wait_for_expiry().await;
            let leases = self.leases.expired(EXPIRY_CHUNK);
            if !matches!(*self.leadership.borrow(), Leadership::Leader { .. }) {
                // Another leader ends them; ours start over should this replica lead again.
                self.leases.reset(std::iter::empty());
                continue;
            }
            let end = MetaCommand::LeaseEnd {
                leases: leases.clone(),
            };
            match self.proposer.propose(end).await {
                Ok(_) => leases.iter().for_each(|lease| self.leases.remove(*lease)),
                Err(error) => {
                    warn!(error = %chain(&error), count = leases.len(), "leases not ended yet");
                    tokio::time::sleep(EXPIRY_RETRY).await;
                }
            }
        }
    }
}

/// Why raft ended.
pub(super) fn fatal(raft: &Raft) -> Error {
    let why = match &raft.metrics().borrow().running_state {
        Ok(()) => "it ended".to_owned(),
        Err(fatal) => chain(fatal),
    };
    storage("run raft", why)
}
