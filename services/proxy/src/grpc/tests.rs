use redkite_proto::milvus::milvus::{milvus_service_server::MilvusService as _, *};
use redkite_types::Error;
use tonic::{Code, Request};

use crate::testing::{Fixture, code_of};

#[tokio::test]
async fn what_is_not_served_says_its_name_and_unimplemented() {
    let fixture = Fixture::new().await;
    let front = &fixture.front;
    let refused = [
        (
            "CreateNamespace",
            front
                .create_namespace(Request::new(Default::default()))
                .await
                .unwrap_err(),
        ),
        (
            "GetUserTags",
            front
                .get_user_tags(Request::new(Default::default()))
                .await
                .unwrap_err(),
        ),
        (
            "AlterCollectionSchema",
            front
                .alter_collection_schema(Request::new(Default::default()))
                .await
                .unwrap_err(),
        ),
        (
            "SetRLSPrincipalTags",
            front
                .set_rls_principal_tags(Request::new(Default::default()))
                .await
                .unwrap_err(),
        ),
        (
            "ListIndexedSegment",
            front
                .list_indexed_segment(Request::new(Default::default()))
                .await
                .unwrap_err(),
        ),
        (
            "DumpMessages",
            front
                .dump_messages(Request::new(Default::default()))
                .await
                .map(|_| ())
                .unwrap_err(),
        ),
    ];
    for (rpc, status) in refused {
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            status.message(),
            format!("{rpc} is not served by this version")
        );
    }
}

#[tokio::test]
async fn errors_of_the_request_travel_in_the_status() {
    let fixture = Fixture::new().await;
    let message = DescribeCollectionRequest {
        collection_name: "nothing".to_owned(),
        ..DescribeCollectionRequest::default()
    };
    let response = fixture
        .front
        .describe_collection(Request::new(message))
        .await
        .unwrap();
    let status = response.into_inner().status.unwrap();
    assert_eq!((status.code, status.error_code), (100, 4));
    let text = "can't find collection collection not found[database=default][collection=nothing]";
    assert_eq!(status.reason, text);

    let message = DropCollectionRequest {
        collection_name: "1x".to_owned(),
        ..DropCollectionRequest::default()
    };
    let response = fixture
        .front
        .drop_collection(Request::new(message))
        .await
        .unwrap();
    assert_eq!(code_of(Some(response.into_inner())), 1100);
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_leaves() {
    let fixture = Fixture::new().await;
    let closed = fixture.fake.gate.write().await;
    fixture
        .fake
        .refusals
        .lock()
        .push_back(Error::internal("seen"));
    let message = CreateDatabaseRequest {
        db_name: "films".to_owned(),
        ..CreateDatabaseRequest::default()
    };
    {
        let call = fixture.front.create_database(Request::new(message));
        let submitted = redkite_runtime::testing::eventually_true("the submission", || {
            !fixture.fake.submitted.lock().is_empty()
        });
        tokio::select! {
            _ = call => panic!("the gate is closed"),
            () = submitted => {}
        }
    }
    drop(closed);
    // The call was dropped; its work still reaches the point behind the gate.
    redkite_runtime::testing::eventually_true("the end of the change", || {
        fixture.fake.refusals.lock().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let fixture = Fixture::new().await;
    let _closed = fixture.fake.gate.write().await;
    let message = CreateDatabaseRequest {
        db_name: "films".to_owned(),
        ..CreateDatabaseRequest::default()
    };
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("grpc-timeout", "5m".parse().unwrap());
    let status = fixture
        .front
        .create_database(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code_of(Some(status)), 10_001);
}
