//! From a request to the end, with a failure or a crash at every step.

use std::{
    pin::pin,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use prost::Message;
use redkite_catalog::keys;
use redkite_config::{ByteSize, HumanDuration};
use redkite_metastore::{
    KeyValue, MemKv, MetaKv, Op, Page, Result as KvResult, Txn, TxnOutcome, WatchStream,
};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        datacoord::{CommitFlushRequest, CompactRequest as Request, ListCompactionsRequest},
        datanode::{CompactRequest, CompactResponse},
        meta::{
            ChannelCheckpoint, ChannelOwner, CollectionInfo, DeltaInfo, FileInfo, PartitionInfo,
            SegmentIndexInfo, SegmentInfo,
        },
        querynode::SegmentStats,
    },
};
use redkite_runtime::{
    ManualClock,
    testing::{PATIENCE, eventually},
};
use redkite_storage::ObjectStore;
use redkite_types::{BuildId, DatabaseId, ErrorCode, Outcome, PartitionId, Revision, SegmentId};
use tokio::sync::Notify;

use super::*;
use crate::{drop::drop_data, flush};

const C: CollectionId = CollectionId(10);
const P: PartitionId = PartitionId(11);
const CHANNEL: &str = "10v0";
const SOURCES: [i64; 3] = [20, 21, 22];
const NOW_MS: u64 = 1_700_000_000_000;
/// The checkpoint's time; deletes up to here are in files.
const FLUSHED: u64 = 1_000;

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    FailBefore,
    FailAfter,
    CrashBefore,
    CrashAfter,
}

/// Counts what a compactor does to its surroundings, and lets one of it go wrong.
#[derive(Default)]
struct Steps {
    taken: AtomicUsize,
    fault: Mutex<Option<(usize, Fault)>>,
    crashed: Notify,
}

impl Steps {
    fn next(&self) -> Option<Fault> {
        let step = self.taken.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock();
        let found = fault.filter(|(at, _)| *at == step).map(|(_, fault)| fault);
        if found.is_some() {
            *fault = None;
        }
        found
    }

    async fn run<T, E>(
        &self,
        step: impl Future<Output = Result<T, E>>,
        error: impl Fn(Outcome) -> E,
    ) -> Result<T, E> {
        let mut step = pin!(step);
        match self.next() {
            None => step.await,
            Some(Fault::FailBefore) => Err(error(Outcome::NotApplied)),
            Some(Fault::FailAfter) => {
                let _ = step.as_mut().await;
                Err(error(Outcome::Unknown))
            }
            Some(fault) => {
                if fault == Fault::CrashAfter {
                    let _ = step.as_mut().await;
                }
                self.crashed.notify_one();
                std::future::pending().await
            }
        }
    }
}

struct SteppedKv {
    kv: Arc<MemKv>,
    steps: Arc<Steps>,
}

