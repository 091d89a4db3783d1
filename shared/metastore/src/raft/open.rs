//! The start of a replica: what is on its disk, and its first step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use openraft::BasicNode;
use openraft::error::{InitializeError, RaftError};

use crate::error::{Error, Result};
use crate::history::HistoryLimits;
use crate::raft::disk::{LogDisk, damaged, refused};
use crate::raft::log_store::LogStore;
use crate::raft::options::MetaNodeOptions;
use crate::raft::snapshot::SnapshotDir;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Raft, SnapshotMeta, storage};
use crate::store::Store;

/// What is read from the disk before raft starts.
pub(super) struct Opened {
    pub(super) log: LogStore,
    pub(super) state_machine: StateMachine,
    pub(super) pristine: bool,
}

impl Opened {
    /// Blocks.
    pub(super) fn new(disk: Arc<dyn LogDisk>, options: &MetaNodeOptions) -> Result<Self> {
        let log_dir = options.dir.join("log");
        let log = LogStore::open(disk, options.node_id, &log_dir)?;
        let snapshot_dir = options.dir.join("snapshot");
        let in_snapshot = |error| match error {
            Error::Corrupt { what } => {
                refused(&format!("the snapshot in {}", snapshot_dir.display()), what)
            }
            error => error,
        };
        let (snapshots, snapshot) = SnapshotDir::open(&snapshot_dir).map_err(in_snapshot)?;
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
        let state_machine =
            StateMachine::open(snapshots, snapshot, make_store).map_err(in_snapshot)?;
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

/// Founds the cluster on a new disk, where it is this founder's turn at once; a lone voter stands
/// for election at once, because there is nobody whose silence it has to wait for.
pub(super) async fn found_or_elect(
    raft: &Raft,
    options: &MetaNodeOptions,
    pristine: bool,
) -> Result<()> {
    let failed = |error| storage("start raft", error);
    if pristine {
        return match turn(options) {
            Some(0) => found(raft, options).await,
            Some(_) | None => Ok(()),
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
        .metrics(
            // Its timer may have run out, and it have been elected, before the term was looked at;
            // then it stands for no other election.
            |now| now.current_term > term || now.state.is_leader(),
            "own election",
        )
        .await;
    elected
        .map(drop)
        .map_err(|error| storage("start raft", error))
}

/// How many founders come before this one; `None` for a replica that founds nothing.
fn turn(options: &MetaNodeOptions) -> Option<u32> {
    let mut ids = options.founders.keys();
    let before = ids.position(|id| *id == options.node_id)?;
    u32::try_from(before).ok()
}

/// Founds the cluster in the place of founders that do not come, after some election timeouts.
///
/// Each founder could do it at once, since all of them write the same first entry, but then all of
/// them would stand for election in the same instant.
pub(super) async fn found_in_turn(
    raft: Raft,
    options: MetaNodeOptions,
    pristine: bool,
) -> Result<()> {
    let Some(before @ 1..) = turn(&options).filter(|_| pristine) else {
        return Ok(());
    };
    let wait = raft.wait(Some(options.election_max * 2 * before));
    let founded = wait
        .metrics(
            |now| now.membership_config.voter_ids().next().is_some(),
            "another founder",
        )
        .await;
    match founded {
        Ok(_) => Ok(()),
        Err(_) => found(&raft, &options).await,
    }
}

async fn found(raft: &Raft, options: &MetaNodeOptions) -> Result<()> {
    let members = options.founders.iter();
    let members: BTreeMap<_, _> = members
        .map(|(id, address)| (*id, BasicNode::new(address)))
        .collect();
    match raft.initialize(members).await {
        // Not allowed: another founder was faster, and this replica has heard of it.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(storage("found the metastore's cluster", error)),
    }
}
