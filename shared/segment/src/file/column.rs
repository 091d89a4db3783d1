//! One column of a Parquet file.

use std::sync::Arc;

use bytes::Bytes;
use redkite_storage::ObjectStore;
use redkite_types::{CollectionSchema, Column, ColumnData, FieldSchema, SegmentId};

use super::{
    FileEntry,
    arrow::{from_array, read_column_batches},
    checked::{Found, OpenFile, local},
    columns::{FileColumns, Scalars},
    open::{Placement, vector_column},
    parts::Layout,
    reading,
};
use crate::error::{Error, Result};

/// One field of a segment's data file, not read yet.
pub struct ColumnSource {
    segment: SegmentId,
    file: FileEntry,
    field: FieldSchema,
    /// The file, if it is on a local disk.
    local: Option<OpenFile>,
    is_in_place: bool,
}

/// Finds one field of a segment's data file, without reading more than its footer. A file that is on no
/// local disk, and for which there is no room there, is fetched when the column is read.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub async fn find_column(
    store: &dyn ObjectStore,
    segment: SegmentId,
    file: &FileEntry,
    field: &FieldSchema,
) -> Result<ColumnSource> {
    let (path, id) = (file.path.clone(), field.id);
    let (local, is_in_place) = match local(store, file).await? {
        None => (None, false),
        Some(found) => {
            let look = move || {
                let layout = Layout::parse(&path, &found.file)?;
                let is_in_place = layout.vectors.iter().any(|part| part.field == id);
                Ok((Some(found), is_in_place))
            };
            reading(&file.path, look).await?
        }
    };
    Ok(ColumnSource {
        segment,
        file: file.clone(),
        field: field.clone(),
        local,
        is_in_place,
    })
}

impl ColumnSource {
    /// Whether the values are mapped as they lie in the file, and take no memory of their own.
    pub fn is_mapped(&self) -> bool {
        self.is_in_place
    }

    /// Reads or maps the column after checking the file's checksum; the other columns are not decoded.
    /// Works where blocking is allowed.
    ///
    /// # Errors
    /// `Storage` · `Corrupt` · `NoField` when the file is older than the field
    pub async fn read(self, store: &dyn ObjectStore) -> Result<Column> {
        let found = match self.local {
            Some(local) => Found::Local(local),
            None => Found::Fetched(store.get(&self.file.path).await?),
        };
        let (segment, file, field) = (self.segment, self.file, self.field);
        let path = file.path.clone();
        reading(&path, move || read(found, segment, &file, &field)).await
    }
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
        let range = &ranges[at + 1];
        let values = match found.is_local() {
            true => found
                .map(file)?
                .slice(range.start as usize..range.end as usize),
            false => {
                let read = found.read(file, std::slice::from_ref(range))?;
                read.into_iter().next().unwrap_or_default()
            }
        };
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
