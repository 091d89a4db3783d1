//! The columns of an open file, decoded when somebody asks for them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::RowSelectionPolicy;
use redkite_types::{
    CollectionSchema, Column, ColumnData, FieldId, FieldSchema, RowBatch, RowId, Timestamp,
};

use super::{
    checked::failed,
    open::{Placement, vectors},
    pages::Pages,
    parts::Layout,
    rows::RowsInFile,
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
};

/// A column of which so many rows in a hundred are asked for is decoded as a whole.
const WHOLE_FROM_PERCENT: usize = 10;

/// The first bytes of a file, which hold all columns but the vectors that are in place.
#[derive(Debug)]
pub(super) enum Scalars {
    InMemory(Bytes),
    Mapped(Bytes),
}

/// Everything of a data file but the vectors that are in place.
#[derive(Debug)]
pub(crate) struct FileColumns {
    scalars: Bytes,
    /// Whether the scalar columns are mapped rather than in memory.
    is_mapped: bool,
    /// The vector columns that stay in the file.
    rows: Vec<RowsInFile>,
    pages: Pages,
    placement: Placement,
    /// This file's number in the cache.
    number: u64,
    /// Columns that stay once they are decoded; a column's lock is held while it is decoded, so
    /// that this is done once.
    kept: HashMap<FieldId, Mutex<Option<Arc<Column>>>>,
}

impl Drop for FileColumns {
    fn drop(&mut self) {
        self.placement.cache.forget(self.number);
    }
}

impl FileColumns {
    /// Reads the page index.
    pub(super) fn new(
        path: &str,
        scalars: Scalars,
        layout: Layout,
        schema: Arc<CollectionSchema>,
        placement: Placement,
    ) -> Result<Self, String> {
        let (scalars, is_mapped) = match scalars {
            Scalars::InMemory(bytes) => (bytes, false),
            Scalars::Mapped(bytes) => (bytes, true),
        };
        let pages = Pages::new(path, &scalars, layout, schema.clone())?;
        let kept = schema.fields.iter().map(|field| field.id);
        let kept = kept.filter(|field| !placement.mapped.contains(field));
        let kept = kept.map(|field| (field, Mutex::default())).collect();
        Ok(Self {
            scalars,
            is_mapped,
            rows: Vec::new(),
            pages,
            number: placement.cache.register(),
            placement,
            kept,
        })
    }

    /// The same, with vector columns that stay in the file.
    pub(super) fn with_rows(mut self, rows: Vec<RowsInFile>) -> Self {
        self.rows = rows;
        self
    }

    /// Single rows of a vector field, if its values stay in the file.
    pub(crate) fn rows_of(&self, field: FieldId) -> Option<&RowsInFile> {
        self.rows.iter().find(|rows| rows.field == field)
    }

    /// Rows of this file that are in memory as a whole.
    pub(crate) fn whole(
        &self,
        key_field: FieldId,
        columns: Vec<Column>,
        row_ids: Vec<RowId>,
        timestamps: Vec<Timestamp>,
    ) -> Result<Chunk> {
        let batch = RowBatch::new(self.rows(), columns);
        let batch =
            batch.ok_or_else(|| Error::corrupt(self.path(), "its columns differ in length"));
        let chunk = Chunk::new(key_field, batch?, row_ids, timestamps);
        chunk.map_err(|reason| Error::corrupt(self.path(), reason))
    }

    pub(super) fn path(&self) -> &str {
        self.pages.path()
    }

    pub(super) fn rows(&self) -> usize {
        self.pages.rows()
    }

    /// The schema that the columns are read by.
    pub(crate) fn schema(&self) -> &CollectionSchema {
        self.pages.schema()
    }

    /// Memory taken by decoded columns and by the encoded ones, in bytes; a mapped file's do not
    /// count.
    pub(crate) fn memory_bytes(&self) -> usize {
        // One that is being decoded counts the next time: nobody waits here.
        let kept = self.kept.values().filter_map(|slot| slot.try_lock());
        let kept = kept.filter_map(|slot| Some(slot.as_ref()?.data.memory_bytes()));
        let kept: usize = kept.sum();
        let encoded = match self.is_mapped {
            true => 0,
            false => self.scalars.len(),
        };
        kept + encoded + self.placement.cache.bytes_of(self.number)
    }

