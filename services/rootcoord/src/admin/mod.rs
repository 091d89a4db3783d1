//! What operators see of the metadata, the sagas and the raft group, as JSON on the admin port.
//!
//! What [`meta`], [`sagas`] and [`raft`] answer.

pub mod meta;
pub(crate) mod raft;
mod sagas;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use redkite_metastore::{Error, SharedKv};
use redkite_runtime::CancellationToken;
use serde_json::json;

pub use self::raft::routes as raft_routes;
use crate::ddl::DdlGate;

/// The routes of the root coordinator; answers without end of their own end with `stop`.
pub fn routes(kv: SharedKv, gate: &DdlGate, stop: CancellationToken) -> Router {
    meta::routes(kv, stop).merge(sagas::routes(gate.executor().clone()))
}

fn failed(error: &Error) -> Response {
    let text = redkite_types::error::chain(error);
    let status = match error {
        Error::Invalid { .. } | Error::HistoryPruned { .. } | Error::Compacted { .. } => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({ "error": text }))).into_response()
}
