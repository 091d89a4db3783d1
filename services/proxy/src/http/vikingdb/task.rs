//! Bulk tasks: exports, which the data coordinator keeps and data nodes carry out.

use std::{future::Future, sync::Arc};

use redkite_catalog::{CollectionEntry, privileges::ANY};
use redkite_proto::redkite::{
    datacoord::{
        CreateExportRequest, DropExportRequest, ListExportsRequest, data_coord_server::DataCoord,
    },
    meta::{ExportInfo, ExportTarget, export_info::State, export_target::Format},
};
use redkite_storage::layout;
use redkite_types::{CollectionId, DataType, DatabaseId, Result as CodedResult, Timestamp};
use serde_json::{Map, Value, json};
use tracing::warn;

use super::{
    Call,
    answer::{Failure, Outcome},
    collection::rfc3339,
    filter,
};
use crate::{lookup, plan::encode_filter};

/// Vectors that are written as lists of 32-bit floats.
const EXPORTED_VECTORS: [DataType; 3] = [
    DataType::FloatVector,
    DataType::Float16Vector,
    DataType::BFloat16Vector,
];
const EXPORT: &str = "data_export";
/// Tasks that VikingDB has and this server has not.
const UNSERVED: [&str; 3] = ["data_import", "filter_delete", "filter_update"];
const PARAMETERS: [&str; 6] = [
    "collection_name",
    "tos_path",
    "file_type",
    "export_all",
    "filter",
    "filter_conds",
];

/// `/api/task/create`.
pub(super) async fn create(call: Call<'_>) -> Outcome {
    let body = &call.body;
    let kind = body.text("task_type")?;
    if UNSERVED.contains(&kind) {
        return Err(Failure::not_allowed(format!(
            "tasks of type {kind} are not served"
        )));
    }
    if kind != EXPORT {
        return Err(Failure::invalid(format!("task_type {kind} is not known")));
    }
    let given = body.get("task_params").and_then(Value::as_object);
    let given = given.ok_or_else(|| Failure::invalid("task_params is no object"))?;
    let mut params = given.clone();
    // A sample of the documentation has it there.
    if let (None, Some(path)) = (params.get("tos_path"), body.get("tos_path")) {
        params.insert("tos_path".to_owned(), path.clone());
    }
    if let Some(name) = params
        .keys()
        .find(|name| !PARAMETERS.contains(&name.as_str()))
    {
        return Err(Failure::invalid(format!(
            "{name} of task_params is not known"
        )));
    }
    let name = text(&params, "collection_name")?;
    call.caller.check("Query", &call.meta.database, name)?;
    let view = call.context.view();
    let entry = lookup::collection(&view, &call.meta.database, name)?;
    super::data::refuse_vectors(entry.schema(), &EXPORTED_VECTORS)?;
    let target = target(&params)?;
    let filter = rows(&entry, &params)?;
    let task_id = uuid(
        call.context.random.next_u64(),
        call.context.random.next_u64(),
    );
    let task = ExportInfo {
        task_id: task_id.clone(),
        params: Value::Object(params.clone()).to_string(),
        person: call.caller.user.to_owned(),
        collection_id: entry.id().0,
        collection_name: name.to_owned(),
        filter,
        target: Some(target),
        ..ExportInfo::default()
    };
    let deadline = call.meta.deadline;
    ask(&call, |coord| {
        let message = CreateExportRequest {
            task: Some(task.clone()),
        };
        async move {
            let answer =
                redkite_rpc::call(deadline, message, |request| coord.create_export(request));
            Ok(answer.await?)
        }
    })
    .await?;
    Ok(json!({ "task_id": task_id }))
}

fn text<'a>(params: &'a Map<String, Value>, name: &str) -> Result<&'a str, Failure> {
    let found = params.get(name).and_then(Value::as_str);
    let found = found.filter(|text| !text.is_empty());
    found.ok_or_else(|| Failure::invalid(format!("{name} of task_params is missing")))
}

