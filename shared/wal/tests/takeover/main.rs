//! Owners that take a log over from each other, on a store that does what it likes within its
//! promise. Time is played, so hours take no time.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod histories;
mod sim;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{TryStreamExt as _, future::join_all};
use redkite_runtime::{TaskGroup, testing::test_seed};
use redkite_types::Outcome;
use redkite_wal::{
    ChannelLog, Error, LogStore as _, Lsn, ObjectLogStore, ObjectOptions, Record, Result,
};
use tokio::time::Instant;

use sim::Sim;

const CHANNEL: &str = "ch_0v0";
/// Numbers between a seal and its owner's first object.
const SKIP: u64 = 4_096;

fn logs(sim: &Arc<Sim>, options: ObjectOptions) -> ObjectLogStore {
    ObjectLogStore::new(sim.clone(), options, TaskGroup::new("logs"))
}

async fn open(sim: &Arc<Sim>, epoch: u64) -> Result<Arc<dyn ChannelLog>> {
    logs(sim, ObjectOptions::default())
        .open(CHANNEL, epoch)
        .await
}

fn text(payload: &str) -> Bytes {
    Bytes::copy_from_slice(payload.as_bytes())
}

async fn texts(log: &dyn ChannelLog, from: u64) -> Vec<String> {
    let records: Vec<Record> = log
        .read_from(Lsn(from))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let texts = records.iter().zip(from..).map(|(record, lsn)| {
        assert_eq!(record.lsn.0, lsn);
        String::from_utf8(record.payload.to_vec()).unwrap()
    });
    texts.collect()
}

