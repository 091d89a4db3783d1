//! One suite for every place where logs can be.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod damage;
mod homes;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all};
use rand::RngExt as _;
use redkite_runtime::testing::test_rng;
use redkite_types::{Coded as _, ErrorCode, Outcome};
use redkite_wal::{ChannelLog, Error, Lsn, Record, Result};

use homes::{CHANNEL, Limits, all_homes, homes};

fn payload(number: usize) -> Bytes {
    Bytes::from(format!("record {number} {}", "x".repeat(number % 7)))
}

async fn payloads(log: &dyn ChannelLog, from: u64) -> Vec<Bytes> {
    let records: Vec<Record> = log
        .read_from(Lsn(from))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.lsn.0, from + index as u64);
    }
    records.into_iter().map(|record| record.payload).collect()
}

fn small_parts() -> Limits {
    Limits {
        part_bytes: 200,
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_in_order_after_a_reopen() {
    for home in all_homes().await {
        let store = home.store(&Limits::default());
        let log = store.open(CHANNEL, 1).await.unwrap();
        assert_eq!(log.last_lsn(), Lsn::ZERO, "{}", home.name);
        let wanted: Vec<Bytes> = (1..=20).map(payload).collect();
        for (index, payload) in wanted.iter().enumerate() {
            let lsn = log.append(payload.clone()).await.unwrap();
            assert_eq!(lsn.0, index as u64 + 1);
        }
        log.close().await;
        let log = home
            .store(&Limits::default())
            .open(CHANNEL, 1)
            .await
            .unwrap();
        assert_eq!(log.last_lsn(), Lsn(20), "{}", home.name);
        assert_eq!(payloads(&*log, 1).await, wanted);
        assert_eq!(payloads(&*log, 15).await, wanted[14..]);
        assert!(payloads(&*log, 21).await.is_empty());
        assert_eq!(log.append(Bytes::new()).await.unwrap(), Lsn(21));
        assert_eq!(
            payloads(&*log, 20).await,
            [wanted[19].clone(), Bytes::new()]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_keep_each_callers_order() {
    for home in homes() {
        let log = home.store(&small_parts()).open(CHANNEL, 1).await.unwrap();
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    let futures: Vec<_> = (0..50)
                        .map(|number| log.submit(Bytes::from(format!("{caller} {number}"))))
                        .collect();
                    let lsns = futures::executor::block_on(try_join_all(futures)).unwrap();
                    assert!(lsns.is_sorted(), "a caller's records are out of order");
                });
            }
        });
        let records = payloads(&*log, 1).await;
        assert_eq!(records.len(), 400, "{}", home.name);
        let mut next: BTreeMap<String, usize> = BTreeMap::new();
        for record in records {
            let text = String::from_utf8(record.to_vec()).unwrap();
            let (caller, number) = text.split_once(' ').unwrap();
            let expected = next.entry(caller.to_owned()).or_default();
            assert_eq!(number.parse::<usize>().unwrap(), *expected, "{}", home.name);
            *expected += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_is_written_before_a_log_is_closed() {
    for home in homes() {
        let store = home.store(&small_parts());
        let log = store.open(CHANNEL, 1).await.unwrap();
        let futures: Vec<_> = (1..=100)
            .map(|number| log.submit(payload(number)))
            .collect();
        log.close().await;
        let lsns = try_join_all(futures).await.unwrap();
        assert_eq!(lsns.last(), Some(&Lsn(100)), "{}", home.name);
        let closed = log.append(payload(101)).await.unwrap_err();
        assert!(matches!(closed, Error::Closed { .. }), "{closed}");
        let log = store.open(CHANNEL, 1).await.unwrap();
        assert_eq!(payloads(&*log, 1).await.len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_frees_space_and_keeps_the_numbering() {
    for home in all_homes().await {
        let store = home.store(&small_parts());
        let log = store.open(CHANNEL, 1).await.unwrap();
        for number in 1..=30 {
            log.append(payload(number)).await.unwrap();
        }
        let (parts, bytes) = (home.parts().await.len(), log.size_bytes().await.unwrap());
        log.truncate_before(Lsn(20)).await.unwrap();
        assert!(home.parts().await.len() < parts, "{}", home.name);
        assert!(log.size_bytes().await.unwrap() < bytes, "{}", home.name);
        assert_eq!(payloads(&*log, 20).await.len(), 11);
        let gone = log.read_from(Lsn(1)).map(drop).unwrap_err();
        assert!(matches!(gone, Error::Truncated { .. }), "{gone}");
        log.close().await;
        let mut log = store.open(CHANNEL, 2).await.unwrap();
        assert_eq!(payloads(&*log, 20).await.len(), 11, "{}", home.name);
        let gone = log.read_from(Lsn(1)).map(drop).unwrap_err();
        assert!(matches!(gone, Error::Truncated { .. }), "{gone}");
        // Emptied as far as it goes, again and again, it never begins anew.
        for epoch in 3..6 {
            log.truncate_before(Lsn(1_000)).await.unwrap();
            log.truncate_before(Lsn(1_000)).await.unwrap();
            let store = home.store(&small_parts());
            if home.has_locks() {
                log.close().await;
            }
            log = store.open(CHANNEL, epoch).await.unwrap();
            assert_eq!(log.last_lsn(), Lsn(30), "{}", home.name);
        }
        assert_eq!(log.append(payload(31)).await.unwrap(), Lsn(31));
        assert_eq!(payloads(&*log, 31).await, [payload(31)]);
        assert!(store.check(CHANNEL, Lsn(31)).await.unwrap().is_empty());
        let beyond = store.check(CHANNEL, Lsn(1)).await.unwrap();
        assert_eq!(beyond.len(), 1, "record 1 is gone: {beyond:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_owner_is_kept_out() {
    for home in all_homes().await {
        let store = home.store(&Limits::default());
        let former = store.open(CHANNEL, 5).await.unwrap();
        former.append(payload(1)).await.unwrap();
        if home.has_locks() {
            let locked = store.open(CHANNEL, 6).await.unwrap_err();
            assert!(locked.retriable() && matches!(locked, Error::Locked { .. }));
            let locked = store.remove(CHANNEL).await.unwrap_err();
            assert!(matches!(locked, Error::Locked { .. }), "{locked}");
            former.close().await;
        }
        let log = store.open(CHANNEL, 6).await.unwrap();
        log.append(payload(2)).await.unwrap();
        let refused = former.append(payload(9)).await.unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotApplied, "{}", home.name);
        if !home.has_locks() {
            assert!(
                matches!(
                    refused,
                    Error::Fenced {
                        epoch: 5,
                        current: 6,
                        ..
                    }
                ),
                "{refused}"
            );
        }
        log.close().await;
        let fenced = store.open(CHANNEL, 5).await.unwrap_err();
        assert!(
            matches!(
                fenced,
                Error::Fenced {
                    epoch: 5,
                    current: 6,
                    ..
                }
            ),
            "{fenced}"
        );
        let log = store.open(CHANNEL, 6).await.unwrap();
        assert_eq!(payloads(&*log, 1).await, [payload(1), payload(2)]);
        assert_eq!(store.channels().await.unwrap(), [CHANNEL]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_log_starts_again_from_nothing() {
    for home in homes() {
        let store = home.store(&Limits::default());
        let log = store.open(CHANNEL, 1).await.unwrap();
        log.append(payload(1)).await.unwrap();
        log.close().await;
        store.remove(CHANNEL).await.unwrap();
        store.remove(CHANNEL).await.unwrap();
        assert!(store.channels().await.unwrap().is_empty(), "{}", home.name);
        assert!(store.check(CHANNEL, Lsn(1)).await.unwrap().is_empty());
        assert_eq!(store.check(CHANNEL, Lsn(2)).await.unwrap().len(), 1);
        let log = store.open(CHANNEL, 1).await.unwrap();
        assert_eq!(log.last_lsn(), Lsn::ZERO, "{}", home.name);
        assert_eq!(log.append(payload(1)).await.unwrap(), Lsn(1));
        for name in ["", "..", "a/b", ".x"] {
            assert!(store.open(name, 1).await.is_err(), "{name:?}");
            assert!(store.check(name, Lsn(1)).await.is_err(), "{name:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_refuse_before_anything_is_queued() {
    for home in homes() {
        let limits = Limits {
            max_record_bytes: 100,
            max_pending_bytes: 150,
            ..Limits::default()
        };
        let log = home.store(&limits).open(CHANNEL, 1).await.unwrap();
        let large = log.append(Bytes::from(vec![1; 101])).await.unwrap_err();
        assert_eq!(large.code(), ErrorCode::ParameterTooLarge);
        let futures: Vec<_> = (0..50)
            .map(|_| log.submit(Bytes::from(vec![1; 100])))
            .collect();
        let mut accepted = 0;
        for future in futures {
            match future.await {
                Ok(_) => accepted += 1,
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::TooManyRequests);
                    assert_eq!(error.outcome(), Outcome::NotApplied);
                }
            }
        }
        assert!(accepted >= 1, "{}", home.name);
        assert_eq!(payloads(&*log, 1).await.len(), accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_lose_and_invent_nothing() {
    let mut rng = test_rng();
    for home in all_homes().await {
        for round in 0..3 {
            let limits = Limits {
                part_bytes: rng.random_range(10..5_000),
                ..Limits::default()
            };
            let store = home.store(&limits);
            store.remove(CHANNEL).await.unwrap();
            let mut epoch = 1;
            let mut log = store.open(CHANNEL, epoch).await.unwrap();
            let (mut model, mut truncated): (Vec<Bytes>, u64) = (Vec::new(), 1);
            for _ in 0..20 {
                match rng.random_range(0..10) {
                    0 => {
                        if home.has_locks() || rng.random() {
                            log.close().await;
                        }
                        epoch += rng.random_range(0..2);
                        log = store.open(CHANNEL, epoch).await.unwrap();
                    }
                    1 => {
                        let point = rng.random_range(1..model.len() as u64 + 2);
                        log.truncate_before(Lsn(point)).await.unwrap();
                        truncated = truncated.max(point);
                    }
                    _ => {
                        let more: Vec<Bytes> = (0..rng.random_range(1..20))
                            .map(|_| {
                                let length = rng.random_range(0..600);
                                (0..length).map(|_| rng.random::<u8>()).collect()
                            })
                            .collect();
                        let futures: Vec<_> = more
                            .iter()
                            .map(|payload| log.submit(payload.clone()))
                            .collect();
                        let lsns = try_join_all(futures).await.unwrap();
                        assert_eq!(lsns[0].0, model.len() as u64 + 1);
                        model.extend(more);
                    }
                }
                assert_eq!(log.last_lsn().0, model.len() as u64);
                let wanted = &model[truncated as usize - 1..];
                assert_eq!(payloads(&*log, truncated).await, wanted, "{}", home.name);
            }
            let damage = store.check(CHANNEL, Lsn(truncated)).await.unwrap();
            assert!(damage.is_empty(), "{} round {round}: {damage:?}", home.name);
            log.close().await;
        }
    }
}

/// All results of a read, the error that ended it included.
pub(crate) async fn read_all(log: &dyn ChannelLog, from: u64) -> Vec<Result<Record>> {
    log.read_from(Lsn(from)).unwrap().collect().await
}
