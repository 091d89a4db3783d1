//! What goes and what stays, as tables and against real files.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use redkite_catalog::{Office, Role, keys};
use redkite_config::HumanDuration;
use redkite_metastore::{KeyValue, MemKv, MetaKv as _, Op, Txn};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::meta::{
        CollectionInfo, CompactionInfo, DeltaInfo, FileInfo, PartitionInfo, SegmentIndexInfo,
        SegmentInfo, compaction_info,
    },
};
use redkite_runtime::{
    CancellationToken, ManualClock,
    testing::{PATIENCE, eventually, eventually_true},
};
use redkite_storage::{ObjectMeta, ObjectStore, layout};
use redkite_types::{
    BuildId, CollectionId, DatabaseId, ErrorCode, NodeId, PartitionId, Revision, SegmentId,
    Timestamp,
};

use super::*;
use crate::gate::CommitGate;

const C: CollectionId = CollectionId(10);
const P: PartitionId = PartitionId(11);
const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

type Record = (String, Bytes);

fn record(key: String, value: &impl Message) -> Record {
    (key, value.encode_to_vec().into())
}

fn file(path: &str) -> FileInfo {
    FileInfo {
        path: path.to_owned(),
        size: 4,
        crc32c: 0,
    }
}

fn collection() -> Record {
    let info = CollectionInfo {
        id: C.0,
        database_id: 1,
        ..CollectionInfo::default()
    };
    record(keys::collection(DatabaseId(1), C), &info)
}

fn partition() -> Record {
    let info = PartitionInfo {
        id: P.0,
        collection_id: C.0,
        ..PartitionInfo::default()
    };
    record(keys::partition(C, P), &info)
}

fn data(segment: i64) -> String {
    layout::segment_data(C, P, SegmentId(segment))
}

fn index(segment: i64, build: i64) -> String {
    layout::segment_index(C, P, SegmentId(segment), BuildId(build), "index.bin")
}

fn segment(id: i64) -> Record {
    let info = SegmentInfo {
        id,
        collection_id: C.0,
        partition_id: P.0,
        files: vec![file(&data(id))],
        ..SegmentInfo::default()
    };
    record(keys::segment(C, P, SegmentId(id)), &info)
}

fn build(id: i64, segment: i64, state: IndexState) -> Record {
    let files = match state {
        IndexState::Finished => vec![file(&index(segment, id))],
        _ => Vec::new(),
    };
    let info = SegmentIndexInfo {
        build_id: id,
        segment_id: segment,
        collection_id: C.0,
        partition_id: P.0,
        state: state.into(),
        files,
        ..SegmentIndexInfo::default()
    };
    record(
        keys::segment_index(C, P, SegmentId(segment), BuildId(id)),
        &info,
    )
}

fn delta(id: i64) -> Record {
    let info = DeltaInfo {
        id,
        collection_id: C.0,
        channel: "10v0".into(),
        file: Some(file(&layout::delta("10v0", id))),
        ..DeltaInfo::default()
    };
    record(keys::delta(C, id), &info)
}

fn compaction(state: compaction_info::State, finished_ms: u64) -> Record {
    let info = CompactionInfo {
        plan_id: 7,
        collection_id: C.0,
        partition_id: P.0,
        state: state.into(),
        sources: vec![20],
        targets: vec![30],
        finished_ts: Timestamp::new(finished_ms, 0).0,
        ..CompactionInfo::default()
    };
    record(keys::compaction(C, 7), &info)
}

fn options() -> GcOptions {
    GcOptions {
        grace: HumanDuration::secs(3_600),
        dropped_grace: HumanDuration::secs(60),
        ..GcOptions::default()
    }
}

/// Keys that would go, of objects with an age in milliseconds.
fn goes(records: &[Record], objects: &[(&str, Option<u64>)]) -> Vec<String> {
    planned(records, objects)
        .garbage
        .into_iter()
        .map(|garbage| garbage.key)
        .collect()
}

fn planned(records: &[Record], objects: &[(&str, Option<u64>)]) -> Plan {
    let mut references = References::since(Timestamp::new(NOW - MINUTE, 0));
    for (key, value) in records {
        references.add(&KeyValue {
            key: key.clone(),
            value: value.clone(),
            revision: Revision(1),
            lease: 0,
        });
    }
    let objects: Vec<ObjectMeta> = objects
        .iter()
        .map(|(key, age)| ObjectMeta {
            key: (*key).to_owned(),
            size_bytes: 4,
            modified_ms: age.map(|age| NOW - age),
        })
        .collect();
    plan(&objects, &references, NOW, &options())
}

