//! Writes that are on their way into the log at the same time: as many as the log takes, seen and
//! acknowledged in their order, and never before they are durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
    stream::FuturesOrdered,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redkite_proto::redkite::querynode::QueryRequest;
use redkite_runtime::testing::{eventually_true, test_rng, test_seed};
use redkite_types::{ErrorCode, Outcome};
use redkite_wal::ObjectOptions;

use crate::{
    slow::{Faults, SlowStore},
    world::{Node, P1, P2, World, code, rows_of},
};

type Writes = FuturesOrdered<BoxFuture<'static, Result<u64, tonic::Status>>>;

fn start(writes: &mut Writes, node: &Node, partition: i64, key: i64) {
    let (node, write) = (node.clone(), node.change(&[], partition, &[(key, key)]));
    writes.push_back(async move { node.write(write).await }.boxed());
}

/// Waits until so many puts are held back; no write may be answered meanwhile.
async fn until_held(store: &SlowStore, writes: &mut Writes, count: usize) {
    tokio::select! {
        answer = writes.next() => panic!("{answer:?} before anything was durable"),
        () = eventually_true("puts are held back", || store.held() == count) => {}
    }
}

/// What can be seen without waiting for anything.
async fn seen_now(node: &Node) -> Vec<(i64, i64)> {
    let request = QueryRequest {
        guarantee_ts: 1,
        ..node.query_request()
    };
    rows_of(node.try_query(request).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_on_their_way_together_and_are_seen_and_acknowledged_in_order() {
    let store = SlowStore::new(test_seed());
    let world = World::on_objects_of(store.clone());
    let node = world.node().await;
    store.hold();
    let in_flight = ObjectOptions::default().max_in_flight;
    let mut writes = Writes::new();
    for key in 0..in_flight {
        start(&mut writes, &node, P1, key as i64);
        // Each waits for the store alone: none for those before it.
        until_held(&store, &mut writes, key + 1).await;
    }
    let strong = QueryRequest {
        timeout_ms: 20,
        ..node.query_request()
    };
    let late = node.try_query(strong).await.unwrap_err();
    assert_eq!(code(&late), ErrorCode::Timeout.number());
    // All but the first arrive, the last one first.
    while store.held() > 1 {
        store.let_go(store.held() - 1);
    }
    let log_objects = || async { world.store.list("wal/").await.unwrap().len() };
    // One is the owner's seal.
    while log_objects().await < in_flight {
        tokio::task::yield_now().await;
    }
    assert!(writes.next().now_or_never().is_none(), "a gap is before it");
    assert!(seen_now(&node).await.is_empty());
    store.let_all_go();
    let mut last = 0;
    while let Some(answer) = writes.next().await {
        let ts = answer.unwrap();
        assert!(ts > last, "{ts} after {last}");
        last = ts;
    }
    let expected: Vec<_> = (0..in_flight as i64).map(|key| (key, key)).collect();
    assert_eq!(seen_now(&node).await, expected);
    node.crash();
    assert_eq!(world.node().await.rows().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_takes_what_is_on_its_way_along() {
    let store = SlowStore::new(test_seed());
    let world = World::on_objects_of(store.clone());
    let node = world.node().await;
    store.hold();
    let mut writes = Writes::new();
    for key in 0..3 {
        start(&mut writes, &node, P1, key);
        until_held(&store, &mut writes, key as usize + 1).await;
    }
    let flushing = node.clone();
    let mut flush = async move { flushing.flush().await }.boxed();
    tokio::select! {
        _ = &mut flush => panic!("flushed before the rows were durable"),
        rows = seen_now(&node) => assert!(rows.is_empty()),
    }
    store.let_all_go();
    let (flushed, answers) = futures::join!(flush, writes.collect::<Vec<_>>());
    let last = answers.into_iter().map(Result::unwrap).max().unwrap();
    assert_eq!(flushed.flush_ts, last);
    assert_eq!(flushed.segment_ids.len(), 1);
    assert_eq!(node.rows().await, [(0, 0), (1, 1), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_their_way_into_a_partition_that_is_dropped_disturb_nobody() {
    let store = SlowStore::new(test_seed());
    let world = World::on_objects_of(store.clone());
    let node = world.node().await;
    store.hold();
    let mut writes = Writes::new();
    for (key, partition) in [(0, P2), (1, P1), (2, P2)] {
        start(&mut writes, &node, partition, key);
        until_held(&store, &mut writes, key as usize + 1).await;
    }
    world.played.change(|meta| {
        meta.partitions = vec![P1];
        meta.loaded = vec![P1];
    });
    let syncing = node.clone();
    let mut sync = async move { syncing.sync().await }.boxed();
    tokio::select! {
        _ = &mut sync => panic!("rows are on their way into what it takes away"),
        rows = seen_now(&node) => assert!(rows.is_empty()),
    }
    store.let_all_go();
    let (synced, answers) = futures::join!(sync, writes.collect::<Vec<_>>());
    synced.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    node.insert(P1, &[(3, 3)]).await;
    assert_eq!(node.rows().await, [(1, 1), (3, 3)]);
    node.crash();
    assert_eq!(world.node().await.rows().await, [(1, 1), (3, 3)]);
}

/// What is known of the writes of a history.
#[derive(Default)]
struct Model {
    /// Keys by their timestamps.
    acknowledged: BTreeMap<u64, i64>,
    refused: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
    /// What each look saw, in order.
    looks: Vec<BTreeSet<i64>>,
}

impl Model {
    fn check_look(&self, seed: u64, look: &BTreeSet<i64>) {
        let latest = self.acknowledged.iter().rev();
        let mut older = latest.skip_while(|(_, key)| !look.contains(key));
        let missing = older.find(|(_, key)| !look.contains(key));
        assert_eq!(missing, None, "seed {seed}: later ones were seen");
        for key in &self.refused {
            assert!(!look.contains(key), "seed {seed}: {key} was refused");
        }
    }
}

const WRITERS: usize = 6;
const WRITES: i64 = 40;

/// A history and what happens in it.
struct History {
    seed: u64,
    world: World,
    store: Arc<SlowStore>,
    /// The owner.
    node: Mutex<Node>,
    model: Mutex<Model>,
    next_key: AtomicI64,
    is_over: AtomicBool,
}

impl History {
    fn owner(&self) -> Node {
        self.node.lock().clone()
    }

    async fn write(&self, mut rng: StdRng) {
        for _ in 0..WRITES {
            let key = self.next_key.fetch_add(1, Ordering::SeqCst);
            let node = self.owner();
            let partition = if rng.random_bool(0.5) { P1 } else { P2 };
            let answer = node.write(node.change(&[], partition, &[(key, key)])).await;
            self.learn(key, answer);
            if rng.random_bool(0.3) {
                let pause = Duration::from_micros(rng.random_range(0..3_000));
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Takes note of what a write was answered.
    fn learn(&self, key: i64, answer: Result<u64, tonic::Status>) {
        let mut model = self.model.lock();
        match answer {
            Ok(ts) => {
                let other = model.acknowledged.insert(ts, key);
                assert_eq!(other, None, "seed {}: two writes at one time", self.seed);
            }
            Err(status) => match redkite_rpc::from_status(&status).outcome {
                Some(Outcome::NotApplied) => {
                    model.refused.insert(key);
                }
                Some(Outcome::Unknown) | None => {
                    model.unknown.insert(key);
                }
            },
        }
    }

    async fn look(&self, mut rng: StdRng) {
        let mut before: BTreeSet<i64> = BTreeSet::new();
        while !self.is_over.load(Ordering::SeqCst) {
            let must: Vec<i64> = self.model.lock().acknowledged.values().copied().collect();
            let node = self.owner();
            let is_strong = rng.random_bool(0.7);
            let mut request = node.query_request();
            if !is_strong {
                request.guarantee_ts = 1;
            }
            // Who is being replaced, or waits for its log, may have no answer.
            let Ok(answer) = node.try_query(request).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let look: BTreeSet<i64> = rows_of(answer).into_iter().map(|row| row.0).collect();
            let gone: Vec<_> = before.difference(&look).collect();
            assert!(gone.is_empty(), "seed {}: {gone:?} are gone", self.seed);
            if is_strong {
                let missing: Vec<_> = must.iter().filter(|key| !look.contains(key)).collect();
                assert!(missing.is_empty(), "seed {}: no {missing:?}", self.seed);
            }
            self.model.lock().looks.push(look.clone());
            before = look;
        }
    }

    async fn disturb(&self, mut rng: StdRng) {
        while !self.is_over.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..25))).await;
            match rng.random_range(0..10) {
                0..3 => {
                    // It may have been deposed or wait for its log.
                    let _ = self.owner().try_flush().await;
                }
                3..6 => {
                    let _ = self.owner().sync().await;
                }
                6..8 => {
                    self.store.set_down(true);
                    let pause = Duration::from_millis(rng.random_range(1..60));
                    tokio::time::sleep(pause).await;
                    self.store.set_down(false);
                }
                8 => {
                    self.owner().crash();
                    let successor = self.world.node().await;
                    *self.node.lock() = successor;
                }
                _ => {
                    // The former one does not know, and goes on.
                    let successor = self.world.node().await;
                    *self.node.lock() = successor;
                }
            }
        }
    }

    async fn run(&self, mut rng: StdRng) {
        let mut next = || StdRng::seed_from_u64(rng.random());
        let writers: Vec<_> = (0..WRITERS).map(|_| self.write(next())).collect();
        let writing = async {
            join_all(writers).await;
            self.is_over.store(true, Ordering::SeqCst);
        };
        futures::join!(writing, self.look(next()), self.disturb(next()));
    }
}

async fn history(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = SlowStore::new(rng.random());
    let mut world = World::on_objects_of(store.clone());
    world.object_log = ObjectOptions {
        group_interval: Duration::from_millis(1),
        max_in_flight: rng.random_range(1..=8),
        max_group_bytes: rng.random_range(1..2_000),
        write_patience: Duration::from_millis(rng.random_range(10..60)),
        ..ObjectOptions::default()
    };
    let node = world.node().await;
    store.set_faults(Faults {
        max_delay: Duration::from_micros(rng.random_range(1..8_000)),
        fail_before: rng.random_range(0..20),
        fail_after: rng.random_range(0..20),
    });
    let history = History {
        seed,
        node: Mutex::new(node),
        world,
        store,
        model: Mutex::default(),
        next_key: AtomicI64::new(0),
        is_over: AtomicBool::new(false),
    };
    Box::pin(history.run(rng)).await;
    history.store.set_down(false);
    history.store.set_faults(Faults::default());
    let rows = history.world.node().await.rows().await;
    let found: BTreeSet<i64> = rows.iter().map(|row| row.0).collect();
    assert_eq!(found.len(), rows.len(), "seed {seed}: a row is there twice");
    let model = history.model.lock();
    for key in model.acknowledged.values() {
        assert!(found.contains(key), "seed {seed}: {key} was acknowledged");
    }
    for look in &model.looks {
        model.check_look(seed, look);
        assert!(look.is_subset(&found), "seed {seed}: seen, and then gone");
    }
    model.check_look(seed, &found);
    let known = model.acknowledged.len() + model.refused.len() + model.unknown.len();
    assert_eq!(known, WRITERS * WRITES as usize);
    model.acknowledged.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_or_seen_stays_and_nothing_is_seen_before_what_was_written_earlier() {
    let mut rng = test_rng();
    // More of them, for an hour or a night, find what these do not.
    let count: usize = match std::env::var("REDKITE_HISTORIES") {
        Ok(text) => text.parse().expect("REDKITE_HISTORIES must be a number"),
        Err(_) => 8,
    };
    let mut acknowledged = 0;
    for _ in 0..count {
        acknowledged += history(rng.random()).await;
    }
    let writes = count * WRITERS * WRITES as usize;
    assert!(
        acknowledged > writes / 4,
        "{acknowledged} of {writes}: nothing was tried"
    );
}
