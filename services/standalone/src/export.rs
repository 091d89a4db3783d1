//! `redkite export`: has rows of a collection written as files, and shows how far it is.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use redkite_runtime::Random;
use serde_json::Value;

use crate::admin::{call, text};

/// How often the task is asked for.
const INTERVAL: Duration = Duration::from_millis(200);
/// Answers in a row that may be missing while the coordinator is replaced.
const MISSED: u32 = 150;

/// The flags of `redkite export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The collection
    #[arg(long)]
    collection: String,
    /// Its database
    #[arg(long, default_value = "default")]
    database: String,
    /// Which rows, as in a query; all without it
    #[arg(long, default_value = "")]
    filter: String,
    /// Where to: s3://BUCKET/DIRECTORY; a bucket that the data nodes do not know lies in the
    /// deployment's own store, below exports/
    #[arg(long, value_name = "URL")]
    to: String,
    /// parquet or json
    #[arg(long, default_value = "parquet")]
    format: String,
    /// Admin port of the process that runs the data coordinator (datacoord or standalone)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091")]
    admin: String,
}

/// Carries the command out.
///
/// # Errors
/// When the process does not answer or refuses, or the export fails.
pub async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let (bucket, dir) = target(&args.to)?;
    let random = Random::from_system();
    let task = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
    let query = query(&[
        ("task", &task),
        ("database", &args.database),
        ("collection", &args.collection),
        ("filter", &args.filter),
        ("bucket", bucket),
        ("dir", dir),
        ("format", &args.format),
    ]);
    let elsewhere = "runs no data coordinator: ask the datacoord's admin port";
    let path = format!("/admin/exports?{query}");
    call(&args.admin, Method::POST, &path, elsewhere).await?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{msg} [{bar:40}] {pos}/{len} rows, {elapsed}",
    )?);
    let path = format!("/admin/exports?task={task}");
    let mut missed = 0;
    loop {
        let answer = match call(&args.admin, Method::GET, &path, elsewhere).await {
            Ok(answer) => answer,
            Err(error) if missed >= MISSED => return Err(error),
            Err(_) => {
                missed += 1;
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
        };
        missed = 0;
        let shown = answer["tasks"]
            .get(0_usize)
            .context("the export was dropped")?;
        let number = |field: &str| shown[field].as_u64().unwrap_or_default();
        bar.set_length(number("total_rows"));
        bar.set_position(number("scanned_rows"));
        bar.set_message(text(shown, "state").to_owned());
        match text(shown, "state") {
            "done" => {
                bar.finish();
                println!("{}", summary(shown, &args.to));
                return Ok(());
            }
            "failed" => {
                bar.abandon();
                bail!("{}", text(shown, "reason"));
            }
            _ => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// What became of an export.
fn summary(task: &Value, to: &str) -> String {
    format!(
        "{} of {} rows in {} files with {} bytes at {to}",
        task["exported_rows"], task["total_rows"], task["files"], task["bytes"]
    )
}

/// Bucket and directory of a URL.
fn target(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("s3://").unwrap_or_default();
    match rest.trim_end_matches('/').split_once('/') {
        Some((bucket, dir)) if !bucket.is_empty() && !dir.is_empty() => Ok((bucket, dir)),
        Some(_) | None => bail!("{url} is not s3://BUCKET/DIRECTORY"),
    }
}

/// A query string.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (key, value) in pairs {
        let separator = if query.is_empty() { "" } else { "&" };
        query.push_str(separator);
        query.push_str(key);
        query.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                query.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(query, "%{byte:02X}");
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_queries_are_taken_apart_and_put_together() {
        assert_eq!(target("s3://b/d/e/").unwrap(), ("b", "d/e"));
        for wrong in ["", "s3://b", "s3://b/", "fs://b/d", "s3:///d"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        let found = query(&[("filter", "a == \"x&y\""), ("b", "1")]);
        assert_eq!(found, "filter=a%20%3D%3D%20%22x%26y%22&b=1");
    }
}
