//! Garbage collection and the check for operators, as JSON on the admin port.
//!
//! `GET /admin/gc` says what a round would delete, `POST /admin/gc` runs one, `GET /admin/fsck` checks
//! records and files.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use redkite_metastore::{KeyValue, MetaKv, SharedKv, read_all};
use redkite_runtime::TaskGroup;
use redkite_storage::ObjectStore;
use redkite_types::{Error, ErrorCode, Result, Revision};
use serde::Serialize;
use serde_json::json;

use crate::{
    fsck::{self, LogCheck, Report, Subject},
    gc::{Collector, Round},
};

/// How often the metadata is read until it does not change meanwhile.
const READS: usize = 20;

/// What the admin port shows.
#[derive(Clone)]
pub struct Shown {
    /// The metastore.
    pub kv: SharedKv,
    /// The object store.
    pub store: Arc<dyn ObjectStore>,
    /// The logs, where they are on this machine.
    pub logs: Option<Arc<dyn LogCheck>>,
    /// The collector.
    pub collector: Arc<Collector>,
    /// What a collection belongs to that goes on when its caller has left.
    pub tasks: TaskGroup,
}

/// The routes of the data coordinator.
pub fn routes(shown: Shown) -> Router {
    Router::new()
        .route("/admin/gc", get(planned).post(collected))
        .route("/admin/fsck", get(checked))
        .with_state(shown)
}

async fn planned(State(shown): State<Shown>) -> Response {
    answer(shown.collector.plan().await)
}

async fn collected(State(shown): State<Shown>) -> Response {
    let collector = shown.collector.clone();
    let round = shown.tasks.detach(
        "collection on demand",
        async move { collector.collect().await },
    );
    let round: Result<Round> = round.await.unwrap_or_else(|error| Err(error.into()));
    answer(round)
}

async fn checked(State(shown): State<Shown>) -> Response {
    answer(check(&shown).await)
}

async fn check(shown: &Shown) -> Result<Report> {
    let (pairs, revision) = read_at_once(shown.kv.as_ref()).await?;
    let subject = Subject {
        pairs,
        revision,
        store: shown.store.clone(),
        logs: shown.logs.clone(),
        live: Some(shown.kv.clone()),
    };
    Ok(fsck::check(&subject).await)
}

/// All pairs as of one revision: pages of different ones may contradict each other.
async fn read_at_once(kv: &dyn MetaKv) -> Result<(Vec<KeyValue>, Revision)> {
    for _ in 0..READS {
        let failed = |error: redkite_metastore::Error| Error::from_coded(&error);
        let (pairs, revision) = read_all(kv, "").await.map_err(failed)?;
        let now = kv.range("", None, 1).await.map_err(failed)?.revision;
        if now == revision {
            return Ok((pairs, revision));
        }
    }
    Err(Error::new(
        ErrorCode::ServiceUnavailable,
        "the metadata changes too fast to be read as of one moment, try again",
    ))
}

fn answer(result: Result<impl Serialize>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "error": error.message })),
        )
            .into_response(),
    }
}
