//! Random histories of many owners on a store with every fault.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redkite_runtime::testing::test_rng;
use redkite_wal::AppendFuture;

use super::{sim::Faults, *};

const OWNERS: u64 = 5;

/// What is known of the log, by everybody together.
#[derive(Default)]
struct Model {
    /// What must be in the log, by number: acknowledged, or read by somebody who owned the log.
    records: BTreeMap<u64, String>,
    /// What must never be in it.
    refused: Vec<String>,
    /// Everything before may be gone.
    truncated: u64,
    /// How many openings have succeeded.
    openings: usize,
}

impl Model {
    fn truncate(&mut self, point: u64) {
        self.truncated = self.truncated.max(point);
    }

    fn note(&mut self, lsn: u64, payload: String) {
        let known = self.records.entry(lsn).or_insert_with(|| payload.clone());
        assert_eq!(*known, payload, "record {lsn} has changed");
    }
}

type SharedModel = Rc<RefCell<Model>>;

/// Opens the log, reads what is there, appends and truncates, until it is deposed or done.
async fn own(sim: Arc<Sim>, epoch: u64, mut rng: StdRng, model: SharedModel) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..3_000))).await;
    let options = ObjectOptions {
        max_in_flight: rng.random_range(1..=8),
        max_group_bytes: rng.random_range(1..100),
        write_patience: Duration::from_secs(rng.random_range(1..20)),
        read_patience: Duration::from_secs(600),
        ..ObjectOptions::default()
    };
    let store = logs(&sim, options);
    for life in 0..3 {
        let log = match store.open(CHANNEL, epoch).await {
            Ok(log) => log,
            Err(Error::Fenced { .. }) => return,
            Err(Error::Locked { .. } | Error::Store { .. }) => continue,
            Err(error) => panic!("epoch {epoch}: {error}"),
        };
        model.borrow_mut().openings += 1;
        let from = model.borrow().truncated.max(1);
        if !read_everything(&*log, from, &model).await {
            return;
        }
        let last = log.last_lsn();
        let mut waiting: Vec<(String, AppendFuture)> = Vec::new();
        for number in 0..rng.random_range(1..40) {
            let payload = format!("epoch {epoch} life {life} number {number}");
            waiting.push((payload.clone(), log.submit(text(&payload))));
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
            if rng.random_range(0..15) == 0 {
                let point = rng.random_range(1..=log.last_lsn().0 + 1);
                model.borrow_mut().truncate(point);
                // Whether it succeeds or not, it never takes more than it was told.
                let _ = log.truncate_before(Lsn(point)).await;
            }
            if rng.random_range(0..10) == 0 {
                // What can be read is final, although others are on their way.
                let from = model.borrow().truncated.max(1);
                if !read_everything(&*log, from, &model).await {
                    break;
                }
            }
        }
        let mut is_deposed = false;
        let mut ended_with: Option<Error> = None;
        let mut acknowledged = last.0;
        for (payload, append) in waiting {
            match append.await {
                Ok(lsn) => {
                    assert!(ended_with.is_none(), "{lsn} after {ended_with:?}");
                    acknowledged += 1;
                    assert_eq!(lsn.0, acknowledged, "no gap");
                    assert!(log.last_lsn() >= lsn, "acknowledged before it was durable");
                    model.borrow_mut().note(lsn.0, payload);
                }
                Err(error) => {
                    is_deposed |= matches!(error, Error::Fenced { .. });
                    ended_with.get_or_insert_with(|| error.clone());
                    if error.outcome() == Outcome::NotApplied {
                        model.borrow_mut().refused.push(payload);
                    }
                }
            }
        }
        if is_deposed {
            return;
        }
        log.close().await;
    }
}

/// Reads what an owner finds; it is final. False when others own the log by now.
async fn read_everything(log: &dyn ChannelLog, from: u64, model: &SharedModel) -> bool {
    let last = log.last_lsn().0;
    let stream = match log.read_from(Lsn(from)) {
        Ok(stream) => stream,
        Err(Error::Truncated { .. }) => return true,
        Err(error) => panic!("{error}"),
    };
    let records: Result<Vec<Record>> = stream.try_collect().await;
    match records {
        Ok(records) => {
            let expected = (last + 1).saturating_sub(from);
            assert_eq!(records.len() as u64, expected, "from {from} to {last}");
            for (record, lsn) in records.into_iter().zip(from..) {
                assert_eq!(record.lsn.0, lsn);
                let payload = String::from_utf8(record.payload.to_vec()).unwrap();
                model.borrow_mut().note(lsn, payload);
            }
            true
        }
        Err(Error::Fenced { .. } | Error::Truncated { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn history(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let sim = Sim::new(rng.random());
    *sim.faults.lock() = Faults {
        max_delay: Duration::from_millis(rng.random_range(1..200)),
        fail_before: rng.random_range(0..30),
        fail_after: rng.random_range(0..30),
        late: rng.random_range(0..10),
    };
    let model = SharedModel::default();
    // Two owners never share an epoch, and come in any order.
    let owners = (1..=OWNERS).map(|epoch| {
        let rng = StdRng::seed_from_u64(rng.random());
        own(sim.clone(), epoch, rng, model.clone())
    });
    let owners: Vec<_> = owners.collect();
    join_all(owners).await;

    *sim.faults.lock() = Faults::default();
    let log = open(&sim, 100).await.unwrap();
    // Whatever was still under way arrives, and the next owner sees nothing of it.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let log_after = open(&sim, 101).await.unwrap();
    assert_eq!(log.last_lsn(), log_after.last_lsn(), "seed {seed}");
    let from = model.borrow().truncated.max(1);
    let found = texts(&*log_after, from).await;
    let damage = logs(&sim, ObjectOptions::default())
        .check(CHANNEL, Lsn(from))
        .await
        .unwrap();
    assert!(damage.is_empty(), "seed {seed}: {damage:?}");
    let model = model.borrow();
    for (lsn, payload) in model.records.range(from..) {
        let read = found.get((lsn - from) as usize);
        assert_eq!(read, Some(payload), "seed {seed}: record {lsn}");
    }
    let mut once = found.clone();
    once.sort();
    once.dedup();
    assert_eq!(
        once.len(),
        found.len(),
        "seed {seed}: a record is there twice"
    );
    for payload in &model.refused {
        assert!(
            !found.contains(payload),
            "seed {seed}: {payload} was refused"
        );
    }
    let epoch = |payload: &String| -> u64 { payload.split(' ').nth(1).unwrap().parse().unwrap() };
    assert!(
        found.iter().map(epoch).is_sorted(),
        "seed {seed}: {found:?}"
    );
    model.openings
}

#[tokio::test(start_paused = true)]
async fn every_owner_reads_all_that_was_acknowledged_once_and_in_order() {
    let mut rng = test_rng();
    // More of them, for an hour or a night, find what these do not.
    let count: usize = match std::env::var("REDKITE_HISTORIES") {
        Ok(text) => text.parse().expect("REDKITE_HISTORIES must be a number"),
        Err(_) => 150,
    };
    let mut openings = 0;
    for _ in 0..count {
        openings += history(rng.random()).await;
    }
    assert!(openings > count, "{openings} openings: nothing was tried");
}
