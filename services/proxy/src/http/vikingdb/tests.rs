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

#[tokio::test]
async fn an_export_is_recorded_with_its_filter_and_shown() {
    let fixture = Fixture::with_collection().await;
    let view = fixture.context.view();
    let entry = crate::lookup::collection(&view, "default", crate::testing::COLLECTION).unwrap();
    let key = &entry.schema().primary_key().name;
    let ask = async |operation: Operation, body: Value| {
        let bytes = body.to_string();
        let call = Call {
            context: &fixture.context,
            caller: Caller {
                user: "root",
                view: fixture.context.view(),
                sees_only_granted: false,
            },
            meta: RequestContext {
                database: limits::DEFAULT_DATABASE.to_owned(),
                request_id: Some("r1".to_owned()),
                deadline: Deadline::after(std::time::Duration::from_secs(10)),
                client: None,
                caller: crate::auth::Caller::anybody(),
            },
            body: Body::read(bytes.as_bytes(), "").unwrap(),
        };
        operation.run(call).await
    };
    let export =
        |params: Value| serde_json::json!({"task_type": "data_export", "task_params": params});
    let params = serde_json::json!({
        "collection_name": crate::testing::COLLECTION,
        "tos_path": "bucket/dir",
        "filter": {(key.as_str()): [1, 2]},
    });
    let made = ask(Operation::CreateTask, export(params.clone()))
        .await
        .unwrap();
    let plan = fixture.fake.exports.lock()[0].filter.clone();
    let plan = redkite_expr::Plan::decode(&plan).unwrap();
    let wanted =
        crate::plan::compile_filter(&entry, &format!("{key} in [1, 2]"), Default::default());
    assert_eq!(plan, wanted.unwrap());

    let shown = ask(Operation::GetTask, made.clone()).await.unwrap();
    assert_eq!(shown["task_params"], params);
    assert_eq!(shown["task_status"], "init");
    assert_eq!(shown["process_info"]["task_progress"], "0%");
    ask(Operation::DropTask, made.clone()).await.unwrap();
    let gone = ask(Operation::GetTask, made).await.unwrap_err();
    assert_eq!((gone.status, gone.code), (404, 1_000_035));

    let mut neither = params;
    neither["filter"] = Value::Null;
    let refused = ask(Operation::CreateTask, export(neither))
        .await
        .unwrap_err();
    assert_eq!((refused.status, refused.code), (400, 1_000_003));
}
