use std::time::Duration;

use axum::Router;
use axum::routing::get;
use redkite_rpc::admin;
use redkite_runtime::{Health, HealthState, OnFailure, TaskGroup};
use redkite_telemetry::TelemetryOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Status and body of one request.
async fn fetch(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn operators_see_health_metrics_and_further_routes() {
    std::mem::forget(redkite_telemetry::init(&TelemetryOptions::default()).unwrap());
    metrics::counter!("redkite_rpc_admin_test_total").increment(2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let health = Health::new();
    let group = TaskGroup::new("admin");
    let late = admin::LateRoutes::default();
    let routes = admin::routes(health.clone(), late.clone());
    group.spawn(
        "admin",
        OnFailure::Shutdown,
        admin::serve(listener, routes, group.token()),
    );

    assert_eq!(fetch(&address, "/healthz").await.0, 200);
    health.set(HealthState::Starting, "waiting for the metastore");
    let (status, body) = fetch(&address, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("waiting for the metastore"), "{body}");
    health.ready();
    assert_eq!(
        fetch(&address, "/readyz").await,
        (200, "ready\n".to_owned())
    );
    let (status, body) = fetch(&address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("redkite_rpc_admin_test_total 2"), "{body}");
    // A service comes up later and adds its own.
    assert_eq!(fetch(&address, "/admin/own").await.0, 404);
    late.add(Router::new().route("/admin/own", get(|| async { "own" })));
    assert_eq!(fetch(&address, "/admin/own").await, (200, "own".to_owned()));
    assert_eq!(fetch(&address, "/nothing").await.0, 404);
    group.shutdown(Duration::from_secs(20)).await.unwrap();
}
