//! Concurrent writes share log entries.
//!
//! openraft 0.9 waits for the disk after each entry, so entries of one command each would be one
//! sync of the disk each. What arrives while an entry is on its way goes into the next one together.

use std::time::{Duration, Instant};

use openraft::error::{ClientWriteError, RaftError};
use redkite_runtime::CancellationToken;
use redkite_types::Outcome;
use redkite_types::error::chain;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Applied, MAX_TXN_BYTES, MetaCommand};
use crate::error::{Error, Result};
use crate::raft::metrics;
use crate::raft::types::{Raft, storage};

/// Commands that may wait; more than that, and whoever brings one waits.
const QUEUE: usize = 4_096;
/// Commands that share an entry.
const GROUP: usize = 512;

struct Proposal {
    command: MetaCommand,
    reply: oneshot::Sender<Result<Applied>>,
}

/// Where commands are handed in.
#[derive(Clone)]
pub(super) struct Proposer {
    queue: mpsc::Sender<Proposal>,
    timeout: Duration,
}

/// What takes them out; [`Proposals::run`] is a task of its own.
pub(super) struct Proposals {
    queue: mpsc::Receiver<Proposal>,
    timeout: Duration,
    left_over: Option<Proposal>,
}

pub(super) fn proposer(timeout: Duration) -> (Proposer, Proposals) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let proposals = Proposals {
        queue: receiver,
        timeout,
        left_over: None,
    };
    (
        Proposer {
            queue: sender,
            timeout,
        },
        proposals,
    )
}

impl Proposer {
    /// Has a command applied, and waits for what became of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with its outcome, [`Error::Storage`].
    ///
    /// # Cancel safety
    /// A command that was handed in goes its way when the caller leaves.
    pub(super) async fn propose(&self, command: MetaCommand) -> Result<Applied> {
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal { command, reply };
        let deadline = tokio::time::Instant::now() + self.timeout;
        match tokio::time::timeout_at(deadline, self.queue.send(proposal)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unavailable("the replica is stopping", Outcome::NotApplied)),
            Err(_) => return Err(unavailable("too many writes wait", Outcome::NotApplied)),
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(applied)) => applied,
            Ok(Err(_)) => Err(unavailable("the replica is stopping", Outcome::Unknown)),
            Err(_) => Err(unavailable(
                "no quorum confirmed the write in time",
                Outcome::Unknown,
            )),
        }
    }
}

impl Proposals {
    /// Writes what is handed in until the node stops.
    pub(super) async fn run(mut self, raft: Raft, token: CancellationToken) {
        while let Some(group) = token.run_until_cancelled(self.next_group()).await.flatten() {
            let (commands, replies): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|proposal| (proposal.command, proposal.reply))
                .unzip();
            let answers = self.write(&raft, commands).await;
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Whoever waited may be gone.
                let _ = reply.send(answer);
            }
        }
    }

    /// The next command and those that wait behind it, as far as they fit an entry.
    async fn next_group(&mut self) -> Option<Vec<Proposal>> {
        let first = match self.left_over.take() {
            Some(first) => first,
            None => self.queue.recv().await?,
        };
        let mut bytes = first.command.approximate_bytes();
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = self.queue.try_recv()
        {
            bytes += next.command.approximate_bytes();
            if bytes > MAX_TXN_BYTES {
                self.left_over = Some(next);
                break;
            }
            group.push(next);
        }
        Some(group)
    }

    /// One answer for each command.
    async fn write(&self, raft: &Raft, mut commands: Vec<MetaCommand>) -> Vec<Result<Applied>> {
        let (count, started) = (commands.len(), Instant::now());
        let command = match commands.pop() {
            Some(command) if commands.is_empty() => command,
            last => {
                commands.extend(last);
                MetaCommand::Batch(commands)
            }
        };
        let written = match tokio::time::timeout(self.timeout, raft.client_write(command)).await {
            Ok(Ok(response)) => {
                metrics::proposed(count, started.elapsed());
                Ok(response.data)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let late =
                    || unavailable("no quorum confirmed the write in time", Outcome::Unknown);
                return (0..count).map(|_| Err(late())).collect();
            }
        };
        match written {
            Ok(Applied::Batch(each)) => each.into_iter().map(Ok).collect(),
            Ok(applied) => vec![Ok(applied)],
            Err(error) => (0..count).map(|_| Err(write_failure(&error))).collect(),
        }
    }
}

type WriteError = RaftError<u64, ClientWriteError<u64, openraft::BasicNode>>;

fn write_failure(error: &WriteError) -> Error {
    match error {
        // openraft answers this both for a command that it refused and for one whose entry was
        // taken back by a new leader; the latter may be on a third replica and still be chosen in
        // a later election. Commands of replicas that know that they do not lead never come here.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            unavailable("the leader changed during the write", Outcome::Unknown)
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => Error::Invalid {
            what: error.to_string(),
        },
        RaftError::Fatal(fatal) => storage("write through raft", chain(fatal)),
    }
}

pub(super) fn unavailable(what: &str, outcome: Outcome) -> Error {
    Error::Unavailable {
        what: what.to_owned(),
        outcome,
    }
}