#[test]
fn only_what_nothing_names_and_is_old_enough_goes() {
    let base = [collection(), partition(), segment(20), delta(40)];
    let objects: Vec<(String, Option<u64>, bool)> = vec![
        (data(20), Some(2 * HOUR), false),
        (
            layout::segment_stats(C, P, SegmentId(20)),
            Some(2 * HOUR),
            true,
        ),
        (data(21), Some(2 * HOUR), true),
        (data(22), Some(HOUR), true),
        (data(23), Some(HOUR - 1), false),
        (data(24), None, false),
        (index(20, 5), Some(2 * HOUR), true),
        (layout::delta("10v0", 40), Some(2 * HOUR), false),
        (layout::delta("10v0", 41), Some(2 * HOUR), true),
        // The log of a living collection is its own affair.
        ("wal/10v0/1".into(), Some(20 * HOUR), false),
        ("wal/12v0/1".into(), Some(MINUTE), true),
        ("wal/12v0/2".into(), Some(MINUTE - 1), false),
        ("wal/nonsense/1".into(), Some(20 * HOUR), false),
        // Of a collection and of a partition that are gone: soon.
        (
            "segments/12/13/50/data.v1.parquet".into(),
            Some(MINUTE),
            true,
        ),
        (
            "segments/12/13/50/data.v1.parquet".into(),
            Some(MINUTE - 1),
            false,
        ),
        (
            "segments/10/13/51/data.v1.parquet".into(),
            Some(MINUTE),
            true,
        ),
        ("deltas/12v1/6.parquet".into(), Some(MINUTE), true),
        // Of a start that was killed.
        (layout::probe(7), Some(HOUR), true),
        (layout::probe(7), Some(HOUR - 1), false),
        (layout::probe(7), None, false),
        // Nobody knows what these are.
        ("probe/7/once".into(), Some(20 * HOUR), false),
        ("segments/10/11/20/notes.txt".into(), Some(20 * HOUR), false),
        ("segments/12/oops".into(), Some(20 * HOUR), false),
    ];
    for (key, age, expected) in objects {
        let gone = goes(&base, &[(&key, age)]);
        assert_eq!(!gone.is_empty(), expected, "{key} of age {age:?}");
    }
}

#[test]
fn work_that_is_under_way_is_protected() {
    use IndexState::{Failed, Finished, InProgress, Retry, Unissued};
    let old = Some(20 * HOUR);
    for (state, expected) in [
        (Unissued, false),
        (InProgress, false),
        (Retry, false),
        (Finished, false),
        (Failed, true),
    ] {
        let records = [collection(), partition(), segment(20), build(5, 20, state)];
        let gone = goes(&records, &[(&index(20, 5), old)]);
        assert_eq!(!gone.is_empty(), expected, "{state:?}");
        // Another build of the same segment is not.
        assert_eq!(goes(&records, &[(&index(20, 6), old)]).len(), 1);
    }
    use compaction_info::State::{Completed, Executing, Failed as Aborted};
    for (state, finished, source_stays, target_stays) in [
        (Executing, 0, false, true),
        (Completed, NOW - MINUTE, true, false),
        (Completed, NOW - MINUTE - 1, false, false),
        (Aborted, NOW, false, false),
    ] {
        let records = [collection(), partition(), compaction(state, finished)];
        let stays = |segment| goes(&records, &[(&data(segment), old)]).is_empty();
        assert_eq!(
            stays(20),
            source_stays,
            "sources of {state:?} at {finished}"
        );
        assert_eq!(stays(30), target_stays, "targets of {state:?}");
        assert!(!stays(31));
    }
}

