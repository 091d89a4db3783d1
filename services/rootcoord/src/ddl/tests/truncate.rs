//! Truncation, and the index's parameters.

use super::*;
use crate::ddl::{alter_index, truncate};

fn request(name: &str) -> TruncateCollectionRequest {
    TruncateCollectionRequest {
        collection_name: name.into(),
        ..TruncateCollectionRequest::default()
    }
}

fn alter_index_request(pairs: &[(&str, &str)], delete: &[&str]) -> AlterIndexRequest {
    let pairs = pairs.iter().map(|(key, value)| KeyValuePair {
        key: (*key).into(),
        value: (*value).into(),
    });
    AlterIndexRequest {
        collection_name: "books".into(),
        index_name: "vector".into(),
        extra_params: pairs.collect(),
        delete_keys: delete.iter().map(|key| (*key).to_owned()).collect(),
        ..AlterIndexRequest::default()
    }
}

#[tokio::test]
async fn truncating_what_is_loaded_and_what_is_not_is_all_or_nothing() {
    for loaded in [false, true] {
        let mut setup = vec![create_partition("p1"), create_index()];
        setup.extend(loaded.then(load_books));
        suites(setup, truncate::TruncateCollection, |context| async move {
            truncate::params(&context, "", request("books"))
                .await
                .unwrap()
        })
        .await;
    }
}

#[tokio::test]
async fn a_truncated_collection_keeps_all_but_its_rows() {
    let setup = vec![
        create_partition("p1"),
        create_partition("p2"),
        create_alias("a"),
        create_index(),
        Command::LoadPartitions(LoadPartitionsRequest {
            collection_name: "books".into(),
            partition_names: vec!["p1".into()],
            ..LoadPartitionsRequest::default()
        }),
    ];
    let deployment = Deployment::with(setup).await;
    let gate = deployment.gate().await;
    let entry = || async {
        let view = deployment.context.fresh_view().await.unwrap();
        view.collection(DatabaseId::DEFAULT, "books")
            .unwrap()
            .clone()
    };
    let before = entry().await;
    assert_eq!(before.segments.len(), 3);
    // By its alias, twice: there is nothing that a truncation leaves behind for the next one.
    for name in ["a", "books"] {
        submit(&gate, Command::TruncateCollection(request(name)))
            .await
            .unwrap();
    }
    let after = entry().await;
    assert_eq!(after.info(), before.info());
    assert_eq!(after.schema(), before.schema());
    assert_eq!(after.indexes, before.indexes);
    assert_eq!(after.load, before.load);
    assert!(after.segments.is_empty());
    assert_eq!(after.partitions.len(), 3, "{:?}", after.partitions);
    let names = |entry: &redkite_catalog::CollectionEntry| -> Vec<String> {
        let partitions = entry.visible_partitions();
        partitions.map(|partition| partition.name.clone()).collect()
    };
    assert_eq!(names(&after), names(&before));
    for partition in after.partitions.values() {
        let old = before.partition(&partition.name).unwrap();
        assert!(partition.id > old.id && partition.created_ts > old.created_ts);
        assert!(!partition.closed);
        let loaded = after.loaded_partitions.contains(&PartitionId(partition.id));
        assert_eq!(loaded, partition.name == "p1");
    }
    assert_eq!(after.loaded_partitions.len(), 1);
    let error = submit(&gate, Command::TruncateCollection(request("nope"))).await;
    assert_eq!(error.unwrap_err().code.number(), 100);
}

#[tokio::test]
async fn altering_an_index_is_one_step_and_not_while_it_is_served() {
    suites(
        vec![create_index()],
        alter_index::AlterIndex,
        |context| async move {
            let request = alter_index_request(&[("mmap.enabled", "true")], &[]);
            alter_index::params(&context, "", request).await.unwrap()
        },
    )
    .await;
    let deployment = Deployment::with(vec![create_index()]).await;
    let gate = deployment.gate().await;
    let alter =
        async |request: AlterIndexRequest| submit(&gate, Command::AlterIndex(request)).await;
    let mapped = async || {
        let view = deployment.context.fresh_view().await.unwrap();
        let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
        let params = &entry.index("vector").unwrap().params;
        let found = params.iter().find(|pair| pair.key == "mmap.enabled");
        found.map(|pair| pair.value.clone())
    };
    alter(alter_index_request(&[("mmap.enabled", "True")], &[]))
        .await
        .unwrap();
    assert_eq!(mapped().await.as_deref(), Some("True"));
    alter(alter_index_request(&[], &["mmap.enabled"]))
        .await
        .unwrap();
    assert_eq!(mapped().await, None);
    let no_name = AlterIndexRequest {
        index_name: String::new(),
        ..alter_index_request(&[("mmap.enabled", "true")], &[])
    };
    let unknown = AlterIndexRequest {
        index_name: "nope".into(),
        ..alter_index_request(&[("mmap.enabled", "true")], &[])
    };
    let on = ("mmap.enabled", "true");
    for (request, code, text) in [
        (alter_index_request(&[], &[]), 1100, "both cannot be empty"),
        (
            alter_index_request(&[on], &["mmap.enabled"]),
            1100,
            "cannot provide both",
        ),
        (
            alter_index_request(&[("M", "8")], &[]),
            1100,
            "M is not a configable index property",
        ),
        (
            alter_index_request(&[], &["metric_type"]),
            1100,
            "metric_type is not a configable",
        ),
        (
            alter_index_request(&[("mmap.enabled", "1")], &[]),
            1100,
            "invalid mmap.enabled value",
        ),
        (
            alter_index_request(&[("warmup", "sync")], &[]),
            3000,
            "unsupported operation",
        ),
        (no_name, 1100, "index name is empty"),
        (unknown, 700, "index not found"),
    ] {
        let error = alter(request.clone()).await.unwrap_err();
        assert_eq!(error.code.number(), code, "{request:?}: {error}");
        assert!(error.message.contains(text), "{request:?}: {error}");
    }
    submit(&gate, load_books()).await.unwrap();
    for request in [
        alter_index_request(&[on], &[]),
        alter_index_request(&[], &["mmap.enabled"]),
    ] {
        let error = alter(request).await.unwrap_err();
        assert_eq!(error.code.number(), 104, "{error}");
        assert!(
            error
                .message
                .contains("can't alter index on loaded collection"),
            "{error}"
        );
    }
}
