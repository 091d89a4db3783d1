//! `redkite gc`: shows or collects objects that nothing names.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::Value;

use crate::admin::{call, text};

/// The flags of `redkite gc`.
#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// Only list what would be deleted, and why
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// Admin port of the process that runs the data coordinator (datacoord or standalone)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091")]
    admin: String,
}

/// Carries the command out.
///
/// # Errors
/// When the process does not answer, or cannot collect.
pub async fn gc(args: GcArgs) -> anyhow::Result<()> {
    let method = match args.dry_run {
        true => Method::GET,
        false => Method::POST,
    };
    let elsewhere = "runs no data coordinator: ask the datacoord's admin port";
    let answer = call(&args.admin, method, "/admin/gc", elsewhere).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", shown(&answer, args.dry_run));
    }
    Ok(())
}

/// The answer for people: one line for each object, then the sum.
fn shown(answer: &Value, dry_run: bool) -> String {
    let mut lines = String::new();
    let list = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    let garbage = list("garbage");
    let mut bytes = 0;
    for object in &garbage {
        let size = object["size_bytes"].as_u64().unwrap_or_default();
        bytes += size;
        let age = object["age_ms"].as_u64().unwrap_or_default() / 1_000;
        let (key, why) = (text(object, "key"), text(object, "why"));
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{key}\t{size} bytes\t{age} s old\t{why}");
    }
    for key in list("unknown") {
        let key = key.as_str().unwrap_or_default();
        let _ = writeln!(lines, "unknown, left alone: {key}");
    }
    for doubt in list("doubts") {
        let doubt = doubt.as_str().unwrap_or_default();
        let _ = writeln!(lines, "protects what it may name: {doubt}");
    }
    let _ = match dry_run {
        true => writeln!(
            lines,
            "{} objects with {bytes} bytes would be deleted; {} are too young, {} are in use",
            garbage.len(),
            answer["young"],
            answer["named"]
        ),
        false => writeln!(
            lines,
            "{} of {} objects deleted, {} bytes; {} failed",
            answer["deleted"],
            garbage.len(),
            answer["deleted_bytes"],
            answer["failed"]
        ),
    };
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shown;

    #[test]
    fn every_object_has_a_line_and_the_sum_is_last() {
        let answer = json!({
            "garbage": [
                {"key": "a/1", "size_bytes": 3, "age_ms": 5_000, "why": "because"},
                {"key": "a/2", "size_bytes": 4, "age_ms": 6_000, "why": "because"},
            ],
            "named": 7, "young": 1, "unknown": ["x"], "doubts": ["record y"],
            "deleted": 2, "deleted_bytes": 7, "failed": 0,
        });
        let lines = shown(&answer, true);
        assert!(
            lines.contains("a/1\t3 bytes\t5 s old\tbecause\n"),
            "{lines}"
        );
        assert!(lines.contains("unknown, left alone: x\n"));
        assert!(
            lines.ends_with(
                "2 objects with 7 bytes would be deleted; 1 are too young, 7 are in use\n"
            )
        );
        assert!(shown(&answer, false).ends_with("2 of 2 objects deleted, 7 bytes; 0 failed\n"));
    }
}