#[test]
fn a_merge_of_delete_files_protects_what_it_writes_and_then_what_it_has_replaced() {
    use compaction_info::State::{Completed, Executing, Failed};
    let old = Some(20 * HOUR);
    let (source, target) = (layout::delta("10v0", 40), layout::delta("10v0", 41));
    for (state, finished, source_stays, target_stays) in [
        (Executing, 0, false, true),
        (Completed, NOW - MINUTE, true, false),
        (Completed, NOW - MINUTE - 1, false, false),
        (Failed, NOW, false, false),
    ] {
        let info = CompactionInfo {
            plan_id: 7,
            collection_id: C.0,
            channel: "10v0".into(),
            state: state.into(),
            delta_sources: vec![40],
            targets: vec![41],
            borrowed_files: match state {
                Completed => vec![source.clone()],
                Executing | Failed => vec![],
            },
            finished_ts: Timestamp::new(finished, 0).0,
            ..CompactionInfo::default()
        };
        let plan = record(keys::compaction(C, 7), &info);
        let base = [collection(), partition(), plan];
        let stays = |records: &[Record], key: &str| goes(records, &[(key, old)]).is_empty();
        assert_eq!(stays(&base, &source), source_stays, "{state:?} {finished}");
        assert_eq!(stays(&base, &target), target_stays, "{state:?} {finished}");
        // A record of their own keeps either, whatever the plan.
        assert!(stays(&[&base[..], &[delta(40)]].concat(), &source));
        assert!(stays(&[&base[..], &[delta(41)]].concat(), &target));
    }
}

#[test]
fn what_cannot_be_read_protects_all_that_it_might_name() {
    let other = "segments/12/13/50/data.v1.parquet";
    let orphan = data(21);
    let objects = [(orphan.as_str(), Some(20 * HOUR)), (other, Some(20 * HOUR))];
    let base = [collection(), partition()];
    assert_eq!(goes(&base, &objects).len(), 2);
    let garbled = Bytes::from_static(&[0xff, 0xff, 0xff]);
    let of_collection = [
        (keys::segment(C, P, SegmentId(20)), garbled.clone()),
        (
            keys::segment_index(C, P, SegmentId(20), BuildId(5)),
            garbled.clone(),
        ),
        (keys::delta(C, 40), garbled.clone()),
        (keys::compaction(C, 7), garbled.clone()),
        // Readable, but not what stands there.
        (keys::segment(C, P, SegmentId(20)), segment(21).1),
        (keys::delta(C, 40), delta(41).1),
        (
            keys::segment(C, PartitionId(99), SegmentId(20)),
            segment(20).1,
        ),
    ];
    for damaged in of_collection {
        let records = [base.to_vec(), vec![damaged.clone()]].concat();
        assert_eq!(goes(&records, &objects), [other], "{}", damaged.0);
        assert_eq!(planned(&records, &objects).doubts.len(), 1);
    }
    // A collection may borrow from any other one.
    let borrower = keys::collection(DatabaseId(1), C);
    for unknown in ["datacoord-meta/future/1", "datacoord-meta/s/x", &borrower] {
        let records = [base.to_vec(), vec![(unknown.to_owned(), garbled.clone())]].concat();
        assert!(goes(&records, &objects).is_empty(), "{unknown}");
    }
}

/// A collector over real files.
struct World {
    kv: Arc<MemKv>,
    store: Arc<dyn ObjectStore>,
    gate: Arc<CommitGate>,
    clock: ManualClock,
    collector: Arc<Collector>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(records: &[Record]) -> Self {
        let world = Self::with(options());
        for record in records {
            world.put(record.clone()).await;
        }
        world
    }

    fn with(options: GcOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = redkite_storage::open(&format!("fs://{}", dir.path().display())).unwrap();
        let kv = Arc::new(MemKv::new());
        let gate = CommitGate::new(store.clone());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let clock = ManualClock::new(now.unwrap().as_millis() as u64);
        let collector = Collector::new(
            kv.clone(),
            store.clone(),
            gate.clone(),
            options,
            clock.shared(),
            None,
            CancellationToken::new(),
        );
        Self {
            kv,
            store,
            gate,
            clock,
            collector,
            _dir: dir,
        }
    }

    async fn put(&self, (key, value): Record) {
        self.kv
            .txn(Txn::new().then(Op::put(key, value)))
            .await
            .unwrap();
    }

    async fn write(&self, path: &str) {
        self.store
            .put(path, Bytes::from_static(b"four"))
            .await
            .unwrap();
    }

    async fn left(&self) -> Vec<String> {
        let objects = self.store.list("").await.unwrap();
        objects.into_iter().map(|object| object.key).collect()
    }

    fn age(&self, path: &str, by: Duration) {
        let local = self.store.local_path(path).unwrap();
        let now = std::time::SystemTime::now();
        set_modified(&local, now - by);
    }
}

