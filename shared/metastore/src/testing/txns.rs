//! Reads and transactions.

use bytes::Bytes;
use futures::future::join_all;
use redkite_types::{Outcome, Revision};

use super::{applied, now, put, soon, value};
use crate::command::MAX_TXN_BYTES;
use crate::error::Error;
use crate::kv::{Compare, MetaKv, Op, Txn, TxnOutcome, read_all};

pub(super) async fn a_key_holds_what_was_put_last(kv: &dyn MetaKv) {
    assert_eq!(value(kv, "put/a").await, None);
    let first = put(kv, "put/a", "1").await;
    let second = put(kv, "put/a", "2").await;
    assert!(second > first);
    let pair = kv.get("put/a").await.unwrap().unwrap();
    assert_eq!((pair.key.as_str(), &pair.value[..]), ("put/a", &b"2"[..]));
    assert_eq!((pair.revision, pair.lease), (second, 0));
    put(kv, "put/empty", "").await;
    assert_eq!(value(kv, "put/empty").await, Some(Bytes::new()));
    applied(kv, Txn::new().then(Op::delete("put/a"))).await;
    assert_eq!(value(kv, "put/a").await, None);
}

pub(super) async fn revisions_grow_by_one_with_each_change(kv: &dyn MetaKv) {
    let start = now(kv).await;
    let many = (0..5).fold(Txn::new(), |txn, i| {
        txn.then(Op::put(format!("rev/{i}"), "x"))
    });
    assert_eq!(applied(kv, many).await, Revision(start.0 + 1));
    // The same value again is a change: it has a new revision.
    assert_eq!(put(kv, "rev/0", "x").await, Revision(start.0 + 2));
    // These change nothing, and take no revision.
    let nothing = Txn::new().then(Op::delete("rev/none"));
    assert_eq!(applied(kv, nothing).await, Revision(start.0 + 2));
    assert_eq!(applied(kv, Txn::new()).await, Revision(start.0 + 2));
    assert_eq!(now(kv).await, Revision(start.0 + 2));
}

pub(super) async fn all_compares_must_hold(kv: &dyn MetaKv) {
    let revision = put(kv, "cmp/there", "v").await;
    let there = || "cmp/there".to_owned();
    let gone = || "cmp/gone".to_owned();
    let holding = [
        Compare::Absent { key: gone() },
        Compare::Exists { key: there() },
        Compare::Revision {
            key: there(),
            revision,
        },
        Compare::Value {
            key: there(),
            value: Bytes::from_static(b"v"),
        },
    ];
    let failing = [
        Compare::Absent { key: there() },
        Compare::Exists { key: gone() },
        Compare::Revision {
            key: there(),
            revision: Revision(revision.0 - 1),
        },
        Compare::Revision {
            key: gone(),
            revision,
        },
        Compare::Value {
            key: there(),
            value: Bytes::from_static(b"w"),
        },
        Compare::Value {
            key: gone(),
            value: Bytes::new(),
        },
    ];
    let all = holding.iter().cloned().fold(Txn::new(), Txn::when);
    applied(kv, all.clone().then(Op::put("cmp/all", "1"))).await;
    assert_eq!(value(kv, "cmp/all").await, Some(Bytes::from_static(b"1")));

    let current = kv.get("cmp/there").await.unwrap();
    for compare in failing {
        let names_there = format!("{compare:?}").contains("cmp/there");
        let txn = all
            .clone()
            .when(compare.clone())
            .then(Op::put("cmp/all", "2"));
        let outcome = kv.txn(txn).await.unwrap();
        let expected = if names_there { current.clone() } else { None };
        assert_eq!(
            outcome,
            TxnOutcome::Refused {
                failed: holding.len(),
                current: expected
            },
            "{compare:?}"
        );
    }
    assert_eq!(value(kv, "cmp/all").await, Some(Bytes::from_static(b"1")));
}

pub(super) async fn a_refused_transaction_changes_nothing(kv: &dyn MetaKv) {
    put(kv, "refused/a", "1").await;
    let before = now(kv).await;
    let txn = Txn::new()
        .when(Compare::Absent {
            key: "refused/a".into(),
        })
        .then(Op::put("refused/b", "1"))
        .then(Op::DeletePrefix {
            prefix: "refused/".into(),
        });
    assert!(matches!(
        kv.txn(txn).await.unwrap(),
        TxnOutcome::Refused { failed: 0, .. }
    ));
    assert_eq!(now(kv).await, before);
    assert_eq!(value(kv, "refused/a").await, Some(Bytes::from_static(b"1")));
    assert_eq!(value(kv, "refused/b").await, None);
}

