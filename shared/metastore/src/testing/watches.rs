//! Watches.

use futures::StreamExt as _;
use futures::future::join;
use redkite_types::Revision;

use super::{applied, next, next_change, now, put, shown, soon};
use crate::error::Error;
use crate::kv::{MetaKv, Op, Txn, read_all};

pub(super) async fn a_watch_sees_every_change_once_in_order(kv: &dyn MetaKv) {
    let start = now(kv).await;
    let first = put(kv, "watch/a", "1").await;
    put(kv, "watcher", "elsewhere").await;
    put(kv, "watch/a", "2").await;
    applied(kv, Txn::new().then(Op::delete("watch/a"))).await;

    let mut from_start = kv.watch("watch/", start).await.unwrap();
    let mut from_first = kv.watch("watch/", first).await.unwrap();
    let mut from_now = kv.watch("watch/", now(kv).await).await.unwrap();
    put(kv, "watch/b", "3").await;

    for expected in ["watch/a=1", "watch/a=2", "-watch/a", "watch/b=3"] {
        assert_eq!(shown(&next_change(&mut from_start).await), [expected]);
    }
    for expected in ["watch/a=2", "-watch/a", "watch/b=3"] {
        assert_eq!(shown(&next_change(&mut from_first).await), [expected]);
    }
    assert_eq!(shown(&next_change(&mut from_now).await), ["watch/b=3"]);
}

pub(super) async fn a_watch_sees_a_transaction_as_one_batch(kv: &dyn MetaKv) {
    let start = now(kv).await;
    let mut stream = kv.watch("batch/", start).await.unwrap();
    let txn = Txn::new()
        .then(Op::put("batch/b", "1"))
        .then(Op::put("elsewhere/batch", "1"))
        .then(Op::put("batch/a", "2"))
        .then(Op::delete("batch/b"))
        .then(Op::delete("batch/none"));
    let revision = applied(kv, txn).await;
    let batch = next_change(&mut stream).await;
    assert_eq!(batch.revision, revision);
    assert_eq!(shown(&batch), ["batch/b=1", "batch/a=2", "-batch/b"]);

    applied(
        kv,
        Txn::new().then(Op::DeletePrefix {
            prefix: "batch/".into(),
        }),
    )
    .await;
    assert_eq!(shown(&next_change(&mut stream).await), ["-batch/a"]);
}

pub(super) async fn a_watch_that_caught_up_knows_the_newest_revision(kv: &dyn MetaKv) {
    let mut stream = kv.watch("quiet/", now(kv).await).await.unwrap();
    let revision = put(kv, "loud/a", "1").await;
    loop {
        let batch = next(&mut stream).await;
        assert_eq!(shown(&batch), Vec::<String>::new());
        if batch.revision == revision {
            break;
        }
    }
}

pub(super) async fn a_watch_started_among_writes_misses_nothing(kv: &dyn MetaKv) {
    const WRITES: u64 = 200;
    let writer = async {
        for i in 0..WRITES {
            put(kv, &format!("race/{}", i % 7), &i.to_string()).await;
        }
        put(kv, "race/end", "").await
    };
    let watcher = async {
        let (pairs, revision) = read_all(kv, "race/").await.unwrap();
        let mut view: std::collections::BTreeMap<_, _> = pairs
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect();
        let mut stream = kv.watch("race/", revision).await.unwrap();
        let mut last = revision;
        while !view.contains_key("race/end") {
            let batch = next(&mut stream).await;
            assert!(
                batch.revision > last,
                "{:?} behind {last:?}",
                batch.revision
            );
            last = batch.revision;
            for event in batch.events {
                match event {
                    crate::kv::WatchEvent::Put(pair) => view.insert(pair.key, pair.value),
                    crate::kv::WatchEvent::Delete { key } => view.remove(&key),
                };
            }
        }
        view
    };
    let (_, view) = join(writer, watcher).await;
    let (pairs, _) = read_all(kv, "race/").await.unwrap();
    assert!(
        pairs
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .eq(view)
    );
}

/// A watch from before the kept history is refused by name, and a watcher that falls behind it
/// ends with that name; `batches` is how many changes the store keeps.
///
/// Apart from [`super::run_all`], because it has to write more than the store keeps.
///
/// # Panics
/// When the store violates the contract of [`MetaKv`].
pub async fn compacted_history_is_named(kv: &dyn MetaKv, batches: usize) {
    let start = now(kv).await;
    let mut slow = kv.watch("compact/", start).await.unwrap();
    // Held back by the stream's own buffers at most, a remote watcher may still get all of these.
    for i in 0..=batches {
        put(kv, "compact/a", &i.to_string()).await;
    }
    let error = match kv.watch("compact/", start).await {
        Err(error) => error,
        Ok(mut stream) => soon("an answer", stream.next()).await.unwrap().unwrap_err(),
    };
    let Error::Compacted { oldest } = error else {
        panic!("expected Compacted, got {error:?}")
    };
    assert!(oldest > start.0);
    let mut stream = kv.watch("compact/", Revision(oldest)).await.unwrap();
    assert_eq!(next(&mut stream).await.revision, Revision(oldest + 1));

    let mut last = start;
    let ended = loop {
        match soon("an answer", slow.next()).await {
            Some(Ok(batch)) => {
                assert_eq!(batch.revision, Revision(last.0 + 1), "a gap");
                last = batch.revision;
                if last == now(kv).await {
                    break None;
                }
            }
            Some(Err(error)) => break Some(error),
            None => panic!("the watch ended without a reason"),
        }
    };
    assert!(
        matches!(ended, None | Some(Error::Compacted { .. })),
        "{ended:?}"
    );
}
