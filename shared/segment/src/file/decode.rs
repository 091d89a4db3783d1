//! A Parquet file of format version 1 to rows.

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use redkite_types::{
    BitSet, CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, RowBatch, RowId,
    Timestamp,
};

use super::{FORMAT_VERSION, METADATA_PREFIX, arrow::from_array, hidden_name, read_batches};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
};

/// Reads the data file of a segment as a whole.
pub(super) fn data_file(path: &str, bytes: Bytes, schema: &CollectionSchema) -> Result<Chunk> {
    let corrupt = |reason: &dyn std::fmt::Display| Error::corrupt(path, reason);
    let (metadata, batches) = read_batches(bytes).map_err(|error| corrupt(&error))?;
    check_version(
        path,
        metadata.get(&format!("{METADATA_PREFIX}format_version")),
    )?;
    let mut whole = Whole::new(schema);
    for batch in batches {
        let batch = batch.map_err(|error| corrupt(&error))?;
        let appended = whole.append(&batch, schema);
        appended.map_err(|reason| corrupt(&reason))?;
    }
    whole.into_chunk(schema).map_err(|reason| corrupt(&reason))
}

/// Reads a file as a whole whose columns are found by the names of the schema's fields.
pub(super) fn table(path: &str, bytes: Bytes, schema: &CollectionSchema) -> Result<RowBatch> {
    let corrupt = |reason: &dyn std::fmt::Display| Error::corrupt(path, reason);
    let (_, batches) = read_batches(bytes).map_err(|error| corrupt(&error))?;
    let empty =
        |field: &FieldSchema| Column::new(field.id, ColumnData::empty(field.data_type, field.dim));
    let mut columns: Vec<Column> = schema.fields.iter().map(empty).collect();
    let mut rows = 0;
    for batch in batches {
        let batch = batch.map_err(|error| corrupt(&error))?;
        rows += batch.num_rows();
        for (column, field) in columns.iter_mut().zip(&schema.fields) {
            let array = batch.column_by_name(&field.name);
            let read = array
                .and_then(|array| from_array(array.as_ref(), field.id, field.data_type, field.dim));
            let name = &field.name;
            column.extend(&read.ok_or_else(|| corrupt(&format!("it has no such column {name}")))?);
        }
    }
    let batch = RowBatch::new(rows, columns);
    batch.ok_or_else(|| corrupt(&"its columns differ in length"))
}

fn check_version(path: &str, found: Option<&String>) -> Result<()> {
    let found = found.and_then(|text| text.parse().ok());
    match found {
        None => Err(Error::corrupt(path, "it names no format version")),
        Some(found) if found > FORMAT_VERSION => Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        }),
        Some(_) => Ok(()),
    }
}

/// What was read so far.
struct Whole {
    columns: Vec<Column>,
    row_ids: Vec<RowId>,
    timestamps: Vec<Timestamp>,
}

impl Whole {
    fn new(schema: &CollectionSchema) -> Self {
        let columns = schema
            .fields
            .iter()
            .map(|field| Column::new(field.id, ColumnData::empty(field.data_type, field.dim)));
        Self {
            columns: columns.collect(),
            row_ids: Vec::new(),
            timestamps: Vec::new(),
        }
    }

    fn append(&mut self, batch: &RecordBatch, schema: &CollectionSchema) -> Result<(), String> {
        self.row_ids
            .extend(hidden(batch, FieldId::ROW_ID)?.into_iter().map(RowId));
        let times = hidden(batch, FieldId::TIMESTAMP)?;
        self.timestamps
            .extend(times.into_iter().map(|ts| Timestamp(ts as u64)));
        for (column, field) in self.columns.iter_mut().zip(&schema.fields) {
            let read = match position(batch, field.id) {
                Some(index) => from_array(
                    batch.column(index).as_ref(),
                    field.id,
                    field.data_type,
                    field.dim,
                )
                .ok_or_else(|| {
                    format!(
                        "column {} is {} where {} was expected",
                        field.name,
                        batch.column(index).data_type(),
                        field.data_type
                    )
                })?,
                None => missing(field, batch.num_rows())?,
            };
            column.extend(&read);
        }
        Ok(())
    }

    fn into_chunk(self, schema: &CollectionSchema) -> Result<Chunk, String> {
        let rows = self.row_ids.len();
        let batch = RowBatch::new(rows, self.columns)
            .ok_or_else(|| "its columns differ in length".to_owned())?;
        let key = schema.fields.iter().find(|field| field.is_primary_key);
        let key = key.ok_or_else(|| "the schema has no primary key".to_owned())?;
        Chunk::new(key.id, batch, self.row_ids, self.timestamps)
    }
}

/// The position of a field's column, by the field id in the column's metadata.
fn position(batch: &RecordBatch, field: FieldId) -> Option<usize> {
    let wanted = field.to_string();
    batch
        .schema_ref()
        .fields()
        .iter()
        .position(|column| column.metadata().get(PARQUET_FIELD_ID_META_KEY) == Some(&wanted))
}

fn hidden(batch: &RecordBatch, field: FieldId) -> Result<Vec<i64>, String> {
    let name = hidden_name(field);
    let index = position(batch, field).ok_or_else(|| format!("column {name} is missing"))?;
    let array = batch.column(index).as_ref();
    match from_array(array, field, DataType::Int64, 0) {
        Some(Column {
            data: ColumnData::Int64(values),
            valid: None,
            ..
        }) => Ok(values),
        _ => Err(format!("column {name} is {}", array.data_type())),
    }
}

/// The values of a field that was added after the file was written.
pub(crate) fn missing(field: &FieldSchema, rows: usize) -> Result<Column, String> {
    let mut data = ColumnData::with_capacity(field.data_type, field.dim, rows);
    if let Some(value) = &field.default_value {
        for _ in 0..rows {
            if !data.push_value(value) {
                return Err(format!("the default of field {} does not fit", field.name));
            }
        }
        return Ok(Column::new(field.id, data));
    }
    if !field.nullable && !field.is_dynamic {
        return Err(format!("column {} is missing", field.name));
    }
    for _ in 0..rows {
        data.push_placeholder();
    }
    Ok(Column {
        field: field.id,
        data,
        valid: Some(BitSet::new(rows)),
    })
}
