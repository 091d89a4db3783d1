//! The metastore in memory: for tests, and where nothing needs to last.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use redkite_types::{Revision, Timestamp};

use crate::command::{Applied, MetaCommand};
use crate::error::{Error, Result};
use crate::history::HistoryLimits;
use crate::kv::{KeyValue, MetaKv, Page, Txn, TxnOutcome, WatchStream};
use crate::lease::LeaseTable;
use crate::state::KvState;
use crate::store::Store;

/// Leases ended by one command.
const EXPIRY_CHUNK: usize = 1_000;

/// A [`MetaKv`] in memory; clones share one store.
///
/// It behaves as the replicated one does, and loses everything with its last clone. Leases run on
/// tokio's clock, so a test with paused time controls them. There is no background task: whoever
/// reads, writes or watches ends the leases whose time is over.
#[derive(Clone, Debug)]
pub struct MemKv {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    leases: LeaseTable,
}

impl Inner {
    fn apply(&self, command: &MetaCommand) -> Result<Applied> {
        command.validate()?;
        self.end_expired();
        Ok(self.store.apply(command))
    }

    fn end_expired(&self) {
        loop {
            let leases = self.leases.expired(EXPIRY_CHUNK);
            if leases.is_empty() {
                return;
            }
            for lease in &leases {
                self.leases.remove(*lease);
            }
            self.store.apply(&MetaCommand::LeaseEnd { leases });
        }
    }
}

impl MemKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_state(KvState::new())
    }

    /// A store that starts from a state.
    pub fn with_state(state: KvState) -> Self {
        Self::with_limits(state, HistoryLimits::default())
    }

    /// An empty store that keeps only the last `batches` changes for watchers.
    pub fn with_history(batches: usize) -> Self {
        Self::with_limits(
            KvState::new(),
            HistoryLimits {
                batches,
                ..HistoryLimits::default()
            },
        )
    }

    fn with_limits(state: KvState, limits: HistoryLimits) -> Self {
        let leases = LeaseTable::new();
        leases.reset(state.leases());
        let store = Arc::new(Store::with_limits(state, limits));
        Self {
            inner: Arc::new(Inner { store, leases }),
        }
    }

    /// The state as it is now.
    pub fn state(&self) -> KvState {
        self.inner.end_expired();
        self.inner.store.snapshot()
    }
}

impl Default for MemKv {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl MetaKv for MemKv {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.inner.end_expired();
        self.inner.store.get(key)
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.inner.end_expired();
        self.inner.store.range(prefix, after, limit)
    }

    async fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        self.inner.end_expired();
        self.inner.store.get_as_of(key, ts)
    }

    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        self.inner.end_expired();
        self.inner.store.range_as_of(prefix, after, limit, ts)
    }

    async fn prune_history(&self, before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        while let Some((command, versions)) = self.inner.store.next_prune(before) {
            self.inner.apply(&command)?;
            gone += versions;
        }
        Ok(gone)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.inner.apply(&MetaCommand::Txn(txn))?.into_txn()
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let changes = self.inner.store.follow(prefix, after)?;
        let inner = Arc::clone(&self.inner);
        let expiry = async move {
            loop {
                inner.leases.wait_for_expiry().await;
                inner.end_expired();
            }
        };
        // The expiry never completes; it runs for as long as the watcher is polled.
        Ok(changes.take_until(expiry).boxed())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<u64> {
        let lease = self
            .inner
            .apply(&MetaCommand::LeaseGrant { ttl })?
            .into_lease()?;
        self.inner.leases.insert(lease, ttl);
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: u64) -> Result<()> {
        if self.inner.leases.keep_alive(lease) {
            Ok(())
        } else {
            self.inner.end_expired();
            Err(Error::LeaseNotFound { lease })
        }
    }

    async fn lease_revoke(&self, lease: u64) -> Result<()> {
        self.inner.leases.remove(lease);
        self.inner.apply(&MetaCommand::LeaseEnd {
            leases: vec![lease],
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Op;
    use crate::testing;

    #[tokio::test(start_paused = true)]
    async fn passes_the_conformance_suite() {
        testing::run_all(Arc::new(MemKv::new())).await;
    }

    #[tokio::test]
    async fn history_that_is_gone_is_named() {
        testing::compacted_history_is_named(&MemKv::with_history(100), 100).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_without_a_watcher_too() {
        let kv = MemKv::new();
        let lease = kv.lease_grant(Duration::from_secs(5)).await.unwrap();
        let key = "session/1".to_owned();
        kv.txn(Txn::new().then(Op::Put {
            key,
            value: "x".into(),
            lease,
        }))
        .await
        .unwrap();
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(kv.get("session/1").await.unwrap().is_some());
        kv.lease_keep_alive(lease).await.unwrap();
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(kv.get("session/1").await.unwrap().is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(kv.get("session/1").await.unwrap().is_none());
        assert!(matches!(
            kv.lease_keep_alive(lease).await,
            Err(Error::LeaseNotFound { .. })
        ));
    }
}