    /// Whether the values of a vector field are mapped rather than in memory.
    pub(crate) fn is_mapped(&self, field: FieldId) -> bool {
        self.rows_of(field).is_some()
    }

    /// A column, decoded if need be; `None` when the schema has no such field.
    ///
    /// # Errors
    /// `Corrupt`
    pub(crate) fn column(&self, field: FieldId) -> Result<Option<Arc<Column>>> {
        let Some(schema) = self.schema().field_by_id(field) else {
            return Ok(None);
        };
        let Some(slot) = self.kept.get(&field) else {
            if let Some(column) = self.placement.cache.get(self.number, field) {
                return Ok(Some(column));
            }
            let column = Arc::new(self.decode(schema)?);
            self.placement.cache.put(self.number, field, &column);
            return Ok(Some(column));
        };
        let mut slot = slot.lock();
        if let Some(column) = &*slot {
            return Ok(Some(column.clone()));
        }
        let column = Arc::new(self.decode(schema)?);
        *slot = Some(column.clone());
        Ok(Some(column))
    }

    /// Some rows of a vector field whose values stay in the file, in the order given; `None` of any
    /// other field.
    ///
    /// # Errors
    /// `Storage` when the file cannot be read
    pub(crate) fn take_vectors(&self, field: FieldId, rows: &[usize]) -> Result<Option<Column>> {
        let (Some(file), Some(schema)) = (self.rows_of(field), self.schema().field_by_id(field))
        else {
            return Ok(None);
        };
        let read = file
            .take(rows)
            .map_err(|error| failed(self.path(), error))?;
        let data = vectors(schema, read.into()).map_err(|why| Error::corrupt(self.path(), why))?;
        Ok(Some(Column::new(field, data)))
    }

    /// Some rows of a column, in the order given. Where columns do not stay in memory, only the
    /// pages that hold the rows are decoded. `None` when the schema has no such field.
    ///
    /// # Errors
    /// `Corrupt`
    pub(crate) fn take(&self, field: FieldId, rows: &[usize]) -> Result<Option<Column>> {
        let few = rows.len() * 100 < self.rows() * WHOLE_FROM_PERCENT;
        let cached = || self.placement.cache.get(self.number, field).is_some();
        if self.kept.contains_key(&field) || !few || cached() {
            return Ok(self.column(field)?.map(|column| column.take(rows)));
        }
        let Some(schema) = self.schema().field_by_id(field) else {
            return Ok(None);
        };
        let mut wanted = rows.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let found = self.decode_rows(schema, Some(&wanted))?;
        // Every row is among those that were wanted.
        let places: Vec<usize> = rows
            .iter()
            .map(|row| wanted.partition_point(|found| found < row))
            .collect();
        Ok(Some(found.take(&places)))
    }

    /// Decodes a whole column.
    pub(crate) fn decode(&self, field: &FieldSchema) -> Result<Column> {
        self.decode_rows(field, None)
    }

    /// Decodes a column, or some rows of it, which are in order.
    fn decode_rows(&self, field: &FieldSchema, rows: Option<&[usize]>) -> Result<Column> {
        let policy = RowSelectionPolicy::default();
        self.pages.decode(field, self.scalars.clone(), rows, policy)
    }

    /// Decodes a hidden column.
    pub(super) fn hidden(&self, field: FieldId) -> Result<Vec<i64>> {
        let schema = FieldSchema {
            id: field,
            ..FieldSchema::new(super::hidden_name(field), redkite_types::DataType::Int64)
        };
        match self.decode(&schema)? {
            Column {
                data: ColumnData::Int64(values),
                valid: None,
                ..
            } => Ok(values),
            _ => Err(Error::corrupt(self.path(), "a hidden column has nulls")),
        }
    }

    /// Whether the file has a column of the field.
    pub(super) fn has(&self, field: FieldId) -> bool {
        self.pages.has(field)
    }
}
