//! A write as the owner takes it: checked, converted, and all but its timestamp encoded.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use redkite_proto::{
    convert::{columns, keys},
    redkite::querynode::{PartitionRows, WalEntry, WriteRequest},
};
use redkite_segment::{ALL_PARTITIONS, DeleteBatch};
use redkite_types::{
    CollectionSchema, DataType, Error, ErrorCode, PartitionId, PrimaryKeys, Result, RowBatch,
    RowId, Timestamp,
};

/// Field numbers of `WalEntry`.
const TIMESTAMP_TAG: u32 = 1;
const WRITE_TAG: u32 = 2;
/// Longest encoding of the timestamp field.
const TIMESTAMP_BYTES: usize = 11;

/// A write whose rows fit the schema.
#[derive(Debug)]
pub(crate) struct PreparedWrite {
    pub(crate) delete_keys: Option<PrimaryKeys>,
    /// Where they are deleted; empty means everywhere.
    delete_partitions: Vec<PartitionId>,
    pub(crate) inserts: Vec<PreparedRows>,
    /// The schema that the rows were read with.
    pub(crate) schema: Arc<CollectionSchema>,
    /// The log's record, but for its timestamp; empty when it comes from the log.
    record: Vec<u8>,
}

/// Rows for one partition.
#[derive(Debug)]
pub(crate) struct PreparedRows {
    pub(crate) partition: PartitionId,
    pub(crate) batch: RowBatch,
    pub(crate) row_ids: Vec<RowId>,
}

/// Encodes a write and takes it apart. Computes in proportion to its size.
///
/// # Errors
/// As [`take_apart`].
pub(crate) fn prepare(
    write: WriteRequest,
    schema: &Arc<CollectionSchema>,
) -> Result<PreparedWrite> {
    let mut record = Vec::with_capacity(write.encoded_len() + TIMESTAMP_BYTES + 8);
    prost::encoding::message::encode(WRITE_TAG, &write, &mut record);
    let mut prepared = take_apart(write, schema)?;
    prepared.record = record;
    Ok(prepared)
}

/// Checks a write and converts its rows; nothing is copied that can be moved.
///
/// # Errors
/// Code 110 while the schema is older than the rows; code 1009 naming the field when the rows do not
/// have the schema's shape, code 1100 for keys of the wrong type.
pub(crate) fn take_apart(
    write: WriteRequest,
    schema: &Arc<CollectionSchema>,
) -> Result<PreparedWrite> {
    check_version(write.schema_version, schema)?;
    let delete_keys = match write.delete_keys {
        Some(ids) if ids.id_field.is_some() => Some(keys::from_proto(ids)?),
        Some(_) | None => None,
    };
    let delete_keys = delete_keys.filter(|keys| !keys.is_empty());
    if let Some(keys) = &delete_keys {
        check_key_type(keys, schema)?;
    }
    let inserts = write.inserts.into_iter().filter(|rows| rows.num_rows > 0);
    Ok(PreparedWrite {
        delete_keys,
        delete_partitions: write
            .delete_partitions
            .into_iter()
            .map(PartitionId)
            .collect(),
        inserts: inserts
            .map(|rows| take_rows(rows, schema))
            .collect::<Result<_>>()?,
        schema: schema.clone(),
        record: Vec::new(),
    })
}

/// Reads a record of the log.
///
/// # Errors
/// Code 1009 when it is none.
pub(crate) fn decode(
    payload: Bytes,
    schema: &Arc<CollectionSchema>,
) -> Result<(Timestamp, PreparedWrite)> {
    let entry = WalEntry::decode(payload).map_err(|error| {
        Error::new(
            ErrorCode::DataIntegrity,
            format!("log record cannot be decoded: {error}"),
        )
    })?;
    let write = take_apart(entry.write.unwrap_or_default(), schema)?;
    Ok((Timestamp(entry.timestamp), write))
}

/// Checks that a schema is not older than the one that a request was made with; one that is newer
/// has all of its fields.
///
/// # Errors
/// Code 110, retriable: the node will hear of the other one soon.
pub(crate) fn check_version(wanted: i32, schema: &CollectionSchema) -> Result<()> {
    if wanted <= schema.version {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::SchemaNotReady,
        format!(
            "{}[version={}][wanted={wanted}]",
            ErrorCode::SchemaNotReady.text(),
            schema.version
        ),
    ))
}

fn take_rows(rows: PartitionRows, schema: &CollectionSchema) -> Result<PreparedRows> {
    let count = rows.num_rows as usize;
    if rows.row_ids.len() != count {
        return Err(Error::new(
            ErrorCode::DataIntegrity,
            format!("{} row ids for {count} rows", rows.row_ids.len()),
        ));
    }
    Ok(PreparedRows {
        partition: PartitionId(rows.partition_id),
        batch: columns::batch_from_proto(rows.fields, schema, count)?,
        row_ids: rows.row_ids.into_iter().map(RowId).collect(),
    })
}

