//! openraft's state machine: the store, and its snapshots.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError, StorageIOError,
};
use tracing::info;

use redkite_types::error::chain;

use crate::command::Applied;
use crate::error::{Error, Result};
use crate::raft::snapshot::SnapshotDir;
use crate::raft::types::{
    Entry, LogId, Snapshot, SnapshotMeta, StorageResult, StoredMembership, TypeConfig, storage,
};
use crate::state::KvState;
use crate::store::Store;

/// How far the state machine is.
#[derive(Clone, Debug, Default)]
struct Progress {
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

/// The state machine. It is in memory only: at start it loads the last snapshot itself, and
/// openraft applies the committed rest of the log to it.
pub(super) struct StateMachine {
    store: Arc<Store>,
    progress: Progress,
    snapshots: SnapshotDir,
}

impl StateMachine {
    /// Loads the last snapshot, if there is one, into a new store made by `store`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn open(
        snapshots: SnapshotDir,
        snapshot: Option<(SnapshotMeta, Bytes)>,
        store: impl FnOnce(KvState) -> Store,
    ) -> Result<Self> {
        let (state, progress) = match snapshot {
            None => (KvState::new(), Progress::default()),
            Some((meta, bytes)) => (KvState::decode(&bytes)?, Progress::of(meta)),
        };
        Ok(Self {
            store: Arc::new(store(state)),
            progress,
            snapshots,
        })
    }

    /// The store that commands are applied to.
    pub(super) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }
}

impl Progress {
    fn of(meta: SnapshotMeta) -> Self {
        Self {
            last_applied: meta.last_log_id,
            membership: meta.last_membership,
        }
    }

    fn meta(&self) -> SnapshotMeta {
        let snapshot_id = match self.last_applied {
            Some(id) => format!(
                "{}-{}-{}",
                id.leader_id.term, id.leader_id.node_id, id.index
            ),
            None => "empty".to_owned(),
        };
        let last_membership = self.membership.clone();
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership,
            snapshot_id,
        }
    }
}

/// Runs what blocks or computes for long beside the async tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(storage("handle a snapshot", error)))
}

fn snapshot_failure(error: &Error, reading: bool) -> StorageError<u64> {
    let error = AnyError::error(chain(error));
    let error = if reading {
        StorageIOError::read_snapshot(None, error)
    } else {
        StorageIOError::write_snapshot(None, error)
    };
    error.into()
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> StorageResult<(Option<LogId>, StoredMembership)> {
        Ok((self.progress.last_applied, self.progress.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Applied>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.progress.last_applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Applied::Nothing,
                EntryPayload::Normal(command) => self.store.apply(&command),
                EntryPayload::Membership(membership) => {
                    let membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.progress.membership = membership;
                    Applied::Nothing
                }
            });
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            state: self.store.snapshot(),
            progress: self.progress.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Bytes>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Bytes>,
    ) -> StorageResult<()> {
        let (saved_meta, snapshots) = (meta.clone(), self.snapshots.clone());
        // The file is durable before the state is replaced, and that before openraft goes on to
        // forget the log that the snapshot stands for.
        let state = blocking(move || {
            let state = KvState::decode(&snapshot)?;
            snapshots.save(&saved_meta, &snapshot)?;
            Ok(state)
        });
        let state = state
            .await
            .map_err(|error| snapshot_failure(&error, false))?;
        self.store.replace(state);
        self.progress = Progress::of(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot>> {
        if self.snapshots.current().is_none() {
            return Ok(None);
        }
        let snapshots = self.snapshots.clone();
        let loaded = blocking(move || snapshots.load()).await;
        let loaded = loaded.map_err(|error| snapshot_failure(&error, true))?;
        Ok(loaded.map(|(meta, state)| Snapshot {
            meta,
            snapshot: Box::new(state),
        }))
    }
}

/// Builds a snapshot from a state that no later write changes.
pub(super) struct SnapshotBuilder {
    state: KvState,
    progress: Progress,
    snapshots: SnapshotDir,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot> {
        let (state, snapshots) = (std::mem::take(&mut self.state), self.snapshots.clone());
        let meta = self.progress.meta();
        let saved_meta = meta.clone();
        let started = Instant::now();
        let built = blocking(move || {
            let bytes = Bytes::from(state.encode());
            snapshots.save(&saved_meta, &bytes)?;
            Ok(bytes)
        });
        let bytes = built
            .await
            .map_err(|error| snapshot_failure(&error, false))?;
        info!(
            snapshot = %meta.snapshot_id,
            size_bytes = bytes.len(),
            elapsed_ms = crate::wire::millis(started.elapsed()),
            "metastore snapshot written"
        );
        Ok(Snapshot {
            meta,
            snapshot: Box::new(bytes),
        })
    }
}
