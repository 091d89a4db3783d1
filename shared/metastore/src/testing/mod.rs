//! The suite that every [`MetaKv`] passes.
//!
//! [`run_all`] runs it on one store; each test keeps to its own prefix, so they may share one, but
//! nobody else may write to it meanwhile. A violation panics with what was expected.

#![allow(clippy::unwrap_used, reason = "a test suite fails by panicking")]

mod leases;
mod txns;
mod versions;
mod watches;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use redkite_types::Revision;

use crate::kv::{MetaKv, Op, SharedKv, Txn, TxnOutcome, WatchBatch, WatchEvent, WatchStream};

pub use watches::compacted_history_is_named;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every test of the suite.
///
/// # Panics
/// When the store violates the contract of [`MetaKv`].
pub async fn run_all(kv: SharedKv) {
    let kv = kv.as_ref();
    txns::a_key_holds_what_was_put_last(kv).await;
    txns::revisions_grow_by_one_with_each_change(kv).await;
    txns::all_compares_must_hold(kv).await;
    txns::a_refused_transaction_changes_nothing(kv).await;
    txns::operations_apply_in_order(kv).await;
    txns::a_prefix_is_deleted_whole_and_alone(kv).await;
    txns::ranges_are_paged_in_key_order(kv).await;
    txns::concurrent_compare_and_swap_loses_no_update(kv).await;
    txns::senseless_requests_are_refused(kv).await;
    watches::a_watch_sees_every_change_once_in_order(kv).await;
    watches::a_watch_sees_a_transaction_as_one_batch(kv).await;
    watches::a_watch_that_caught_up_knows_the_newest_revision(kv).await;
    watches::a_watch_started_among_writes_misses_nothing(kv).await;
    leases::keys_die_with_their_lease_unless_kept_alive(kv).await;
    leases::a_revoked_lease_takes_its_keys_at_once(kv).await;
    leases::a_put_without_the_lease_outlives_it(kv).await;
    leases::an_ended_lease_takes_no_more_keys(kv).await;
    versions::a_key_holds_at_each_time_what_it_held_then(kv).await;
    versions::a_copy_is_written_with_its_key(kv).await;
    versions::copies_are_paged_and_found_by_any_prefix(kv).await;
    versions::a_range_is_read_as_of_a_time(kv).await;
    versions::times_that_come_late_keep_the_order_of_the_writes(kv).await;
    versions::keys_without_history_have_none(kv).await;
    versions::pruned_history_is_named_and_what_is_needed_stays(kv).await;
    versions::a_write_without_a_time_ends_the_history_before_it(kv).await;
}

/// Waits for something that must come soon.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Applies a transaction that must be applied.
async fn applied(kv: &dyn MetaKv, txn: Txn) -> Revision {
    match soon("a transaction", kv.txn(txn)).await.unwrap() {
        TxnOutcome::Applied { revision } => revision,
        refused @ TxnOutcome::Refused { .. } => panic!("expected to be applied: {refused:?}"),
    }
}

async fn put(kv: &dyn MetaKv, key: &str, value: &str) -> Revision {
    applied(kv, Txn::new().then(Op::put(key, value.to_owned()))).await
}

async fn value(kv: &dyn MetaKv, key: &str) -> Option<Bytes> {
    soon("a read", kv.get(key))
        .await
        .unwrap()
        .map(|pair| pair.value)
}

async fn now(kv: &dyn MetaKv) -> Revision {
    soon("a read", kv.range("", None, 1))
        .await
        .unwrap()
        .revision
}

async fn next(stream: &mut WatchStream) -> WatchBatch {
    let item = soon("a watched change", futures::StreamExt::next(stream)).await;
    item.expect("the watch goes on").unwrap()
}

/// The next batch that is more than a sign of progress.
async fn next_change(stream: &mut WatchStream) -> WatchBatch {
    loop {
        let batch = next(stream).await;
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

/// A batch as `key=value` and `-key`.
fn shown(batch: &WatchBatch) -> Vec<String> {
    batch
        .events
        .iter()
        .map(|event| match event {
            WatchEvent::Put(pair) => {
                assert_eq!(
                    pair.revision, batch.revision,
                    "a put has its batch's revision"
                );
                format!("{}={}", pair.key, String::from_utf8_lossy(&pair.value))
            }
            WatchEvent::Delete { key } => format!("-{key}"),
        })
        .collect()
}
