//! History: what keys held at earlier times.

use redkite_types::{Revision, Timestamp};

use super::{applied, next_change, now, shown, value};
use crate::error::Error;
use crate::kv::{Compare, MetaKv, Op, Txn, TxnOutcome};
use crate::versions::{TOMBSTONE, version_key};

/// Later than all times of the other tests of the suite, which share the store.
const START: u64 = 1_000_000;

fn at(ts: u64) -> Timestamp {
    Timestamp(START + ts)
}

async fn put_at(kv: &dyn MetaKv, key: &str, value: &str, ts: u64) -> Revision {
    let txn = Txn::new().then(Op::put(key, value.to_owned())).at(at(ts));
    applied(kv, txn).await
}

async fn as_of(kv: &dyn MetaKv, key: &str, ts: u64) -> Option<String> {
    let pair = kv.get_as_of(key, at(ts)).await.unwrap()?;
    assert_eq!(pair.key, key);
    Some(String::from_utf8(pair.value.to_vec()).unwrap())
}

async fn keys_as_of(kv: &dyn MetaKv, prefix: &str, limit: usize, ts: u64) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = kv
            .range_as_of(prefix, after.as_deref(), limit, at(ts))
            .await
            .unwrap();
        assert!(page.pairs.len() <= limit);
        keys.extend(page.pairs.into_iter().map(|pair| pair.key));
        match page.next {
            Some(next) => after = Some(next),
            None => return keys,
        }
    }
}

pub(super) async fn a_key_holds_at_each_time_what_it_held_then(kv: &dyn MetaKv) {
    let key = "root-coord/held/1";
    let first = put_at(kv, key, "a", 10).await;
    put_at(kv, key, "b", 20).await;
    applied(kv, Txn::new().then(Op::delete(key)).at(at(30))).await;
    put_at(kv, key, "c", 40).await;
    let expected = [
        (9, None),
        (10, Some("a")),
        (19, Some("a")),
        (20, Some("b")),
        (29, Some("b")),
        (30, None),
        (39, None),
        (40, Some("c")),
        (u64::MAX - START, Some("c")),
    ];
    for (ts, held) in expected {
        assert_eq!(as_of(kv, key, ts).await.as_deref(), held, "at {ts}");
    }
    let pair = kv.get_as_of(key, at(15)).await.unwrap().unwrap();
    assert_eq!(pair.revision, first, "the revision is that of the write");
    assert_eq!(as_of(kv, "root-coord/held/never", 40).await, None);
}

pub(super) async fn a_copy_is_written_with_its_key(kv: &dyn MetaKv) {
    let (key, gone) = ("field-index/copy/1", "field-index/copy/2");
    let mut watch = kv
        .watch("snapshots/field-index/", now(kv).await)
        .await
        .unwrap();
    put_at(kv, gone, "x", 10).await;
    let txn = Txn::new()
        .then(Op::put(key, "a"))
        .then(Op::DeletePrefix {
            prefix: "field-index/copy/2".to_owned(),
        })
        .then(Op::put("elsewhere/copy", "b"))
        .at(at(20));
    let revision = applied(kv, txn).await;
    let copy = kv.get(&version_key(key, at(20))).await.unwrap().unwrap();
    assert_eq!((&copy.value[..], copy.revision), (&b"a"[..], revision));
    let tombstone = value(kv, &version_key(gone, at(20))).await.unwrap();
    assert_eq!(tombstone[..], TOMBSTONE);
    assert_eq!(value(kv, gone).await, None);

    // Copies show to those who ask for them alone.
    let page = kv
        .range("snapshots/field-index/copy/", None, 10)
        .await
        .unwrap();
    let keys: Vec<_> = page.pairs.into_iter().map(|pair| pair.key).collect();
    let copies = [
        version_key(key, at(20)),
        version_key(gone, at(10)),
        version_key(gone, at(20)),
    ];
    assert_eq!(keys, copies);
    let all = kv.range("", None, usize::MAX).await.unwrap();
    assert!(all.pairs.iter().all(|pair| !pair.key.starts_with("snap")));
    next_change(&mut watch).await;
    let batch = next_change(&mut watch).await;
    assert_eq!(batch.revision, revision);
    let shown = shown(&batch);
    assert_eq!(shown[0], format!("{}=a", version_key(key, at(20))));
    assert_eq!(shown.len(), 2, "{shown:?}");

    // A refused transaction leaves none.
    let refused = Txn::new()
        .when(Compare::Absent {
            key: key.to_owned(),
        })
        .then(Op::put(key, "never"))
        .at(at(30));
    let outcome = kv.txn(refused).await.unwrap();
    assert!(matches!(outcome, TxnOutcome::Refused { .. }));
    assert_eq!(value(kv, &version_key(key, at(30))).await, None);
}

