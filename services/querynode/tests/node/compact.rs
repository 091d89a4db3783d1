//! Compacted segments in the place of others, while everything goes on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use redkite_index::{BuildOptions, IndexParams};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        meta::{DeltaInfo, FileInfo, SegmentIndexInfo, SegmentInfo},
        querynode::QueryRequest,
    },
};
use redkite_runtime::{TaskGroup, testing::eventually};
use redkite_segment::{
    Cut, FileKind, SegmentMeta, StopFlag, Survivors,
    delta::read_delta,
    file::{read_segment, write_segment},
    manifest,
};
use redkite_storage::checksum;
use redkite_types::{
    CollectionId, ColumnData, FieldId, MetricType, PartitionId, SegmentId, Timestamp,
};

use crate::world::{
    COLLECTION, KEY, Node, P1, PATIENCE, VECTOR, World, collection_schema, rows_of,
};

fn may_hit(delta: &DeltaInfo, segment: &SegmentInfo) -> bool {
    delta.max_ts > segment.min_ts.max(segment.deletes_applied_ts)
}

/// Does what the data coordinator and a data node do; the node is not told. Answers the new ids.
pub(crate) async fn compact(world: &World, sources: &[i64], targets: usize) -> Vec<i64> {
    let meta = world.played.meta.lock().clone();
    let until = meta.checkpoint.as_ref().unwrap().ts;
    let infos: Vec<SegmentInfo> = sources.iter().map(|id| meta.segments[id].clone()).collect();
    let schema = Arc::new(collection_schema());
    let (mut chunks, mut deletes) = (Vec::new(), Vec::new());
    for info in &infos {
        let from = manifest::from_info(info);
        chunks.push(
            read_segment(&*world.store, &from, schema.clone())
                .await
                .unwrap(),
        );
    }
    for delta in meta.deltas.values() {
        if infos.iter().any(|info| may_hit(delta, info)) {
            let file = manifest::from_file(FileKind::Delta, delta.file.as_ref().unwrap());
            deletes.push(read_delta(&*world.store, &file).await.unwrap());
        }
    }
    let partition = PartitionId(infos[0].partition_id);
    let cut = Cut {
        deletes_until: Timestamp(until),
        expired_before: Timestamp::ZERO,
    };
    let stop = StopFlag::new();
    let found = Survivors::find(&chunks, partition, &deletes, cut, &stop).unwrap();
    let parts = found.into_chunks(targets, FieldId(KEY), &stop).unwrap();
    let mut made = Vec::new();
    for part in parts {
        let meta = SegmentMeta {
            collection: CollectionId(COLLECTION),
            partition,
            segment: SegmentId(world.played.ids.fetch_add(1, Ordering::SeqCst)),
            schema: schema.clone(),
        };
        let written = write_segment(&*world.store, meta, vec![Arc::new(part)]).await;
        let parents = infos.iter().flat_map(|info| &info.compacted_from);
        let earlier = infos.iter().flat_map(|info| &info.ancestors);
        made.push(SegmentInfo {
            deletes_applied_ts: until,
            compacted_from: sources.to_vec(),
            ancestors: parents.chain(earlier).copied().collect(),
            ..manifest::to_info(&written.unwrap(), &infos[0].channel, Timestamp(until))
        });
    }
    let ids = made.iter().map(|info| info.id).collect();
    world.played.change(|meta| {
        for source in sources {
            meta.segments.remove(source).unwrap();
            meta.indexes.remove(source);
        }
        meta.segments
            .extend(made.into_iter().map(|info| (info.id, info)));
        let segments: Vec<SegmentInfo> = meta.segments.values().cloned().collect();
        meta.deltas
            .retain(|_, delta| segments.iter().any(|segment| may_hit(delta, segment)));
    });
    ids
}