fn set_modified(path: &Path, time: std::time::SystemTime) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[tokio::test]
async fn a_round_deletes_what_its_plan_says_and_nothing_else() {
    let world = World::new(&[collection(), partition(), segment(20)]).await;
    for path in [data(20), data(21), data(22), "segments/10/11/x".into()] {
        world.write(&path).await;
        world.age(&path, Duration::from_secs(2 * 3_600));
    }
    world.write(&data(22)).await;
    let plan = world.collector.plan().await.unwrap();
    let planned: Vec<&str> = plan.garbage.iter().map(|g| g.key.as_str()).collect();
    assert_eq!(planned, [data(21)]);
    assert_eq!(plan.unknown, ["segments/10/11/x"]);
    assert_eq!((plan.named, plan.young, plan.garbage_bytes()), (1, 1, 4));
    let round = world.collector.collect().await.unwrap();
    assert_eq!(
        (round.deleted, round.deleted_bytes, round.failed),
        (1, 4, 0)
    );
    assert_eq!(
        world.left().await,
        [data(20), data(22), "segments/10/11/x".into()]
    );
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(world.collector.collect().await.unwrap().deleted, 1);
    assert_eq!(world.left().await, [data(20), "segments/10/11/x".into()]);
}

#[tokio::test]
async fn a_process_that_was_stopped_for_longer_than_its_lease_deletes_and_commits_nothing() {
    let world = World::new(&[collection(), partition()]).await;
    for path in [data(20), data(21)] {
        world.write(&path).await;
        world.age(&path, Duration::from_secs(2 * 3_600));
    }
    let take = |node: u64| {
        let kv = world.kv.clone();
        async move {
            let (role, address, ttl) = (
                Role::DataCoord,
                format!("a:{node}"),
                Duration::from_millis(300),
            );
            let taken = Office::take(kv, role, NodeId(node), &address, Timestamp(node), ttl);
            taken.await.unwrap()
        }
    };
    // It goes on behind its lease's end, before anybody else has come.
    let first = take(1).await.unwrap().fence;
    let collector = Collector::new(
        first.clone(),
        world.store.clone(),
        world.gate.clone(),
        options(),
        world.clock.shared(),
        Some(first.clone()),
        CancellationToken::new(),
    );
    eventually_true("the lease is over", || !first.lease().holds()).await;
    let refused = collector.collect().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ServiceNotReady, "{refused}");
    assert_eq!(world.left().await, [data(20), data(21)]);

    // Another process acts now: what the first one commits late is refused too.
    let _second = eventually("the office is free", PATIENCE, || take(2)).await;
    let (key, value) = segment(20);
    let txn = Txn::new().then(Op::put(key.clone(), value));
    let files = [file(&data(20))];
    let committed = world.gate.commit(first.as_ref(), &files, txn);
    let refused = committed.await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ServiceNotReady, "{refused}");
    assert!(world.kv.get(&key).await.unwrap().is_none());
    assert!(
        !world.gate.is_uncertain(&data(20)),
        "it certainly was not applied"
    );
}

#[tokio::test]
async fn what_a_killed_start_has_left_goes_after_the_grace_period() {
    let world = World::new(&[collection(), partition()]).await;
    let (old, young) = (layout::probe(1), layout::probe(2));
    for path in [&old, &young] {
        world.write(path).await;
    }
    world.age(&old, Duration::from_secs(3_601));
    let plan = world.collector.plan().await.unwrap();
    let planned: Vec<&str> = plan.garbage.iter().map(|g| g.key.as_str()).collect();
    assert_eq!((planned, plan.young), (vec![old.as_str()], 1));
    assert_eq!(world.collector.collect().await.unwrap().deleted, 1);
    assert_eq!(world.left().await, [young]);
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(world.collector.collect().await.unwrap().deleted, 1);
    assert!(world.left().await.is_empty());
}

