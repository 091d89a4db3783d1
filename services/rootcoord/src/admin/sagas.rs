//! The sagas: which are under way, and what a human can do about one that is stuck.
//!
//! `GET /admin/sagas`, `GET /admin/sagas/{id}`, `POST /admin/sagas/{id}/retry`,
//! `POST /admin/sagas/{id}/abort`.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use redkite_saga::{Error, Result, SagaExecutor};
use redkite_types::{SagaId, error::chain};
use serde_json::{Value, json};
use tracing::warn;

/// The routes of an executor.
pub(super) fn routes(executor: SagaExecutor) -> Router {
    Router::new()
        .route("/admin/sagas", get(list))
        .route("/admin/sagas/{id}", get(show))
        .route("/admin/sagas/{id}/retry", post(retry))
        .route("/admin/sagas/{id}/abort", post(abort))
        .with_state(executor)
}

async fn list(State(executor): State<SagaExecutor>) -> Response {
    Json(json!({ "sagas": executor.list() })).into_response()
}

async fn show(State(executor): State<SagaExecutor>, Path(id): Path<i64>) -> Response {
    answer(shown(&executor, SagaId(id)))
}

/// Tries the undo of a stuck saga again.
async fn retry(State(executor): State<SagaExecutor>, Path(id): Path<i64>) -> Response {
    let id = SagaId(id);
    let retried = executor.retry(id).await;
    answer(retried.and_then(|()| shown(&executor, id)))
}

/// Takes a running saga back, or gives a stuck one up.
async fn abort(State(executor): State<SagaExecutor>, Path(id): Path<i64>) -> Response {
    let id = SagaId(id);
    let aborted = executor.abort(id).await;
    if aborted.is_ok() {
        warn!(%id, "a saga was aborted by hand");
    }
    answer(aborted.and_then(|()| shown(&executor, id)))
}

/// A saga with the list of its steps; which of them it is at, the saga itself says.
fn shown(executor: &SagaExecutor, id: SagaId) -> Result<Value> {
    let info = executor.show(id)?;
    // A version that is not registered any more has no steps to show, which is why it waits.
    let steps = executor.steps(&info.kind, info.version).unwrap_or_default();
    Ok(json!({ "saga": info, "steps": steps }))
}

fn answer(outcome: Result<Value>) -> Response {
    let error = match outcome {
        Ok(body) => return Json(body).into_response(),
        Err(error) => error,
    };
    let status = match error {
        // Not 404, which says that there is no such page.
        Error::NotFound { .. } => StatusCode::GONE,
        Error::WrongState { .. } => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({ "error": chain(&error) }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use redkite_metastore::{MemKv, Txn};
    use redkite_runtime::TaskGroup;
    use redkite_saga::{LockKey, Outputs, Registry, Saga, SagaConfig, Step, StepError, StepKey};
    use tower::ServiceExt as _;

    use super::*;

    /// Marks, fails, and cannot take the mark back until it is allowed to.
    struct Fragile {
        can_undo: Arc<AtomicBool>,
    }

    impl Saga for Fragile {
        const KIND: &'static str = "fragile";
        const VERSION: u32 = 1;
        type Params = ();
        type Output = ();

        fn locks(&self, (): &()) -> Vec<LockKey> {
            vec![LockKey::write("thing")]
        }

        fn steps(&self) -> Vec<Step<()>> {
            let rejected = |what: &str| {
                let error = redkite_types::Error::internal(what);
                StepError::Rejected(error)
            };
            let can_undo = self.can_undo.clone();
            vec![
                Step::call(StepKey::<()>::new("mark"), |_| async { Ok(()) }).undo_call(move |_| {
                    let allowed = can_undo.load(Ordering::SeqCst);
                    async move {
                        match allowed {
                            true => Ok(()),
                            false => Err(rejected("the mark sticks")),
                        }
                    }
                }),
                Step::call(StepKey::<()>::new("fail"), move |_| async move {
                    Err(rejected("it never works"))
                }),
                Step::meta(StepKey::<()>::new("commit"), |_| Ok(Txn::new())).pivot(),
            ]
        }

        fn output(&self, (): &(), _: &Outputs) -> redkite_types::Result<()> {
            Ok(())
        }
    }

    async fn call(routes: &Router, method: &str, path: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let answer = routes.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_stuck_saga_is_shown_retried_and_given_up() {
        let can_undo = Arc::new(AtomicBool::new(false));
        let mut registry = Registry::new();
        let fragile = Fragile {
            can_undo: can_undo.clone(),
        };
        registry.register(fragile).unwrap();
        let tasks = TaskGroup::new("test");
        let config = SagaConfig::new(Arc::new(MemKv::new()), 1, registry, tasks);
        let executor = SagaExecutor::start(config).await.unwrap();
        let routes = routes(executor.clone());
        let stuck = async || {
            let handle = executor.submit::<Fragile>((), "").unwrap();
            let id = handle.id();
            let error = handle.wait().await.unwrap_err();
            assert!(matches!(error, Error::Stuck { .. }), "{error}");
            id
        };

        let first = stuck().await;
        let (status, body) = call(&routes, "GET", &format!("/admin/sagas/{first}")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["saga"]["state"], "stuck");
        assert_eq!(
            body["saga"]["last_error"],
            "undo of step mark: the mark sticks"
        );
        assert_eq!(body["steps"].as_array().unwrap().len(), 3);
        let (_, body) = call(&routes, "GET", "/admin/sagas").await;
        assert_eq!(body["sagas"][0]["id"], first.0);

        // The cause is removed: retried, it is undone, and its locks are free for the next one.
        can_undo.store(true, Ordering::SeqCst);
        let (status, _) = call(&routes, "POST", &format!("/admin/sagas/{first}/retry")).await;
        assert_eq!(status, StatusCode::OK);
        executor.idle().await;
        let (_, body) = call(&routes, "GET", &format!("/admin/sagas/{first}")).await;
        assert_eq!(body["saga"]["state"], "failed");
        let (status, _) = call(&routes, "POST", &format!("/admin/sagas/{first}/retry")).await;
        assert_eq!(status, StatusCode::CONFLICT);

        // The cause cannot be removed: given up, it is failed all the same.
        can_undo.store(false, Ordering::SeqCst);
        let second = stuck().await;
        let (status, body) = call(&routes, "POST", &format!("/admin/sagas/{second}/abort")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["saga"]["state"], "failed");
        let (_, body) = call(&routes, "GET", "/admin/sagas").await;
        assert_eq!(body["sagas"], json!([]));
        stuck().await;

        let (status, body) = call(&routes, "POST", "/admin/sagas/77/abort").await;
        assert_eq!(status, StatusCode::GONE);
        assert!(body["error"].as_str().unwrap().contains("77"), "{body}");
    }
}
