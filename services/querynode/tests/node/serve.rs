//! Writes are seen at once, reads see what they must and nothing else.

use redkite_config::ByteSize;
use redkite_proto::redkite::querynode::{QueryRequest, SearchRequest, WriteRequest};
use redkite_querynode::QueryNodeOptions;
use redkite_types::Timestamp;

use crate::world::{P1, P2, World, code, filter, int_keys, numbers, rows_of};

#[tokio::test(flavor = "multi_thread")]
async fn writes_deletes_and_upserts_are_seen_at_once() {
    let world = World::new();
    let node = world.node().await;
    assert!(node.rows().await.is_empty());
    node.insert(P1, &[(1, 10), (3, 30)]).await;
    node.insert(P2, &[(2, 20)]).await;
    assert_eq!(node.rows().await, [(1, 10), (2, 20), (3, 30)]);
    assert_eq!(node.nearest([3.0, 29.0], 2).await, [3, 2]);
    node.delete(&[3]).await;
    node.upsert(P1, &[(1, 11), (4, 40)]).await;
    assert_eq!(node.rows().await, [(1, 11), (2, 20), (4, 40)]);
    assert_eq!(node.count().await, 3);
    assert_eq!(node.nearest([3.0, 29.0], 2).await, [2, 4]);
    // An upsert into another partition moves the row.
    node.upsert(P2, &[(1, 12)]).await;
    let request = QueryRequest {
        partition_ids: vec![P1],
        ..node.query_request()
    };
    assert_eq!(rows_of(node.try_query(request).await.unwrap()), [(4, 40)]);
    assert_eq!(node.count().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_at_an_earlier_time_sees_the_rows_of_that_time() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1), (2, 2)]).await;
    let before = node.query_request();
    node.upsert(P1, &[(1, 100)]).await;
    node.delete(&[2]).await;
    assert_eq!(
        rows_of(node.try_query(before.clone()).await.unwrap()),
        [(1, 1), (2, 2)]
    );
    node.flush().await;
    assert_eq!(
        rows_of(node.try_query(before).await.unwrap()),
        [(1, 1), (2, 2)]
    );
    assert_eq!(node.rows().await, [(1, 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_limits_ranges_and_many_queries() {
    let world = World::new();
    let node = world.node().await;
    let rows: Vec<(i64, i64)> = (0..100).map(|key| (key, key % 10)).collect();
    node.insert(P1, &rows[..50]).await;
    node.flush().await;
    node.insert(P2, &rows[50..]).await;

    let request = QueryRequest {
        filter: filter("n == 3 && id > 20").into(),
        limit: 4,
        ..node.query_request()
    };
    let found = rows_of(node.try_query(request.clone()).await.unwrap());
    assert_eq!(found, [(23, 3), (33, 3), (43, 3), (53, 3)]);
    let request = QueryRequest {
        count_only: true,
        ..request
    };
    assert_eq!(node.try_query(request).await.unwrap().count, 8);
    let request = QueryRequest {
        filter: filter("id in [7, 77, 777]").into(),
        ..node.query_request()
    };
    assert_eq!(
        rows_of(node.try_query(request).await.unwrap()),
        [(7, 7), (77, 7)]
    );

    let request = node.search_request(&[[10.0, 0.0], [70.0, 0.0]], 3);
    let answer = node.try_search(request.clone()).await.unwrap();
    assert_eq!(answer.counts, [3, 3]);
    assert_eq!(
        int_keys(answer.ids),
        [10, 11, 12, 70, 71, 72].map(i64::from)
    );
    assert_eq!(numbers(answer.fields[0].clone()), [0, 1, 2, 0, 1, 2]);
    assert_eq!(answer.scores[..2], [0.0, 2.0]);
    let request = SearchRequest {
        radius: Some(200.0),
        range_filter: Some(1.0),
        filter: filter("n == 0").into(),
        ..request
    };
    let answer = node.try_search(request.clone()).await.unwrap();
    assert_eq!(answer.counts, [2, 2]);
    assert_eq!(int_keys(answer.ids), [0, 20, 60, 80]);
    let request = SearchRequest {
        ignore_growing: true,
        ..request
    };
    let answer = node.try_search(request).await.unwrap();
    assert_eq!(answer.counts, [2, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_its_code_and_leaves_nothing() {
    let world = World::new();
    let node = world.node().await;
    let mut write = node.change(&[], P1, &[(1, 1), (2, 2)]);
    write.inserts[0].num_rows = 3;
    assert_eq!(code(&node.write(write).await.unwrap_err()), 1009);
    let mut write = node.change(&[], P1, &[(1, 1)]);
    write.inserts[0].fields.remove(0);
    assert_eq!(code(&node.write(write).await.unwrap_err()), 1009);
    assert_eq!(node.count().await, 0);

    let elsewhere = WriteRequest {
        channel: "99v0".into(),
        ..node.change(&[1], P1, &[])
    };
    assert_eq!(code(&node.write(elsewhere).await.unwrap_err()), 503);
    let mut search = node.search_request(&[[1.0, 1.0]], 1);
    search.nq = 2;
    assert_eq!(code(&node.try_search(search).await.unwrap_err()), 1100);
    let mut search = node.search_request(&[[1.0, 1.0]], 1);
    search.params = r#"{"surprise": 1}"#.to_owned();
    assert_eq!(code(&node.try_search(search).await.unwrap_err()), 1100);
    let mut query = node.query_request();
    query.output_fields = vec![999];
    assert_eq!(code(&node.try_query(query).await.unwrap_err()), 1700);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beyond_the_memory_limit_are_refused_until_a_flush_makes_room() {
    let mut world = World::new();
    world.options = QueryNodeOptions {
        growing_memory_limit: ByteSize::kib(64),
        ..QueryNodeOptions::default()
    };
    let node = world.node().await;
    let rows: Vec<(i64, i64)> = (0..1_000).map(|key| (key, 0)).collect();
    node.insert(P1, &rows).await;
    let status = node
        .write(node.change(&[], P1, &[(5_000, 0)]))
        .await
        .unwrap_err();
    assert_eq!(code(&status), 8);
    redkite_runtime::testing::eventually("there is room", crate::world::PATIENCE, || async {
        node.write(node.change(&[], P1, &[(5_000, 0)])).await.ok()
    })
    .await;
    assert_eq!(node.count().await, 1_001);
    assert!(!world.played.meta.lock().segments.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_on_their_way_count_against_the_memory_limit() {
    let mut world = World::new();
    world.options = QueryNodeOptions {
        growing_memory_limit: ByteSize::kib(256),
        ..QueryNodeOptions::default()
    };
    let node = world.node().await;
    // Each takes up a fifth of the limit on its way, so that few of them fit at a time.
    let writes = (0..40_i64).map(|number| {
        let rows: Vec<(i64, i64)> = (0..1_000).map(|key| (number * 1_000 + key, 1)).collect();
        let (node, write) = (node.clone(), node.change(&[], P1, &rows));
        async move { node.write(write).await }
    });
    let answers = futures::future::join_all(writes).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..20).contains(&accepted), "{accepted} were accepted");
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(code(refused), 8, "{refused}");
    }
    assert_eq!(node.count().await, accepted as u64 * 1_000);
    let large: Vec<(i64, i64)> = (0..20_000).map(|key| (key, 1)).collect();
    let refused = node.write(node.change(&[], P1, &large)).await.unwrap_err();
    assert_eq!(code(&refused), 3, "it would never fit");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_are_not_seen() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 1)]).await;
    node.flush().await;
    let second = node.insert(P1, &[(2, 2)]).await;
    let request = QueryRequest {
        expired_before: second,
        ..node.query_request()
    };
    assert_eq!(rows_of(node.try_query(request).await.unwrap()), [(2, 2)]);
    let request = SearchRequest {
        expired_before: second + 1,
        ..node.search_request(&[[1.0, 1.0]], 2)
    };
    assert!(int_keys(node.try_search(request).await.unwrap().ids).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarantee_from_the_future_is_not_reached_in_time() {
    let world = World::new();
    let node = world.node().await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let request = QueryRequest {
        guarantee_ts: Timestamp::new(now.as_millis() as u64 + 3_600_000, 0).0,
        timeout_ms: 50,
        ..node.query_request()
    };
    assert_eq!(code(&node.try_query(request).await.unwrap_err()), 10_001);
    // It binds no later write.
    node.insert(P1, &[(1, 1)]).await;
    assert_eq!(node.rows().await, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_partitions_are_read_and_not_written_and_forgotten_ones_neither() {
    const HEIR: i64 = 21;
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 10)]).await;
    node.insert(P2, &[(2, 20)]).await;
    let refused = async |write: WriteRequest| {
        let error = redkite_rpc::from_status(&node.write(write).await.unwrap_err());
        assert!(error.not_applied(), "{error}");
        (error.error.code.number(), error.error.retriable)
    };
    world.played.change(|meta| {
        meta.closed = vec![P1];
        meta.partitions.push(HEIR);
        meta.loaded.push(HEIR);
    });
    node.sync().await.unwrap();
    let named = WriteRequest {
        delete_partitions: vec![P1],
        ..node.change(&[1], P2, &[])
    };
    let closed = (2, true);
    assert_eq!(refused(node.change(&[], P1, &[(3, 30)])).await, closed);
    assert_eq!(refused(named.clone()).await, closed);
    assert_eq!(node.rows().await, [(1, 10), (2, 20)]);
    // Also by an owner that begins with it.
    node.crash();
    let node = world.node().await;
    let refused = async |write: WriteRequest| {
        let error = redkite_rpc::from_status(&node.write(write).await.unwrap_err());
        assert!(error.not_applied(), "{error}");
        (error.error.code.number(), error.error.retriable)
    };
    assert_eq!(refused(node.change(&[], P1, &[(3, 30)])).await, closed);
    node.insert(HEIR, &[(1, 11)]).await;
    let of = |partition| QueryRequest {
        partition_ids: vec![partition],
        ..node.query_request()
    };
    assert_eq!(rows_of(node.try_query(of(P1)).await.unwrap()), [(1, 10)]);
    assert_eq!(rows_of(node.try_query(of(HEIR)).await.unwrap()), [(1, 11)]);
    world.played.change(|meta| {
        meta.closed.clear();
        meta.partitions = vec![P2, HEIR];
        meta.loaded = vec![P2, HEIR];
    });
    node.sync().await.unwrap();
    let gone = (200, false);
    assert_eq!(refused(node.change(&[], P1, &[(3, 30)])).await, gone);
    assert_eq!(refused(named).await, gone);
    assert_eq!(node.rows().await, [(1, 11), (2, 20)]);
    assert_eq!(code(&node.try_query(of(P1)).await.unwrap_err()), 201);
}