/// Where to: `{bucket}/{dir}`, of names that every store takes.
fn target(params: &Map<String, Value>) -> Result<ExportTarget, Failure> {
    let path = text(params, "tos_path")?;
    let wrong = |why: &str| Failure::invalid(format!("tos_path {path}: {why}"));
    let path = path.strip_suffix('/').unwrap_or(path);
    let (bucket, dir) = path
        .split_once('/')
        .ok_or_else(|| wrong("it is no bucket and directory"))?;
    // With the longest name that a file can get.
    let longest = format!("{}{bucket}/{dir}/4294967295.parquet", layout::EXPORTS);
    layout::check_key(&longest).map_err(|error| wrong(&error.to_string()))?;
    let format = match params.get("file_type") {
        None | Some(Value::Null) => Format::Parquet,
        Some(Value::String(kind)) if kind == "parquet" => Format::Parquet,
        Some(Value::String(kind)) if kind == "json" => Format::Json,
        Some(other) => {
            let text = format!("file_type {other} is not known, parquet and json are");
            return Err(Failure::invalid(text));
        }
    };
    Ok(ExportTarget {
        bucket: bucket.to_owned(),
        dir: dir.to_owned(),
        format: format.into(),
    })
}

/// Which rows: an encoded plan, empty for all.
fn rows(entry: &CollectionEntry, params: &Map<String, Value>) -> Result<bytes::Bytes, Failure> {
    let all = match params.get("export_all") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(all)) => *all,
        Some(_) => return Err(Failure::invalid("export_all is no boolean")),
    };
    if all {
        return Ok(bytes::Bytes::new());
    }
    let plan = filter::of_task(entry, params)?;
    let plan = plan.ok_or_else(|| Failure::invalid("neither filter nor export_all is given"))?;
    Ok(encode_filter(&plan)?)
}

/// A random UUID, version 4.
fn uuid(high: u64, low: u64) -> String {
    let bits = (u128::from(high) << 64) | u128::from(low);
    let version = (bits & !(0xf << 76)) | (4 << 76);
    let variant = (version & !(0b11 << 62)) | (0b10 << 62);
    let text = format!("{variant:032x}");
    let parts = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ];
    parts.join("-")
}

