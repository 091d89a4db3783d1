//! `redkite snapshot`: shows snapshots, and what has changed between two of them.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::Value;

use crate::admin::{call, escape, text};

const ELSEWHERE: &str = "runs no data coordinator: ask the datacoord's admin port";

/// Where to look.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// The collection's database
    #[arg(long, default_value = "default")]
    database: String,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// Admin port of the process that runs the data coordinator (datacoord or standalone)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091")]
    admin: String,
}

/// Shows snapshots.
#[derive(Debug, clap::Subcommand)]
pub enum SnapshotCommand {
    /// List the snapshots of a collection, or all
    Ls {
        /// The collection
        collection: Option<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Show one snapshot
    Show {
        /// The collection
        collection: String,
        /// The snapshot
        name: String,
        #[command(flatten)]
        place: Where,
    },
    /// Show what has changed from one snapshot of a collection to another: rows by partition,
    /// segments, fields, indexes; an upsert counts as a row deleted and one added
    Diff {
        /// The collection
        collection: String,
        /// The snapshot to begin with
        a: String,
        /// The snapshot to end with
        b: String,
        #[command(flatten)]
        place: Where,
    },
}

/// Carries the command out.
///
/// # Errors
/// When the process does not answer, or there is no such collection or snapshot.
pub async fn snapshot(command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Ls { collection, place } => {
            let collection = collection.unwrap_or_default();
            let answer = ask(&place, "", &[("collection", collection.as_str())]).await?;
            print(&place, &answer, listed)
        }
        SnapshotCommand::Show {
            collection,
            name,
            place,
        } => {
            let query = [("collection", collection.as_str()), ("name", name.as_str())];
            let answer = ask(&place, "", &query).await?;
            println!("{}", serde_json::to_string_pretty(&answer["snapshots"][0])?);
            Ok(())
        }
        SnapshotCommand::Diff {
            collection,
            a,
            b,
            place,
        } => {
            let query = [
                ("collection", collection.as_str()),
                ("a", a.as_str()),
                ("b", b.as_str()),
            ];
            let answer = ask(&place, "/diff", &query).await?;
            print(&place, &answer["diff"], compared)
        }
    }
}

async fn ask(place: &Where, page: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
    let mut path = format!(
        "/admin/snapshots{page}?database={}",
        escape(&place.database)
    );
    for (key, value) in query {
        // Writing to a String cannot fail.
        let _ = write!(path, "&{key}={}", escape(value));
    }
    call(&place.admin, Method::GET, &path, ELSEWHERE).await
}

fn print(place: &Where, answer: &Value, shown: fn(&Value) -> String) -> anyhow::Result<()> {
    match place.json {
        true => println!("{}", serde_json::to_string_pretty(answer)?),
        false => print!("{}", shown(answer)),
    }
    Ok(())
}

/// One line for each snapshot.
fn listed(answer: &Value) -> String {
    let mut lines = String::new();
    for snapshot in answer["snapshots"].as_array().into_iter().flatten() {
        let pins = snapshot["pins"].as_array().map_or(0, Vec::len);
        let (collection, name) = (text(snapshot, "collection"), text(snapshot, "name"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            lines,
            "{collection}\t{name}\tts {}\t{} rows\t{} segments\t{} bytes\t{pins} pins",
            snapshot["create_ts"], snapshot["rows"], snapshot["segments"], snapshot["bytes"],
        );
    }
    lines
}

/// One line for each change.
fn compared(diff: &Value) -> String {
    let mut lines = String::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for rows in list(&diff["rows"]) {
        let partition = text(&rows, "partition");
        // Writing to a String cannot fail.
        let _ = writeln!(
            lines,
            "partition {partition}: {} rows added, {} rows deleted",
            rows["added"], rows["deleted"]
        );
    }
    let kinds = [
        ("partition", "partitions"),
        ("field", "fields"),
        ("index", "indexes"),
        ("property", "properties"),
    ];
    for (kind, key) in kinds {
        for what in ["added", "removed", "changed"] {
            for name in list(&diff[key][what]) {
                let name = name.as_str().unwrap_or_default();
                let _ = writeln!(lines, "{kind} {name}: {what}");
            }
        }
    }
    for (what, key) in [("added", "segments_added"), ("removed", "segments_removed")] {
        for id in list(&diff[key]) {
            let _ = writeln!(lines, "segment {id}: {what}");
        }
    }
    if lines.is_empty() {
        lines.push_str("nothing has changed\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::compared;

    #[test]
    fn every_change_has_a_line() {
        let none = json!({"added": [], "removed": [], "changed": []});
        let diff = json!({
            "rows": [{"partition": "_default", "added": 3, "deleted": 2}],
            "partitions": {"added": ["p1"], "removed": [], "changed": []},
            "fields": none, "properties": none,
            "indexes": {"added": [], "removed": [], "changed": ["vector"]},
            "segments_added": [7], "segments_removed": [],
        });
        assert_eq!(
            compared(&diff),
            "partition _default: 3 rows added, 2 rows deleted\npartition p1: added\n\
             index vector: changed\nsegment 7: added\n"
        );
        assert_eq!(compared(&json!({})), "nothing has changed\n");
    }
}
