use std::collections::HashMap;

use redkite_proto::{
    milvus::{
        common::{IndexState, LoadState, SegmentState},
        milvus::{milvus_service_server::MilvusService as _, *},
    },
    redkite::{datacoord::IndexProgress, querycoord::PartitionProgress, querynode},
};
use tonic::Request;

use crate::testing::*;

/// Calls an RPC with a message made of the fields given.
macro_rules! call {
    ($fixture:ident.$rpc:ident($message:ident { $($field:ident: $value:expr),* $(,)? })) => {{
        #[allow(clippy::needless_update, reason = "some messages have no other fields")]
        let message = $message { $($field: $value.into(),)* ..$message::default() };
        $fixture.front.$rpc(Request::new(message)).await.unwrap().into_inner()
    }};
}

fn loaded(partition: redkite_types::PartitionId, percent: i32) -> PartitionProgress {
    PartitionProgress {
        partition_id: partition.0,
        percent,
        fail_reason: String::new(),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_collection_is_described_by_name_alias_and_id() {
    let fixture = Fixture::with_collection().await;
    let by_name = call!(fixture.describe_collection(DescribeCollectionRequest {
        collection_name: COLLECTION
    }));
    assert_eq!(code_of(by_name.status.clone()), 0);
    let schema = by_name.schema.clone().unwrap();
    let fields: Vec<_> = schema
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(fields, ["id", "vector"], "the hidden fields stay hidden");
    assert!(schema.enable_dynamic_field && schema.name == COLLECTION);
    assert_eq!(schema.description, "some books");
    assert_eq!(by_name.aliases, [ALIAS]);
    assert_eq!((by_name.collection_id, by_name.db_id), (COLLECTION_ID.0, 1));
    assert_eq!((by_name.shards_num, by_name.num_partitions), (2, 2));
    assert_eq!(by_name.virtual_channel_names, ["10v0", "10v1"]);
    assert_eq!(
        (by_name.created_timestamp, by_name.update_timestamp),
        (CREATED, CREATED + 5)
    );
    assert_eq!(by_name.created_utc_timestamp, 1_700_000_000_000);
    assert_eq!(
        (by_name.consistency_level, by_name.db_name.as_str()),
        (2, "default")
    );
    assert_eq!(by_name.properties[0].key, "collection.ttl.seconds");

    let by_alias = call!(fixture.describe_collection(DescribeCollectionRequest {
        collection_name: ALIAS
    }));
    let by_id = call!(fixture.describe_collection(DescribeCollectionRequest { collection_id: 10 }));
    assert_eq!(by_alias, by_name);
    assert_eq!(by_id, by_name);

    let batch = call!(
        fixture.batch_describe_collection(BatchDescribeCollectionRequest {
            collection_name: names(&[COLLECTION, "nothing"]),
            collection_id: [99],
        })
    );
    let codes: Vec<i32> = batch
        .responses
        .into_iter()
        .map(|one| code_of(one.status))
        .collect();
    assert_eq!(codes, [0, 100, 100]);
}

#[tokio::test]
async fn what_exists_is_listed() {
    let fixture = Fixture::with_collection().await;
    fixture.put_database(2, "films").await;
    let shown = call!(fixture.show_collections(ShowCollectionsRequest {}));
    assert_eq!(shown.collection_names, [COLLECTION]);
    assert_eq!(shown.collection_ids, [COLLECTION_ID.0]);
    let shown = call!(fixture.show_collections(ShowCollectionsRequest { db_name: "films" }));
    assert!(code_of(shown.status) == 0 && shown.collection_names.is_empty());
    let shown = call!(fixture.show_collections(ShowCollectionsRequest { db_name: "plays" }));
    let status = shown.status.unwrap();
    assert_eq!(status.code, 800);
    assert_eq!(status.reason, "database not found[database=plays]");

    let partitions = call!(fixture.show_partitions(ShowPartitionsRequest {
        collection_name: COLLECTION
    }));
    assert_eq!(partitions.partition_names, ["_default", PARTITION]);
    assert_eq!(
        partitions.partition_i_ds,
        [DEFAULT_PARTITION.0, PARTITION_ID.0]
    );

    let databases = call!(fixture.list_databases(ListDatabasesRequest {}));
    assert_eq!(databases.db_names, ["default", "films"]);
    assert_eq!(databases.db_ids, [1, 2]);
    let database = call!(fixture.describe_database(DescribeDatabaseRequest { db_name: "films" }));
    assert_eq!((database.db_id, database.created_timestamp), (2, CREATED));
    assert_eq!(database.properties.len(), 1);
    let database = call!(fixture.describe_database(DescribeDatabaseRequest { db_name: "plays" }));
    assert_eq!(code_of(database.status), 800);
}

#[tokio::test]
async fn asking_whether_something_exists_is_no_error() {
    let fixture = Fixture::with_collection().await;
    for (name, exists) in [(COLLECTION, true), (ALIAS, true), ("nothing", false)] {
        let has = call!(fixture.has_collection(HasCollectionRequest {
            collection_name: name
        }));
        assert_eq!((code_of(has.status), has.value), (0, exists), "{name}");
    }
    for (name, exists) in [("_default", true), (PARTITION, true), ("2025", false)] {
        let has = call!(fixture.has_partition(HasPartitionRequest {
            collection_name: COLLECTION,
            partition_name: name,
        }));
        assert_eq!((code_of(has.status), has.value), (0, exists), "{name}");
    }
    let has = call!(fixture.has_partition(HasPartitionRequest {
        collection_name: "nothing",
        partition_name: "x",
    }));
    assert_eq!(code_of(has.status), 100);
}

#[tokio::test]
async fn aliases_are_found_and_their_absence_has_its_own_code() {
    let fixture = Fixture::with_collection().await;
    let alias = call!(fixture.describe_alias(DescribeAliasRequest { alias: ALIAS }));
    assert_eq!(alias.collection, COLLECTION);
    let alias = call!(fixture.describe_alias(DescribeAliasRequest { alias: "other" }));
    let status = alias.status.unwrap();
    assert_eq!(status.code, 1600);
    assert_eq!(
        status.reason,
        "alias not found[database=default][alias=other]"
    );
    for name in ["", COLLECTION] {
        let listed = call!(fixture.list_aliases(ListAliasesRequest {
            collection_name: name
        }));
        assert_eq!(listed.aliases, [ALIAS]);
    }
    let listed = call!(fixture.list_aliases(ListAliasesRequest {
        collection_name: "nothing"
    }));
    assert_eq!(code_of(listed.status), 100);
}

#[tokio::test]
async fn load_state_follows_every_combination_of_what_was_asked_and_what_is_there() {
    let fixture = Fixture::with_collection().await;
    let state = async |collection: &str, partitions: &[&str]| {
        let message = GetLoadStateRequest {
            collection_name: collection.to_owned(),
            partition_names: names(partitions),
            ..GetLoadStateRequest::default()
        };
        let response = fixture
            .front
            .get_load_state(Request::new(message))
            .await
            .unwrap();
        let response = response.into_inner();
        (code_of(response.status.clone()), response.state())
    };
    use LoadState::{Loaded, Loading, NotExist, NotLoad};
    assert_eq!(state("nothing", &[]).await, (0, NotExist));
    assert_eq!(state(COLLECTION, &[]).await, (0, NotLoad));
    assert_eq!(state(COLLECTION, &[PARTITION]).await, (0, NotLoad));
    assert_eq!(state(COLLECTION, &["2025"]).await.0, 200);

    // Only one partition is asked for, and it is not there yet.
    fixture.load(&[PARTITION_ID]).await;
    assert_eq!(state(COLLECTION, &[]).await, (0, Loading));
    *fixture.fake.progress.lock() = vec![loaded(PARTITION_ID, 40)];
    assert_eq!(state(COLLECTION, &[]).await, (0, Loading));
    assert_eq!(state(COLLECTION, &[PARTITION]).await, (0, Loading));
    assert_eq!(state(COLLECTION, &["_default"]).await, (0, NotLoad));
    *fixture.fake.progress.lock() = vec![loaded(PARTITION_ID, 100)];
    assert_eq!(state(COLLECTION, &[]).await, (0, Loaded));
    assert_eq!(state(ALIAS, &[PARTITION]).await, (0, Loaded));
    assert_eq!(state(COLLECTION, &["_default"]).await, (0, NotLoad));
    assert_eq!(
        state(COLLECTION, &["_default", PARTITION]).await,
        (0, NotLoad)
    );

    fixture.load(&[DEFAULT_PARTITION]).await;
    assert_eq!(state(COLLECTION, &[]).await, (0, Loading));
    assert_eq!(state(COLLECTION, &[PARTITION]).await, (0, Loaded));
}

#[tokio::test]
async fn loading_progress_is_an_error_where_nobody_asked_to_load() {
    let fixture = Fixture::with_collection().await;
    let unloaded = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: COLLECTION,
    }));
    let status = unloaded.status.unwrap();
    assert_eq!(status.code, 101);
    assert_eq!(status.reason, "collection not loaded[collection=books]");
    fixture.load(&[PARTITION_ID]).await;
    let unloaded = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: COLLECTION,
        partition_names: names(&["_default"]),
    }));
    let status = unloaded.status.unwrap();
    assert_eq!(status.code, 201);
    assert_eq!(status.reason, "partition not loaded[partition=_default]");
    let unknown = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: "nothing"
    }));
    assert_eq!(code_of(unknown.status), 100);
}

