//! That `docs/sagas.md` says what runs.

use std::collections::{BTreeMap, BTreeSet};

use redkite_saga::{LockKey, LockMode};

use super::*;

/// A saga's steps by name, each with whether it is the pivot.
type Steps = Vec<(String, bool)>;

/// What the table says of a saga, or what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    steps: Steps,
    undone: BTreeSet<String>,
}

/// The rows of the table, with their last column. One may name several sagas, and explain a name or a
/// step in parentheses.
fn table() -> BTreeMap<String, (Row, String)> {
    let text = include_str!("../../../../../docs/sagas.md");
    let rows = text.lines().filter(|line| line.contains(" → "));
    let mut found = BTreeMap::new();
    for row in rows.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let [kinds, steps, undo, locks] = columns[..] else {
            panic!("not four columns: {row}");
        };
        let row = Row {
            steps: steps.split(" → ").map(step).collect(),
            undone: undone(undo),
        };
        for kind in without_remarks(kinds).split(", ") {
            let row = (row.clone(), locks.to_owned());
            let before = found.insert(kind.trim().to_owned(), row);
            assert!(before.is_none(), "{kind} is in the table twice");
        }
    }
    found
}

fn step(text: &str) -> (String, bool) {
    let name = text.split_whitespace().next().expect("a step has a name");
    (name.replace("**", ""), name.starts_with("**"))
}

/// The steps before each colon.
fn undone(text: &str) -> BTreeSet<String> {
    let clauses = text
        .split("; ")
        .filter_map(|clause| clause.split_once(": "));
    let names = clauses.flat_map(|(names, _)| names.split(", "));
    names.map(str::to_owned).collect()
}

fn without_remarks(text: &str) -> String {
    let parts = text.split('(').enumerate();
    let parts = parts.map(|(number, part)| match number {
        0 => part,
        _ => part.split_once(')').expect("parentheses are closed").1,
    });
    parts.collect()
}

/// What runs: of each saga the newest version.
fn registered(listing: &str) -> BTreeMap<String, Row> {
    let (mut found, mut kind) = (BTreeMap::<String, Row>::new(), String::new());
    for line in listing.lines() {
        if let Some((name, _)) = line.split_once("/v") {
            kind = name.to_owned();
            // Versions are listed in order.
            found.insert(kind.clone(), Row::default());
        } else if let Some((name, what)) = line.trim().split_once(": ") {
            let row = found.get_mut(&kind).expect("steps follow their saga");
            row.steps.push((name.to_owned(), what.ends_with("pivot")));
            if what.contains("undo") {
                row.undone.insert(name.to_owned());
            }
        }
    }
    found
}

/// What a saga locks, in the words of the table.
pub(super) fn assert_locks(kind: &str, locks: &[LockKey]) {
    let table = table();
    let (_, said) = table.get(kind).expect("the saga is in docs/sagas.md");
    let said = said.replace("databases", "database");
    let said = said.replace("both names", "name");
    let said: BTreeSet<String> = said.split(", ").map(str::to_owned).collect();
    let word = |lock: &LockKey| {
        let what = lock.name.split('/').next().unwrap_or_default();
        let mode = match lock.mode {
            LockMode::Read => 'r',
            LockMode::Write => 'w',
        };
        format!("{mode} {}", what.replace('-', " "))
    };
    let held: BTreeSet<String> = locks.iter().map(word).collect();
    assert_eq!(said, held, "docs/sagas.md on the locks of {kind}");
}

#[tokio::test]
async fn the_table_of_sagas_is_what_runs() {
    let deployment = Deployment::new().await;
    let registry = gate::registry(&deployment.context).unwrap();
    let (table, registered) = (table(), registered(&registry.listing()));
    assert!(table.len() > 20, "{table:?}");
    for (kind, row) in &registered {
        let said = table.get(kind).map(|(row, _)| row);
        assert_eq!(said, Some(row), "docs/sagas.md on {kind}");
    }
    let unknown = table.keys().filter(|kind| !registered.contains_key(*kind));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
}