#[async_trait]
impl MetaKv for SteppedKv {
    async fn get(&self, key: &str) -> KvResult<Option<KeyValue>> {
        self.kv.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> KvResult<Page> {
        self.kv.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> KvResult<TxnOutcome> {
        let lost = |outcome| redkite_metastore::Error::Unavailable {
            what: "a test's transaction".to_owned(),
            outcome,
        };
        self.steps.run(self.kv.txn(txn), lost).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> KvResult<WatchStream> {
        self.kv.watch(prefix, after).await
    }

    async fn lease_grant(&self, ttl: Duration) -> KvResult<u64> {
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_revoke(lease).await
    }
}

/// The other services. Compacting keeps every row but one of each source.
struct Played {
    store: Arc<dyn ObjectStore>,
    steps: Arc<Steps>,
    ids: AtomicI64,
    requests: Mutex<Vec<CompactRequest>>,
    /// What every compaction fails with.
    failure: Mutex<Option<Error>>,
    /// Held while a compaction runs.
    gate: tokio::sync::RwLock<()>,
    stats: Mutex<Vec<SegmentStats>>,
}

#[async_trait]
impl Around for Played {
    async fn ids(&self, count: u32) -> Result<i64> {
        let take = async { Ok(1_000 + self.ids.fetch_add(count.into(), Ordering::SeqCst)) };
        self.steps.run(take, |_| away()).await
    }

    async fn compact(&self, request: CompactRequest) -> Result<CompactResponse> {
        self.requests.lock().push(request.clone());
        let work = async {
            let _open = self.gate.read().await;
            let failure = self.failure.lock().clone();
            if let Some(failure) = failure {
                return Err(failure);
            }
            if request.delta_target != 0 {
                let delta = merged(&request);
                self.store_delta(&delta).await;
                return Ok(CompactResponse {
                    delta: Some(delta),
                    ..CompactResponse::default()
                });
            }
            let answer = compacted(&request);
            self.store_files(&answer.segments).await;
            Ok(answer)
        };
        self.steps.run(work, |_| away()).await
    }

    async fn segments(&self, _: &ChannelOwner) -> Result<Vec<SegmentStats>> {
        Ok(self.stats.lock().clone())
    }
}

impl Default for Played {
    fn default() -> Self {
        Self {
            store: redkite_storage::open("memory://").unwrap(),
            steps: Arc::default(),
            ids: AtomicI64::default(),
            requests: Mutex::default(),
            failure: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            stats: Mutex::default(),
        }
    }
}

impl Played {
    /// Writes the file that a delete file's record names, of the right size.
    async fn store_delta(&self, delta: &DeltaInfo) {
        let file = delta.file.as_ref().unwrap();
        let bytes = vec![0; file.size as usize];
        self.store.put(&file.path, bytes.into()).await.unwrap();
    }

    /// Writes the files that segments name, of the right size.
    async fn store_files(&self, segments: &[SegmentInfo]) {
        for file in segments.iter().flat_map(|segment| &segment.files) {
            let bytes = vec![0; file.size as usize];
            self.store.put(&file.path, bytes.into()).await.unwrap();
        }
    }
}

/// As a data node does it, with every delete needed.
fn merged(request: &CompactRequest) -> DeltaInfo {
    let deltas = &request.deltas;
    DeltaInfo {
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        min_ts: deltas.iter().map(|delta| delta.min_ts).min().unwrap(),
        max_ts: deltas.iter().map(|delta| delta.max_ts).max().unwrap(),
        ..delta_file(request.delta_target, 0)
    }
}

fn away() -> Error {
    Error::new(ErrorCode::ServiceUnavailable, "away")
}

fn compacted(request: &CompactRequest) -> CompactResponse {
    let rows_read: i64 = request.sources.iter().map(|source| source.rows).sum();
    let rows = rows_read - request.sources.len() as i64;
    let first = &request.sources[0];
    let segment = SegmentInfo {
        id: request.targets[0],
        rows,
        deletes_applied_ts: request.deletes_until,
        compacted_from: request.sources.iter().map(|source| source.id).collect(),
        files: segment(request.targets[0], rows).files,
        ..first.clone()
    };
    CompactResponse {
        segments: if rows == 0 { vec![] } else { vec![segment] },
        rows_read,
        rows_written: rows,
        delta: None,
    }
}

fn segment(id: i64, rows: i64) -> SegmentInfo {
    SegmentInfo {
        id,
        collection_id: C.0,
        partition_id: P.0,
        channel: CHANNEL.to_owned(),
        rows,
        min_ts: 100,
        max_ts: 900,
        files: vec![FileInfo {
            path: format!("segments/10/11/{id}/data.v1.parquet"),
            size: 10,
            crc32c: 1,
        }],
        ..SegmentInfo::default()
    }
}

fn delta(id: i64, max_ts: u64) -> DeltaInfo {
    DeltaInfo {
        id,
        collection_id: C.0,
        channel: CHANNEL.to_owned(),
        rows: 60,
        min_ts: 200,
        max_ts,
        ..DeltaInfo::default()
    }
}

/// A delete file with its path.
fn delta_file(id: i64, max_ts: u64) -> DeltaInfo {
    DeltaInfo {
        file: Some(FileInfo {
            path: redkite_storage::layout::delta(CHANNEL, id),
            size: 10,
            crc32c: 1,
        }),
        ..delta(id, max_ts)
    }
}

fn build(id: i64, segment: i64) -> (String, Vec<u8>) {
    let info = SegmentIndexInfo {
        build_id: id,
        segment_id: segment,
        state: IndexState::Finished.into(),
        ..SegmentIndexInfo::default()
    };
    let key = keys::segment_index(C, P, SegmentId(segment), BuildId(id));
    (key, info.encode_to_vec())
}

/// Metadata of one collection, and one compactor at a time.
struct World {
    kv: Arc<MemKv>,
    steps: Arc<Steps>,
    played: Arc<Played>,
    options: CompactionOptions,
    clock: ManualClock,
}

/// A compactor with its tasks.
struct Process {
    compactor: Arc<Compactor>,
    tasks: TaskGroup,
}

impl World {
    async fn new() -> Self {
        let steps = Arc::<Steps>::default();
        let world = Self {
            kv: Arc::new(MemKv::new()),
            played: Arc::new(Played {
                steps: steps.clone(),
                ..Played::default()
            }),
            steps,
            options: CompactionOptions {
                segment_target_size: ByteSize(1_000),
                min_small_segments: 3,
                retention: HumanDuration::secs(0),
                ..CompactionOptions::default()
            },
            clock: ManualClock::new(NOW_MS),
        };
        let collection = CollectionInfo {
            id: C.0,
            database_id: 1,
            name: "c".to_owned(),
            channels: vec![CHANNEL.to_owned()],
            ..CollectionInfo::default()
        };
        let mut records = vec![
            (
                keys::collection(DatabaseId(1), C),
                collection.encode_to_vec(),
            ),
            partition(redkite_proto::redkite::meta::ObjectState::Created),
            (
                keys::checkpoint(CHANNEL),
                ChannelCheckpoint {
                    channel: CHANNEL.to_owned(),
                    collection_id: C.0,
                    lsn: 5,
                    ts: FLUSHED,
                }
                .encode_to_vec(),
            ),
            (
                keys::channel_owner(CHANNEL),
                ChannelOwner {
                    channel: CHANNEL.to_owned(),
                    epoch: 1,
                    ..ChannelOwner::default()
                }
                .encode_to_vec(),
            ),
            (keys::delta(C, 30), delta(30, 800).encode_to_vec()),
            build(40, SOURCES[0]),
        ];
        for id in SOURCES {
            records.push((
                keys::segment(C, P, SegmentId(id)),
                segment(id, 100).encode_to_vec(),
            ));
        }
        world.put(records).await;
        world
    }

    async fn put(&self, records: Vec<(String, Vec<u8>)>) {
        let ops = records.into_iter();
        let txn = ops.fold(Txn::new(), |txn, (key, value)| {
            txn.then(Op::put(key, value))
        });
        self.kv.txn(txn).await.unwrap();
    }

    async fn start(&self) -> Process {
        let catalog = Catalog::load(self.kv.as_ref()).await.unwrap();
        let tasks = TaskGroup::new("datacoord");
        let follow = catalog.clone().follow(self.kv.clone(), tasks.token());
        tasks.spawn("catalog", OnFailure::Log, follow);
        let kv = SteppedKv {
            kv: self.kv.clone(),
            steps: self.steps.clone(),
        };
        let compactor = Compactor::new(
            Arc::new(kv),
            CommitGate::new(self.played.store.clone()),
            catalog,
            self.played.clone(),
            tasks.clone(),
            self.options.clone(),
            Arc::new(self.clock.clone()),
        );
        Process { compactor, tasks }
    }

    async fn records<M: Message + Default>(&self, prefix: &str) -> Vec<M> {
        let pairs = self.kv.range(prefix, None, 1_000).await.unwrap().pairs;
        let decode = |pair: KeyValue| M::decode(pair.value).unwrap();
        pairs.into_iter().map(decode).collect()
    }

    async fn segments(&self) -> Vec<SegmentInfo> {
        self.records(&keys::segments(C)).await
    }

    async fn deltas(&self) -> Vec<i64> {
        let deltas: Vec<DeltaInfo> = self.records(&keys::deltas(C)).await;
        deltas.iter().map(|delta| delta.id).collect()
    }

    async fn plans(&self) -> Vec<CompactionInfo> {
        self.records(&keys::compactions(C)).await
    }

    /// Waits until no plan is executing; goes on with those that nobody works on.
    async fn settle(&self, process: &Process) {
        eventually("every plan has ended", PATIENCE, || async {
            let plans = self.plans().await;
            for plan in &plans {
                if plan.state() == State::Executing {
                    process.compactor.start(C, plan.plan_id);
                }
            }
            let ended = |plan: &CompactionInfo| plan.state() != State::Executing;
            plans.iter().all(ended).then_some(())
        })
        .await;
    }

    async fn is_old_state(&self) -> bool {
        let ids: Vec<i64> = self.segments().await.iter().map(|one| one.id).collect();
        ids == SOURCES
    }

    /// One segment with the rows of all, nothing of the sources, one plan completed.
    async fn check_new_state(&self, context: &str) {
        let segments = self.segments().await;
        assert_eq!(segments.len(), 1, "{context}: {segments:?}");
        let made = &segments[0];
        assert_eq!(
            (made.rows, &made.compacted_from[..]),
            (297, &SOURCES[..]),
            "{context}"
        );
        assert_eq!(made.deletes_applied_ts, FLUSHED, "{context}");
        let builds: Vec<SegmentIndexInfo> = self.records(&keys::segment_indexes(C)).await;
        assert!(builds.is_empty(), "{context}: {builds:?}");
        assert!(self.deltas().await.is_empty(), "{context}");
        let plans = self.plans().await;
        let completed: Vec<_> = plans
            .iter()
            .filter(|plan| plan.state() == State::Completed)
            .collect();
        assert_eq!(completed.len(), 1, "{context}: {plans:?}");
        assert_eq!(completed[0].targets, [made.id], "{context}");
        // No two attempts wrote to the same place.
        let requests = self.played.requests.lock();
        let mut targets: Vec<i64> = requests
            .iter()
            .flat_map(|one| one.targets.clone())
            .collect();
        let all = targets.len();
        targets.sort_unstable();
        targets.dedup();
        assert_eq!(targets.len(), all, "{context}");
    }
}

impl Process {
    async fn compact(&self) -> Result<redkite_proto::redkite::datacoord::CompactResponse> {
        self.compactor
            .request(Request {
                collection_id: C.0,
                ..Request::default()
            })
            .await
    }

    async fn seen(&self, world: &World) {
        let revision = world.kv.range("x", None, 1).await.unwrap().revision;
        self.compactor
            .catalog
            .at_least(revision, PATIENCE)
            .await
            .unwrap();
    }
}

fn partition(state: redkite_proto::redkite::meta::ObjectState) -> (String, Vec<u8>) {
    let info = PartitionInfo {
        id: P.0,
        collection_id: C.0,
        state: state.into(),
        ..PartitionInfo::default()
    };
    (keys::partition(C, P), info.encode_to_vec())
}

#[tokio::test]
async fn a_compaction_that_is_asked_for_replaces_the_sources_in_one_step() {
    let world = World::new().await;
    let process = world.start().await;
    let answer = process.compact().await.unwrap();
    assert_eq!(answer.plans, 1);
    world.settle(&process).await;
    world.check_new_state("without faults").await;
    let request = world.played.requests.lock()[0].clone();
    assert_eq!((request.deletes_until, request.deltas.len()), (FLUSHED, 1));
    process.seen(&world).await;
    let listed = process.compactor.list(&ListCompactionsRequest {
        compaction_id: answer.compaction_id,
        collection_id: 0,
    });
    assert_eq!(listed.plans.len(), 1);
    assert_eq!(listed.plans[0].state(), State::Completed);
    // Nothing is left to do.
    assert_eq!(process.compact().await.unwrap().compaction_id, 0);
}

#[tokio::test]
async fn whatever_fails_or_crashes_at_any_step_the_end_is_the_same() {
    for fault in [
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ] {
        for step in 0.. {
            let context = format!("{fault:?} at step {step}");
            let world = World::new().await;
            let mut process = world.start().await;
            *world.steps.fault.lock() = Some((step, fault));
            let run = async {
                while process.compact().await.is_err() {
                    // It may have been recorded all the same.
                    world.settle(&process).await;
                }
                world.settle(&process).await;
            };
            let crashed = tokio::select! {
                () = run => false,
                () = world.steps.crashed.notified() => true,
            };
            if crashed {
                process.tasks.abort();
                process = world.start().await;
                world.settle(&process).await;
                if world.is_old_state().await {
                    assert!(world.plans().await.is_empty(), "{context}");
                    process.compact().await.unwrap();
                    world.settle(&process).await;
                }
            }
            world.check_new_state(&context).await;
            process.tasks.abort();
            if world.steps.fault.lock().is_some() {
                assert!(step >= 6, "only {step} steps were tried");
                break;
            }
        }
    }
}

const FILES: std::ops::Range<i64> = 50..54;

/// A world in which only delete files are merged.
async fn world_with_delete_files() -> World {
    let mut world = World::new().await;
    world.options.min_small_segments = 100;
    world.options.delete_share = 1.0;
    world.options.min_delete_files = 3;
    let mut records = Vec::new();
    for id in FILES {
        let delta = delta_file(id, 500 + id as u64);
        world.played.store_delta(&delta).await;
        records.push((keys::delta(C, id), delta.encode_to_vec()));
    }
    // Later than what may be merged.
    records.push((
        keys::delta(C, 60),
        delta_file(60, FLUSHED + 1).encode_to_vec(),
    ));
    let without_file = Txn::new().then(Op::delete(keys::delta(C, 30)));
    world.kv.txn(without_file).await.unwrap();
    world.put(records).await;
    world
}

impl World {
    /// Has rounds run until the delete files are one.
    async fn merge(&self, process: &Process) {
        eventually("delete files are merged", PATIENCE, || async {
            process.compactor.round().await;
            self.settle(process).await;
            (self.deltas().await.len() == 2).then_some(())
        })
        .await;
    }

    async fn check_merged(&self, context: &str) {
        let deltas: Vec<DeltaInfo> = self.records(&keys::deltas(C)).await;
        assert_eq!(deltas.len(), 2, "{context}");
        assert!(deltas.iter().any(|delta| delta.id == 60), "{context}");
        let made = deltas.iter().find(|delta| delta.id != 60).unwrap();
        assert_eq!(
            (made.rows, made.min_ts, made.max_ts),
            (240, 200, 553),
            "{context}"
        );
        let file = made.file.as_ref().unwrap();
        assert!(
            self.played.store.stat(&file.path).await.is_ok(),
            "{context}"
        );
        assert!(
            self.is_old_state().await,
            "{context}: segments have changed"
        );
        let plans = self.plans().await;
        let [plan] = &plans[..] else {
            panic!("{context}: {plans:?}")
        };
        assert_eq!(plan.state(), State::Completed, "{context}");
        assert_eq!(plan.targets, [made.id], "{context}");
        // Loads that have begun may read the old ones a little longer.
        let old: Vec<String> = FILES
            .map(|id| redkite_storage::layout::delta(CHANNEL, id))
            .collect();
        assert_eq!(plan.borrowed_files, old, "{context}");
        let requests = self.played.requests.lock();
        let targets: HashSet<i64> = requests.iter().map(|one| one.delta_target).collect();
        assert_eq!(
            targets.len(),
            requests.len(),
            "{context}: one place for two attempts"
        );
    }
}

#[tokio::test]
async fn delete_files_are_merged_whatever_fails_or_crashes_at_any_step() {
    for fault in [
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ] {
        for step in 0.. {
            let context = format!("{fault:?} at step {step}");
            let world = world_with_delete_files().await;
            let mut process = world.start().await;
            *world.steps.fault.lock() = Some((step, fault));
            let crashed = tokio::select! {
                () = world.merge(&process) => false,
                () = world.steps.crashed.notified() => true,
            };
            if crashed {
                process.tasks.abort();
                // The old files or the new one, and nothing in between.
                let left = world.deltas().await.len();
                assert!(left == 2 || left == 5, "{context}: {left} are left");
                process = world.start().await;
                world.merge(&process).await;
            }
            world.settle(&process).await;
            world.check_merged(&context).await;
            process.tasks.abort();
            if world.steps.fault.lock().is_some() {
                assert!(step >= 6, "only {step} steps were tried");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_merge_is_told_which_deletes_are_needed_and_gives_way_to_who_lets_a_file_go() {
    let world = world_with_delete_files().await;
    let process = world.start().await;
    let closed = world.played.gate.write().await;
    process.compactor.round().await;
    eventually("the data node is asked", PATIENCE, || async {
        (!world.played.requests.lock().is_empty()).then_some(())
    })
    .await;
    let request = world.played.requests.lock()[0].clone();
    // No segment has rows before this.
    assert_eq!(request.deletes_needed_after, 100);
    assert_eq!(request.channel, CHANNEL);
    let ids: Vec<i64> = request.deltas.iter().map(|delta| delta.id).collect();
    assert_eq!(ids, FILES.collect::<Vec<_>>());
    let gone = Txn::new().then(Op::delete(keys::delta(C, 51)));
    world.kv.txn(gone).await.unwrap();
    drop(closed);
    world.settle(&process).await;
    let mut left = world.deltas().await;
    left.sort_unstable();
    assert_eq!(left, [50, 52, 53, 60]);
    let plan = &world.plans().await[0];
    assert_eq!(plan.state(), State::Failed);
    assert!(
        plan.fail_reason.contains("delete file 51 is gone"),
        "{plan:?}"
    );
}

#[tokio::test]
async fn a_segment_is_not_written_again_for_delete_files_that_become_one() {
    let mut world = world_with_delete_files().await;
    world.options.max_delete_files = 2;
    let process = world.start().await;
    world.merge(&process).await;
    assert!(world.is_old_state().await);
    // Without merging it is.
    let mut world = world_with_delete_files().await;
    world.options.max_delete_files = 2;
    world.options.min_delete_files = 100;
    let process = world.start().await;
    process.compactor.round().await;
    world.settle(&process).await;
    assert!(!world.is_old_state().await);
}

/// Starts a compaction, does something while the data node works, and lets it end.
async fn meanwhile(world: &World, something: impl AsyncFnOnce(&Process)) {
    let process = world.start().await;
    let closed = world.played.gate.write().await;
    process.compact().await.unwrap();
    eventually("the data node is asked", PATIENCE, || async {
        (!world.played.requests.lock().is_empty()).then_some(())
    })
    .await;
    something(&process).await;
    drop(closed);
    world.settle(&process).await;
}

#[tokio::test]
async fn a_partition_that_is_dropped_meanwhile_stays_dropped() {
    use redkite_proto::redkite::meta::ObjectState::Dropping;
    let world = World::new().await;
    meanwhile(&world, async |_: &Process| {
        world.put(vec![partition(Dropping)]).await;
        drop_data(world.kv.as_ref(), C, Some(P), 0).await.unwrap();
    })
    .await;
    assert!(world.segments().await.is_empty());
    let plan = &world.plans().await[0];
    assert_eq!(plan.state(), State::Failed);
    assert!(plan.fail_reason.contains("is gone"), "{plan:?}");
}

#[tokio::test]
async fn a_collection_that_is_dropped_meanwhile_leaves_nothing() {
    use redkite_proto::redkite::meta::ObjectState::Dropping;
    let world = World::new().await;
    meanwhile(&world, async |_: &Process| {
        let dropping = CollectionInfo {
            id: C.0,
            database_id: 1,
            state: Dropping.into(),
            ..CollectionInfo::default()
        };
        let key = keys::collection(DatabaseId(1), C);
        world.put(vec![(key, dropping.encode_to_vec())]).await;
        drop_data(world.kv.as_ref(), C, None, 0).await.unwrap();
    })
    .await;
    assert!(world.segments().await.is_empty());
    assert!(world.plans().await.is_empty());
}

#[tokio::test]
async fn what_is_flushed_and_indexed_meanwhile_is_kept_or_goes_with_its_segment() {
    let world = World::new().await;
    meanwhile(&world, async |_: &Process| {
        let flushed = CommitFlushRequest {
            channel: CHANNEL.to_owned(),
            collection_id: C.0,
            epoch: 1,
            segments: vec![SegmentInfo {
                min_ts: 1_001,
                max_ts: 1_100,
                ..segment(25, 7)
            }],
            // May hit a row of the compacted segment, which has seen deletes up to the checkpoint.
            delta: Some(delta(31, 1_050)),
            checkpoint: Some(ChannelCheckpoint {
                lsn: 9,
                ts: 1_100,
                ..ChannelCheckpoint::default()
            }),
        };
        world.played.store_files(&flushed.segments).await;
        let gate = CommitGate::new(world.played.store.clone());
        flush::commit(world.kv.as_ref(), &gate, &flushed)
            .await
            .unwrap();
        world.put(vec![build(41, SOURCES[1]), build(42, 25)]).await;
    })
    .await;
    let segments = world.segments().await;
    let rows: Vec<i64> = segments.iter().map(|one| one.rows).collect();
    assert_eq!(rows, [297, 7]);
    assert_eq!(world.deltas().await, [31]);
    let builds: Vec<SegmentIndexInfo> = world.records(&keys::segment_indexes(C)).await;
    assert_eq!(builds.len(), 1);
    assert_eq!(builds[0].build_id, 42);
}

#[tokio::test]
async fn a_plan_that_can_never_succeed_is_given_up_and_left_alone_for_a_while() {
    let mut world = World::new().await;
    world.options.retention = HumanDuration::secs(0);
    *world.played.failure.lock() = Some(Error::new(ErrorCode::DataIntegrity, "file x is corrupt"));
    let process = world.start().await;
    process.compactor.round().await;
    world.settle(&process).await;
    let plans = world.plans().await;
    assert_eq!((plans.len(), plans[0].attempts), (1, 3));
    assert!(plans[0].fail_reason.contains("corrupt"), "{plans:?}");
    assert!(world.is_old_state().await);
    process.seen(&world).await;
    process.compactor.round().await;
    assert_eq!(world.plans().await.len(), 1, "it was tried again at once");
    *world.played.failure.lock() = None;
    world.clock.advance(Duration::from_secs(11 * 60));
    process.compactor.round().await;
    world.settle(&process).await;
    world.check_new_state("after a while").await;
    // What has ended long ago is forgotten.
    world.clock.advance(Duration::from_secs(3_601));
    process.seen(&world).await;
    process.compactor.round().await;
    assert!(world.plans().await.is_empty());
}

#[tokio::test]
async fn what_is_not_there_cannot_be_compacted() {
    let world = World::new().await;
    let process = world.start().await;
    let request = |change: fn(&mut Request)| {
        let mut request = Request {
            collection_id: C.0,
            ..Request::default()
        };
        change(&mut request);
        process.compactor.request(request)
    };
    let code = |answer: Result<_>| answer.map(drop).unwrap_err().code.number();
    assert_eq!(code(request(|one| one.collection_id = 9).await), 100);
    assert_eq!(code(request(|one| one.partition_id = 9).await), 200);
    assert_eq!(code(request(|one| one.channel = "9v9".into()).await), 500);
    assert_eq!(
        code(request(|one| one.segment_ids = vec![20, 9]).await),
        600
    );
    // A part of what is there.
    let answer = request(|one| one.segment_ids = vec![20, 22]).await.unwrap();
    assert_eq!(answer.plans, 1);
    world.settle(&process).await;
    assert_eq!(world.plans().await[0].sources, [20, 22]);
    assert_eq!(world.deltas().await, [30], "another segment needs it");
}
