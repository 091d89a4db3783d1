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

mod deletes;
mod faults;
mod played;
mod world;

use faults::{Fault, SteppedKv, Steps};
use played::*;
use world::*;

const C: CollectionId = CollectionId(10);
const P: PartitionId = PartitionId(11);
const CHANNEL: &str = "10v0";
const SOURCES: [i64; 3] = [20, 21, 22];
const NOW_MS: u64 = 1_700_000_000_000;
/// The checkpoint's time; deletes up to here are in files.
const FLUSHED: u64 = 1_000;

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