/// Waits until a put is held back.
async fn until_held(sim: &Sim, count: usize) {
    while sim.holding.load(Ordering::SeqCst) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_log_writes_nothing_and_a_single_append_waits_for_nothing() {
    let sim = Sim::new(1);
    let log = open(&sim, 1).await.unwrap();
    let before = sim.puts.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(sim.puts.load(Ordering::SeqCst), before);
    let started = Instant::now();
    log.append(text("a")).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing to wait for");
    assert_eq!(sim.puts.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(start_paused = true)]
async fn records_gather_while_an_object_is_on_its_way_and_several_objects_fly() {
    let sim = Sim::new(1);
    let log = open(&sim, 1).await.unwrap();
    let before = sim.puts.load(Ordering::SeqCst);
    sim.hold(1 + SKIP);
    let first = log.submit(text("first"));
    until_held(&sim, 1).await;
    let mut rest = Vec::new();
    for number in 0..30 {
        rest.push(log.submit(text(&format!("{number}"))));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let puts = sim.puts.load(Ordering::SeqCst) - before;
    assert!(
        (2..=5).contains(&puts),
        "{puts} objects for 30 ms of records"
    );
    assert_eq!(
        log.last_lsn(),
        Lsn::ZERO,
        "nothing counts before what is before it"
    );
    sim.let_go();
    assert_eq!(first.await.unwrap(), Lsn(1));
    for (index, append) in rest.into_iter().enumerate() {
        assert_eq!(append.await.unwrap().0, index as u64 + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_thirty_seconds_loses_nothing() {
    let sim = Sim::new(2);
    let log = open(&sim, 1).await.unwrap();
    log.append(text("before")).await.unwrap();
    sim.go_down(Duration::from_secs(29));
    let appends: Vec<_> = (0..50)
        .map(|number| log.submit(text(&format!("{number}"))))
        .collect();
    let answers = join_all(appends).await;
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().0, index as u64 + 2);
    }
    assert_eq!(texts(&*log, 1).await.len(), 51);
}

#[tokio::test(start_paused = true)]
async fn a_longer_outage_fails_appends_with_unknown_outcome_and_a_new_opening_goes_on() {
    let sim = Sim::new(3);
    let log = open(&sim, 1).await.unwrap();
    log.append(text("before")).await.unwrap();
    sim.go_down(Duration::from_secs(90));
    let failed = log.append(text("during")).await.unwrap_err();
    assert!(matches!(failed, Error::Failed { .. }), "{failed}");
    assert_eq!(failed.outcome(), Outcome::Unknown);
    let dead = log.append(text("later")).await.unwrap_err();
    assert!(matches!(dead, Error::Failed { .. }), "{dead}");
    assert!(open(&sim, 1).await.is_err(), "the store is still down");
    tokio::time::sleep(Duration::from_secs(90)).await;
    let log = open(&sim, 1).await.unwrap();
    assert_eq!(log.append(text("after")).await.unwrap(), Lsn(2));
    assert_eq!(texts(&*log, 1).await, ["before", "after"]);
}

/// Leaves a log whose second object is missing and whose third is there.
async fn with_a_gap(sim: &Arc<Sim>) {
    let options = ObjectOptions {
        write_patience: Duration::from_secs(1),
        max_group_bytes: 1,
        ..ObjectOptions::default()
    };
    let log = logs(sim, options).open(CHANNEL, 1).await.unwrap();
    log.append(text("one")).await.unwrap();
    sim.break_number(Some(2 + SKIP));
    let (two, three) = (log.submit(text("two")), log.submit(text("three")));
    for append in [two, three] {
        let failed = append.await.unwrap_err();
        assert_eq!(failed.outcome(), Outcome::Unknown, "{failed}");
    }
    sim.break_number(None);
    let third = format!("wal/{CHANNEL}/{:020}", 3 + SKIP);
    assert!(sim.keys().contains(&third), "three was written");
}

#[tokio::test(start_paused = true)]
async fn a_gap_ends_the_log() {
    let sim = Sim::new(4);
    with_a_gap(&sim).await;
    let log = open(&sim, 2).await.unwrap();
    assert_eq!(texts(&*log, 1).await, ["one"]);
    assert_eq!(log.append(text("new")).await.unwrap(), Lsn(2));
    log.truncate_before(Lsn(2)).await.unwrap();
    let log = open(&sim, 3).await.unwrap();
    assert_eq!(texts(&*log, 2).await, ["new"]);
    let third = format!("wal/{CHANNEL}/{:020}", 3 + SKIP);
    assert!(!sim.keys().contains(&third), "truncation takes it away");
}

#[tokio::test(start_paused = true)]
async fn a_deposed_owner_that_wakes_up_late_is_fenced_whatever_was_truncated() {
    let sim = Sim::new(5);
    let former = open(&sim, 1).await.unwrap();
    former.append(text("one")).await.unwrap();
    sim.hold(2 + SKIP);
    let late = former.submit(text("late"));
    until_held(&sim, 1).await;
    // The next put of that number, the new owner's seal, is not held back.
    sim.hold(u64::MAX);
    let log = open(&sim, 2).await.unwrap();
    for number in 0..5 {
        log.append(text(&format!("new {number}"))).await.unwrap();
    }
    log.truncate_before(Lsn(1_000)).await.unwrap();
    sim.let_go();
    let fenced = late.await.unwrap_err();
    assert!(
        matches!(
            fenced,
            Error::Fenced {
                epoch: 1,
                current: 2,
                ..
            }
        ),
        "{fenced}"
    );
    assert_eq!(fenced.outcome(), Outcome::NotApplied);
    let fenced = former.append(text("later")).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    assert_eq!(log.append(text("goes on")).await.unwrap(), Lsn(7));
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_comes_late_to_a_truncated_number_does_not_count() {
    for (epoch, wins) in [(1, false), (9, true)] {
        let sim = Sim::new(6);
        let owner = open(&sim, 1).await.unwrap();
        owner.append(text("one")).await.unwrap();
        sim.hold(2 + SKIP);
        let opening = open(&sim, epoch);
        let others = async {
            until_held(&sim, 1).await;
            sim.hold(u64::MAX);
            let current = open(&sim, 5).await.unwrap();
            for number in 0..5 {
                current.append(text(&format!("{number}"))).await.unwrap();
            }
            current.truncate_before(Lsn(5)).await.unwrap();
            sim.let_go();
            current
        };
        let (opened, current) = futures::join!(opening, others);
        match wins {
            true => {
                let opened = opened.unwrap();
                assert_eq!(opened.append(text("x")).await.unwrap(), Lsn(7));
                assert!(current.append(text("y")).await.is_err());
            }
            false => {
                let fenced = opened.unwrap_err();
                assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
                assert_eq!(current.append(text("y")).await.unwrap(), Lsn(7));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_owner_cannot_keep_another_out() {
    let sim = Sim::new(test_seed());
    sim.faults.lock().max_delay = Duration::from_millis(40);
    let options = ObjectOptions {
        group_interval: Duration::from_millis(1),
        max_group_bytes: 1,
        ..ObjectOptions::default()
    };
    let owner = logs(&sim, options).open(CHANNEL, 1).await.unwrap();
    let busy = async {
        let mut acknowledged = 0;
        loop {
            let appends = join_all((0..64).map(|_| owner.submit(text("x")))).await;
            for append in appends {
                match append {
                    Ok(lsn) => acknowledged = lsn.0,
                    Err(Error::Fenced { .. }) => return acknowledged,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let opening = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        open(&sim, 2).await.unwrap()
    };
    let taking = async {
        let log = opening.await;
        let last = log.last_lsn();
        assert_eq!(log.append(text("new")).await.unwrap(), last.next());
        (log, last)
    };
    let (acknowledged, (log, last)) = futures::join!(busy, taking);
    assert_eq!(
        acknowledged, last.0,
        "neither more nor less than was acknowledged"
    );
    assert_eq!(texts(&*log, 1).await.len() as u64, last.0 + 1);
}
