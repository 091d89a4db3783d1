//! The envelope, the filters and the checks, without a network.

use std::sync::Arc;

use redkite_runtime::SystemClock;

use super::*;
use crate::testing::Fixture;

#[tokio::test]
async fn unsigned_requests_and_unknown_paths_get_their_codes() {
    let fixture = Fixture::with_collection().await;
    let options = VikingDbOptions {
        access_key: Some("AK".to_owned()),
        secret_key: "SK".into(),
        ..VikingDbOptions::default()
    };
    let surface: Arc<dyn Surface> =
        VikingDb::new(fixture.context.clone(), options, SystemClock::shared());
    let request = |method: &str, path: &str| HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: "{}".into(),
        request_id: "r1".to_owned(),
    };
    let unsigned = surface
        .clone()
        .answer(request("GET", "/api/viking_db/data/ping"))
        .await;
    let body: Value = serde_json::from_str(&unsigned.body).unwrap();
    assert_eq!((unsigned.status, &body["code"]), (401, &1_000_001.into()));
    assert_eq!(body["request_id"], "r1");
    let unknown = surface
        .clone()
        .answer(request("GET", "/api/task/create"))
        .await;
    let body: Value = serde_json::from_str(&unknown.body).unwrap();
    assert_eq!((unknown.status, &body["code"]), (404, &1_000_024.into()));
    let long = surface.refused("r2", 413, "too long");
    assert!(
        long.status == 413 && long.body.contains("1000003"),
        "{long:?}"
    );
}
