//! Steps of a compactor of which one goes wrong.

use super::*;

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    FailBefore,
    FailAfter,
    CrashBefore,
    CrashAfter,
}

/// Counts what a compactor does to its surroundings, and lets one of it go wrong.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) taken: AtomicUsize,
    pub(super) fault: Mutex<Option<(usize, Fault)>>,
    pub(super) crashed: Notify,
}

impl Steps {
    pub(super) fn next(&self) -> Option<Fault> {
        let step = self.taken.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock();
        let found = fault.filter(|(at, _)| *at == step).map(|(_, fault)| fault);
        if found.is_some() {
            *fault = None;
        }
        found
    }

    pub(super) async fn run<T, E>(
        &self,
        step: impl Future<Output = Result<T, E>>,
        error: impl Fn(Outcome) -> E,
    ) -> Result<T, E> {
        let mut step = pin!(step);
        match self.next() {
            None => step.await,
            Some(Fault::FailBefore) => Err(error(Outcome::NotApplied)),
            Some(Fault::FailAfter) => {
                let _ = step.as_mut().await;
                Err(error(Outcome::Unknown))
            }
            Some(fault) => {
                if fault == Fault::CrashAfter {
                    let _ = step.as_mut().await;
                }
                self.crashed.notify_one();
                std::future::pending().await
            }
        }
    }
}

pub(super) struct SteppedKv {
    pub(super) kv: Arc<MemKv>,
    pub(super) steps: Arc<Steps>,
}

#[async_trait]
impl MetaKv for SteppedKv {
    async fn get(&self, key: &str) -> KvResult<Option<KeyValue>> {
        self.kv.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> KvResult<Page> {
        self.kv.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> KvResult<TxnOutcome> {
        let lost = |outcome| redkite_metastore::Error::Unavailable {
            what: "a test's transaction".to_owned(),
            outcome,
        };
        self.steps.run(self.kv.txn(txn), lost).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> KvResult<WatchStream> {
        self.kv.watch(prefix, after).await
    }

    async fn lease_grant(&self, ttl: Duration) -> KvResult<u64> {
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_revoke(lease).await
    }
}