#[tokio::test]
async fn loading_progress_is_the_mean_and_waits_a_little_for_the_end() {
    let fixture = Fixture::with_collection().await;
    fixture.load(&[DEFAULT_PARTITION, PARTITION_ID]).await;
    *fixture.fake.progress.lock() = vec![loaded(DEFAULT_PARTITION, 100), loaded(PARTITION_ID, 99)];
    let partly = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: COLLECTION,
    }));
    assert_eq!((partly.progress, partly.refresh_progress), (99, 99));

    *fixture.fake.progress_later.lock() =
        vec![loaded(DEFAULT_PARTITION, 100), loaded(PARTITION_ID, 100)];
    let ended = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: COLLECTION,
    }));
    assert_eq!((code_of(ended.status), ended.progress), (0, 100));

    let stuck = PartitionProgress {
        fail_reason: "no memory".to_owned(),
        ..loaded(PARTITION_ID, 0)
    };
    *fixture.fake.progress.lock() = vec![stuck];
    let stuck = call!(fixture.get_loading_progress(GetLoadingProgressRequest {
        collection_name: COLLECTION,
    }));
    let status = stuck.status.unwrap();
    assert!(
        status.code == 604 && status.reason.contains("no memory"),
        "{status:?}"
    );
}

#[tokio::test]
async fn an_index_is_described_with_what_was_given_and_how_far_it_is() {
    let fixture = Fixture::with_collection().await;
    let none = call!(fixture.describe_index(DescribeIndexRequest {
        collection_name: COLLECTION
    }));
    let status = none.status.unwrap();
    assert_eq!((status.code, status.error_code), (700, 25));
    assert_eq!(status.reason, "index not found[collection=books]");

    fixture.index().await;
    let progress = IndexProgress {
        index_id: INDEX_ID,
        total_rows: 10,
        indexed_rows: 4,
        state: IndexState::InProgress.into(),
        fail_reason: String::new(),
    };
    // The coordinator catches up with the new index before it is believed.
    *fixture.fake.indexes_later.lock() = vec![progress];
    let described = call!(fixture.describe_index(DescribeIndexRequest {
        collection_name: COLLECTION
    }));
    assert_eq!(code_of(described.status), 0);
    let index = &described.index_descriptions[0];
    assert_eq!(
        (index.index_name.as_str(), index.field_name.as_str()),
        ("vector", "vector")
    );
    assert_eq!(
        (
            index.total_rows,
            index.indexed_rows,
            index.pending_index_rows
        ),
        (10, 4, 6)
    );
    assert_eq!(index.state(), IndexState::InProgress);
    let params: HashMap<_, _> = index
        .params
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
        .collect();
    assert_eq!(params.len(), index.params.len());
    assert_eq!(
        (params["index_type"], params["metric_type"]),
        ("HNSW", "COSINE")
    );
    assert_eq!(params["params"], r#"{"M": 8}"#);

    let state = call!(fixture.get_index_state(GetIndexStateRequest {
        collection_name: COLLECTION,
        field_name: "vector",
    }));
    assert_eq!(state.state(), IndexState::InProgress);
    let progress = call!(
        fixture.get_index_build_progress(GetIndexBuildProgressRequest {
            collection_name: COLLECTION,
        })
    );
    assert_eq!((progress.indexed_rows, progress.total_rows), (4, 10));
    let other = call!(fixture.describe_index(DescribeIndexRequest {
        collection_name: COLLECTION,
        index_name: "other",
    }));
    assert_eq!(
        other.status.unwrap().reason,
        "index not found[indexName=other]"
    );
}

#[tokio::test]
async fn rows_are_counted_over_all_channels_and_only_in_what_exists() {
    let fixture = Fixture::with_collection().await;
    let rows = |partition_id: i64, rows: i64| querynode::PartitionStats { partition_id, rows };
    fixture.fake.stats.lock().partitions = vec![
        rows(DEFAULT_PARTITION.0, 3),
        rows(PARTITION_ID.0, 4),
        rows(99, 1_000),
    ];
    let all = call!(
        fixture.get_collection_statistics(GetCollectionStatisticsRequest {
            collection_name: COLLECTION,
        })
    );
    assert_eq!(
        (all.stats[0].key.as_str(), all.stats[0].value.as_str()),
        ("row_count", "14")
    );
    let one = call!(
        fixture.get_partition_statistics(GetPartitionStatisticsRequest {
            collection_name: COLLECTION,
            partition_name: PARTITION,
        })
    );
    assert_eq!(one.stats[0].value, "8");
    let absent = call!(
        fixture.get_partition_statistics(GetPartitionStatisticsRequest {
            collection_name: COLLECTION,
            partition_name: "2025",
        })
    );
    let status = absent.status.unwrap();
    assert_eq!(
        (status.code, status.reason.as_str()),
        (200, "partition not found[partition=2025]")
    );
}

#[tokio::test]
async fn a_flush_answers_when_its_segments_are_seen() {
    let fixture = Fixture::with_collection().await;
    fixture.put(vec![segment(20, 5)]).await;
    *fixture.fake.to_flush.lock() = vec![21, 22];
    let flushed = call!(fixture.flush(FlushRequest {
        collection_names: names(&[ALIAS])
    }));
    assert_eq!(code_of(flushed.status), 0);
    assert_eq!(flushed.coll_seg_i_ds[ALIAS].data, [21, 22]);
    assert_eq!(flushed.flush_coll_seg_i_ds[ALIAS].data, [20]);
    assert_eq!(
        flushed.coll_flush_ts[ALIAS],
        CREATED + 100,
        "the earliest of the channels"
    );
    assert!(flushed.coll_seal_times[ALIAS] > 1_600_000_000);

    fixture.fake.stats.lock().segments = vec![querynode::SegmentStats {
        segment_id: 30,
        growing: true,
        rows: 1,
        ..querynode::SegmentStats::default()
    }];
    for (segments, want) in [
        (vec![21, 22], true),
        (vec![21, 30], false),
        (vec![31], true),
    ] {
        for name in [COLLECTION, ""] {
            let state = call!(fixture.get_flush_state(GetFlushStateRequest {
                collection_name: name,
                segment_i_ds: segments.clone(),
            }));
            assert_eq!(
                (code_of(state.status), state.flushed),
                (0, want),
                "{segments:?} {name}"
            );
        }
    }
    let unknown = call!(fixture.flush(FlushRequest {
        collection_names: names(&[COLLECTION, "nothing"])
    }));
    assert_eq!(code_of(unknown.status), 100);
}

#[tokio::test]
async fn everything_is_flushed_once_and_known_to_be() {
    let fixture = Fixture::with_collection().await;
    *fixture.fake.to_flush.lock() = vec![21];
    let flushed = call!(fixture.flush_all(FlushAllRequest {}));
    assert_eq!(code_of(flushed.status), 0);
    fixture.fake.stats.lock().segments = vec![querynode::SegmentStats {
        growing: true,
        rows: 1,
        ..querynode::SegmentStats::default()
    }];
    for (timestamp, want) in [
        (flushed.flush_all_ts, true),
        (flushed.flush_all_ts + 1, false),
    ] {
        let state = call!(fixture.get_flush_all_state(GetFlushAllStateRequest {
            flush_all_ts: timestamp,
        }));
        assert_eq!(state.flushed, want);
    }
}

#[tokio::test]
async fn segments_and_replicas_are_told_as_they_are() {
    let fixture = Fixture::with_collection().await;
    fixture.put(vec![segment(20, 5)]).await;
    let persistent = call!(
        fixture.get_persistent_segment_info(GetPersistentSegmentInfoRequest {
            collection_name: COLLECTION,
        })
    );
    assert_eq!(persistent.infos.len(), 1);
    assert_eq!(
        (persistent.infos[0].segment_id, persistent.infos[0].num_rows),
        (20, 5)
    );
    assert_eq!(persistent.infos[0].state(), SegmentState::Flushed);

    let replicas = call!(fixture.get_replicas(GetReplicasRequest { collection_id: 10 }));
    assert!(replicas.replicas.is_empty());
    fixture.load(&[PARTITION_ID]).await;
    fixture.fake.stats.lock().segments = vec![querynode::SegmentStats {
        segment_id: 20,
        partition_id: DEFAULT_PARTITION.0,
        rows: 5,
        loaded: true,
        ..querynode::SegmentStats::default()
    }];
    let served = call!(fixture.get_query_segment_info(GetQuerySegmentInfoRequest {
        collection_name: COLLECTION,
    }));
    assert_eq!(
        served.infos.len(),
        2,
        "one from each of the two channels of the fake"
    );
    assert_eq!(served.infos[0].state(), SegmentState::Sealed);
    assert_eq!(served.infos[0].node_ids, [NODE as i64]);
    let replicas = call!(fixture.get_replicas(GetReplicasRequest {
        collection_id: 10,
        with_shard_nodes: true,
    }));
    let replica = &replicas.replicas[0];
    assert_eq!(
        (replica.shard_replicas.len(), replica.node_ids.len()),
        (2, 1)
    );
    assert_eq!(replica.partition_ids, [PARTITION_ID.0]);
}

#[tokio::test]
async fn a_client_connects_to_a_database_that_exists() {
    let fixture = Fixture::new().await;
    let connected = call!(fixture.connect(ConnectRequest {}));
    assert!(code_of(connected.status) == 0 && connected.identifier > 0);
    let version = call!(fixture.get_version(GetVersionRequest {})).version;
    let server = connected.server_info.unwrap();
    assert_eq!(
        (server.build_tags, server.deploy_mode.as_str()),
        (version, "STANDALONE")
    );

    let mut request = Request::new(ConnectRequest::default());
    request
        .metadata_mut()
        .insert("dbname", "plays".parse().unwrap());
    let refused = fixture.front.connect(request).await.unwrap().into_inner();
    assert_eq!(code_of(refused.status), 800);

    let timestamp = call!(fixture.alloc_timestamp(AllocTimestampRequest {})).timestamp;
    assert!(timestamp > CREATED);
    let health = call!(fixture.check_health(CheckHealthRequest {}));
    assert!(
        !health.is_healthy
            && health
                .reasons
                .contains(&"no querynode is running".to_owned())
    );
    let states = call!(fixture.get_component_states(GetComponentStatesRequest {}));
    assert_eq!(states.state.unwrap().role, "proxy");
}
