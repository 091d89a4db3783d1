//! openraft's own storage suite, for each engine.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::history::HistoryLimits;
use crate::raft::LogEngine;
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::SnapshotDir;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::TypeConfig;
use crate::store::Store;

struct Builder(LogEngine);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = self.0.open(&dir.path().join("log")).unwrap();
        let log = LogStore::open(disk, 0, dir.path()).unwrap();
        let (snapshots, snapshot) = SnapshotDir::open(&dir.path().join("snapshot")).unwrap();
        let store = |state| Store::with_limits(state, HistoryLimits::default());
        let state_machine = StateMachine::open(snapshots, snapshot, store).unwrap();
        Ok((dir, log, state_machine))
    }
}

#[test]
fn sled_and_the_state_machine_pass_openrafts_suite() {
    Suite::test_all(Builder(LogEngine::Sled)).unwrap();
}

#[test]
fn redb_and_the_state_machine_pass_openrafts_suite() {
    Suite::test_all(Builder(LogEngine::Redb)).unwrap();
}
