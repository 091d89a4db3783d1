//! Leases.

use std::time::Duration;

use bytes::Bytes;
use redkite_types::Outcome;

use super::{applied, next_change, now, put, shown, soon, value};
use crate::error::Error;
use crate::kv::{MetaKv, Op, Txn};

/// Long enough for a slow machine to keep a lease alive, short enough to wait for its end.
const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(3600);

fn leased(key: &str, lease: u64) -> Op {
    Op::Put {
        key: key.into(),
        value: Bytes::from_static(b"x"),
        lease,
    }
}

pub(super) async fn keys_die_with_their_lease_unless_kept_alive(kv: &dyn MetaKv) {
    let dying = kv.lease_grant(SHORT).await.unwrap();
    let kept = kv.lease_grant(SHORT).await.unwrap();
    assert!(dying != 0 && kept != 0 && dying != kept);
    let start = now(kv).await;
    let txn = Txn::new()
        .then(leased("lease/dying/a", dying))
        .then(leased("lease/dying/b", dying))
        .then(leased("lease/kept", kept));
    applied(kv, txn).await;
    assert_eq!(kv.get("lease/kept").await.unwrap().unwrap().lease, kept);

    let mut stream = kv.watch("lease/", start).await.unwrap();
    assert_eq!(next_change(&mut stream).await.events.len(), 3);
    let death = next_change(&mut stream);
    let keeping = async {
        let mut ticks = tokio::time::interval(SHORT / 6);
        loop {
            ticks.tick().await;
            kv.lease_keep_alive(kept).await.unwrap();
        }
    };
    let death = soon("the end of the lease", async {
        tokio::select! {
            batch = death => batch,
            () = keeping => unreachable!("it never ends"),
        }
    })
    .await;
    assert_eq!(shown(&death), ["-lease/dying/a", "-lease/dying/b"]);
    assert_eq!(value(kv, "lease/dying/a").await, None);
    assert!(value(kv, "lease/kept").await.is_some());
    assert_ended(kv, dying).await;
    kv.lease_revoke(kept).await.unwrap();
}

pub(super) async fn a_revoked_lease_takes_its_keys_at_once(kv: &dyn MetaKv) {
    let lease = kv.lease_grant(LONG).await.unwrap();
    applied(kv, Txn::new().then(leased("revoke/a", lease))).await;
    kv.lease_keep_alive(lease).await.unwrap();
    kv.lease_revoke(lease).await.unwrap();
    assert_eq!(value(kv, "revoke/a").await, None);
    assert_ended(kv, lease).await;
    kv.lease_revoke(lease).await.unwrap();
}

pub(super) async fn a_put_without_the_lease_outlives_it(kv: &dyn MetaKv) {
    let (first, second) = (
        kv.lease_grant(LONG).await.unwrap(),
        kv.lease_grant(LONG).await.unwrap(),
    );
    for key in ["outlive/freed", "outlive/moved", "outlive/again"] {
        applied(kv, Txn::new().then(leased(key, first))).await;
    }
    put(kv, "outlive/freed", "y").await;
    applied(kv, Txn::new().then(leased("outlive/moved", second))).await;
    applied(kv, Txn::new().then(Op::delete("outlive/again"))).await;
    put(kv, "outlive/again", "y").await;
    kv.lease_revoke(first).await.unwrap();
    assert!(value(kv, "outlive/freed").await.is_some());
    assert!(value(kv, "outlive/again").await.is_some());
    assert!(value(kv, "outlive/moved").await.is_some());
    kv.lease_revoke(second).await.unwrap();
    assert_eq!(value(kv, "outlive/moved").await, None);
}

pub(super) async fn an_ended_lease_takes_no_more_keys(kv: &dyn MetaKv) {
    let lease = kv.lease_grant(LONG).await.unwrap();
    kv.lease_revoke(lease).await.unwrap();
    let before = now(kv).await;
    let txn = Txn::new()
        .then(Op::put("ended/a", "x"))
        .then(leased("ended/b", lease));
    let error = kv.txn(txn).await.unwrap_err();
    assert!(
        matches!(error, Error::LeaseNotFound { lease: named } if named == lease),
        "{error:?}"
    );
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(now(kv).await, before);
    assert_eq!(value(kv, "ended/a").await, None);
    assert!(matches!(
        kv.lease_grant(Duration::ZERO).await,
        Err(Error::Invalid { .. })
    ));
}

async fn assert_ended(kv: &dyn MetaKv, lease: u64) {
    let error = kv.lease_keep_alive(lease).await.unwrap_err();
    assert!(
        matches!(error, Error::LeaseNotFound { lease: named } if named == lease),
        "{error:?}"
    );
}
