//! What operators ask of a replica.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use redkite_runtime::Deadline;
use redkite_types::error::chain;
use redkite_types::{Outcome, Revision};

use crate::error::{Error, Result};
use crate::raft::node::MetaNode;
use crate::raft::proposer::unavailable;
use crate::raft::types::{LogId, storage};

/// A snapshot asked for while another one was being written is asked for again after this.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(200);

/// What an operator asks of a replica.
#[derive(Clone, Debug, serde::Serialize)]
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

    /// Adds a replica: it follows without a vote until it has caught up, and votes from then on. What
    /// was done of it before is not done again.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::Unavailable`], [`Error::Storage`]; [`Error::Invalid`], also
    /// while another change is under way: try again.
    pub async fn add_voter(&self, node_id: u64, address: &str) -> Result<()> {
        self.check_leads()?;
        let added = self
            .inner
            .raft
            .add_learner(node_id, BasicNode::new(address), true)
            .await;
        added.map_err(|error| membership_failure(&error))?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node_id])))
            .await
    }

    /// Removes a replica, whether it votes or still only follows.
    ///
    /// # Errors
    /// As [`MetaNode::add_voter`]; [`Error::Invalid`] for one that is no member.
    pub async fn remove_member(&self, node_id: u64) -> Result<()> {
        self.check_leads()?;
        let status = self.status()?;
        if !status.members.iter().any(|(member, _)| *member == node_id) {
            return Err(Error::Invalid {
                what: format!("replica {node_id} is not a member"),
            });
        }
        let gone = BTreeSet::from([node_id]);
        self.change(match status.voters.contains(&node_id) {
            true => ChangeMembers::RemoveVoters(gone),
            false => ChangeMembers::RemoveNodes(gone),
        })
        .await
    }

    /// Changes what the members are when it comes to it, so that no change takes back another.
    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<()> {
        let changed = self.inner.raft.change_membership(change, false).await;
        changed
            .map(drop)
            .map_err(|error| membership_failure(&error))
    }
}

type MembershipError = RaftError<u64, ClientWriteError<u64, BasicNode>>;

fn membership_failure(error: &MembershipError) -> Error {
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
