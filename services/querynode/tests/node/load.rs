//! What is loaded, what is not, and what it takes.

use std::sync::atomic::Ordering;

use redkite_index::{BuildOptions, IndexParams};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        meta::{FileInfo, SegmentIndexInfo},
        querynode::QueryRequest,
    },
};
use redkite_querynode::Mmap;
use redkite_runtime::testing::eventually;
use redkite_segment::StopFlag;
use redkite_storage::checksum;
use redkite_types::MetricType;

use crate::world::{COLLECTION, P1, P2, PATIENCE, VECTOR, World, code, rows_of};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_loaded_is_served() {
    let world = World::new();
    world.played.change(|meta| meta.loaded.clear());
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    node.insert(P2, &[(2, 2)]).await;
    assert_eq!(
        code(&node.try_query(node.query_request()).await.unwrap_err()),
        101
    );
    node.flush().await;
    node.insert(P1, &[(3, 3)]).await;
    let stats = node.stats().await;
    assert!(stats.segments.iter().all(|segment| !segment.loaded));
    assert_eq!(
        stats.partitions.iter().map(|p| p.rows).collect::<Vec<_>>(),
        [2, 1]
    );

    world.played.change(|meta| meta.loaded = vec![P1]);
    let answer = node.sync().await.unwrap();
    let progress = &answer.partitions[0];
    assert_eq!(
        (
            progress.partition_id,
            progress.segments,
            progress.segments_loaded
        ),
        (P1, 1, 1)
    );
    assert_eq!(node.rows().await, [(1, 1), (3, 3)]);
    let other = QueryRequest {
        partition_ids: vec![P2],
        ..node.query_request()
    };
    assert_eq!(code(&node.try_query(other.clone()).await.unwrap_err()), 201);

    world.played.change(|meta| meta.loaded = vec![P1, P2]);
    node.sync_until_loaded().await;
    let other = QueryRequest {
        guarantee_ts: 0,
        mvcc_ts: 0,
        ..other
    };
    assert_eq!(rows_of(node.try_query(other).await.unwrap()), [(2, 2)]);
    world.played.change(|meta| meta.loaded.clear());
    node.sync().await.unwrap();
    assert_eq!(
        code(&node.try_query(node.query_request()).await.unwrap_err()),
        101
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_reach_segments_that_are_not_in_memory() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2), (3, 3), (4, 4)]).await;
    node.flush().await;
    world.played.change(|meta| meta.loaded.clear());
    node.sync().await.unwrap();
    node.delete(&[1]).await;
    node.flush().await;
    node.delete(&[2]).await;
    world.played.change(|meta| meta.loaded = vec![P1, P2]);
    node.sync_until_loaded().await;
    assert_eq!(node.rows().await, [(3, 3), (4, 4)]);
    assert_eq!(world.played.meta.lock().deltas.len(), 1);
    node.crash();
    let node = world.node().await;
    assert_eq!(node.rows().await, [(3, 3), (4, 4)]);
    node.delete(&[4]).await;
    assert_eq!(node.rows().await, [(3, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_older_than_the_nodes_own_commit_is_ignored() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    let old = node.sync_request();
    node.flush().await;
    use redkite_proto::redkite::querynode::query_node_server::QueryNode;
    node.service
        .sync_channel(tonic::Request::new(old))
        .await
        .unwrap();
    assert_eq!(
        node.rows().await,
        [(1, 1)],
        "the new segment is still served"
    );
    node.sync_until_loaded().await;
    assert_eq!(node.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_cannot_be_read_is_reported_and_tried_again() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    node.flush().await;
    node.crash();
    let path = {
        let meta = world.played.meta.lock();
        meta.segments.values().next().unwrap().files[0].path.clone()
    };
    let bytes = world.store.get(&path).await.unwrap();
    world.store.delete(&path).await.unwrap();
    world.played.change(|meta| meta.epoch += 1);
    let node = world.bare_node();
    let answer = eventually("the failure is reported", PATIENCE, || async {
        let answer = node.sync().await.unwrap();
        let failed = answer.partitions.iter().any(|p| !p.fail_reason.is_empty());
        failed.then_some(answer)
    })
    .await;
    let progress = answer
        .partitions
        .iter()
        .find(|p| p.partition_id == P1)
        .unwrap();
    assert_eq!((progress.segments, progress.segments_loaded), (1, 0));
    assert!(
        progress.fail_reason.contains("not found"),
        "{}",
        progress.fail_reason
    );
    assert_eq!(
        code(&node.try_query(node.query_request()).await.unwrap_err()),
        1000,
        "waiting does not help"
    );
    world.store.put(&path, bytes).await.unwrap();
    node.sync_until_loaded().await;
    assert_eq!(node.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_built_is_swapped_in_and_out() {
    swap_index(World::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_index_is_swapped_in_and_out() {
    let world = World::on_disk();
    world.set_mmap("true");
    swap_index(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mapped_takes_no_memory() {
    let world = World::on_disk();
    let node = world.node().await;
    let rows: Vec<(i64, i64)> = (0..5_000).map(|key| (key, key % 9)).collect();
    node.insert(P1, &rows).await;
    node.flush().await;
    let nearest = node.nearest([70.0, 3.0], 5).await;
    node.crash();
    let node = world.node().await;
    let memory = |stats: redkite_proto::redkite::querynode::ChannelStatsResponse| {
        stats.segments.iter().map(|s| s.memory_bytes).sum::<i64>()
    };
    let vectors = 5_000 * 2 * 4;
    let in_memory = memory(node.stats().await);
    assert!(in_memory > vectors + 5_000 * 28, "{in_memory}");
    node.crash();
    world.set_mmap("true");
    let node = world.node().await;
    let mapped = memory(node.stats().await);
    assert!(mapped <= in_memory - vectors, "{mapped} and {in_memory}");
    assert_eq!(node.nearest([70.0, 3.0], 5).await, nearest);
    assert_eq!(node.rows().await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_one_segment_leaves_the_others_served() {
    for mmap in ["false", "true"] {
        let world = World::on_disk();
        world.set_mmap(mmap);
        let node = world.node().await;
        node.insert(P1, &[(1, 1)]).await;
        node.flush().await;
        node.insert(P2, &[(2, 2)]).await;
        node.flush().await;
        node.crash();
        let path = {
            let meta = world.played.meta.lock();
            let mut segments = meta.segments.values();
            let damaged = segments.find(|segment| segment.partition_id == P1);
            damaged.unwrap().files[0].path.clone()
        };
        let mut bytes = world.store.get(&path).await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        world.store.put(&path, bytes.into()).await.unwrap();
        world.played.change(|meta| meta.epoch += 1);
        let node = world.bare_node();
        let answer = eventually("the failure is reported", PATIENCE, || async {
            let answer = node.sync().await.unwrap();
            let of = |id| answer.partitions.iter().find(move |p| p.partition_id == id);
            let served = of(P2).is_some_and(|p| p.segments_loaded == 1);
            let failed = of(P1).is_some_and(|p| !p.fail_reason.is_empty());
            (served && failed).then(|| of(P1).unwrap().fail_reason.clone())
        })
        .await;
        assert!(
            answer.contains(&path) && answer.contains("crc32c"),
            "{answer}"
        );
        let other = QueryRequest {
            partition_ids: vec![P2],
            ..node.query_request()
        };
        assert_eq!(rows_of(node.try_query(other).await.unwrap()), [(2, 2)]);
    }
}

/// Builds the graph of a segment, as a data node would, and puts its file into the store.
async fn build_graph(world: &World, segment: i64, rows: &[(i64, i64)]) -> SegmentIndexInfo {
    let vectors: Vec<f32> = rows
        .iter()
        .flat_map(|(key, number)| [*key as f32, *number as f32])
        .collect();
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let params = IndexParams::hnsw(MetricType::L2, 8, 64);
    let index = redkite_index::build(&params, &vectors, 2, &options).unwrap();
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    let path = format!("segments/{COLLECTION}/{P1}/{segment}/index/77/hnsw.v1.bin");
    let file = FileInfo {
        path: path.clone(),
        size: bytes.len() as u64,
        crc32c: checksum::crc32c(&bytes),
    };
    world.store.put(&path, bytes.into()).await.unwrap();
    SegmentIndexInfo {
        build_id: 77,
        index_id: 1,
        segment_id: segment,
        field_id: VECTOR,
        state: IndexState::Finished.into(),
        rows: rows.len() as i64,
        files: vec![file],
        ..SegmentIndexInfo::default()
    }
}

/// Rows that were just flushed are in memory. Once a graph on codes finds them, their vectors are looked
/// up in the file, if the node is to do so, the collection does not say otherwise and there is a file.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_leave_memory_when_an_index_goes_by_its_codes() {
    let rows: Vec<(i64, i64)> = (0..5_000).map(|key| (key, key * 3 % 7)).collect();
    let vectors = 5_000 * 2 * 4;
    let on_disk = |setting: Option<&str>| {
        let world = World::on_disk();
        setting.inspect(|value| world.set_mmap(value));
        world
    };
    // What the rows take where nothing is left in a file.
    let mut in_memory = None;
    for (mut world, mmap, leaves) in [
        (on_disk(None), Mmap::Off, false),
        (on_disk(None), Mmap::Vectors, true),
        (on_disk(Some("false")), Mmap::Vectors, false),
        (World::new(), Mmap::Vectors, false),
    ] {
        world.options.mmap = mmap;
        world.played.change(|meta| meta.index_type = Some("HNSW"));
        let node = world.node().await;
        node.insert(P1, &rows).await;
        let segment = node.flush().await.segment_ids[0];
        node.delete(&[2_500]).await;
        let exact = node.nearest([2_500.0, 3.0], 5).await;
        let graph = build_graph(&world, segment, &rows).await;
        let graph_bytes = graph.files[0].size as i64;
        world.played.change(|meta| {
            meta.indexes.insert(segment, vec![graph]);
        });
        eventually("the index is used", PATIENCE, || async {
            node.sync().await.unwrap();
            (node.stats().await.segments[0].indexed_fields == [VECTOR]).then_some(())
        })
        .await;
        let beside_graph = node.stats().await.segments[0].memory_bytes - graph_bytes;
        let in_memory = *in_memory.get_or_insert(beside_graph);
        let gone = in_memory - beside_graph;
        // Opened again from its file, a segment has no other columns in memory either, until they are asked
        // for. Files of one size hold graphs that take a little more or less.
        let is_right = match leaves {
            true => gone > vectors * 3 / 4,
            false => gone.abs() < vectors / 4,
        };
        assert!(
            is_right,
            "{in_memory} bytes, then {beside_graph} beside a graph of {graph_bytes}"
        );
        assert_eq!(node.nearest([2_500.0, 3.0], 5).await, exact);
        let left: Vec<(i64, i64)> = rows.iter().filter(|row| row.0 != 2_500).copied().collect();
        assert_eq!(node.rows().await, left);
    }
}

async fn swap_index(world: World) {
    world.played.change(|meta| meta.index_type = Some("HNSW"));
    let node = world.node().await;
    let rows: Vec<(i64, i64)> = (0..500).map(|key| (key, key * 3 % 7)).collect();
    node.insert(P1, &rows).await;
    let segment = node.flush().await.segment_ids[0];
    let exact = node.nearest([250.0, 3.0], 5).await;

    let build = build_graph(&world, segment, &rows).await;
    let path = build.files[0].path.clone();
    world.played.change(|meta| {
        meta.indexes.insert(segment, vec![build]);
    });
    let indexed = |wanted: &'static [i64]| {
        let node = &node;
        eventually("the index is swapped", PATIENCE, move || async move {
            node.sync().await.unwrap();
            let stats = node.stats().await;
            (stats.segments[0].indexed_fields == wanted).then_some(())
        })
    };
    // A damaged file is not used; the rows are searched all the same.
    let whole = world.store.get(&path).await.unwrap();
    let mut damaged = whole.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    world.store.put(&path, damaged.into()).await.unwrap();
    node.sync().await.unwrap();
    assert_eq!(node.nearest([250.0, 3.0], 5).await, exact);
    assert!(node.stats().await.segments[0].indexed_fields.is_empty());
    world.store.put(&path, whole).await.unwrap();
    indexed(&[VECTOR]).await;
    node.delete(&[exact[0]]).await;
    assert_eq!(node.nearest([250.0, 3.0], 4).await, exact[1..]);
    node.crash();
    let node = world.node().await;
    assert_eq!(node.stats().await.segments[0].indexed_fields, [VECTOR]);
    assert_eq!(node.nearest([250.0, 3.0], 4).await, exact[1..]);
    world.played.change(|meta| meta.index_type = None);
    node.sync().await.unwrap();
    assert!(node.stats().await.segments[0].indexed_fields.is_empty());
    assert_eq!(node.nearest([250.0, 3.0], 4).await, exact[1..]);
    assert_eq!(world.played.failures.load(Ordering::SeqCst), 0);
}