pub(super) async fn operations_apply_in_order(kv: &dyn MetaKv) {
    put(kv, "order/old", "1").await;
    let txn = Txn::new()
        .then(Op::put("order/a", "1"))
        .then(Op::put("order/a", "2"))
        .then(Op::put("order/b", "1"))
        .then(Op::delete("order/b"))
        .then(Op::DeletePrefix {
            prefix: "order/old".into(),
        })
        .then(Op::put("order/old", "2"));
    applied(kv, txn).await;
    assert_eq!(value(kv, "order/a").await, Some(Bytes::from_static(b"2")));
    assert_eq!(value(kv, "order/b").await, None);
    assert_eq!(value(kv, "order/old").await, Some(Bytes::from_static(b"2")));
}

pub(super) async fn a_prefix_is_deleted_whole_and_alone(kv: &dyn MetaKv) {
    for key in ["del", "del/", "del/a", "del/a/b", "del/ü", "del0", "dem/a"] {
        put(kv, key, "x").await;
    }
    applied(
        kv,
        Txn::new().then(Op::DeletePrefix {
            prefix: "del/".into(),
        }),
    )
    .await;
    let (left, _) = read_all(kv, "de").await.unwrap();
    let left: Vec<_> = left.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(left, ["del", "del0", "dem/a"]);
}

pub(super) async fn ranges_are_paged_in_key_order(kv: &dyn MetaKv) {
    let keys: Vec<_> = (0..25).map(|i| format!("page/{i:03}")).collect();
    for key in keys.iter().rev() {
        put(kv, key, key).await;
    }
    put(kv, "pagf", "not under the prefix").await;
    put(kv, "page", "not under the prefix").await;

    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = kv.range("page/", after.as_deref(), 10).await.unwrap();
        assert_eq!(page.revision, now(kv).await);
        assert!(page.pairs.len() <= 10);
        seen.extend(page.pairs.into_iter().map(|pair| pair.key));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, keys);

    // A page that ends with the last key says that there is no more.
    let page = kv.range("page/", Some("page/014"), 10).await.unwrap();
    assert_eq!((page.pairs.len(), page.next), (10, None));
    // The key read behind needs not exist, nor be under the prefix.
    let page = kv.range("page/", Some("page/0145"), 1).await.unwrap();
    assert_eq!(page.pairs[0].key, "page/015");
    let page = kv.range("page/", Some("a"), 1).await.unwrap();
    assert_eq!(
        (page.pairs[0].key.as_str(), page.next.as_deref()),
        ("page/000", Some("page/000"))
    );
    let page = kv.range("page/", Some("page/024"), 1).await.unwrap();
    assert_eq!((page.pairs, page.next), (Vec::new(), None));
    let page = kv.range("nothing/", None, 5).await.unwrap();
    assert_eq!((page.pairs, page.next), (Vec::new(), None));
}

pub(super) async fn concurrent_compare_and_swap_loses_no_update(kv: &dyn MetaKv) {
    const TASKS: usize = 8;
    const EACH: usize = 10;
    put(kv, "cas/counter", "0").await;
    let increment = || async {
        for _ in 0..EACH {
            loop {
                let pair = kv.get("cas/counter").await.unwrap().unwrap();
                let number: u64 = std::str::from_utf8(&pair.value).unwrap().parse().unwrap();
                let txn = Txn::new()
                    .when(Compare::Revision {
                        key: pair.key.clone(),
                        revision: pair.revision,
                    })
                    .then(Op::put(pair.key, (number + 1).to_string()));
                match kv.txn(txn).await.unwrap() {
                    TxnOutcome::Applied { .. } => break,
                    TxnOutcome::Refused { .. } => {}
                }
            }
        }
    };
    soon("all increments", join_all((0..TASKS).map(|_| increment()))).await;
    let counted = value(kv, "cas/counter").await.unwrap();
    assert_eq!(counted, (TASKS * EACH).to_string());
}

pub(super) async fn senseless_requests_are_refused(kv: &dyn MetaKv) {
    let before = now(kv).await;
    let senseless = [
        Txn::new().then(Op::put("", "x")),
        Txn::new().then(Op::DeletePrefix {
            prefix: String::new(),
        }),
        Txn::new().when(Compare::Absent { key: String::new() }),
        Txn::new().then(Op::put("k".repeat(100_000), "x")),
        Txn::new().then(Op::put("invalid/big", vec![0; MAX_TXN_BYTES + 1])),
    ];
    for txn in senseless {
        let error = kv.txn(txn).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }
    assert!(matches!(
        kv.get("").await.unwrap_err(),
        Error::Invalid { .. }
    ));
    assert!(matches!(
        kv.range("a", None, 0).await.unwrap_err(),
        Error::Invalid { .. }
    ));
    assert_eq!(now(kv).await, before);
}