/// Asks the data coordinator, again while it is away.
async fn ask<T, F>(call: &Call<'_>, ask: impl Fn(Arc<dyn DataCoord>) -> F) -> Result<T, Failure>
where
    F: Future<Output = CodedResult<T>>,
{
    let mut patience = call.context.patience(call.meta.deadline);
    loop {
        let outcome = match call.context.peers.data_coord() {
            Ok(coord) => ask(coord).await,
            Err(error) => Err(error),
        };
        let error = match outcome {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // A client that is to come back later does it better than we.
        let may_pass = error.retriable && Failure::from(error.clone()).status >= 500;
        if !may_pass {
            return Err(error.into());
        }
        warn!(error = %error.message, "data coordinator is away");
        if !patience.another_try().await {
            return Err(error.into());
        }
    }
}

async fn tasks(call: &Call<'_>, task_id: &str) -> Result<Vec<ExportInfo>, Failure> {
    let deadline = call.meta.deadline;
    let answer = ask(call, |coord| {
        let message = ListExportsRequest {
            task_id: task_id.to_owned(),
        };
        async move {
            let answer =
                redkite_rpc::call(deadline, message, |request| coord.list_exports(request));
            Ok(answer.await?)
        }
    });
    Ok(answer.await?.tasks)
}

/// The task that the body names.
async fn named(call: &Call<'_>) -> Result<ExportInfo, Failure> {
    let id = call.body.text("task_id")?;
    let task = tasks(call, id).await?.pop();
    let task = task.ok_or_else(|| Failure::no_task(""))?;
    check(call, &task)?;
    Ok(task)
}

/// Checks that the user may read the collection of a task, whatever it is called by now. Where it is gone,
/// whoever began the task may see it, and who may read all collections. Another database's tasks are not there.
fn check(call: &Call<'_>, task: &ExportInfo) -> Result<(), Failure> {
    let (view, database) = (call.context.view(), &call.meta.database);
    let id = CollectionId(task.collection_id);
    if let Some(entry) = view.collection_by_id(id) {
        let home = view.database(database).map(|home| DatabaseId(home.id));
        if home != Some(entry.database_id()) {
            return Err(Failure::no_task(""));
        }
        return call.caller.check("Query", database, entry.name());
    }
    match task.person.as_str() {
        // Not of this interface.
        "" => Err(Failure::no_task("")),
        person if person == call.caller.user => Ok(()),
        _ => call.caller.check("Query", database, ANY),
    }
}

/// `/api/task/info`.
pub(super) async fn info(call: Call<'_>) -> Outcome {
    Ok(describe(&named(&call).await?))
}

/// `/api/task/list`: the tasks of collections that the user may read.
pub(super) async fn list(call: Call<'_>) -> Outcome {
    let tasks = tasks(&call, "").await?;
    let allowed = tasks.iter().filter(|task| check(&call, task).is_ok());
    Ok(Value::Array(allowed.map(describe).collect()))
}

/// `/api/task/drop`.
pub(super) async fn drop(call: Call<'_>) -> Outcome {
    let task = named(&call).await?;
    let deadline = call.meta.deadline;
    ask(&call, |coord| {
        let message = DropExportRequest {
            task_id: task.task_id.clone(),
        };
        async move {
            let answer = redkite_rpc::call(deadline, message, |request| coord.drop_export(request));
            Ok(answer.await?)
        }
    })
    .await?;
    Ok(Value::Null)
}

/// `/api/task/update`: confirms a task that waits for it, which no export does.
pub(super) async fn update(call: Call<'_>) -> Outcome {
    let status = call.body.text("task_status")?;
    if status != "confirmed" {
        return Err(Failure::invalid(format!(
            "task_status {status} cannot be set"
        )));
    }
    let task = named(&call).await?;
    let now = status_of(&task);
    Err(Failure::not_allowed(format!(
        "the task is {now} and waits for no confirmation"
    )))
}

fn status_of(task: &ExportInfo) -> &'static str {
    match task.state() {
        State::Init => "init",
        State::Queued => "queued",
        State::Running | State::Dropping => "running",
        State::Done => "done",
        State::Failed => "fail",
    }
}

fn describe(task: &ExportInfo) -> Value {
    let params: Value = serde_json::from_str(&task.params).unwrap_or(Value::Null);
    let samples: Value = serde_json::from_str(&task.samples).unwrap_or_else(|_| json!([]));
    let time = |ts: u64| rfc3339(Timestamp(ts));
    json!({
        "task_id": task.task_id,
        "task_type": EXPORT,
        "task_status": status_of(task),
        "collection_name": task.collection_name,
        "update_person": task.person,
        "update_time": time(task.updated_ts),
        "create_time": time(task.created_ts),
        "task_params": params,
        "process_info": {
            "sampled_data": samples,
            "sampled_timestamp": Timestamp(task.timestamp).physical_ms(),
            "err_msg": task.fail_reason,
            "task_progress": format!("{}%", progress(task)),
            "total_data_count": task.total_rows,
            "total_filter_count": task.exported_rows,
            "scan_data_count": task.scanned_rows,
        },
    })
}

/// In percent; 100 only when it is done.
fn progress(task: &ExportInfo) -> i64 {
    match (task.state(), task.total_rows) {
        (State::Done, _) => 100,
        (_, 0) => 0,
        (_, total) => (task.scanned_rows * 100 / total).clamp(0, 99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_are_random_uuids() {
        let id = uuid(u64::MAX, u64::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0, 1), "00000000-0000-4000-8000-000000000001");
    }

    #[test]
    fn targets_are_a_bucket_and_a_directory() {
        let at = |path: &str, kind: Value| {
            let params = json!({ "tos_path": path, "file_type": kind });
            target(params.as_object().unwrap())
        };
        let found = at("bucket/a/b/", json!("json")).unwrap();
        assert_eq!(
            (found.bucket.as_str(), found.dir.as_str()),
            ("bucket", "a/b")
        );
        assert_eq!(found.format(), Format::Json);
        assert_eq!(at("b/d", Value::Null).unwrap().format(), Format::Parquet);
        for path in [
            "",
            "bucket",
            "bucket/",
            "/dir",
            "b/../d",
            "b//d",
            "b/a b",
            "http://x/y",
        ] {
            let failure = at(path, Value::Null).unwrap_err();
            assert_eq!((failure.status, failure.code), (400, 1_000_003), "{path}");
        }
        at("b/d", json!("csv")).unwrap_err();
        at("b/d", json!(1)).unwrap_err();
    }
}
