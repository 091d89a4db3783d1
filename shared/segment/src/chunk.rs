//! Immutable rows: the unit that a writer publishes and readers share.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    ops::{Deref, Range},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redkite_expr::ColumnSource;
use redkite_types::{
    CollectionSchema, Column, ColumnData, FieldId, FieldSchema, PrimaryKey, RowBatch, RowId,
    SegmentId, Timestamp,
};

use crate::{
    error::{Error, Result},
    file::{FileColumns, RowsInFile, late_column},
    interim::InterimIndexes,
};

/// Rows with their hidden columns, never changed once made.
#[derive(Debug)]
pub struct Chunk {
    batch: RowBatch,
    /// Where columns are that the batch does not have.
    file: Option<FileColumns>,
    row_ids: Vec<RowId>,
    timestamps: Vec<Timestamp>,
    /// Position of the primary key among the columns.
    key_column: usize,
    /// Earliest and latest timestamp; of no rows, an empty range.
    times: (Timestamp, Timestamp),
    /// Rows by primary key, made when first asked for.
    order: OnceLock<Vec<u32>>,
    /// Of the segment that it belongs to, and which row of it is the first here.
    interim: (Arc<InterimIndexes>, usize),
    late: Late,
}

/// Fields that the schema has got since the rows were made: a row has the field's default, or no
/// value.
#[derive(Debug, Default)]
struct Late {
    schema: ArcSwapOption<CollectionSchema>,
    /// Columns that a filter has looked at. A field's default never changes.
    columns: Mutex<Vec<Arc<Column>>>,
}

/// Primary keys of a chunk, compared without being copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeysRef<'a> {
    Int(&'a [i64]),
    Str(&'a [String]),
}

impl KeysRef<'_> {
    pub(crate) fn get(&self, row: usize) -> PrimaryKey {
        match self {
            Self::Int(keys) => PrimaryKey::Int(keys[row]),
            Self::Str(keys) => PrimaryKey::Str(keys[row].clone()),
        }
    }

    pub(crate) fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Self::Int(keys) => keys[a].cmp(&keys[b]),
            Self::Str(keys) => keys[a].cmp(&keys[b]),
        }
    }

    /// Orders a row's key against another key; one of the other type is never met.
    pub(crate) fn compare_to(&self, row: usize, key: &PrimaryKey) -> Ordering {
        match (self, key) {
            (Self::Int(keys), PrimaryKey::Int(key)) => keys[row].cmp(key),
            (Self::Str(keys), PrimaryKey::Str(key)) => keys[row].as_str().cmp(key),
            (Self::Int(_), PrimaryKey::Str(_)) => Ordering::Less,
            (Self::Str(_), PrimaryKey::Int(_)) => Ordering::Greater,
        }
    }
}

impl Chunk {
    /// Puts rows and their hidden columns together.
    ///
    /// # Errors
    /// What does not fit, as text: lengths differ, there is no such key column, a key is not an
    /// int64 or a VarChar, or there are more rows than a row number counts.
    pub fn new(
        key_field: FieldId,
        batch: RowBatch,
        row_ids: Vec<RowId>,
        timestamps: Vec<Timestamp>,
    ) -> Result<Self, String> {
        Self::with_file(key_field, batch, row_ids, timestamps, None)
    }

    /// Rows of an open file: `batch` has the key and the vectors, the file the other columns.
    ///
    /// # Errors
    /// As [`Chunk::new`].
    pub(crate) fn open(
        key_field: FieldId,
        batch: RowBatch,
        row_ids: Vec<RowId>,
        timestamps: Vec<Timestamp>,
        file: FileColumns,
    ) -> Result<Self, String> {
        Self::with_file(key_field, batch, row_ids, timestamps, Some(file))
    }

