//! `redkite meta`: shows the metadata of a running deployment or of a stopped data directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use redkite_config::ConfigArgs;
use redkite_node::NodeOptions;
use redkite_node::lock::DataDirLock;
use redkite_rootcoord::admin::meta::{Asked, answer};
use redkite_rootcoord::{MemKv, read_offline};
use serde_json::Value;

use crate::admin::{AdminArgs, ask, escape, follow, text};

/// Records that one request asks for.
const PAGE: usize = 1_000;

/// Shows the metadata.
#[derive(Debug, clap::Subcommand)]
pub enum MetaCommand {
    /// List keys with their revision and size
    Ls {
        /// Only keys that start with it
        #[arg(default_value = "")]
        prefix: String,
        /// Begin behind this key
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// List so many keys at most, and say where to go on [default: all]
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// Show the records too, as JSON
        #[arg(long)]
        decode: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Show the value of one key, or of all below a prefix that ends with a slash
    Get {
        /// The key
        key: String,
        /// Show the record as JSON, not its bytes with escapes
        #[arg(long)]
        decode: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Show changes as they happen, one JSON object a line
    Watch {
        /// Only keys that start with it
        #[arg(default_value = "")]
        prefix: String,
        /// Begin behind this revision [default: now]
        #[arg(long, value_name = "REVISION")]
        after: Option<u64>,
        /// Show records as JSON, not their bytes with escapes
        #[arg(long)]
        decode: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Where the metadata is read, and as of when.
#[derive(Debug, clap::Args)]
pub struct Source {
    #[command(flatten)]
    admin: AdminArgs,
    /// Read the data directory of a stopped process instead
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    data_dir: Option<PathBuf>,
    /// What was there at a time: a hybrid timestamp, or a time in UTC such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
}

/// Carries a metadata command out.
///
/// # Errors
/// When the process does not answer, the directory cannot be read, or a key is not there.
pub async fn meta(command: MetaCommand) -> anyhow::Result<()> {
    match command {
        MetaCommand::Ls {
            prefix,
            after,
            limit,
            decode,
            source,
        } => {
            let reader = Reader::open(source).await?;
            list(&reader, &prefix, after, limit, decode).await
        }
        MetaCommand::Get {
            key,
            decode,
            source,
        } => {
            let reader = Reader::open(source).await?;
            show(&reader, key, decode).await
        }
        MetaCommand::Watch {
            prefix,
            after,
            decode,
            admin,
        } => {
            let mut path = format!(
                "/admin/meta/watch?prefix={}&raw={}",
                escape(&prefix),
                !decode
            );
            if let Some(after) = after {
                path.push_str(&format!("&after={after}"));
            }
            follow(&admin, &path, print_change).await
        }
    }
}

/// What is asked: a process, or a directory that was read.
struct Reader {
    source: Source,
    offline: Option<MemKv>,
}

impl Reader {
    async fn open(source: Source) -> anyhow::Result<Self> {
        let offline = match &source.data_dir {
            Some(dir) => Some(open_directory(dir).await?),
            None => None,
        };
        Ok(Self { source, offline })
    }

    async fn ask(&self, mut asked: Asked) -> anyhow::Result<Value> {
        asked.as_of.clone_from(&self.source.as_of);
        match &self.offline {
            Some(kv) => Ok(answer(kv, &asked).await?),
            None => ask(&self.source.admin, &path(&asked)).await,
        }
    }
}

async fn open_directory(dir: &Path) -> anyhow::Result<MemKv> {
    let load = ConfigArgs::default()
        .load_options()?
        .set("common.data_dir", dir)?;
    let options = redkite_config::load::<NodeOptions>(&load)?;
    let meta_dir = options.meta_dir();
    if !meta_dir.is_dir() {
        bail!("{} holds no metadata", dir.display());
    }
    let _lock = DataDirLock::take(dir).context("stop the process, or ask it with --admin")?;
    let read = tokio::task::spawn_blocking(move || read_offline(&meta_dir)).await?;
    let offline = read.context("the metadata cannot be read")?;
    match offline.state {
        Some(state) => Ok(MemKv::with_state(state)),
        None => bail!(
            "the metadata in {} is damaged: `redkite fsck` says what",
            dir.display()
        ),
    }
}

fn path(asked: &Asked) -> String {
    let mut path = format!("/admin/meta?raw={}", asked.raw);
    let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", escape(value)));
    match &asked.key {
        Some(key) => add("key", key),
        None => {
            add("prefix", &asked.prefix);
            add("limit", &asked.limit.to_string());
        }
    }
    if let Some(after) = &asked.after {
        add("after", after);
    }
    if let Some(as_of) = &asked.as_of {
        add("as_of", as_of);
    }
    path
}

async fn list(
    reader: &Reader,
    prefix: &str,
    after: Option<String>,
    limit: Option<usize>,
    decode: bool,
) -> anyhow::Result<()> {
    let (mut after, mut left) = (after, limit.unwrap_or(usize::MAX));
    while left > 0 {
        let asked = Asked {
            prefix: prefix.to_owned(),
            after: after.clone(),
            limit: left.min(PAGE),
            ..Asked::default()
        };
        let page = reader.ask(asked).await?;
        for record in records(&page) {
            left -= 1;
            println!(
                "{}\trevision {}\t{} bytes",
                text(record, "key"),
                record["revision"],
                record["bytes"]
            );
            if decode {
                println!("{}", value(record));
            }
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
    if let Some(after) = after {
        eprintln!("more: --after '{after}'");
    }
    Ok(())
}

async fn show(reader: &Reader, key: String, decode: bool) -> anyhow::Result<()> {
    if !key.ends_with('/') {
        let asked = Asked {
            key: Some(key.clone()),
            raw: !decode,
            ..Asked::default()
        };
        let answer = reader.ask(asked).await?;
        if answer["record"].is_null() {
            bail!("there is no {key}");
        }
        println!("{}", value(&answer["record"]));
        return Ok(());
    }
    let mut after = None;
    loop {
        let asked = Asked {
            prefix: key.clone(),
            after,
            raw: !decode,
            ..Asked::default()
        };
        let page = reader.ask(asked).await?;
        for record in records(&page) {
            let (key, revision) = (text(record, "key"), &record["revision"]);
            println!("{key} (revision {revision})\n{}\n", value(record));
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

fn records(page: &Value) -> impl Iterator<Item = &Value> {
    page["records"].as_array().into_iter().flatten()
}

fn value(record: &Value) -> &str {
    record["value"].as_str().unwrap_or("(not readable)")
}

/// Prints a line of a watch but those that only say that nothing has changed.
fn print_change(mut change: Value) -> anyhow::Result<()> {
    if let Some(error) = change["error"].as_str() {
        bail!("{error}");
    }
    // What is JSON itself is shown as such.
    let decoded = change["put"]["value"].as_str().map(serde_json::from_str);
    if let Some(Ok(value @ (Value::Object(_) | Value::Null))) = decoded {
        change["put"]["value"] = value;
    }
    if change.get("put").is_some() || change.get("delete").is_some() {
        println!("{change}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_a_query() {
        let asked = Asked {
            prefix: "root-coord/x y".to_owned(),
            after: Some("a&b".to_owned()),
            limit: 7,
            as_of: Some("2026-01-31T12:00:00Z".to_owned()),
            ..Asked::default()
        };
        let expected = "/admin/meta?raw=false&prefix=root-coord/x%20y&limit=7&after=a%26b\
                        &as_of=2026-01-31T12%3A00%3A00Z";
        assert_eq!(path(&asked), expected);
    }
}
