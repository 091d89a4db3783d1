//! A batch of columns, split by channel and partition.

use std::collections::BTreeMap;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::{columns, keys},
    redkite::querynode::{PartitionRows, WriteRequest},
};
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, Error, PartitionId, PrimaryKeys, Result,
    RowBatch, hash, limits,
};

use crate::{lookup, plan::scope};

/// Rows that are complete: every field of the schema has a column, the primary key included.
pub struct Rows {
    /// The columns.
    pub batch: RowBatch,
    /// One id a row.
    pub row_ids: Vec<i64>,
    /// The primary keys, in row order.
    pub keys: PrimaryKeys,
}

impl Rows {
    /// Puts the columns of an insert together, with `first_id` and the ids behind it as row ids and,
    /// where the server makes them, as primary keys.
    ///
    /// # Errors
    /// Internal when the columns do not add up: a bug of ours.
    pub fn complete(
        schema: &CollectionSchema,
        mut columns: Vec<Column>,
        rows: usize,
        first_id: i64,
    ) -> Result<Self> {
        let row_ids: Vec<i64> = (first_id..).take(rows).collect();
        let key = schema.primary_key();
        if !columns.iter().any(|column| column.field == key.id) {
            let data = if key.data_type == DataType::VarChar {
                ColumnData::VarChar(row_ids.iter().map(i64::to_string).collect())
            } else {
                ColumnData::Int64(row_ids.clone())
            };
            let position = schema
                .fields
                .iter()
                .position(|field| field.id == key.id)
                .unwrap_or(0);
            columns.insert(position.min(columns.len()), Column::new(key.id, data));
        }
        let batch = RowBatch::new(rows, columns)
            .ok_or_else(|| Error::internal("columns of an insert differ in length"))?;
        let keys = batch
            .column(key.id)
            .and_then(Column::primary_keys)
            .ok_or_else(|| Error::internal("an insert without primary keys"))?;
        Ok(Self {
            batch,
            row_ids,
            keys,
        })
    }
}

/// The partition of each row.
///
/// # Errors
/// Code 200 for an absent partition; 1100 when one is named in partition-key mode.
pub fn partitions_of(
    entry: &CollectionEntry,
    name: &str,
    batch: &RowBatch,
) -> Result<Vec<PartitionId>> {
    let Some(key) = entry.schema().partition_key() else {
        let name = if name.is_empty() {
            limits::DEFAULT_PARTITION
        } else {
            name
        };
        let partition = PartitionId(lookup::partition(entry, name)?.id);
        return Ok(vec![partition; batch.len()]);
    };
    if !name.is_empty() {
        return Err(Error::invalid_parameter(
            "not support manually specifying the partition names if partition key mode is used",
        ));
    }
    let slots = scope::key_slots(entry);
    let column = batch
        .column(key.id)
        .ok_or_else(|| Error::internal("an insert without partition key"))?;
    (0..batch.len())
        .map(|row| {
            scope::slot_of(&column.value(row), slots.len())
                .and_then(|slot| slots.get(slot).copied())
                .ok_or_else(|| Error::internal("a partition key without a slot"))
        })
        .collect()
}

/// Splits rows by channel and partition. `delete_keys` go to their own channels, and so are deleted
/// in the same step as the rows of that channel are inserted.
///
/// # Errors
/// Internal when the collection has no channel.
pub fn split(
    entry: &CollectionEntry,
    rows: Rows,
    partitions: &[PartitionId],
    delete_keys: Option<&PrimaryKeys>,
) -> Result<Vec<WriteRequest>> {
    let channels = entry.channels();
    if channels.is_empty() {
        return Err(Error::internal("a collection without channels"));
    }
    let mut groups: Vec<BTreeMap<PartitionId, Vec<usize>>> = vec![BTreeMap::new(); channels.len()];
    for (row, key) in rows.keys.iter().enumerate() {
        let shard = hash::slot(hash::hash_primary_key(&key), channels.len());
        groups[shard].entry(partitions[row]).or_default().push(row);
    }
    let deletes = delete_keys.map(|keys| split_keys(keys, channels.len()));
    let total = rows.batch.len();
    let Rows { batch, row_ids, .. } = rows;
    let mut whole = Some(batch);
    let mut requests = Vec::new();
    for (shard, group) in groups.into_iter().enumerate() {
        let mut inserts = Vec::with_capacity(group.len());
        for (partition, picked) in group {
            // All rows in one place, which is the rule: the columns move as they are.
            let part = if picked.len() == total {
                whole.take()
            } else {
                whole.as_ref().map(|batch| batch.take(&picked))
            };
            let part = part.ok_or_else(|| Error::internal("rows of an insert went twice"))?;
            inserts.push(PartitionRows {
                partition_id: partition.0,
                num_rows: u32::try_from(picked.len())
                    .map_err(|_| Error::invalid_parameter("too many rows in one insert"))?,
                row_ids: picked.iter().map(|row| row_ids[*row]).collect(),
                fields: columns::batch_to_proto(part, entry.schema()),
            });
        }
        let keys = deletes
            .as_ref()
            .map(|deletes| &deletes[shard])
            .filter(|keys| !keys.is_empty());
        if inserts.is_empty() && keys.is_none() {
            continue;
        }
        requests.push(WriteRequest {
            channel: channels[shard].clone(),
            collection_id: entry.id().0,
            delete_keys: keys.cloned().map(keys::to_proto),
            inserts,
            delete_partitions: Vec::new(),
            schema_version: entry.schema().version,
        });
    }
    Ok(requests)
}

/// The primary keys of each channel.
pub fn split_keys(keys: &PrimaryKeys, shards: usize) -> Vec<PrimaryKeys> {
    let mut split = vec![keys.empty_like(); shards];
    for key in keys.iter() {
        split[hash::slot(hash::hash_primary_key(&key), shards)].push(key);
    }
    split
}