    fn with_file(
        key_field: FieldId,
        batch: RowBatch,
        row_ids: Vec<RowId>,
        timestamps: Vec<Timestamp>,
        file: Option<FileColumns>,
    ) -> Result<Self, String> {
        let rows = batch.len();
        if row_ids.len() != rows || timestamps.len() != rows {
            return Err(format!(
                "{rows} rows have {} row ids and {} timestamps",
                row_ids.len(),
                timestamps.len()
            ));
        }
        if u32::try_from(rows).is_err() {
            return Err(format!("{rows} rows are too many"));
        }
        let key_column = batch
            .columns()
            .iter()
            .position(|column| column.field == key_field)
            .ok_or_else(|| format!("there is no primary key column {key_field}"))?;
        let key_data = &batch.columns()[key_column].data;
        if !matches!(key_data, ColumnData::Int64(_) | ColumnData::VarChar(_)) {
            return Err(format!("a primary key cannot be {}", key_data.data_type()));
        }
        let (mut first, mut last) = (Timestamp::MAX, Timestamp::ZERO);
        for ts in &timestamps {
            first = first.min(*ts);
            last = last.max(*ts);
        }
        Ok(Self {
            batch,
            file,
            row_ids,
            timestamps,
            key_column,
            times: (first, last),
            order: OnceLock::new(),
            interim: Default::default(),
            late: Late::default(),
        })
    }

