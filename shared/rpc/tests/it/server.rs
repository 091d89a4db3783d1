use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use redkite_config::HumanDuration;
use redkite_proto::redkite::datacoord::data_coord_server::DataCoord;
use redkite_proto::redkite::datacoord::{
    CommitFlushRequest, DescribeIndexesRequest, DropDataRequest, SyncRequest,
};
use redkite_rpc::{ChannelPool, Connector, RpcOptions, call};
use redkite_runtime::{Deadline, HealthState, OnFailure, TaskGroup};
use redkite_telemetry::TelemetryOptions;
use redkite_types::{ErrorCode, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing::Instrument as _;

use crate::support::{LIMIT, options, refusal, soon, start, unlimited};

fn to(address: &str, options: RpcOptions) -> std::sync::Arc<dyn DataCoord> {
    Connector::new(options).data_coord(address).unwrap()
}

#[tokio::test]
async fn errors_arrive_with_all_their_details() {
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let request = DropDataRequest {
        collection_id: 7,
        partition_id: 0,
    };
    let error = call(soon(), request, |request| coord.drop_data(request))
        .await
        .unwrap_err();
    assert_eq!(error, refusal(7));
}

/// tonic's own clients give up by themselves at the same time, so this one knows nothing of deadlines.
#[tokio::test]
async fn a_call_whose_time_is_over_is_told_so_and_not_that_it_was_cancelled() {
    let server = start(options()).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let tasks = TaskGroup::new("client");
    tasks.spawn_cancellable("connection", OnFailure::Log, connection);
    let waits = SyncRequest { revision: 1 };
    let mut frame = vec![0];
    frame.extend(u32::try_from(waits.encoded_len()).unwrap().to_be_bytes());
    waits.encode(&mut frame).unwrap();
    let uri = format!("http://{}/redkite.datacoord.DataCoord/Sync", server.address);
    let request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    let status = tonic::Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    assert_eq!(server.coord.calls.load(Ordering::SeqCst), 1);
    tasks.cancel();
}

#[tokio::test]
async fn a_panicking_handler_answers_and_the_server_lives_on() {
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let request = CommitFlushRequest::default();
    let error = call(soon(), request, |request| coord.commit_flush(request))
        .await
        .unwrap_err();
    assert_eq!(error.error.code, ErrorCode::Internal);
    assert!(error.error.message.contains("no channel"), "{error}");
    assert_eq!(error.outcome, Some(Outcome::Unknown));
    call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn messages_beyond_the_limit_are_refused_clearly_in_both_directions() {
    let server = start(options()).await;
    let coord = to(&server.address, unlimited());
    let fits = CommitFlushRequest {
        channel: "c".repeat(LIMIT - 16),
        ..CommitFlushRequest::default()
    };
    call(soon(), fits, |request| coord.commit_flush(request))
        .await
        .unwrap();

    let large = CommitFlushRequest {
        channel: "c".repeat(LIMIT),
        ..CommitFlushRequest::default()
    };
    let status = coord
        .commit_flush(tonic::Request::new(large.clone()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    let error = call(soon(), large.clone(), |request| coord.commit_flush(request)).await;
    let error = error.unwrap_err();
    assert_eq!(error.error.code, ErrorCode::ParameterTooLarge);
    assert!(error.error.is_input_error && !error.error.retriable);
    assert!(
        error
            .error
            .message
            .contains(&format!("the limit is: {LIMIT} bytes")),
        "{error}"
    );

    let long_answer = DescribeIndexesRequest {
        collection_id: LIMIT as i64,
        timestamp: 0,
    };
    let status = coord
        .describe_indexes(tonic::Request::new(long_answer))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    let error = call(soon(), long_answer, |request| {
        coord.describe_indexes(request)
    })
    .await;
    assert_eq!(error.unwrap_err().error.code, ErrorCode::ParameterTooLarge);

    // The caller's own limit stops it before anything is sent.
    let coord = to(&server.address, options());
    let error = call(soon(), large, |request| coord.commit_flush(request))
        .await
        .unwrap_err();
    assert_eq!(error.error.code, ErrorCode::ParameterTooLarge, "{error}");
}

#[tokio::test]
async fn a_call_ends_with_its_deadline_on_both_sides() {
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let deadline = Deadline::after(Duration::from_secs(3));
    let request = SyncRequest { revision: 1 };
    let error = call(deadline, request, |request| coord.sync(request))
        .await
        .unwrap_err();
    assert_eq!(error.error.code, ErrorCode::Timeout);
    assert_eq!(error.outcome, Some(Outcome::Unknown));
}

#[tokio::test]
async fn nobody_there_means_unavailable_and_not_applied() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let coord = to(&free.to_string(), options());
    let error = call(soon(), SyncRequest::default(), |request| {
        coord.sync(request)
    })
    .await;
    let error = error.unwrap_err();
    assert_eq!(error.error.code, ErrorCode::ServiceUnavailable);
    assert!(error.error.retriable);
    assert_eq!(error.outcome, Some(Outcome::NotApplied), "{error}");
}

#[tokio::test]
async fn the_health_service_follows_our_health() {
    let server = start(options()).await;
    let channel = ChannelPool::new(options()).get(&server.address).unwrap();
    let mut client = HealthClient::new(channel);
    let service = String::from("redkite.datacoord.DataCoord");
    let mut watched = client
        .watch(HealthCheckRequest {
            service: service.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    let (serving, not_serving) = (1, 2);
    // The first answer may come before the server has said anything about the service.
    loop {
        let status = watched.message().await.unwrap().unwrap().status;
        if status == not_serving {
            break;
        }
    }
    server.health.ready();
    assert_eq!(watched.message().await.unwrap().unwrap().status, serving);
    for service in [service, String::new()] {
        let answer = client.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status, serving);
    }
    server.health.set(HealthState::Stopping, "");
    assert_eq!(
        watched.message().await.unwrap().unwrap().status,
        not_serving
    );
}

#[tokio::test]
async fn a_graceful_stop_lets_calls_finish_and_takes_no_new_ones() {
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let caller = std::sync::Arc::clone(&coord);
    let running = server.group.detach("caller", async move {
        call(soon(), SyncRequest { revision: 1 }, |request| {
            caller.sync(request)
        })
        .await
    });
    server.coord.entered.notified().await;
    server.group.cancel();
    redkite_runtime::testing::eventually("the port is closed", Duration::from_secs(60), || async {
        TcpStream::connect(&server.address)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    server.coord.gate.add_permits(1);
    running.await.unwrap().unwrap();
    server
        .group
        .shutdown(Duration::from_secs(60))
        .await
        .unwrap();
}

#[tokio::test]
async fn calls_that_do_not_finish_are_cut_at_the_limit() {
    let limited = RpcOptions {
        drain_limit: HumanDuration::millis(100),
        ..options()
    };
    let server = start(limited).await;
    let coord = to(&server.address, options());
    let running = redkite_runtime::TaskGroup::new("caller").detach("caller", async move {
        call(soon(), SyncRequest { revision: 1 }, |request| {
            coord.sync(request)
        })
        .await
    });
    server.coord.entered.notified().await;
    server
        .group
        .shutdown(Duration::from_secs(60))
        .await
        .unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(error.error.retriable, "{error:?}");
    assert_eq!(error.error.code, ErrorCode::ServiceUnavailable);
    assert_eq!(error.outcome, Some(Outcome::Unknown));
}

#[tokio::test]
async fn a_crash_cuts_connections_at_once() {
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let running = redkite_runtime::TaskGroup::new("caller").detach("caller", async move {
        call(soon(), SyncRequest { revision: 1 }, |request| {
            coord.sync(request)
        })
        .await
    });
    server.coord.entered.notified().await;
    server.group.abort();
    assert_eq!(
        running.await.unwrap().unwrap_err().error.code,
        ErrorCode::ServiceUnavailable
    );
}

#[tokio::test]
async fn a_trace_goes_along() {
    let traced = TelemetryOptions {
        otlp_endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..TelemetryOptions::default()
    };
    // Nobody listens there, and a dropped guard would wait for it.
    std::mem::forget(redkite_telemetry::init(&traced).unwrap());
    let server = start(options()).await;
    let coord = to(&server.address, options());
    let span = tracing::info_span!("caller");
    let trace = redkite_telemetry::trace::trace_id(&span);
    assert!(trace.is_some());
    async {
        call(soon(), SyncRequest::default(), |request| {
            coord.sync(request)
        })
        .await
        .unwrap()
    }
    .instrument(span)
    .await;
    assert_eq!(*server.coord.trace.lock(), trace);
}

/// Milvus's SDKs test an idle connection every 10 s, which servers on the C++ core answer with
/// GOAWAY `too_many_pings`. Here a thousand pings without any call are just answered.
#[tokio::test]
async fn pings_without_calls_are_answered_and_never_punished() {
    const FRAME_HEADER: usize = 9;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const PINGS: usize = 1_000;

    let server = start(options()).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    writer.write_all(&hello).await.unwrap();
    let mut answered = 0;
    while answered < PINGS {
        let mut ping = vec![0, 0, 8, PING, 0, 0, 0, 0, 0];
        ping.extend((answered as u64).to_be_bytes());
        writer.write_all(&ping).await.unwrap();
        loop {
            let mut header = [0; FRAME_HEADER];
            let read = reader.read_exact(&mut header);
            soon().timeout("a frame", read).await.unwrap().unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).await.unwrap();
            assert_ne!(header[3], GOAWAY, "after {answered} pings");
            if header[3] == PING && payload == (answered as u64).to_be_bytes() {
                break;
            }
        }
        answered += 1;
    }
}
