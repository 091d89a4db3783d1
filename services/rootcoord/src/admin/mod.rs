//! What operators see of the metadata, the sagas and the raft group, as JSON on the admin port.
//!
//! `GET /admin/meta?prefix=P&after=K&limit=N`, and what [`sagas`] and [`raft`] answer.

mod raft;
mod sagas;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use redkite_catalog::view::describe;
use redkite_metastore::{KeyValue, SharedKv};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::raft::routes as raft_routes;
use crate::ddl::DdlGate;

/// Records on one page unless the request says otherwise, and at most.
const PAGE: usize = 1_000;

#[derive(Clone)]
struct Seen {
    kv: SharedKv,
}

/// The routes of the root coordinator.
pub fn routes(kv: SharedKv, gate: &DdlGate) -> Router {
    Router::new()
        .route("/admin/meta", get(meta_page))
        .with_state(Seen { kv })
        .merge(sagas::routes(gate.executor().clone()))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            after: None,
            limit: PAGE,
        }
    }
}

#[derive(Serialize)]
struct Shown {
    key: String,
    revision: u64,
    lease: u64,
    bytes: usize,
    /// In readable form; UTF-8 text as it is; absent for other bytes.
    value: Option<String>,
}

impl Shown {
    fn new(pair: KeyValue) -> Self {
        let value = describe(&pair).or_else(|| String::from_utf8(pair.value.to_vec()).ok());
        // A saga's record has the hash of a password in it.
        let value = value.filter(|text| !text.contains("\"encrypted_password\""));
        Self {
            revision: pair.revision.0,
            lease: pair.lease,
            bytes: pair.value.len(),
            key: pair.key,
            value,
        }
    }
}

async fn meta_page(State(seen): State<Seen>, Query(asked): Query<Asked>) -> Response {
    let limit = asked.limit.clamp(1, PAGE);
    match seen
        .kv
        .range(&asked.prefix, asked.after.as_deref(), limit)
        .await
    {
        Ok(page) => Json(json!({
            "revision": page.revision.0,
            "next": page.next,
            "records": page.pairs.into_iter().map(Shown::new).collect::<Vec<_>>(),
        }))
        .into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &redkite_metastore::Error) -> Response {
    let text = redkite_types::error::chain(error);
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({ "error": text })),
    )
        .into_response()
}
