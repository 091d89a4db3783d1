//! The history against a copy of everything at every time.

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _};
use redkite_runtime::testing::test_rng;

use super::*;
use crate::command::MetaCommand;
use crate::kv::{Op, Txn};

type Pairs = BTreeMap<String, KeyValue>;

fn random_txn(rng: &mut impl Rng, ts: u64) -> Txn {
    let mut txn = Txn::new().at(Timestamp(ts));
    for _ in 0..rng.random_range(1..4) {
        let key = ["root-coord/a", "root-coord/a/", "field-index/1/", "other/"];
        let key = format!(
            "{}{}",
            key[rng.random_range(0..key.len())],
            rng.random_range(0..4)
        );
        txn = txn.then(match rng.random_range(0..6) {
            0 => Op::delete(key),
            1 => Op::DeletePrefix {
                prefix: key[..key.len() - 1].to_owned(),
            },
            _ => Op::put(key, rng.random_range(0..9).to_string()),
        });
    }
    txn
}

fn kept(state: &KvState) -> Pairs {
    let all = state.range("", None, usize::MAX).pairs.into_iter();
    all.filter(|pair| keeps_history(&pair.key))
        .map(|pair| (pair.key.clone(), pair))
        .collect()
}

fn check(state: &KvState, ts: u64, expected: &Pairs, limit: usize) {
    let ts = Timestamp(ts);
    let (mut found, mut after) = (Pairs::new(), None::<String>);
    loop {
        let page = state.range_as_of("", after.as_deref(), limit, ts).unwrap();
        found.extend(page.pairs.into_iter().map(|pair| (pair.key.clone(), pair)));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(&found, expected, "at {ts}");
    for (key, pair) in expected {
        assert_eq!(state.get_as_of(key, ts).unwrap().as_ref(), Some(pair));
    }
}

#[test]
fn every_time_shows_what_was_there_also_after_pruning_and_from_a_snapshot() {
    let mut rng = test_rng();
    for _ in 0..30 {
        let (mut state, mut seen) = (KvState::new(), BTreeMap::from([(0, Pairs::new())]));
        let mut ts = 0;
        for _ in 0..80 {
            ts += rng.random_range(1..5);
            state.apply(&MetaCommand::Txn(random_txn(&mut rng, ts)));
            seen.insert(ts, kept(&state));
        }
        for (ts, expected) in &seen {
            check(&state, *ts, expected, rng.random_range(1..9));
        }
        let horizon = rng.random_range(0..=ts);
        let before = state.versions();
        loop {
            let versions = state.prunable(Timestamp(horizon), 7);
            if versions.is_empty() {
                break;
            }
            state.apply(&MetaCommand::Prune {
                before: Timestamp(horizon),
                versions,
            });
        }
        assert!(state.versions() <= before);
        let state = KvState::decode(&state.encode()).unwrap();
        let times = seen.range(..=horizon).next_back().into_iter();
        let times = times.map(|(_, pairs)| (horizon, pairs));
        for (ts, expected) in times.chain(seen.range(horizon..).map(|(ts, pairs)| (*ts, pairs))) {
            check(&state, ts, expected, 100);
        }
    }
}

#[test]
fn a_version_shares_its_value_with_the_pair_also_from_a_snapshot() {
    let mut state = KvState::new();
    let txn = Txn::new().then(Op::put("root-coord/x", vec![7_u8; 1_000]));
    state.apply(&MetaCommand::Txn(txn.at(Timestamp(5))));
    for state in [state.clone(), KvState::decode(&state.encode()).unwrap()] {
        let (key, item) = state.pairs.iter().next().unwrap();
        let ((of, _), version) = state.versions.iter().next().unwrap();
        assert!(Arc::ptr_eq(key, of));
        assert_eq!(
            version.value.as_ref().unwrap().as_ptr(),
            item.value.as_ptr()
        );
    }
    let plain = state.encode().len();
    assert!(
        plain < 1_500,
        "the value is in the snapshot once, of {plain} bytes"
    );
}

#[test]
fn a_snapshot_from_before_there_was_history_loads_and_begins_one() {
    let mut old = KvState::new();
    for i in 0..3 {
        let txn = Txn::new().then(Op::put(format!("root-coord/{i}"), "old"));
        old.apply(&MetaCommand::Txn(txn));
    }
    old.horizon = Horizon::default();
    // The form of then: the same but for the version, without fields of history.
    let mut bytes = old.encode();
    bytes[4] = 1;
    let end = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());

    let mut state = KvState::decode(&bytes).unwrap();
    assert!(matches!(
        state.get_as_of("root-coord/1", Timestamp(9)),
        Err(Error::HistoryPruned { oldest: None })
    ));
    let change = Txn::new()
        .then(Op::put("root-coord/1", "new"))
        .at(Timestamp(20));
    state.apply(&MetaCommand::Txn(change));
    assert!(matches!(
        state.get_as_of("root-coord/1", Timestamp(19)),
        Err(Error::HistoryPruned {
            oldest: Some(Timestamp(20))
        })
    ));
    let held = |key| state.get_as_of(key, Timestamp(20)).unwrap().unwrap().value;
    assert_eq!(&held("root-coord/1")[..], b"new");
    assert_eq!(&held("root-coord/2")[..], b"old");
}