pub(super) async fn copies_are_paged_and_found_by_any_prefix(kv: &dyn MetaKv) {
    for key in [
        "root-coord/paged/1",
        "root-coord/paged/1_ts",
        "root-coord/paged/1/2",
    ] {
        for ts in [5, 50, 500] {
            put_at(kv, key, "v", ts).await;
        }
    }
    for (prefix, count) in [
        ("snapshots/root-coord/paged/", 9),
        ("snapshots/root-coord/paged/1", 9),
        ("snapshots/root-coord/paged/1/", 3),
        ("snapshots/root-coord/paged/1_", 6),
        ("snapshots/root-coord/paged/1_ts", 6),
        ("snapshots/root-coord/paged/1_ts1", 3),
        ("snapshots/root-coord/paged/1_ts1000005", 1),
        ("snapshots/root-coord/paged/1_tsx", 0),
    ] {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = kv.range(prefix, after.as_deref(), 2).await.unwrap();
            found.extend(page.pairs.into_iter().map(|pair| pair.key));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(found.len(), count, "{prefix}: {found:?}");
        assert!(found.iter().all(|key| key.starts_with(prefix)));
        let distinct: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), count, "{prefix}: {found:?}");
    }
}

pub(super) async fn a_range_is_read_as_of_a_time(kv: &dyn MetaKv) {
    let key = |i: u64| format!("root-coord/ranged/{i}");
    for i in 0..6 {
        put_at(kv, &key(i), "v", 10 + i).await;
    }
    let all = Txn::new().then(Op::DeletePrefix {
        prefix: "root-coord/ranged/".to_owned(),
    });
    applied(kv, all.at(at(30))).await;
    put_at(kv, &key(2), "again", 40).await;
    for limit in [1, 2, 5, 100] {
        assert_eq!(
            keys_as_of(kv, "root-coord/ranged/", limit, 12).await,
            [0, 1, 2].map(key)
        );
        assert_eq!(
            keys_as_of(kv, "root-coord/ranged/", limit, 29).await.len(),
            6
        );
        assert!(
            keys_as_of(kv, "root-coord/ranged/", limit, 30)
                .await
                .is_empty()
        );
        assert_eq!(
            keys_as_of(kv, "root-coord/ranged/", limit, 40).await,
            [key(2)]
        );
    }
}

pub(super) async fn times_that_come_late_keep_the_order_of_the_writes(kv: &dyn MetaKv) {
    let key = "root-coord/late/1";
    put_at(kv, key, "first", 20).await;
    put_at(kv, key, "second", 10).await;
    put_at(kv, key, "third", 21).await;
    let twice = Txn::new()
        .then(Op::put(key, "x"))
        .then(Op::put(key, "last"))
        .at(at(30));
    applied(kv, twice).await;
    assert_eq!(as_of(kv, key, 19).await, None);
    assert_eq!(as_of(kv, key, 20).await.as_deref(), Some("first"));
    assert_eq!(as_of(kv, key, 21).await.as_deref(), Some("second"));
    assert_eq!(as_of(kv, key, 22).await.as_deref(), Some("third"));
    assert_eq!(as_of(kv, key, 30).await.as_deref(), Some("last"));
    let copies = kv
        .range("snapshots/root-coord/late/", None, 10)
        .await
        .unwrap();
    assert_eq!(
        copies.pairs.len(),
        4,
        "a transaction leaves one copy of a key"
    );
}

