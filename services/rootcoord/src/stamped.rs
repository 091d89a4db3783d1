//! The metastore with a time on each change that history is kept of.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redkite_metastore::{
    Error, KeyValue, MetaKv, Op, Page, Result, SharedKv, Txn, TxnOutcome, WatchStream,
    versions::keeps_history,
};
use redkite_runtime::Backoff;
use redkite_types::{Outcome, Revision, Timestamp, error::chain};
use tracing::{info, warn};

use crate::alloc::TimestampOracle;

/// How often history that is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A [`MetaKv`] that takes the time of a transaction from the timestamp oracle, where it changes keys
/// with history and has no time yet.
pub struct StampedKv {
    kv: SharedKv,
    tso: Arc<TimestampOracle>,
}

impl StampedKv {
    /// Stamps what is written to `kv`.
    pub fn shared(kv: SharedKv, tso: Arc<TimestampOracle>) -> SharedKv {
        Arc::new(Self { kv, tso })
    }
}

fn changes_history(op: &Op) -> bool {
    match op {
        Op::Put { key, .. } | Op::Delete { key } | Op::DeletePrefix { prefix: key } => {
            keeps_history(key)
        }
    }
}

#[async_trait]
impl MetaKv for StampedKv {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.kv.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.kv.range(prefix, after, limit).await
    }

    async fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        self.kv.get_as_of(key, ts).await
    }

    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        self.kv.range_as_of(prefix, after, limit, ts).await
    }

    async fn prune_history(&self, before: Timestamp) -> Result<u64> {
        self.kv.prune_history(before).await
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnOutcome> {
        if txn.ts.is_none() && txn.ops.iter().any(changes_history) {
            let ts = self
                .tso
                .alloc(1)
                .await
                .map_err(|error| Error::Unavailable {
                    what: format!("no timestamp for a change: {}", chain(&error)),
                    outcome: Outcome::NotApplied,
                })?;
            txn = txn.at(ts);
        }
        self.kv.txn(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        self.kv.watch(prefix, after).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<u64> {
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: u64) -> Result<()> {
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: u64) -> Result<()> {
        self.kv.lease_revoke(lease).await
    }
}

/// Forgets history that is older than `retention`, again and again.
pub(crate) async fn prune_history(kv: SharedKv, tso: Arc<TimestampOracle>, retention: Duration) {
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let mut backoff = Backoff::new(FIRST_PAUSE, PRUNE_EVERY);
    loop {
        match prune_once(kv.as_ref(), &tso, retention_ms).await {
            Ok(versions) => {
                if versions > 0 {
                    info!(versions, "history of the metadata forgotten");
                }
                tokio::time::sleep(PRUNE_EVERY).await;
            }
            Err(reason) => {
                warn!(%reason, "history of the metadata is not forgotten yet");
                backoff.wait().await;
            }
        }
    }
}

async fn prune_once(
    kv: &dyn MetaKv,
    tso: &TimestampOracle,
    retention_ms: u64,
) -> std::result::Result<u64, String> {
    let now = tso.alloc(1).await.map_err(|error| chain(&error))?;
    let before = Timestamp::new(now.physical_ms().saturating_sub(retention_ms), 0);
    kv.prune_history(before)
        .await
        .map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use redkite_metastore::MemKv;
    use redkite_runtime::ManualClock;

    use super::*;

    async fn stamped(clock: &ManualClock) -> (SharedKv, Arc<TimestampOracle>) {
        let kv: SharedKv = Arc::new(MemKv::new());
        let tso = TimestampOracle::open(kv.clone(), clock.shared())
            .await
            .unwrap();
        let tso = Arc::new(tso);
        (StampedKv::shared(kv, tso.clone()), tso)
    }

    async fn put(kv: &SharedKv, value: &str) {
        let txn = Txn::new().then(Op::put("root-coord/x", value.to_owned()));
        kv.txn(txn).await.unwrap();
    }

    #[tokio::test]
    async fn every_change_is_found_at_its_time_until_it_is_too_old() {
        let clock = ManualClock::new(1_700_000_000_000);
        let (kv, tso) = stamped(&clock).await;
        let mut times = Vec::new();
        for value in ["a", "b", "c"] {
            put(&kv, value).await;
            times.push((tso.alloc(1).await.unwrap(), value));
            clock.advance(Duration::from_secs(60));
        }
        for (ts, value) in &times {
            let pair = kv.get_as_of("root-coord/x", *ts).await.unwrap().unwrap();
            assert_eq!(&pair.value[..], value.as_bytes());
        }
        // At 180 s; what is older than 100 s goes, and the value that held then stays.
        assert_eq!(prune_once(&*kv, &tso, 100_000).await.unwrap(), 1);
        let error = kv.get_as_of("root-coord/x", times[0].0).await.unwrap_err();
        assert!(matches!(error, Error::HistoryPruned { .. }), "{error:?}");
        let then = Timestamp::new(1_700_000_000_000 + 80_000, 0);
        let pair = kv.get_as_of("root-coord/x", then).await.unwrap().unwrap();
        assert_eq!(&pair.value[..], b"b");
    }
}
