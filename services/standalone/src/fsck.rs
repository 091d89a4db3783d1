//! `redkite fsck`: checks metadata, logs and files, of a stopped data directory or of a running
//! deployment. It changes nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hyper::Method;
use redkite_config::ConfigArgs;
use redkite_datacoord::fsck::{self, Report, Subject};
use redkite_node::{NodeOptions, lock::DataDirLock};
use redkite_rootcoord::{Offline, read_offline};
use redkite_runtime::TaskGroup;
use serde_json::Value;

use crate::admin::call;

/// Nothing is wrong.
const CLEAN: u8 = 0;
/// Something is.
const PROBLEMS: u8 = 1;
/// Nobody knows.
const COULD_NOT_RUN: u8 = 2;

/// The flags of `redkite fsck`.
#[derive(Debug, clap::Args)]
pub struct FsckArgs {
    /// TOML file to read
    #[arg(
        long,
        value_name = "FILE",
        env = "REDKITE_CONFIG",
        conflicts_with = "admin"
    )]
    config: Option<PathBuf>,
    /// Set one value, for example --set storage.uri=fs:///objects; may be repeated
    #[arg(
        long = "set",
        value_name = "SECTION.KEY=VALUE",
        conflicts_with = "admin"
    )]
    set: Vec<String>,
    /// Data directory of a stopped process with a metastore (rootcoord or standalone) [default: ./data]
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    data_dir: Option<PathBuf>,
    /// Where the objects are, if not in the data directory
    #[arg(long, value_name = "URI", conflicts_with = "admin")]
    storage_uri: Option<String>,
    /// Check a running deployment: admin port of the process that runs the data coordinator
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Carries the command out: exit code 0 when all is well, 1 when something is not, 2 when that could
/// not be found out.
pub async fn fsck(args: FsckArgs) -> ExitCode {
    let checked = match &args.admin {
        Some(address) => online(address).await,
        None => offline(&args).await,
    };
    let shown = checked.and_then(|report| {
        show(&report, args.json)?;
        Ok(report)
    });
    match shown {
        Ok(report) if has_problems(&report) => PROBLEMS.into(),
        Ok(_) => CLEAN.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            COULD_NOT_RUN.into()
        }
    }
}

async fn online(address: &str) -> anyhow::Result<Value> {
    let elsewhere = "runs no data coordinator: ask the datacoord's admin port";
    call(address, Method::GET, "/admin/fsck", elsewhere).await
}

async fn offline(args: &FsckArgs) -> anyhow::Result<Value> {
    let options = options(args)?;
    let data_dir = &options.common.data_dir;
    if !options.meta_dir().is_dir() {
        bail!("{} holds no metadata", data_dir.display());
    }
    let _lock = DataDirLock::take(data_dir)
        .context("stop the process, or check it while it runs with --admin")?;
    let meta_dir = options.meta_dir();
    let read = tokio::task::spawn_blocking(move || read_offline(&meta_dir)).await?;
    let offline = read.context("the metadata cannot be read")?;
    let report = check(offline, &options).await?;
    Ok(serde_json::to_value(report)?)
}

fn options(args: &FsckArgs) -> anyhow::Result<NodeOptions> {
    let given = ConfigArgs {
        config: args.config.clone(),
        set: args.set.clone(),
        dump_config: false,
    };
    let mut load = given.load_options()?;
    if let Some(dir) = &args.data_dir {
        load = load.set("common.data_dir", dir)?;
    }
    if let Some(uri) = &args.storage_uri {
        load = load.set("storage.uri", uri)?;
    }
    Ok(redkite_config::load::<NodeOptions>(&load)?)
}

async fn check(offline: Offline, options: &NodeOptions) -> anyhow::Result<Report> {
    let mut report = match offline.pairs {
        Some(pairs) => {
            let (store, tasks) = (open_store(options).await?, TaskGroup::new("fsck"));
            let subject = Subject {
                pairs,
                revision: offline.revision,
                logs: Some(fsck::logs_of(options, store.clone(), tasks.clone())),
                store,
                live: None,
            };
            let report = fsck::check(&subject).await;
            tasks.cancel();
            report
        }
        None => {
            let mut report = Report::default();
            let note = "without metadata nothing else can be checked";
            report.notes.push(note.to_owned());
            report
        }
    };
    for damage in offline.damage {
        let lost = match damage.is_fatal {
            true => {
                "the metadata: restore the directory from a backup, or let another replica take over"
            }
            false => "nothing: a loss of power while it was written leaves the same",
        };
        let place = damage.file.display().to_string();
        report.problem(place, None, damage.what, lost);
    }
    Ok(report)
}

/// Opens the store, which would be made if it was not there.
async fn open_store(
    options: &NodeOptions,
) -> anyhow::Result<Arc<dyn redkite_storage::ObjectStore>> {
    let uri = options.storage_uri();
    if let Some(dir) = uri.strip_prefix("fs://")
        && !Path::new(dir).is_dir()
    {
        bail!("there are no objects at {uri}");
    }
    Ok(redkite_storage::open_with(&options.store_options()).await?)
}

fn has_problems(report: &Value) -> bool {
    report["problems"]
        .as_array()
        .is_none_or(|all| !all.is_empty())
}

fn show(report: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let list = |field: &str| report[field].as_array().cloned().unwrap_or_default();
    for problem in list("problems") {
        let problem: fsck::Problem = serde_json::from_value(problem)?;
        println!("{problem}");
    }
    for note in list("notes") {
        println!("note: {}", note.as_str().unwrap_or_default());
    }
    println!(
        "{} problems in {} records, {} objects with {} bytes, {} logs with {} records",
        list("problems").len(),
        report["records"],
        report["objects"],
        report["object_bytes"],
        report["logs"],
        report["log_records"],
    );
    Ok(())
}
