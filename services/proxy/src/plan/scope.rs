//! Which partitions are read.

use redkite_catalog::CollectionEntry;
use redkite_expr::Plan;
use redkite_types::{Error, ErrorCode, PartitionId, PrimaryKey, Result, Value, hash};

use crate::{lookup, metrics};

/// The property that isolates a collection's searches by partition key.
const ISOLATION: &str = "partitionkey.isolation";

/// The loaded partitions that a read has to look at; empty when the filter rules out all of them.
///
/// # Errors
/// Code 101 when nothing is loaded; 200 or 201 for a named partition that is absent or not loaded;
/// 1100 when partitions are named in partition-key mode.
pub fn partitions(
    entry: &CollectionEntry,
    names: &[String],
    filter: &Plan,
) -> Result<Vec<PartitionId>> {
    if !entry.is_loaded() {
        return Err(Error::collection_not_loaded(entry.name()));
    }
    check_names(entry, names)?;
    if !names.is_empty() {
        return names.iter().map(|name| loaded(entry, name)).collect();
    }
    let all = entry
        .visible_partitions()
        .map(|partition| PartitionId(partition.id))
        .filter(|partition| entry.loaded_partitions.contains(partition));
    Ok(match key_partitions(entry, filter) {
        Some(wanted) => {
            let (read, left_out): (Vec<_>, Vec<_>) =
                all.partition(|partition| wanted.contains(partition));
            metrics::partitions_left_out(left_out.len());
            read
        }
        None => all.collect(),
    })
}

/// Refuses a search that does not say one value of the partition key, where the collection is isolated
/// by it.
///
/// # Errors
/// Code 65535.
pub fn check_isolation(entry: &CollectionEntry, filter: &str) -> Result<()> {
    let Some(key) = entry.schema().partition_key() else {
        return Ok(());
    };
    let isolated = entry.info().is_some_and(|info| {
        let mut properties = info.properties.iter();
        properties.any(|pair| {
            let value = pair.value.to_ascii_lowercase();
            pair.key == ISOLATION && matches!(value.as_str(), "1" | "t" | "true")
        })
    });
    if !isolated {
        return Ok(());
    }
    let checked = redkite_expr::check_isolation(filter, &key.name);
    checked.map_err(|reason| Error::input(ErrorCode::Unexpected, reason))
}

/// Refuses named partitions in partition-key mode.
///
/// # Errors
/// Code 1100.
pub fn check_names(entry: &CollectionEntry, names: &[String]) -> Result<()> {
    if !names.is_empty() && entry.schema().partition_key().is_some() {
        return Err(Error::invalid_parameter(
            "not support manually specifying the partition names if partition key mode is used",
        ));
    }
    Ok(())
}

fn loaded(entry: &CollectionEntry, name: &str) -> Result<PartitionId> {
    let id = PartitionId(lookup::partition(entry, name)?.id);
    if entry.loaded_partitions.contains(&id) {
        return Ok(id);
    }
    Err(Error::new(
        ErrorCode::PartitionNotLoaded,
        format!("partition not loaded[partition={name}]"),
    ))
}

/// Whether a filter says which values of the partition key count.
pub fn is_by_key(entry: &CollectionEntry, filter: &Plan) -> bool {
    let key = entry.schema().partition_key();
    key.is_some_and(|key| filter.partition_key_values(key.id).is_some())
}

/// The partitions that rows with the filter's partition keys fall into; `None` when the filter does
/// not say.
fn key_partitions(entry: &CollectionEntry, filter: &Plan) -> Option<Vec<PartitionId>> {
    let key = entry.schema().partition_key()?;
    let values = filter.partition_key_values(key.id)?;
    let slots = key_slots(entry);
    values
        .iter()
        .map(|value| slots.get(slot_of(value, slots.len())?).copied())
        .collect()
}

/// The partitions of a partition-key collection, by slot.
pub fn key_slots(entry: &CollectionEntry) -> Vec<PartitionId> {
    entry
        .visible_partitions()
        .map(|partition| PartitionId(partition.id))
        .collect()
}

/// The slot of a partition key's value.
pub fn slot_of(value: &Value, slots: usize) -> Option<usize> {
    let key = match value {
        Value::Int(key) => PrimaryKey::Int(*key),
        Value::Str(key) => PrimaryKey::Str(key.clone()),
        Value::Null | Value::Bool(_) | Value::Double(_) | Value::List(_) => return None,
    };
    (slots > 0).then(|| hash::slot(hash::hash_primary_key(&key), slots))
}
