//! The schema gets a field while rows are served.

use redkite_proto::redkite::querynode::{QueryRequest, QueryResponse, SearchRequest, WriteRequest};
use redkite_types::{DataType, FieldSchema, Value};

use crate::world::{Node, P1, World, code, int_keys, numbers};

/// The field that is added: a number with a default.
const ADDED: i64 = 103;
/// And one without.
const EMPTY: i64 = 104;

fn add_fields(world: &World) {
    let with_default = FieldSchema {
        default_value: Some(Value::Int(7)),
        nullable: true,
        ..FieldSchema::new("late", DataType::Int64)
    };
    let without = FieldSchema {
        nullable: true,
        ..FieldSchema::new("empty", DataType::Int64)
    };
    world.played.change(|meta| {
        let schema = meta.schema.with_field(with_default).unwrap();
        meta.schema = schema.with_field(without).unwrap();
    });
}

async fn ask(node: &Node, world: &World, filter: &str) -> QueryResponse {
    let schema = world.played.meta.lock().schema.clone();
    let plan = redkite_expr::compile(filter, &redkite_expr::Templates::new(), &schema).unwrap();
    let request = QueryRequest {
        filter: plan.encode().unwrap().into(),
        output_fields: vec![ADDED, EMPTY],
        schema_version: schema.version,
        ..node.query_request()
    };
    node.try_query(request).await.unwrap()
}

/// Keys and the added numbers of the rows that match.
async fn late(node: &Node, world: &World, filter: &str) -> Vec<(i64, i64)> {
    let answer = ask(node, world, filter).await;
    let keys = int_keys(answer.ids);
    let mut fields = answer.fields.into_iter();
    let added = numbers(fields.next().unwrap());
    let empty = fields.next().unwrap();
    assert!(empty.valid_data.iter().all(|valid| !valid), "{empty:?}");
    keys.into_iter().zip(added).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_kind_answer_for_a_field_that_came_later() {
    for world in [World::new(), World::on_disk()] {
        world.set_mmap("true");
        let node = world.node().await;
        node.insert(P1, &[(1, 10)]).await;
        node.flush().await;
        node.insert(P1, &[(2, 20)]).await;
        add_fields(&world);
        node.sync().await.unwrap();
        // A segment with a file, and rows that are in none.
        assert_eq!(late(&node, &world, "late == 7").await, [(1, 7), (2, 7)]);
        assert_eq!(
            late(&node, &world, "empty is null and n > 10").await,
            [(2, 7)]
        );
        assert!(
            late(&node, &world, "late != 7 or empty == 0")
                .await
                .is_empty()
        );
        // Writes that know nothing of it, and one that does.
        node.insert(P1, &[(3, 30)]).await;
        assert_eq!(late(&node, &world, "n > 10").await, [(2, 7), (3, 7)]);
        let search = SearchRequest {
            output_fields: vec![ADDED],
            ..node.search_request(&[[1.0, 10.0]], 3)
        };
        let found = node.try_search(search).await.unwrap();
        assert_eq!(numbers(found.fields[0].clone()), [7, 7, 7]);
        node.flush().await;
        assert_eq!(late(&node, &world, "").await, [(1, 7), (2, 7), (3, 7)]);
        // What is opened now, from files and from the log, is read with the new schema.
        node.insert(P1, &[(4, 40)]).await;
        node.crash();
        let node = world.node().await;
        let all = [(1, 7), (2, 7), (3, 7), (4, 7)];
        assert_eq!(late(&node, &world, "late == 7").await, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_later_schema_come_again_when_the_node_knows_it() {
    let world = World::new();
    let node = world.node().await;
    node.insert(P1, &[(1, 10)]).await;
    let write = WriteRequest {
        schema_version: 2,
        ..node.change(&[], P1, &[(2, 20)])
    };
    let query = QueryRequest {
        schema_version: 2,
        ..node.query_request()
    };
    let search = SearchRequest {
        schema_version: 2,
        ..node.search_request(&[[1.0, 1.0]], 1)
    };
    let early = [
        node.write(write.clone()).await.unwrap_err(),
        node.try_query(query.clone()).await.unwrap_err(),
        node.try_search(search.clone()).await.unwrap_err(),
    ];
    for status in early {
        let error = redkite_rpc::from_status(&status);
        assert_eq!(code(&status), 110, "{status:?}");
        assert!(error.error.retriable, "{status:?}");
    }
    add_fields(&world);
    node.sync().await.unwrap();
    node.write(write.clone()).await.unwrap();
    node.try_query(query).await.unwrap();
    node.try_search(search).await.unwrap();
    assert_eq!(node.count().await, 2);
    // The log has rows of that version: an owner that is told of an older one must not read them.
    node.crash();
    let newest = std::mem::take(&mut world.played.meta.lock().schema);
    world.played.change(|meta| {
        meta.schema = crate::world::collection_schema();
        meta.epoch += 1;
    });
    let node = world.bare_node();
    assert_eq!(code(&node.sync().await.unwrap_err()), 110);
    world.played.change(|meta| meta.schema = newest);
    node.sync_until_loaded().await;
    assert_eq!(node.count().await, 2);
}
