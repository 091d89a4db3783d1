//! Traces reach a collector. In a binary of its own, since a process has one subscriber.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use redkite_telemetry::{TelemetryOptions, init};
use tokio_stream::wrappers::TcpListenerStream;

type Received = Arc<Mutex<Vec<u8>>>;

/// Takes any call and answers with an empty message.
async fn collect(State(received): State<Received>, body: Bytes) -> Response {
    received
        .lock()
        .expect("no test thread panics with the lock")
        .extend_from_slice(&body);
    let headers = [("content-type", "application/grpc"), ("grpc-status", "0")];
    (headers, vec![0; 5]).into_response()
}

#[test]
fn the_last_spans_are_delivered_when_the_guard_goes() {
    let collector = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let received = Received::default();
    let router = Router::new()
        .fallback(collect)
        .with_state(Arc::clone(&received));
    collector.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(router))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });

    let guard = init(&TelemetryOptions {
        otlp_endpoint: Some(format!("http://{address}")),
        service_name: "redkite-under-test".to_owned(),
        ..TelemetryOptions::default()
    })
    .unwrap();
    tracing::info_span!("a_span_that_matters").in_scope(|| {
        tracing::debug_span!("a_detail").in_scope(|| ());
    });
    guard.shutdown();

    let bytes = received.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("a_span_that_matters"),
        "{} bytes",
        bytes.len()
    );
    assert!(text.contains("redkite-under-test"));
    assert!(!text.contains("a_detail"));
}