/// Takes the files of a segment away, so that it cannot be loaded.
async fn take_away(world: &World, segment: i64) -> Vec<(String, Bytes)> {
    let files = world.played.meta.lock().segments[&segment].files.clone();
    let mut taken = Vec::new();
    for file in files {
        taken.push((
            file.path.clone(),
            world.store.get(&file.path).await.unwrap(),
        ));
        world.store.delete(&file.path).await.unwrap();
    }
    taken
}

async fn give_back(world: &World, files: Vec<(String, Bytes)>) {
    for (path, bytes) in files {
        world.store.put(&path, bytes).await.unwrap();
    }
}

/// The segments that are served, in order.
async fn served(node: &Node) -> Vec<i64> {
    let stats = node.stats().await;
    let segments = stats.segments.iter();
    let served = segments.filter(|segment| segment.loaded && !segment.growing);
    let served: BTreeSet<i64> = served.map(|segment| segment.segment_id).collect();
    served.into_iter().collect()
}

async fn until_served(node: &Node, wanted: &[i64]) {
    eventually("the new segments take over", PATIENCE, || async {
        node.sync().await.unwrap();
        (served(node).await == wanted).then_some(())
    })
    .await;
}

/// Two flushed segments: keys 0 to 9 and 10 to 19, number 0 each.
async fn two_segments(world: &World) -> (Node, [i64; 2]) {
    let node = world.node().await;
    let mut ids = [0; 2];
    for (at, first) in [(0, 0), (1, 10)] {
        let rows: Vec<(i64, i64)> = (first..first + 10).map(|key| (key, 0)).collect();
        node.insert(P1, &rows).await;
        ids[at] = node.flush().await.segment_ids[0];
    }
    (node, ids)
}

