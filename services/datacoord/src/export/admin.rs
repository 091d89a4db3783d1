//! Exports for operators, as JSON on the admin port.
//!
//! `POST /admin/exports` begins one, `GET /admin/exports` shows all or one.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use redkite_proto::redkite::meta::{ExportInfo, ExportTarget, export_info, export_target::Format};
use redkite_storage::layout;
use redkite_types::{DatabaseId, Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Exporter;

/// What an export is asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The task's id, a UUID; the same one again is the same task.
    task: String,
    #[serde(default)]
    database: String,
    collection: String,
    /// In the filter language; empty for all rows.
    #[serde(default)]
    filter: String,
    bucket: String,
    dir: String,
    format: String,
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    task: String,
}

/// The routes of exports.
pub fn routes(exporter: Arc<Exporter>) -> Router {
    Router::new()
        .route("/admin/exports", get(shown).post(created))
        .with_state(exporter)
}

async fn shown(State(exporter): State<Arc<Exporter>>, Query(wanted): Query<Wanted>) -> Response {
    let tasks = exporter.list(&wanted.task).await;
    answer(tasks.map(|tasks| json!({ "tasks": tasks.iter().map(show).collect::<Vec<_>>() })))
}

async fn created(State(exporter): State<Arc<Exporter>>, Query(asked): Query<Asked>) -> Response {
    let task = match task(&exporter, asked) {
        Ok(task) => task,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let id = task.task_id.clone();
    let created = exporter.create(task).await;
    answer(created.map(|()| json!({ "task": id })))
}

fn task(exporter: &Exporter, asked: Asked) -> Result<ExportInfo> {
    let view = exporter.catalog.view();
    let database = view
        .database(&asked.database)
        .ok_or_else(|| Error::database_not_found(&asked.database))?;
    let entry = view
        .collection(DatabaseId(database.id), &asked.collection)
        .ok_or_else(|| Error::collection_not_found(&database.name, &asked.collection))?;
    let plan = redkite_expr::compile(&asked.filter, &Default::default(), entry.schema())?;
    let filter = match plan.is_all() {
        true => Vec::new(),
        false => plan.encode()?,
    };
    let longest = format!(
        "{}{}/{}/4294967295.parquet",
        layout::EXPORTS,
        asked.bucket,
        asked.dir
    );
    layout::check_key(&longest).map_err(|error| Error::from_coded(&error))?;
    let format = match asked.format.as_str() {
        "parquet" => Format::Parquet,
        "json" => Format::Json,
        other => {
            let text = format!("format {other} is not known, parquet and json are");
            return Err(Error::invalid_parameter(text));
        }
    };
    let params = json!({
        "collection_name": asked.collection,
        "tos_path": format!("{}/{}", asked.bucket, asked.dir),
        "file_type": asked.format,
        "expr": asked.filter,
    });
    Ok(ExportInfo {
        task_id: asked.task,
        params: params.to_string(),
        collection_id: entry.id().0,
        collection_name: asked.collection,
        filter: filter.into(),
        target: Some(ExportTarget {
            bucket: asked.bucket,
            dir: asked.dir,
            format: format.into(),
        }),
        ..ExportInfo::default()
    })
}

fn show(task: &ExportInfo) -> Value {
    let state = export_info::State::try_from(task.state);
    json!({
        "task": task.task_id,
        "collection": task.collection_name,
        "state": state.map_or("UNKNOWN", |state| state.as_str_name()).to_lowercase(),
        "reason": task.fail_reason,
        "total_rows": task.total_rows,
        "scanned_rows": task.scanned_rows,
        "exported_rows": task.exported_rows,
        "files": task.files.len(),
        "bytes": task.files.iter().map(|file| file.size).sum::<u64>(),
    })
}

fn refuse(status: StatusCode, error: &Error) -> Response {
    (status, Json(json!({ "error": error.message }))).into_response()
}

fn answer(outcome: Result<Value>) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}
