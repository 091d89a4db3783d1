//! One column of a Parquet file.

use std::sync::Arc;

use bytes::Bytes;
use redkite_storage::ObjectStore;
use redkite_types::{CollectionSchema, Column, ColumnData, FieldSchema, SegmentId};

use super::{
    FileEntry,
    arrow::{from_array, read_column_batches},
    checked::{Found, find},
    columns::{FileColumns, Scalars},
    open::{Placement, vector_column},
    reading,
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
    let found = find(store, file).await?;
    let (file, field) = (file.clone(), field.clone());
    let path = file.path.clone();
    reading(&path, move || read(found, segment, &file, &field)).await
}

fn read(found: Found, segment: SegmentId, file: &FileEntry, field: &FieldSchema) -> Result<Column> {
    let corrupt = |reason: String| Error::corrupt(&file.path, reason);
    let layout = found.layout(&file.path)?;
    if layout.version < 2 {
        return decode_v1(segment, &file.path, found.whole(file)?, field);
    }
    let ranges = layout.ranges(file.size_bytes).map_err(corrupt)?;
    let at = layout
        .vectors
        .iter()
        .position(|part| part.field == field.id);
    if let Some(at) = at {
        let values = found.read(file, &ranges[at + 1..at + 2])?;
        let values = values.into_iter().next().unwrap_or_default();
        return vector_column(field, &layout.vectors[at], values, true).map_err(corrupt);
    }
    let scalars = found.read(file, &ranges[..1])?.into_iter().next();
    let columns = FileColumns::new(
        &file.path,
        Scalars::InMemory(scalars.unwrap_or_default()),
        layout,
        Arc::new(CollectionSchema::default()),
        Placement::memory(),
    );
    let columns = columns.map_err(corrupt)?;
    match columns.has(field.id) {
        true => columns.decode(field),
        false => Err(Error::NoField {
            segment,
            field: field.id,
        }),
    }
}

fn decode_v1(segment: SegmentId, path: &str, bytes: Bytes, field: &FieldSchema) -> Result<Column> {
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
