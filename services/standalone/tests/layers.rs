//! Every edge between our crates is one that `layers.toml` allows.

#![allow(
    clippy::unwrap_used,
    reason = "the lint knows tests by their attribute, not by their file"
)]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

const PREFIX: &str = "redkite-";
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn our_packages() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(format!("{ROOT}/Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap();
    let packages = metadata.packages.into_iter();
    packages
        .filter(|package| package.name.starts_with(PREFIX))
        .collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// What each crate may use, with the groups written out.
fn allowed(packages: &[Package]) -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(format!("{ROOT}/layers.toml")).unwrap();
    let table: BTreeMap<String, Vec<String>> = toml::from_str(&text).unwrap();
    let below = |folder: &str| -> Vec<String> {
        let within = packages.iter().filter(|package| {
            let folder = format!("/{folder}/");
            package.manifest_path.as_str().contains(&folder)
        });
        within
            .map(|package| short(&package.name).to_owned())
            .collect()
    };
    let groups = BTreeMap::from([
        ("@shared", below("shared")),
        ("@services", below("services")),
    ]);
    let expand = |name: &String| match groups.get(name.as_str()) {
        Some(group) => group.clone(),
        None => vec![name.clone()],
    };
    let written_out = |names: Vec<String>| names.iter().flat_map(expand).collect();
    table
        .into_iter()
        .map(|(name, names)| (name, written_out(names)))
        .collect()
}

#[test]
fn crates_point_down() {
    let packages = our_packages();
    let allowed = allowed(&packages);
    let mut wrong = Vec::new();
    for package in &packages {
        let name = short(&package.name);
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("{name} is not in layers.toml"));
            continue;
        };
        for dependency in &package.dependencies {
            // Tests may use what they like.
            let counts = dependency.kind != DependencyKind::Development;
            let used = short(&dependency.name);
            let is_ours = dependency.name.starts_with(PREFIX);
            if counts && is_ours && !may_use.contains(used) {
                wrong.push(format!("{name} uses {used}"));
            }
            let hosts = dependency
                .features
                .iter()
                .any(|feature| feature == "server");
            if counts && used == "metastore" && hosts && name != "rootcoord" {
                wrong.push(format!(
                    "{name} hosts a metastore, which only rootcoord may"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_names_no_crate_that_is_gone() {
    let packages = our_packages();
    let names: BTreeSet<_> = packages
        .iter()
        .map(|package| short(&package.name))
        .collect();
    let allowed = allowed(&packages);
    let listed = allowed
        .iter()
        .flat_map(|(name, uses)| std::iter::once(name).chain(uses));
    let gone: BTreeSet<_> = listed
        .filter(|name| !names.contains(name.as_str()))
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
}
