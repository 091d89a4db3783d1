//! That `docs/sagas.md` says what runs.

use std::collections::BTreeMap;

use super::*;

/// A saga's steps by name, each with whether it is the pivot.
type Steps = Vec<(String, bool)>;

/// What the table says. A row may name several sagas, and explain a name or a step in parentheses.
fn table() -> BTreeMap<String, Steps> {
    let text = include_str!("../../../../../docs/sagas.md");
    let rows = text.lines().filter(|line| line.contains(" → "));
    let rows = rows.filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let mut found = BTreeMap::new();
    for (kinds, rest) in rows {
        let (steps, _) = rest.split_once(" | ").expect("a row has four columns");
        let steps: Steps = steps.split(" → ").map(step).collect();
        for kind in without_remarks(kinds).split(", ") {
            let before = found.insert(kind.trim().to_owned(), steps.clone());
            assert!(before.is_none(), "{kind} is in the table twice");
        }
    }
    found
}

fn step(text: &str) -> (String, bool) {
    let name = text.split_whitespace().next().expect("a step has a name");
    (name.replace("**", ""), name.starts_with("**"))
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
fn registered(listing: &str) -> BTreeMap<String, Steps> {
    let (mut found, mut kind) = (BTreeMap::<String, Steps>::new(), String::new());
    for line in listing.lines() {
        if let Some((name, _)) = line.split_once("/v") {
            kind = name.to_owned();
            // Versions are listed in order.
            found.insert(kind.clone(), Steps::new());
        } else if let Some((name, what)) = line.trim().split_once(": ") {
            let steps = found.get_mut(&kind).expect("steps follow their saga");
            steps.push((name.to_owned(), what.ends_with("pivot")));
        }
    }
    found
}

#[tokio::test]
async fn the_table_of_sagas_is_what_runs() {
    let deployment = Deployment::new().await;
    let registry = gate::registry(&deployment.context).unwrap();
    let (table, registered) = (table(), registered(&registry.listing()));
    assert!(table.len() > 20, "{table:?}");
    for (kind, steps) in &registered {
        assert_eq!(table.get(kind), Some(steps), "docs/sagas.md on {kind}");
    }
    let unknown = table.keys().filter(|kind| !registered.contains_key(*kind));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
}
