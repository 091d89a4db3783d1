//! How much is written, and what happens when writes fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redkite_metastore::{
    Error as MetaError, KeyValue, MemKv, MetaKv, Page, Result, SharedKv, Txn, TxnOutcome,
    WatchStream,
};
use redkite_saga::{Error, State};
use redkite_types::{Outcome, Revision};

use crate::toy::{Alter, Calls, Create, Drop, Remote, eventually, named, start, thing, value};

/// What becomes of a write.
#[derive(Clone, Copy)]
enum Fate {
    Good,
    /// Not applied, and the caller knows.
    Lost,
    /// Not applied, and the caller does not know.
    LostInDoubt,
    /// Applied, and the caller does not know.
    AppliedInDoubt,
}

/// Counts writes and lets them fail.
struct FlakyKv {
    inner: MemKv,
    writes: AtomicUsize,
    fates: Mutex<VecDeque<Fate>>,
}

impl FlakyKv {
    fn new() -> Arc<Self> {
        let (writes, fates) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self {
            inner: MemKv::new(),
            writes,
            fates,
        })
    }

    fn will(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.fates.lock() = fates.into_iter().collect();
    }
}

#[async_trait]
impl MetaKv for FlakyKv {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.inner.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.inner.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let failed = |outcome| MetaError::Unavailable {
            what: "test".to_owned(),
            outcome,
        };
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Good);
        match fate {
            Fate::Good => self.inner.txn(txn).await,
            Fate::Lost => Err(failed(Outcome::NotApplied)),
            Fate::LostInDoubt => Err(failed(Outcome::Unknown)),
            Fate::AppliedInDoubt => {
                self.inner.txn(txn).await?;
                Err(failed(Outcome::Unknown))
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        self.inner.watch(prefix, after).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<u64> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: u64) -> Result<()> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: u64) -> Result<()> {
        self.inner.lease_revoke(lease).await
    }
}

#[tokio::test]
async fn a_saga_writes_as_little_as_is_safe() {
    let (flaky, remote) = (FlakyKv::new(), Remote::new());
    let kv: SharedKv = flaky.clone();
    let executor = start(&kv, 1, &remote).await;
    let count = || flaky.writes.swap(0, Ordering::SeqCst);
    assert_eq!(count(), 1, "the claim");
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(count(), 3, "record before the first call, add_meta, commit");
    executor
        .submit::<Drop>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(count(), 2, "mark creates the record, remove ends it");
    executor
        .submit::<Calls>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        count(),
        3,
        "record, the output before the next call, the end"
    );
    let exists = redkite_metastore::Op::put(thing("a"), "mine");
    kv.txn(Txn::new().then(exists)).await.unwrap();
    count();
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert_eq!(count(), 3, "record, the refused add_meta, failed");
}

/// Every write of a saga fails in every way once, and each effect happens exactly once.
#[tokio::test]
async fn a_write_of_unknown_outcome_is_found_out() {
    for doubt in [Fate::LostInDoubt, Fate::AppliedInDoubt] {
        for position in 0..3 {
            let (flaky, remote) = (FlakyKv::new(), Remote::new());
            let kv: SharedKv = flaky.clone();
            let executor = start(&kv, 1, &remote).await;
            let good = std::iter::repeat_n(Fate::Good, position);
            flaky.will(good.chain([doubt, Fate::Lost, doubt]));
            let handle = executor.submit::<Create>(named("a"), "").unwrap();
            assert_eq!(handle.wait().await.unwrap().output, 1);
            assert_eq!(value(&kv, &thing("a")).await.as_deref(), Some("created"));
            let calls = ["expire", "announce", "release"].map(|call| remote.calls(call));
            assert_eq!(calls, [1, 1, 0]);
        }
    }
}

/// The callers do not wait for the write that says that all is done; whoever wants the same locks does.
#[tokio::test]
async fn the_answer_comes_before_the_end_is_written_and_the_locks_are_kept_until_then() {
    for dies in [false, true] {
        let (flaky, remote) = (FlakyKv::new(), Remote::new());
        let kv: SharedKv = flaky.clone();
        let executor = start(&kv, 1, &remote).await;
        flaky.will([Fate::Good].into_iter().chain([Fate::Lost; 10_000]));
        let first = executor.submit::<Alter>(named("a"), "first").unwrap();
        let id = first.id();
        let done = first.wait().await.unwrap();
        let pair = kv.get(&thing("a")).await.unwrap().unwrap();
        assert_eq!(
            (&pair.value[..], done.output.clone()),
            (&b"altered"[..], thing("a"))
        );
        assert_eq!(
            (done.revision, remote.calls("announce")),
            (pair.revision, 1)
        );

        let second = executor.submit::<Alter>(named("a"), "second").unwrap();
        eventually("the end cannot be written", || {
            executor.show(id).unwrap().retries > 2
        })
        .await;
        assert_eq!(executor.show(id).unwrap().state, State::Running);
        assert!(executor.show(second.id()).unwrap().waits_for_locks);
        if dies {
            executor.shutdown(Duration::from_secs(60)).await.unwrap();
            flaky.will([]);
            // The next one runs the call again, and has the same answer.
            let next = start(&kv, 2, &remote).await;
            let again = next.submit::<Alter>(named("a"), "first").unwrap();
            assert_eq!(again.id(), id);
            assert_eq!(again.wait().await.unwrap(), done);
            next.idle().await;
            assert_eq!(next.show(id).unwrap().state, State::Done);
            assert_eq!(remote.calls("announce"), 2);
            continue;
        }
        flaky.will([]);
        second.wait().await.unwrap();
        executor.idle().await;
        assert_eq!(executor.show(id).unwrap().state, State::Done);
        assert_eq!(remote.calls("announce"), 2);
    }
}

#[tokio::test]
async fn a_first_write_that_certainly_failed_is_the_answer() {
    let (flaky, remote) = (FlakyKv::new(), Remote::new());
    let kv: SharedKv = flaky.clone();
    let executor = start(&kv, 1, &remote).await;
    flaky.will([Fate::Lost]);
    let error = executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Store { .. }) && error.outcome() == Outcome::NotApplied);
    assert_eq!(remote.calls("expire"), 0);
    executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap();
}
