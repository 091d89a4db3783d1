//! One column of a Parquet file.

use bytes::Bytes;
use redkite_storage::ObjectStore;
use redkite_types::{Column, ColumnData, FieldSchema, SegmentId};

use super::{
    FileEntry,
    arrow::{from_array, read_column_batches},
    blocking,
};
use crate::error::{Error, Result};

/// Reads one field of a segment's data file, after checking the file's checksum; the other columns
/// are not decoded. Decoding runs where blocking is allowed.
///
/// # Errors
/// `Storage` · `Corrupt` · `NoField` when the file is older than the field
pub async fn read_column(
    store: &dyn ObjectStore,
    segment: SegmentId,
    file: &FileEntry,
    field: &FieldSchema,
) -> Result<Column> {
    let bytes = file.read(store).await?;
    let (path, field) = (file.path.clone(), field.clone());
    blocking(segment, move || decode(segment, &path, bytes, &field)).await
}

fn decode(segment: SegmentId, path: &str, bytes: Bytes, field: &FieldSchema) -> Result<Column> {
    let corrupt = |reason: &dyn std::fmt::Display| Error::corrupt(path, reason);
    let batches = read_column_batches(bytes, field.id).map_err(|error| corrupt(&error))?;
    let batches = batches.ok_or(Error::NoField {
        segment,
        field: field.id,
    })?;
    let mut whole = Column::new(field.id, ColumnData::empty(field.data_type, field.dim));
    for batch in batches {
        let batch = batch.map_err(|error| corrupt(&error))?;
        let array = batch.column(0).as_ref();
        let read = from_array(array, field.id, field.data_type, field.dim);
        whole.extend(&read.ok_or_else(|| {
            let found = array.data_type();
            corrupt(&format!(
                "column {} is {found} where {} was expected",
                field.name, field.data_type
            ))
        })?);
    }
    Ok(whole)
}