#[tokio::test]
async fn a_commit_between_the_plan_and_the_deletion_saves_its_files() {
    let world = World::new(&[collection(), partition()]).await;
    for path in [data(20), data(21)] {
        world.write(&path).await;
        world.age(&path, Duration::from_secs(2 * 3_600));
    }
    let garbage = world.collector.plan().await.unwrap().garbage;
    assert_eq!(garbage.len(), 2);
    let (key, value) = segment(20);
    let txn = Txn::new().then(Op::put(key, value));
    world
        .gate
        .commit(world.kv.as_ref(), &[file(&data(20))], txn)
        .await
        .unwrap();
    let batch: Vec<&Garbage> = garbage.iter().collect();
    let mut round = Round::default();
    world
        .collector
        .delete(Some(C), &batch, &mut round)
        .await
        .unwrap();
    assert_eq!(round.deleted, 1);
    assert_eq!(world.left().await, [data(20)]);
}

#[tokio::test]
async fn a_file_that_is_written_again_between_the_plan_and_the_deletion_is_young() {
    let world = World::new(&[collection(), partition()]).await;
    world.write(&data(20)).await;
    world.age(&data(20), Duration::from_secs(2 * 3_600));
    let garbage = world.collector.plan().await.unwrap().garbage;
    world.write(&data(20)).await;
    let batch: Vec<&Garbage> = garbage.iter().collect();
    let mut round = Round::default();
    world
        .collector
        .delete(Some(C), &batch, &mut round)
        .await
        .unwrap();
    assert_eq!(round.deleted, 0);
    assert_eq!(world.left().await, [data(20)]);
}

#[tokio::test]
async fn a_commit_of_files_that_were_collected_is_refused_until_they_are_written_again() {
    let world = World::new(&[collection(), partition()]).await;
    world.write(&data(20)).await;
    world.age(&data(20), Duration::from_secs(2 * 3_600));
    assert_eq!(world.collector.collect().await.unwrap().deleted, 1);
    let commit = async || {
        let (key, value) = segment(20);
        let txn = Txn::new().then(Op::put(key, value));
        let files = [file(&data(20))];
        world.gate.commit(world.kv.as_ref(), &files, txn).await
    };
    assert!(commit().await.is_err());
    world.write(&data(20)).await;
    commit().await.unwrap();
    world.clock.advance(Duration::from_secs(7_200));
    assert_eq!(world.collector.collect().await.unwrap().deleted, 0);
    assert_eq!(world.left().await, [data(20)]);
}

/// Flushes and collections at once: whatever is committed has its files, also when it was collected
/// before, or just when it was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_commit_ever_names_a_file_that_is_gone() {
    const SEGMENTS: std::ops::Range<i64> = 100..160;
    let world = World::new(&[collection(), partition()]).await;
    let (rounds, mut seen) = tokio::sync::watch::channel(0_u64);
    let write = async {
        let mut refused = 0;
        for id in SEGMENTS {
            let path = data(id);
            for attempt in 0.. {
                world.write(&path).await;
                // Held up for longer than the grace period.
                world.age(&path, Duration::from_secs(2 * 3_600));
                if id % 2 == 0 && attempt == 0 {
                    // A whole round begins and ends after this.
                    let now = *seen.borrow();
                    seen.wait_for(|rounds| *rounds >= now + 2).await.unwrap();
                }
                let (key, value) = segment(id);
                let txn = Txn::new().then(Op::put(key, value));
                let files = [file(&path)];
                match world.gate.commit(world.kv.as_ref(), &files, txn).await {
                    Ok(_) => break,
                    Err(_) => refused += 1,
                }
            }
        }
        refused
    };
    let collect = async {
        loop {
            world.collector.collect().await.unwrap();
            rounds.send_modify(|rounds| *rounds += 1);
        }
    };
    let refused = tokio::select! {
        refused = write => refused,
        () = collect => unreachable!("it goes on for ever"),
    };
    assert!(
        refused >= SEGMENTS.count() / 2,
        "only {refused} commits were refused"
    );
    world.collector.collect().await.unwrap();
    let left = world.left().await;
    for id in SEGMENTS {
        assert!(left.contains(&data(id)), "segment {id} lost its file");
    }
}

#[tokio::test]
async fn a_drop_has_its_files_collected_soon() {
    let world = World::with(GcOptions {
        dropped_grace: HumanDuration::millis(0),
        ..options()
    });
    world.write(&data(20)).await;
    let running = world.collector.clone().run();
    let dropped = async {
        // Long before the next regular round.
        world.collector.after_drop();
        eventually("the files are gone", PATIENCE, || async {
            world.left().await.is_empty().then_some(())
        })
        .await;
    };
    tokio::select! {
        () = running => panic!("the collector has ended"),
        () = dropped => {}
    }
}