fn check_key_type(keys: &PrimaryKeys, schema: &CollectionSchema) -> Result<()> {
    let key = schema.primary_key();
    let fits = match keys {
        PrimaryKeys::Int(_) => key.data_type == DataType::Int64,
        PrimaryKeys::Str(_) => key.data_type == DataType::VarChar,
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid_parameter(format!(
        "keys to delete are not of type {} as primary key {}",
        key.data_type, key.name
    )))
}

impl PreparedWrite {
    /// The partitions that it names.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let inserts = self.inserts.iter().map(|rows| rows.partition);
        inserts.chain(self.delete_partitions.iter().copied())
    }

    /// Bytes of the log's record.
    pub(crate) fn record_len(&self) -> usize {
        self.record.len() + TIMESTAMP_BYTES
    }

    /// The log's record. Fields of a message may come in any order: the timestamp stands last, so
    /// that nothing has to be moved for it.
    pub(crate) fn take_record(&mut self, ts: Timestamp) -> Bytes {
        let mut record = std::mem::take(&mut self.record);
        prost::encoding::uint64::encode(TIMESTAMP_TAG, &ts.0, &mut record);
        record.into()
    }

    /// The same write read with another schema.
    ///
    /// # Errors
    /// When its rows do not fit that one.
    pub(crate) fn with_schema(self, schema: &Arc<CollectionSchema>) -> Result<Self> {
        let record = self.record;
        let entry = WalEntry::decode(record.as_slice()).map_err(|error| {
            Error::internal(format!("a write cannot be decoded again: {error}"))
        })?;
        let mut again = take_apart(entry.write.unwrap_or_default(), schema)?;
        again.record = record;
        Ok(again)
    }

    /// Its deletes at a timestamp.
    pub(crate) fn take_deletes(&mut self, ts: Timestamp) -> Option<DeleteBatch> {
        let keys = self.delete_keys.take()?;
        let Some((first, rest)) = self.delete_partitions.split_first() else {
            return Some(DeleteBatch::at(keys, ts, ALL_PARTITIONS));
        };
        let mut batch = DeleteBatch::at(keys, ts, *first);
        let count = batch.len();
        for partition in rest {
            for index in 0..count {
                let key = batch.keys.get(index);
                batch.keys.push(key);
                batch.timestamps.push(ts);
                batch.partitions.push(*partition);
            }
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::FieldSchema;

    use super::*;

    fn schema() -> Arc<CollectionSchema> {
        let key = FieldSchema {
            is_primary_key: true,
            ..FieldSchema::new("id", DataType::Int64)
        };
        let vector = FieldSchema {
            dim: 2,
            ..FieldSchema::new("v", DataType::FloatVector)
        };
        let fields = vec![key, vector];
        Arc::new(
            CollectionSchema {
                fields,
                ..CollectionSchema::default()
            }
            .prepare()
            .unwrap(),
        )
    }

    #[test]
    fn a_record_of_the_log_is_the_write_with_its_timestamp() {
        let write = WriteRequest {
            channel: "c".into(),
            collection_id: 7,
            delete_keys: Some(keys::to_proto(PrimaryKeys::Int(vec![1, 2]))),
            delete_partitions: vec![5, 6],
            ..WriteRequest::default()
        };
        let mut prepared = prepare(write.clone(), &schema()).unwrap();
        let ts = Timestamp::new(1_800_000_000_000, 3);
        let record = prepared.take_record(ts);
        let entry = WalEntry::decode(record.clone()).unwrap();
        assert_eq!((entry.timestamp, entry.write.unwrap()), (ts.0, write));
        let (at, mut again) = decode(record, &schema()).unwrap();
        let deletes = again.take_deletes(at).unwrap();
        assert_eq!(at, ts);
        assert_eq!(deletes, prepared.take_deletes(ts).unwrap());
        assert_eq!(deletes.keys, PrimaryKeys::Int(vec![1, 2, 1, 2]));
        assert_eq!(deletes.partitions, [5, 5, 6, 6].map(PartitionId));
    }

    #[test]
    fn a_write_that_does_not_fit_is_refused_as_a_whole() {
        let strings = PrimaryKeys::Str(vec!["a".into()]);
        let wrong_keys = WriteRequest {
            delete_keys: Some(keys::to_proto(strings)),
            ..WriteRequest::default()
        };
        assert!(prepare(wrong_keys, &schema()).is_err());
        let rows = PartitionRows {
            num_rows: 2,
            row_ids: vec![1],
            ..PartitionRows::default()
        };
        let few_ids = WriteRequest {
            inserts: vec![rows],
            ..WriteRequest::default()
        };
        assert!(prepare(few_ids, &schema()).is_err());
    }
}
