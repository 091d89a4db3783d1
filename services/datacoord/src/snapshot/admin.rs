//! Snapshots for operators, as JSON on the admin port.
//!
//! `GET /admin/snapshots` lists those of a collection or of all, `GET /admin/snapshots/diff` compares two.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use redkite_catalog::{Catalog, CollectionEntry};
use redkite_proto::redkite::meta::SnapshotInfo;
use redkite_types::{DatabaseId, Error, Result, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Bundles;

#[derive(Clone)]
struct Shown {
    catalog: Arc<Catalog>,
    bundles: Arc<Bundles>,
}

/// Which snapshots.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    database: String,
    /// Empty for all.
    collection: String,
    /// Empty for all.
    name: String,
}

/// Which two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    #[serde(default)]
    database: String,
    collection: String,
    a: String,
    b: String,
}

/// The routes of snapshots.
pub fn routes(catalog: Arc<Catalog>, bundles: Arc<Bundles>) -> Router {
    Router::new()
        .route("/admin/snapshots", get(listed))
        .route("/admin/snapshots/diff", get(compared))
        .with_state(Shown { catalog, bundles })
}

async fn listed(State(shown): State<Shown>, Query(wanted): Query<Wanted>) -> Response {
    answer(list(&shown, &wanted))
}

fn list(shown: &Shown, wanted: &Wanted) -> Result<Value> {
    let view = shown.catalog.view();
    let found: Vec<Value> = match wanted.collection.as_str() {
        "" => view
            .all_snapshots()
            .map(|snapshot| {
                let entry =
                    view.collection_by_id(redkite_types::CollectionId(snapshot.collection_id));
                show(entry.map_or("", |entry| entry.name()), snapshot)
            })
            .collect(),
        name => {
            let entry = collection(shown, &wanted.database, name)?;
            let all = entry.snapshots.values();
            let all = all.filter(|one| wanted.name.is_empty() || one.name == wanted.name);
            all.map(|snapshot| show(entry.name(), snapshot)).collect()
        }
    };
    if found.is_empty() && !wanted.name.is_empty() {
        let entry = collection(shown, &wanted.database, &wanted.collection)?;
        return Err(super::not_found(entry.id(), &wanted.name));
    }
    Ok(json!({ "snapshots": found }))
}

async fn compared(State(shown): State<Shown>, Query(asked): Query<Compared>) -> Response {
    let diff = async {
        let entry = collection(&shown, &asked.database, &asked.collection)?;
        shown.bundles.diff(entry.id(), &asked.a, &asked.b).await
    };
    let diff: Result<Value> = diff.await.map(|diff| json!({ "diff": diff }));
    answer(diff)
}

fn collection(shown: &Shown, database: &str, name: &str) -> Result<Arc<CollectionEntry>> {
    let view = shown.catalog.view();
    let database = match database {
        "" => "default",
        given => given,
    };
    let found = view
        .database(database)
        .ok_or_else(|| Error::database_not_found(database))?;
    let entry = view.collection(DatabaseId(found.id), name);
    entry
        .cloned()
        .ok_or_else(|| Error::collection_not_found(database, name))
}

fn show(collection: &str, snapshot: &SnapshotInfo) -> Value {
    json!({
        "name": snapshot.name,
        "collection": collection,
        "collection_id": snapshot.collection_id,
        "description": snapshot.description,
        "create_ts": snapshot.ts,
        "create_ms": Timestamp(snapshot.ts).physical_ms(),
        "partitions": snapshot.partition_names,
        "segments": snapshot.segment_ids.len(),
        "rows": snapshot.rows,
        "bytes": snapshot.bytes,
        "indexes": snapshot.indexes,
        "pins": snapshot.pins.iter().map(|pin| json!({
            "id": pin.id,
            "expires_ms": pin.expires_ms,
        })).collect::<Vec<_>>(),
        "manifest": snapshot.manifest.as_ref().map(|file| &file.path),
        "internal": snapshot.internal,
    })
}

fn answer(outcome: Result<Value>) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match error.retriable {
                true => StatusCode::SERVICE_UNAVAILABLE,
                false => StatusCode::BAD_REQUEST,
            };
            (status, Json(json!({ "error": error.message }))).into_response()
        }
    }
}
