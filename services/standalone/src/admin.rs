//! Commands that ask a running process what it knows, through its admin port.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use redkite_runtime::{Clock as _, OnFailure, SystemClock, TaskGroup};
use serde_json::Value;
use tokio::net::TcpStream;

/// Where the process is asked.
#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    /// Admin port of the process that hosts the metastore (rootcoord or standalone)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091")]
    admin: String,
}

/// Shows the metadata.
#[derive(Debug, clap::Subcommand)]
pub enum MetaCommand {
    /// List keys with their revision and size
    Ls {
        /// Only keys that start with it
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show records in readable form
    Get {
        /// A key, or what several keys start with
        key: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Shows and mends sagas: DDL that is under way.
#[derive(Debug, clap::Subcommand)]
pub enum SagaCommand {
    /// List sagas that are not finished
    Ls {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one saga with its steps
    Show {
        /// Its id, as `saga ls` shows it
        id: i64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Try the undo of a stuck saga again, after its cause is removed
    Retry {
        /// Its id
        id: i64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a running saga back, or give a stuck one up: its locks are released, and what it has
    /// half done is left to you
    Abort {
        /// Its id
        id: i64,
        /// Confirms it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Shows and changes the raft group.
#[derive(Debug, clap::Subcommand)]
pub enum RaftCommand {
    /// Show state, term, members and how far the log is
    Status {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Add a replica that was started with metastore.join; returns once it votes
    Add {
        /// Its metastore.node_id, one that was never used before
        id: u64,
        /// host:port at which the others reach it
        address: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a replica, for good: its id can not come back
    Remove {
        /// Its metastore.node_id
        id: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Carries a metadata command out.
///
/// # Errors
/// When the process does not answer.
pub async fn meta(command: MetaCommand) -> anyhow::Result<()> {
    match command {
        MetaCommand::Ls { prefix, admin } => {
            each_record(&admin, &prefix, |record| {
                format!(
                    "{}\trevision {}\t{} bytes",
                    text(record, "key"),
                    record["revision"],
                    record["bytes"]
                )
            })
            .await
        }
        MetaCommand::Get { key, admin } => {
            each_record(&admin, &key, |record| {
                let value = record["value"].as_str().unwrap_or("(not readable)");
                format!(
                    "{} (revision {})\n{value}\n",
                    text(record, "key"),
                    record["revision"]
                )
            })
            .await
        }
    }
}

/// Carries a saga command out.
///
/// # Errors
/// When the process does not answer.
pub async fn saga(command: SagaCommand) -> anyhow::Result<()> {
    match command {
        SagaCommand::Ls { admin } => {
            let answer = ask(&admin, "/admin/sagas").await?;
            for saga in answer["sagas"].as_array().into_iter().flatten() {
                println!("{}", saga_line(saga));
            }
        }
        SagaCommand::Show { id, admin } => {
            print_saga(&ask(&admin, &format!("/admin/sagas/{id}")).await?)?;
        }
        SagaCommand::Retry { id, admin } => {
            print_saga(&tell(&admin, &format!("/admin/sagas/{id}/retry")).await?)?;
        }
        SagaCommand::Abort { id, yes, admin } => {
            if !yes {
                bail!(
                    "a stuck saga that is aborted leaves what it has half done: look at it with \
                     `redkite saga show {id}`, then say --yes"
                );
            }
            print_saga(&tell(&admin, &format!("/admin/sagas/{id}/abort")).await?)?;
        }
    }
    Ok(())
}

fn saga_line(saga: &Value) -> String {
    let created = saga["created_ms"].as_u64().unwrap_or_default();
    let age = SystemClock.unix_millis().saturating_sub(created) / 1_000;
    format!(
        "{}\t{}/v{}\t{}\tstep {}\t{age} s old\tretries {}\t{}",
        saga["id"],
        text(saga, "kind"),
        saga["version"],
        saga["state"],
        saga["step"],
        saga["retries"],
        text(saga, "last_error"),
    )
}

fn print_saga(answer: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&answer["saga"])?);
    println!("steps:");
    for step in answer["steps"].as_array().into_iter().flatten() {
        println!("  {}", step.as_str().unwrap_or_default());
    }
    Ok(())
}

/// Carries a raft command out.
///
/// # Errors
/// When the process does not answer, or does not lead and the command changes something.
pub async fn raft(command: RaftCommand) -> anyhow::Result<()> {
    let answer = match command {
        RaftCommand::Status { admin } => ask(&admin, "/admin/raft").await?,
        RaftCommand::Add { id, address, admin } => {
            let path = format!("/admin/raft/add?id={id}&address={}", escape(&address));
            tell(&admin, &path).await?
        }
        RaftCommand::Remove { id, admin } => {
            tell(&admin, &format!("/admin/raft/remove?id={id}")).await?
        }
    };
    println!("{}", serde_json::to_string_pretty(&answer["raft"])?);
    Ok(())
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Prints all records under a prefix, page by page.
async fn each_record(
    admin: &AdminArgs,
    prefix: &str,
    line: impl Fn(&Value) -> String,
) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let mut path = format!("/admin/meta?prefix={}", escape(prefix));
        if !after.is_empty() {
            path.push_str(&format!("&after={}", escape(&after)));
        }
        let page = ask(admin, &path).await?;
        for record in page["records"].as_array().into_iter().flatten() {
            println!("{}", line(record));
        }
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return Ok(()),
        }
    }
}

/// Bytes that may not stand in a query as they are, as `%XX`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

const ELSEWHERE: &str = "hosts no metastore: ask the rootcoord's admin port";

/// One GET of what the process with the metastore shows.
async fn ask(admin: &AdminArgs, path: &str) -> anyhow::Result<Value> {
    call(&admin.admin, Method::GET, path, ELSEWHERE).await
}

/// One POST that changes something.
async fn tell(admin: &AdminArgs, path: &str) -> anyhow::Result<Value> {
    call(&admin.admin, Method::POST, path, ELSEWHERE).await
}

/// One request without a body, whose answer must be JSON; `elsewhere` says what is wrong with a
/// process that does not have the page.
///
/// # Errors
/// When nobody answers, or with an error.
pub(crate) async fn call(
    address: &str,
    method: Method,
    path: &str,
    elsewhere: &str,
) -> anyhow::Result<Value> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("nobody answers at {address}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let tasks = TaskGroup::new("admin client");
    tasks.spawn_cancellable("connection", OnFailure::Log, connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    tasks.cancel();
    if status == hyper::StatusCode::NOT_FOUND {
        bail!("{address} {elsewhere}");
    }
    let body: Value = serde_json::from_slice(&body)
        .with_context(|| format!("{address} answers {status} without JSON"))?;
    if !status.is_success() {
        bail!("{address} answers {status}: {}", text(&body, "error"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn keys_survive_a_query() {
        assert_eq!(escape("root-coord/x y&z=%"), "root-coord/x%20y%26z%3D%25");
    }
}
