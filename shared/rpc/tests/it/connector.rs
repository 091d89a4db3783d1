use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use redkite_proto::redkite::datacoord::{CommitFlushRequest, DropDataRequest, SyncRequest};
use redkite_rpc::{Connector, call};
use redkite_runtime::Deadline;
use redkite_types::{ErrorCode, Outcome};

use crate::support::{Coord, options, refusal, soon, start, start_if};

const ADDRESS: &str = "local://datacoord/1";

#[tokio::test]
async fn a_service_of_the_same_process_is_called_directly_with_the_same_errors() {
    let connector = Connector::new(options());
    let service = Arc::new(Coord::default());
    connector.register_local_data_coord(ADDRESS, Arc::clone(&service) as _);
    let coord = connector.data_coord(ADDRESS).unwrap();
    call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await
    .unwrap();
    assert_eq!(service.calls.load(Ordering::SeqCst), 1);

    let request = DropDataRequest {
        collection_id: 7,
        partition_id: 0,
    };
    let error = call(soon(), request, |request| coord.drop_data(request))
        .await
        .unwrap_err();
    assert_eq!(error, refusal(7));

    let request = CommitFlushRequest::default();
    let error = call(soon(), request, |request| coord.commit_flush(request))
        .await
        .unwrap_err();
    assert_eq!(error.error.code, ErrorCode::Internal);

    let short = Deadline::after(Duration::from_millis(50));
    let request = SyncRequest { revision: 1 };
    let error = call(short, request, |request| coord.sync(request))
        .await
        .unwrap_err();
    assert_eq!(error.error.code, ErrorCode::Timeout);
}

#[tokio::test]
async fn what_was_given_out_finds_the_restarted_service() {
    let connector = Connector::new(options());
    let coord = connector.data_coord(ADDRESS).unwrap();
    let absent = call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await;
    let absent = absent.unwrap_err();
    assert_eq!(absent.error.code, ErrorCode::ServiceUnavailable);
    assert_eq!(absent.outcome, Some(Outcome::NotApplied));

    let (first, second) = (Arc::new(Coord::default()), Arc::new(Coord::default()));
    connector.register_local_data_coord(ADDRESS, Arc::clone(&first) as _);
    call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await
    .unwrap();
    connector.unregister_local(ADDRESS);
    assert!(
        call(soon(), SyncRequest::default(), |request| coord
            .sync(request))
        .await
        .is_err()
    );
    connector.register_local_data_coord(ADDRESS, Arc::clone(&second) as _);
    call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await
    .unwrap();
    let counts = [&first, &second].map(|coord| coord.calls.load(Ordering::SeqCst));
    assert_eq!(counts, [1, 1]);
}

#[tokio::test]
async fn an_isolated_address_cannot_be_reached_near_or_far() {
    let server = start(options()).await;
    let connector = Connector::new(options());
    connector.register_local_data_coord(ADDRESS, Arc::new(Coord::default()));
    for address in [ADDRESS, &server.address] {
        let coord = connector.data_coord(address).unwrap();
        connector.isolate(address, true);
        let cut = call(soon(), SyncRequest::default(), |request| {
            coord.sync(request)
        })
        .await;
        assert!(cut.unwrap_err().error.retriable);
        connector.isolate(address, false);
        call(soon(), SyncRequest::default(), |request| {
            coord.sync(request)
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused_at_once() {
    let connector = Connector::new(options());
    for address in ["", "not an address", "http://"] {
        let error = connector.query_node(address).err().unwrap();
        assert!(
            matches!(error, redkite_rpc::Error::Address { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn calls_to_a_process_that_is_gone_are_given_up_and_later_ones_are_made() {
    let server = start(options()).await;
    let connector = Connector::new(options());
    let coord = connector.data_coord(&server.address).unwrap();
    let waits = SyncRequest { revision: 1 };
    let waiting = call(soon(), waits, |request| coord.sync(request));
    let giving_up = async {
        server.coord.entered.notified().await;
        connector.give_up(&server.address);
    };
    let (answer, ()) = tokio::join!(waiting, giving_up);
    let error = answer.unwrap_err();
    assert_eq!(error.error.code, ErrorCode::ServiceUnavailable);
    assert!(error.error.retriable);
    assert_eq!(
        error.outcome,
        Some(Outcome::Unknown),
        "it was being answered"
    );
    call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_may_not_answer_refuses_before_its_handlers_are_asked() {
    let may = Arc::new(AtomicBool::new(false));
    let asked = may.clone();
    let admit = Arc::new(move || std::future::ready(asked.load(Ordering::SeqCst)).boxed());
    let server = start_if(options(), admit).await;
    let connector = Connector::new(options());
    let coord = connector.data_coord(&server.address).unwrap();
    let ask = async || {
        let message = SyncRequest::default();
        call(soon(), message, |request| coord.sync(request)).await
    };
    let error = ask().await.unwrap_err();
    assert_eq!(error.error.code, ErrorCode::ServiceNotReady);
    assert!(error.error.retriable && error.not_applied());
    assert_eq!(server.coord.calls.load(Ordering::SeqCst), 0);
    may.store(true, Ordering::SeqCst);
    ask().await.unwrap();
}
