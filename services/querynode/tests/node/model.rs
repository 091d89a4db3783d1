//! Random operations against a map.

use std::collections::BTreeMap;

use rand::RngExt as _;
use redkite_proto::redkite::querynode::QueryRequest;
use redkite_runtime::testing::test_rng;

use crate::{
    compact::compact,
    world::{P1, P2, World, rows_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_agree_with_a_map() {
    let world = World::new();
    agree_with_a_map(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mapped_segments_agree_with_a_map() {
    let world = World::on_disk();
    world.set_mmap("true");
    agree_with_a_map(&world).await;
}

async fn agree_with_a_map(world: &World) {
    let mut rng = test_rng();
    let mut node = world.node().await;
    // Key to partition and number.
    let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for step in 0..400i64 {
        let partition = if rng.random_bool(0.5) { P1 } else { P2 };
        match rng.random_range(0..100) {
            0..45 => {
                let rows: BTreeMap<i64, i64> = (0..rng.random_range(1..20))
                    .map(|_| (rng.random_range(0..300), step))
                    .collect();
                let rows: Vec<(i64, i64)> = rows.into_iter().collect();
                node.upsert(partition, &rows).await;
                model.extend(
                    rows.into_iter()
                        .map(|(key, number)| (key, (partition, number))),
                );
            }
            45..65 => {
                let keys: Vec<i64> = (0..rng.random_range(1..30))
                    .map(|_| rng.random_range(0..300))
                    .collect();
                node.delete(&keys).await;
                for key in &keys {
                    model.remove(key);
                }
            }
            65..73 => {
                node.flush().await;
            }
            73..77 => {
                let segments: Vec<i64> = {
                    let meta = world.played.meta.lock();
                    let here = meta.segments.values();
                    let here = here.filter(|segment| segment.partition_id == partition);
                    here.map(|segment| segment.id).collect()
                };
                let chosen: Vec<i64> = segments
                    .into_iter()
                    .filter(|_| rng.random_bool(0.6))
                    .collect();
                if !chosen.is_empty() {
                    compact(world, &chosen, rng.random_range(1..3)).await;
                }
                if rng.random_bool(0.5) {
                    node.sync().await.unwrap();
                }
            }
            77..80 => {
                node.crash();
                node = world.node().await;
            }
            80..85 => {
                world.played.change(|meta| meta.loaded.clear());
                node.sync().await.unwrap();
                world.played.change(|meta| meta.loaded = vec![P1, P2]);
                node.sync_until_loaded().await;
            }
            85..90 => {
                node.sync_until_loaded().await;
            }
            90..95 => {
                let expected: Vec<(i64, i64)> = model
                    .iter()
                    .filter(|(_, (of, _))| *of == partition)
                    .map(|(key, (_, number))| (*key, *number))
                    .collect();
                let request = QueryRequest {
                    partition_ids: vec![partition],
                    ..node.query_request()
                };
                let found = rows_of(node.try_query(request).await.unwrap());
                assert_eq!(found, expected, "step {step}, partition {partition}");
            }
            _ => {
                let query = [
                    rng.random_range(0..300) as f32,
                    rng.random_range(0..400) as f32,
                ];
                let mut expected: Vec<(f32, i64)> = model
                    .iter()
                    .map(|(key, (_, number))| {
                        let (dx, dy) = (*key as f32 - query[0], *number as f32 - query[1]);
                        (dx * dx + dy * dy, *key)
                    })
                    .collect();
                expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                let expected: Vec<i64> = expected.iter().take(10).map(|hit| hit.1).collect();
                assert_eq!(node.nearest(query, 10).await, expected, "step {step}");
            }
        }
        let expected: Vec<(i64, i64)> = model
            .iter()
            .map(|(key, (_, number))| (*key, *number))
            .collect();
        assert_eq!(node.rows().await, expected, "step {step}");
        assert_eq!(node.count().await as usize, expected.len(), "step {step}");
    }
}