pub(super) async fn keys_without_history_have_none(kv: &dyn MetaKv) {
    for key in ["root-coord/tso", "root-coord/saga/7", "session/x", "plain"] {
        put_at(kv, key, "v", 10).await;
        assert_eq!(value(kv, &version_key(key, at(10))).await, None, "{key}");
        let error = kv.get_as_of(key, at(20)).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{key}: {error:?}");
    }
    assert!(keys_as_of(kv, "root-coord/saga/", 9, 20).await.is_empty());
    // Copies are the store's own.
    let copy = version_key("root-coord/mine", at(10));
    let error = kv
        .txn(Txn::new().then(Op::put(copy, "v")))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

/// Comes last: what it prunes is gone for all.
pub(super) async fn pruned_history_is_named_and_what_is_needed_stays(kv: &dyn MetaKv) {
    let prefix = "root-coord/pruned/";
    let key = |name: &str| format!("{prefix}{name}");
    put_at(kv, &key("live"), "a", 1_010).await;
    put_at(kv, &key("live"), "b", 1_020).await;
    put_at(kv, &key("live"), "c", 1_060).await;
    for name in ["dead", "reborn", "dies-later"] {
        put_at(kv, &key(name), "x", 1_010).await;
    }
    for (name, ts) in [("dead", 1_030), ("reborn", 1_030), ("dies-later", 1_060)] {
        applied(kv, Txn::new().then(Op::delete(key(name))).at(at(ts))).await;
    }
    put_at(kv, &key("reborn"), "y", 1_070).await;
    let before = now(kv).await;
    let whole = keys_as_of(kv, prefix, 100, 1_050).await;
    assert_eq!(whole, [key("dies-later"), key("live")]);

    assert!(kv.prune_history(at(1_050)).await.unwrap() >= 5);
    assert_eq!(kv.prune_history(at(1_050)).await.unwrap(), 0, "all is done");
    let copies = kv
        .range("snapshots/root-coord/pruned/", None, 100)
        .await
        .unwrap();
    let copies: Vec<_> = copies.pairs.into_iter().map(|pair| pair.key).collect();
    let stay = [
        ("dies-later", 1_010),
        ("dies-later", 1_060),
        ("live", 1_020),
        ("live", 1_060),
        ("reborn", 1_070),
    ];
    assert_eq!(
        copies,
        stay.map(|(name, ts)| version_key(&key(name), at(ts)))
    );
    assert_eq!(keys_as_of(kv, prefix, 100, 1_050).await, whole);
    assert_eq!(as_of(kv, &key("live"), 1_059).await.as_deref(), Some("b"));
    assert_eq!(as_of(kv, &key("reborn"), 1_070).await.as_deref(), Some("y"));
    for error in [
        kv.get_as_of(&key("live"), at(1_049)).await.unwrap_err(),
        kv.range_as_of(prefix, None, 9, at(0)).await.unwrap_err(),
    ] {
        let expected = Some(at(1_050));
        assert!(
            matches!(error, Error::HistoryPruned { oldest } if oldest == expected),
            "{error:?}"
        );
    }
    assert_eq!(now(kv).await, before, "what keys hold now has not changed");
}

/// Comes last, too: it ends the history before it.
pub(super) async fn a_write_without_a_time_ends_the_history_before_it(kv: &dyn MetaKv) {
    let (key, other) = ("root-coord/untimed/1", "root-coord/untimed/2");
    put_at(kv, key, "a", 2_000).await;
    super::put(kv, key, "b").await;
    let error = kv.get_as_of(key, at(3_000)).await.unwrap_err();
    assert!(
        matches!(error, Error::HistoryPruned { oldest: None }),
        "{error:?}"
    );
    put_at(kv, other, "x", 2_100).await;
    let error = kv.get_as_of(key, at(2_099)).await.unwrap_err();
    assert!(
        matches!(error, Error::HistoryPruned { oldest } if oldest == Some(at(2_100))),
        "{error:?}"
    );
    assert_eq!(as_of(kv, key, 2_100).await.as_deref(), Some("b"));
    put_at(kv, key, "c", 2_200).await;
    assert_eq!(as_of(kv, key, 2_199).await.as_deref(), Some("b"));
    assert_eq!(as_of(kv, key, 2_200).await.as_deref(), Some("c"));
}