    /// The same rows as the part of a segment that begins at a row; its interim indexes are the
    /// segment's.
    pub(crate) fn with_interim(self, all: Arc<InterimIndexes>, first: usize) -> Self {
        Self {
            interim: (all, first),
            ..self
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// The user's columns that are in memory as a whole: all, or, of an open file, the primary key
    /// and the vectors (which may be mapped).
    pub fn batch(&self) -> &RowBatch {
        &self.batch
    }

    /// The row ids.
    pub fn row_ids(&self) -> &[RowId] {
        &self.row_ids
    }

    /// When each row was written.
    pub fn timestamps(&self) -> &[Timestamp] {
        &self.timestamps
    }

    /// Earliest and latest timestamp; `(MAX, ZERO)` of no rows.
    pub fn times(&self) -> (Timestamp, Timestamp) {
        self.times
    }

    /// A row's primary key.
    ///
    /// # Panics
    /// When the row is past the end.
    pub fn key(&self, row: usize) -> PrimaryKey {
        self.keys().get(row)
    }

    pub(crate) fn keys(&self) -> KeysRef<'_> {
        match &self.batch.columns()[self.key_column].data {
            ColumnData::Int64(keys) => KeysRef::Int(keys),
            ColumnData::VarChar(keys) => KeysRef::Str(keys),
            // `new` takes no other type.
            _ => KeysRef::Int(&[]),
        }
    }

    /// Row numbers by primary key; of one key, older before newer (by timestamp, then row id).
    pub fn key_order(&self) -> &[u32] {
        self.order.get_or_init(|| {
            let keys = self.keys();
            // `new` checked that row numbers fit.
            let mut order: Vec<u32> = (0..self.len() as u32).collect();
            order.sort_unstable_by(|&a, &b| {
                let (a, b) = (a as usize, b as usize);
                keys.compare(a, b)
                    .then_with(|| self.age(a).cmp(&self.age(b)))
            });
            order
        })
    }

    fn age(&self, row: usize) -> (Timestamp, RowId, usize) {
        (self.timestamps[row], self.row_ids[row], row)
    }

    /// The rows of one key, older before newer.
    pub fn rows_of(&self, key: &PrimaryKey) -> &[u32] {
        let (order, keys) = (self.key_order(), self.keys());
        let start = order.partition_point(|&row| keys.compare_to(row as usize, key).is_lt());
        let length =
            order[start..].partition_point(|&row| keys.compare_to(row as usize, key).is_eq());
        &order[start..start + length]
    }

    /// Whether the key lies between the smallest and the largest one.
    pub(crate) fn may_hold(&self, key: &PrimaryKey) -> bool {
        let (order, keys) = (self.key_order(), self.keys());
        match (order.first(), order.last()) {
            (Some(&first), Some(&last)) => {
                keys.compare_to(first as usize, key).is_le()
                    && keys.compare_to(last as usize, key).is_ge()
            }
            _ => false,
        }
    }

    /// The rows of several chunks in one, in order, without interim indexes. Copies them.
    pub(crate) fn concat<'a>(chunks: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut chunks = chunks.into_iter();
        let first = chunks.next()?;
        let rest: Vec<&Self> = chunks.collect();
        let rows = first.len() + rest.iter().map(|chunk| chunk.len()).sum::<usize>();
        let columns = first
            .batch
            .columns()
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let dim = column.data.dim();
                let mut whole = Column::new(
                    column.field,
                    ColumnData::with_capacity(column.data.data_type(), dim, rows),
                );
                whole.extend(column);
                for chunk in &rest {
                    whole.extend(&chunk.batch.columns()[index]);
                }
                whole
            })
            .collect();
        let mut merged = Self {
            batch: RowBatch::new(rows, columns)?,
            file: None,
            row_ids: Vec::with_capacity(rows),
            timestamps: Vec::with_capacity(rows),
            key_column: first.key_column,
            times: first.times,
            order: OnceLock::new(),
            interim: Default::default(),
            late: Late::default(),
        };
        for chunk in std::iter::once(first).chain(rest) {
            merged.row_ids.extend_from_slice(&chunk.row_ids);
            merged.timestamps.extend_from_slice(&chunk.timestamps);
            merged.times.0 = merged.times.0.min(chunk.times.0);
            merged.times.1 = merged.times.1.max(chunk.times.1);
        }
        Some(merged)
    }

    /// Memory taken, in bytes; what is mapped does not count.
    pub fn memory_bytes(&self) -> usize {
        let order = self.order.get().map_or(0, |order| order.len() * 4);
        let file = self.file.as_ref().map_or(0, FileColumns::memory_bytes);
        let is_mapped = |column: &&Column| {
            let is_vector = column.data.dim() > 0;
            let file = self.file.as_ref().filter(|_| is_vector);
            file.is_some_and(|file| file.is_mapped(column.field))
        };
        let columns = self.batch.columns().iter();
        let mapped = columns
            .filter(is_mapped)
            .map(|column| column.data.memory_bytes());
        let late = self.late.columns.lock();
        let late: usize = late.iter().map(|column| column.data.memory_bytes()).sum();
        let columns = self.batch.memory_bytes() - mapped.sum::<usize>();
        columns + file + self.len() * 16 + order + late + self.interim_memory_bytes()
    }

    /// The interim indexes of the segment that it belongs to, and which row of it is the first here.
    pub(crate) fn interim(&self) -> (&Arc<InterimIndexes>, usize) {
        (&self.interim.0, self.interim.1)
    }

    /// The columns of some fields, decoded if need be, for a filter to look at.
    ///
    /// # Errors
    /// `Corrupt`
    pub(crate) fn columns(&self, fields: &BTreeSet<FieldId>) -> Result<ChunkColumns<'_>> {
        let mut decoded = Vec::new();
        if let Some(file) = &self.file {
            for field in fields {
                if self.batch.column(*field).is_none() {
                    decoded.extend(file.column(*field)?);
                }
            }
        }
        for field in fields {
            let known = decoded.iter().any(|column| column.field == *field);
            if !known && self.batch.column(*field).is_none() {
                decoded.extend(self.late_column(*field)?);
            }
        }
        Ok(ChunkColumns {
            batch: &self.batch,
            decoded,
        })
    }

    /// A whole column, decoded if need be.
    ///
    /// # Errors
    /// `NoField` when there is no such column · `Corrupt`
    pub(crate) fn column(&self, segment: SegmentId, field: FieldId) -> Result<ColumnRef<'_>> {
        if let Some(column) = self.batch.column(field) {
            return Ok(ColumnRef::Here(column));
        }
        let decoded = match &self.file {
            Some(file) => file.column(field)?,
            None => None,
        };
        let decoded = decoded.map(ColumnRef::Decoded);
        decoded.ok_or(Error::NoField { segment, field })
    }

    /// Some rows of a column, in the order given; `None` when there is no such column.
    ///
    /// # Errors
    /// `Corrupt`
    ///
    /// # Panics
    /// When a row is past the end.
    pub(crate) fn take(&self, field: FieldId, rows: &[usize]) -> Result<Option<Column>> {
        if let Some(file) = &self.file
            && let Some(column) = file.take_vectors(field, rows)?
        {
            return Ok(Some(column));
        }
        if let Some(column) = self.batch.column(field) {
            return Ok(Some(column.take(rows)));
        }
        let in_file = match &self.file {
            Some(file) => file.take(field, rows)?,
            None => None,
        };
        match (in_file, self.late_field(field)) {
            (None, Some(schema)) => Ok(Some(self.fill(&schema, rows.len())?)),
            (found, _) => Ok(found),
        }
    }

    /// Shows the fields of a later schema too: from now on rows have their defaults, or no value.
    /// Who holds the chunk already may see them or not, and does not ask for them.
    pub(crate) fn adopt(&self, schema: &Arc<CollectionSchema>) {
        self.late.schema.store(Some(schema.clone()));
    }

    /// Whether [`Chunk::adopt`] was called.
    pub(crate) fn has_adopted(&self) -> bool {
        self.late.schema.load().is_some()
    }

    /// A field that only the later schema has.
    pub(crate) fn late_field(&self, field: FieldId) -> Option<FieldSchema> {
        let schema = self.late.schema.load();
        schema.as_ref()?.field_by_id(field).cloned()
    }

    /// The whole column of a field that only the later schema has.
    fn late_column(&self, field: FieldId) -> Result<Option<Arc<Column>>> {
        let Some(schema) = self.late_field(field) else {
            return Ok(None);
        };
        let mut columns = self.late.columns.lock();
        if let Some(column) = columns.iter().find(|column| column.field == field) {
            return Ok(Some(column.clone()));
        }
        let column = Arc::new(self.fill(&schema, self.len())?);
        columns.push(column.clone());
        Ok(Some(column))
    }

    fn fill(&self, field: &FieldSchema, rows: usize) -> Result<Column> {
        late_column(field, rows).map_err(|reason| Error::corrupt("rows of an older schema", reason))
    }

    /// The same rows with every column in memory, and no file.
    ///
    /// # Errors
    /// `Corrupt`
    pub(crate) fn into_whole(self) -> Result<Self> {
        let Some(file) = self.file else {
            return Ok(self);
        };
        let mut present = self.batch.into_columns();
        let mut columns = Vec::with_capacity(file.schema().fields.len());
        for field in &file.schema().fields {
            match present.iter().position(|column| column.field == field.id) {
                Some(at) => columns.push(present.swap_remove(at)),
                None => columns.push(file.decode(field)?),
            }
        }
        let key_field = file.schema().primary_key().id;
        file.whole(key_field, columns, self.row_ids, self.timestamps)
    }

    /// The columns of rows in memory, their row ids and their times.
    pub(crate) fn into_parts(self) -> (RowBatch, Vec<RowId>, Vec<Timestamp>) {
        (self.batch, self.row_ids, self.timestamps)
    }

    /// Single rows of a vector field, if its values stay in the file.
    pub(crate) fn rows_in_file(&self, field: FieldId) -> Option<&RowsInFile> {
        self.file.as_ref()?.rows_of(field)
    }

    /// The open file's schema, if the rows are of one.
    pub(crate) fn file_schema(&self) -> Option<&CollectionSchema> {
        self.file.as_ref().map(FileColumns::schema)
    }

    /// The row numbers that this chunk's rows have in a segment in which it begins at `start`.
    pub(crate) fn span(&self, start: usize) -> Range<usize> {
        start..start + self.len()
    }
}

/// A column of a chunk.
pub(crate) enum ColumnRef<'a> {
    Here(&'a Column),
    Decoded(Arc<Column>),
}

impl Deref for ColumnRef<'_> {
    type Target = Column;

    fn deref(&self) -> &Column {
        match self {
            Self::Here(column) => column,
            Self::Decoded(column) => column,
        }
    }
}

/// Columns of a chunk, held while a filter looks at them.
pub(crate) struct ChunkColumns<'a> {
    batch: &'a RowBatch,
    decoded: Vec<Arc<Column>>,
}

impl ColumnSource for ChunkColumns<'_> {
    fn column(&self, field: FieldId) -> Option<&Column> {
        let mut decoded = self.decoded.iter().map(Arc::as_ref);
        let found = decoded.find(|column| column.field == field);
        found.or_else(|| self.batch.column(field))
    }
}