fn keys(rows: &[(i64, i64)]) -> Vec<i64> {
    rows.iter().map(|row| row.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_are_served_until_the_new_can_be() {
    let world = World::new();
    let (node, sources) = two_segments(&world).await;
    node.delete(&[3]).await;
    node.flush().await;
    node.delete(&[4]).await;
    let made = compact(&world, &sources, 1).await;
    let files = take_away(&world, made[0]).await;
    let answer = node.sync().await.unwrap();
    let progress = &answer.partitions[0];
    assert_eq!((progress.segments, progress.segments_loaded), (1, 1));
    assert_eq!(served(&node).await, sources);
    // Whatever happens meanwhile is seen, before and after.
    node.delete(&[15]).await;
    node.upsert(P1, &[(5, 1)]).await;
    let mut want: Vec<(i64, i64)> = (0..20).map(|key| (key, i64::from(key == 5))).collect();
    want.retain(|row| ![3, 4, 15].contains(&row.0));
    assert_eq!(node.rows().await, want);
    assert_eq!(node.stats().await.partitions[0].rows, 19 + 1);
    give_back(&world, files).await;
    until_served(&node, &made).await;
    assert_eq!(node.rows().await, want);
    assert_eq!(node.count().await as usize, want.len());
    node.delete(&[6]).await;
    want.retain(|row| row.0 != 6);
    assert_eq!(node.rows().await, want);
    // A new owner knows the new segment only.
    node.crash();
    let node = world.node().await;
    assert_eq!(node.rows().await, want);
    assert_eq!(served(&node).await, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_take_over_together_and_one_may_be_replaced_before_it_was_served() {
    let world = World::new();
    let (node, sources) = two_segments(&world).await;
    let want: Vec<(i64, i64)> = (0..20).map(|key| (key, 0)).collect();
    let parts = compact(&world, &sources, 2).await;
    let files = take_away(&world, parts[1]).await;
    node.sync_until_loaded().await;
    // The first part could be served, but not without the second.
    assert_eq!(served(&node).await, sources);
    assert_eq!(node.count().await, 20);
    give_back(&world, files).await;
    let whole = compact(&world, &parts, 1).await;
    let files = take_away(&world, whole[0]).await;
    node.sync().await.unwrap();
    assert_eq!(node.rows().await, want);
    // Twice more, of which the node hears the last only.
    give_back(&world, files).await;
    let again = compact(&world, &whole, 1).await;
    let last = compact(&world, &again, 2).await;
    let files = take_away(&world, last[0]).await;
    node.sync().await.unwrap();
    assert_eq!(node.rows().await, want);
    assert_eq!(node.count().await, 20);
    give_back(&world, files).await;
    until_served(&node, &last).await;
    assert_eq!(node.rows().await, want);
    assert_eq!(node.count().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everything_is_deleted_nothing_is_left() {
    let world = World::new();
    let (node, sources) = two_segments(&world).await;
    node.delete(&(0..20).collect::<Vec<_>>()).await;
    node.flush().await;
    assert_eq!(compact(&world, &sources, 1).await, [0; 0]);
    node.sync_until_loaded().await;
    assert_eq!(served(&node).await, [0; 0]);
    assert_eq!(node.count().await, 0);
    assert!(world.played.meta.lock().deltas.is_empty());
    node.insert(P1, &[(1, 1)]).await;
    assert_eq!(node.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_is_answered_after_its_segment_was_compacted_shows_nothing_twice() {
    for everything_deleted in [false, true] {
        let world = World::new();
        let node = world.node().await;
        node.insert(P1, &[(1, 1), (2, 2)]).await;
        world.played.hold_after.store(true, Ordering::SeqCst);
        let tasks = TaskGroup::new("test");
        let flushing = node.clone();
        let flush = tasks.detach("flush", async move { flushing.flush().await });
        let segment = eventually("the flush is committed", PATIENCE, || async {
            let meta = world.played.meta.lock();
            meta.segments.keys().next().copied()
        })
        .await;
        let mut want = vec![(1, 1), (2, 2)];
        if everything_deleted {
            // As if its rows had all expired.
            world.played.change(|meta| {
                meta.segments.clear();
            });
            node.delete(&[1, 2]).await;
            want.clear();
        } else {
            let made = compact(&world, &[segment], 1).await;
            node.sync_until_loaded().await;
            assert_eq!(node.count().await, 2);
            assert_ne!(made, [segment]);
        }
        node.sync().await.unwrap();
        assert_eq!(node.rows().await, want);
        world.played.hold_after.store(false, Ordering::SeqCst);
        world.played.gate.notify_one();
        flush.await.unwrap();
        assert_eq!(node.count().await as usize, want.len());
        let now: Vec<i64> = world.played.meta.lock().segments.keys().copied().collect();
        until_served(&node, &now).await;
        assert_eq!(node.rows().await, want);
        assert_eq!(node.count().await as usize, want.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_at_an_earlier_time_finds_each_key_all_the_same() {
    let world = World::new();
    let (node, sources) = two_segments(&world).await;
    let before = node.query_request();
    node.upsert(P1, &[(3, 1)]).await;
    let flushed = node.flush().await.segment_ids[0];
    // What the read would have seen of key 3 is gone, what replaced it is later than the read.
    let made = compact(&world, &[sources[0], sources[1], flushed], 1).await;
    until_served(&node, &made).await;
    let request = QueryRequest {
        guarantee_ts: 0,
        ..before
    };
    let found = rows_of(node.try_query(request).await.unwrap());
    assert_eq!(keys(&found), (0..20).collect::<Vec<_>>());
}

/// Builds an index over a segment and records it.
async fn index(world: &World, segment: i64, build: i64) {
    let info = world.played.meta.lock().segments[&segment].clone();
    let from = manifest::from_info(&info);
    let schema = Arc::new(collection_schema());
    let chunk = read_segment(&*world.store, &from, schema).await.unwrap();
    let column = chunk.batch().column(FieldId(VECTOR)).unwrap();
    let ColumnData::FloatVector { values, dim } = &column.data else {
        panic!("a vector");
    };
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let params = IndexParams::hnsw(MetricType::L2, 8, 64);
    let index = redkite_index::build(&params, values, *dim, &options).unwrap();
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    let path = format!("segments/{COLLECTION}/{P1}/{segment}/index/{build}/index.bin");
    let file = FileInfo {
        path: path.clone(),
        size: bytes.len() as u64,
        crc32c: checksum::crc32c(&bytes),
    };
    world.store.put(&path, bytes.into()).await.unwrap();
    let build = SegmentIndexInfo {
        build_id: build,
        index_id: 1,
        segment_id: segment,
        field_id: VECTOR,
        state: IndexState::Finished.into(),
        rows: info.rows,
        files: vec![file],
        ..SegmentIndexInfo::default()
    };
    world.played.change(|meta| {
        meta.indexes.insert(segment, vec![build]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn indexed_segments_are_served_until_the_new_one_has_its_index_or_never_will() {
    for fails in [false, true] {
        let world = World::new();
        world.played.change(|meta| meta.index_type = Some("HNSW"));
        let (node, sources) = two_segments(&world).await;
        for (segment, build) in [(sources[0], 77), (sources[1], 78)] {
            index(&world, segment, build).await;
        }
        eventually("the indexes are open", PATIENCE, || async {
            node.sync().await.unwrap();
            let stats = node.stats().await;
            let mut segments = stats.segments.iter();
            segments
                .all(|segment| segment.indexed_fields == [VECTOR])
                .then_some(())
        })
        .await;
        let made = compact(&world, &sources, 1).await;
        eventually("the new segment is in memory", PATIENCE, || async {
            node.sync().await.unwrap();
            let stats = node.stats().await;
            let new = stats
                .segments
                .iter()
                .find(|one| one.segment_id == made[0])?;
            (new.memory_bytes > 0).then_some(())
        })
        .await;
        assert_eq!(served(&node).await, sources);
        node.delete(&[7]).await;
        assert_eq!(node.nearest([7.0, 0.0], 3).await, [6, 8, 5]);
        if fails {
            world
                .played
                .change(|meta| meta.failed_indexes = made.clone());
        } else {
            index(&world, made[0], 79).await;
        }
        until_served(&node, &made).await;
        assert_eq!(node.nearest([7.0, 0.0], 3).await, [6, 8, 5]);
        let indexed = node.stats().await.segments[0].indexed_fields.len();
        assert_eq!(indexed, usize::from(!fails));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_sees_every_row_once_whatever_goes_on() {
    const ROWS: i64 = 300;
    let world = World::new();
    let node = world.node().await;
    let rows: Vec<(i64, i64)> = (0..ROWS).map(|key| (key, 0)).collect();
    node.insert(P1, &rows).await;
    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let tasks = TaskGroup::new("readers");
    let reader = {
        let (node, stop, reads) = (node.clone(), stop.clone(), reads.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                let count = node.count().await;
                assert_eq!(count, ROWS as u64, "rows are missing or there twice");
                let found = keys(&node.rows().await);
                assert_eq!(found, (0..ROWS).collect::<Vec<_>>());
                let near = node.nearest([0.0, 0.0], ROWS as u32).await;
                assert_eq!(near.len(), ROWS as usize);
                reads.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let reader = tasks.detach("reader", reader);
    for round in 1..30i64 {
        let some: Vec<(i64, i64)> = (0..ROWS)
            .filter(|key| (key * 7 + round) % 5 == 0)
            .map(|key| (key, round))
            .collect();
        node.upsert(P1, &some).await;
        node.flush().await;
        node.sync().await.unwrap();
        if round % 3 == 0 {
            let all: Vec<i64> = world.played.meta.lock().segments.keys().copied().collect();
            compact(&world, &all[..all.len().min(4)], 1 + round as usize % 2).await;
            node.sync().await.unwrap();
        }
        // At least one read in each round.
        let seen = reads.load(Ordering::SeqCst);
        eventually("reads go on", PATIENCE, || async {
            (reads.load(Ordering::SeqCst) > seen || tasks.failure().is_some()).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    reader.await.unwrap();
}
