use redkite_proto::milvus::milvus::milvus_service_server::MilvusService as _;
use tonic::Request;

use super::*;
use crate::testing::{Fixture, away, code_of};

fn create_partition(collection: &str, partition: &str) -> CreatePartitionRequest {
    CreatePartitionRequest {
        collection_name: collection.to_owned(),
        partition_name: partition.to_owned(),
        ..CreatePartitionRequest::default()
    }
}

#[tokio::test]
async fn a_command_is_answered_once_its_effect_is_seen() {
    let fixture = Fixture::new().await;
    let before = fixture.context.view().revision();
    let mut request = Request::new(create_partition("books", "2024"));
    request
        .metadata_mut()
        .insert("dbname", "shop".parse().unwrap());
    request
        .metadata_mut()
        .insert("client-request-id", "same".parse().unwrap());
    let status = fixture
        .front
        .create_partition(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code_of(Some(status)), 0);
    assert!(fixture.context.view().revision() > before);

    let mut request = Request::new(create_partition("books", "2025"));
    request
        .metadata_mut()
        .insert("client-request-id", "same".parse().unwrap());
    fixture.front.create_partition(request).await.unwrap();
    let submitted = fixture.fake.submitted.lock().clone();
    assert_eq!(submitted[0].database, "shop");
    let command = Command::CreatePartition(create_partition("books", "2024"));
    assert_eq!(submitted[0].command, Some(command));
    // Two requests of a client that never changes its id are two commands.
    assert_ne!(submitted[0].request_id, submitted[1].request_id);
}

#[tokio::test]
async fn a_refusal_arrives_as_it_was_said() {
    let fixture = Fixture::new().await;
    let refusal = Error::unexpected("create duplicate collection with different parameters");
    fixture.fake.refusals.lock().push_back(refusal.clone());
    let message = CreateCollectionRequest {
        collection_name: "books".to_owned(),
        ..CreateCollectionRequest::default()
    };
    let status = fixture
        .front
        .create_collection(Request::new(message))
        .await
        .unwrap();
    assert_eq!(status.into_inner(), status::failure(&refusal));
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_the_root_coordinator_under_one_id() {
    let fixture = Fixture::new().await;
    fixture
        .fake
        .refusals
        .lock()
        .extend([away(), away(), away()]);
    let request = Request::new(create_partition("books", "2024"));
    let status = fixture
        .front
        .create_partition(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code_of(Some(status)), 0);
    let submitted = fixture.fake.submitted.lock().clone();
    assert_eq!(submitted.len(), 4);
    assert!(
        submitted
            .iter()
            .all(|request| request.request_id == submitted[0].request_id)
    );
}

#[tokio::test]
async fn impossible_names_are_refused_without_asking() {
    let fixture = Fixture::new().await;
    let front = &fixture.front;
    let request = Request::new(create_partition("1x", "a"));
    let status = front.create_partition(request).await.unwrap().into_inner();
    assert_eq!(code_of(Some(status)), 1100);
    let request = Request::new(create_partition("x", ""));
    let status = front.create_partition(request).await.unwrap().into_inner();
    assert!(
        status
            .reason
            .contains("Invalid partition name: . Partition name should not be empty.")
    );
    let message = CreateDatabaseRequest {
        db_name: "1x".to_owned(),
        ..CreateDatabaseRequest::default()
    };
    let status = front
        .create_database(Request::new(message))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code_of(Some(status)), 802);
    let message = CreateAliasRequest {
        alias: "-".to_owned(),
        collection_name: "x".to_owned(),
        ..CreateAliasRequest::default()
    };
    let status = front
        .create_alias(Request::new(message))
        .await
        .unwrap()
        .into_inner();
    assert!(
        status.reason.contains("Invalid collection alias: -."),
        "{}",
        status.reason
    );
    assert!(fixture.fake.submitted.lock().is_empty());
}
