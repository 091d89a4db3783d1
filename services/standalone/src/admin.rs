//! Commands that ask a running process what it knows, through its admin port.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1, header::HOST};
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

/// Bytes that may not stand in a query as they are, as `%XX`.
pub(crate) fn escape(text: &str) -> String {
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

pub(crate) const ELSEWHERE: &str = "hosts no metastore: ask the rootcoord's admin port";

/// One GET of what the process with the metastore shows.
pub(crate) async fn ask(admin: &AdminArgs, path: &str) -> anyhow::Result<Value> {
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
    let tasks = TaskGroup::new("admin client");
    let answer = send(&tasks, address, method, path).await?;
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

/// Sends one request; its connection lives in `tasks`.
async fn send(
    tasks: &TaskGroup,
    address: &str,
    method: Method,
    path: &str,
) -> anyhow::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("nobody answers at {address}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn_cancellable("connection", OnFailure::Log, connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// One GET whose answer is one JSON value a line, for as long as the process goes on.
///
/// # Errors
/// When nobody answers, or with an error, or `each` returns one.
pub(crate) async fn follow(
    admin: &AdminArgs,
    path: &str,
    each: impl Fn(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let address = &admin.admin;
    let tasks = TaskGroup::new("admin client");
    let answer = send(&tasks, address, Method::GET, path).await?;
    let status = answer.status();
    if status == hyper::StatusCode::NOT_FOUND {
        bail!("{address} {ELSEWHERE}");
    }
    let (mut body, mut lines) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        lines.extend_from_slice(&data);
        while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = lines.drain(..=end).collect();
            each(serde_json::from_slice(&line)?)?;
        }
    }
    tasks.cancel();
    if !status.is_success() {
        let body: Value = serde_json::from_slice(&lines).unwrap_or_default();
        bail!("{address} answers {status}: {}", text(&body, "error"));
    }
    bail!("{address} has ended the answer")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn keys_survive_a_query() {
        assert_eq!(escape("root-coord/x y&z=%"), "root-coord/x%20y%26z%3D%25");
    }
}
