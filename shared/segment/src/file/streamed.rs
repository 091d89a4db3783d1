//! A data file that is read some rows at a time, so that what it takes does not grow with it.
//!
//! In memory are the keys, row ids and times while somebody holds them, where pages are, and the rows that are being
//! read. The file is mapped where it is on a local disk; else its bytes are asked of the store (`remote`). A
//! file of version 1 is decoded as a whole.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use parquet::arrow::arrow_reader::RowSelectionPolicy;
use redkite_expr::Plan;
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, RowBatch, RowId,
    SegmentId, Timestamp,
};

use super::{
    FileEntry, SegmentManifest,
    blocks::{CheckedFiles, Held},
    checked::{Found, OpenFile, local},
    decode, hidden_name,
    open::{data_entry, vector_column},
    pages::{Costs, Pages, divide},
    reading,
    remote::{self, Remote},
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
};

/// Keys that are decoded at a time, in bytes and in rows.
const KEYS_AT_ONCE: (u64, usize) = (8 << 20, 65_536);

/// A segment's rows, of which only the keys are in memory.
#[derive(Debug)]
pub struct Streamed {
    /// Keys, row ids and times.
    pub keys: Chunk,
    /// All columns.
    pub columns: Arc<StreamedColumns>,
}

/// The columns of a segment, read some rows at a time.
#[derive(Debug)]
pub struct StreamedColumns {
    segment: SegmentId,
    schema: Arc<CollectionSchema>,
    place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    Decoded(RowBatch),
    Mapped {
        pages: Pages,
        scalars: Bytes,
        vectors: Vec<Column>,
    },
    Remote(Remote),
}

/// Some rows that were read and are not decoded yet.
#[derive(Debug)]
pub struct Piece {
    columns: Arc<StreamedColumns>,
    fields: Vec<FieldSchema>,
    rows: Vec<u32>,
    /// Those of the fields that need no decoding.
    vectors: Vec<Column>,
    bytes: Held,
}

/// Opens a segment's rows, after checking the file's checksum. `checked` saves reading a file as a whole that was
/// opened before. Decoding runs where blocking is allowed. `schema` is today's, as for [`super::read_segment`].
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub fn open_streamed<'a>(
    store: &'a dyn ObjectStore,
    manifest: &'a SegmentManifest,
    schema: Arc<CollectionSchema>,
    checked: &'a CheckedFiles,
) -> BoxFuture<'a, Result<Streamed>> {
    open_anywhere(store, manifest, schema, checked).boxed()
}

async fn open_anywhere(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: Arc<CollectionSchema>,
    checked: &CheckedFiles,
) -> Result<Streamed> {
    let (segment, file) = (manifest.segment, data_entry(manifest)?.clone());
    let place = match local(store, &file).await? {
        Some(local) => {
            let (path, schema) = (file.path.clone(), schema.clone());
            let file = file.clone();
            reading(&path, move || map(local, &file, &schema)).await?
        }
        None => remote::open(store, &file, &schema, checked).await?,
    };
    let opened = match place {
        Opened::Whole(chunk) => {
            let (keys, batch) = chunk.into_keys(schema.primary_key().id)?;
            let place = Place::Decoded(batch);
            let columns = Arc::new(StreamedColumns {
                segment,
                schema,
                place,
            });
            Streamed { keys, columns }
        }
        Opened::Apart(place) => {
            let columns = Arc::new(StreamedColumns {
                segment,
                schema,
                place,
            });
            let keys = columns.keys(store, &file.path).await?;
            Streamed { keys, columns }
        }
    };
    if opened.keys.len() as u64 != manifest.rows {
        let (found, rows) = (opened.keys.len(), manifest.rows);
        let reason = format!("it has {found} rows instead of {rows}");
        return Err(Error::corrupt(&file.path, reason));
    }
    Ok(opened)
}

pub(super) enum Opened {
    Whole(Chunk),
    Apart(Place),
}

fn map(local: OpenFile, file: &FileEntry, schema: &Arc<CollectionSchema>) -> Result<Opened> {
    let corrupt = |reason: String| Error::corrupt(&file.path, reason);
    let found = Found::Local(local);
    let layout = found.layout(&file.path)?;
    if layout.version < 2 {
        let bytes = found.whole(file)?;
        return Ok(Opened::Whole(decode::data_file(&file.path, bytes, schema)?));
    }
    let ranges = layout.ranges(file.size_bytes).map_err(corrupt)?;
    let whole = found.map(file)?;
    let mut parts = ranges.iter();
    let mut next = || {
        let range = parts.next().cloned().unwrap_or_default();
        whole.slice(range.start as usize..range.end as usize)
    };
    let scalars = next();
    let mut vectors = Vec::with_capacity(layout.vectors.len());
    for part in &layout.vectors {
        let bytes = next();
        // A field that the schema has lost since is skipped.
        if let Some(field) = schema.field_by_id(part.field) {
            vectors.push(vector_column(field, part, bytes, true).map_err(corrupt)?);
        }
    }
    let pages = Pages::new(&file.path, &scalars, layout, schema.clone()).map_err(corrupt)?;
    Ok(Opened::Apart(Place::Mapped {
        pages,
        scalars,
        vectors,
    }))
}

impl StreamedColumns {
    /// Divides rows, which are in order, so that what reading and decoding some fields of a part takes is about `bytes`
    /// at the most, unless a single row takes more, and no part has more than `most` rows.
    ///
    /// # Errors
    /// `Corrupt`
    pub fn divide(
        &self,
        rows: &[u32],
        fields: &[FieldId],
        bytes: u64,
        most: usize,
    ) -> Result<Vec<Range<usize>>> {
        let fields = fields.iter().filter_map(|id| self.schema.field_by_id(*id));
        let fields: Vec<FieldSchema> = fields.cloned().collect();
        Ok(divide(rows, &self.costs(&fields)?, bytes, most))
    }

    fn costs(&self, fields: &[FieldSchema]) -> Result<Vec<Costs>> {
        let mut costs = Vec::with_capacity(fields.len());
        for field in fields {
            let vectors = field.data_type.vector_bytes(field.dim) as u64;
            match self.pages() {
                Some(_) if self.is_in_place(field.id) => costs.push(Costs::of_vectors(vectors)),
                Some(pages) => costs.extend(pages.costs(field)?),
                None => {}
            }
        }
        if let Place::Decoded(batch) = &self.place {
            let average = batch.memory_bytes() / batch.len().max(1);
            costs.push(Costs::of_vectors(average as u64));
        }
        Ok(costs)
    }

    fn pages(&self) -> Option<&Pages> {
        match &self.place {
            Place::Decoded(_) => None,
            Place::Mapped { pages, .. } | Place::Remote(Remote { pages, .. }) => Some(pages),
        }
    }

    fn is_in_place(&self, field: FieldId) -> bool {
        match &self.place {
            Place::Decoded(_) => true,
            Place::Mapped { vectors, .. } => vectors.iter().any(|column| column.field == field),
            Place::Remote(remote) => remote.is_in_place(field),
        }
    }

    /// Reads some fields of some rows, which are in order and each there once. A field that the schema does not have is
    /// left out.
    ///
    /// # Errors
    /// `Storage` · `Corrupt`, also when the file is not what it was when it was opened
    pub fn read<'a>(
        self: &'a Arc<Self>,
        store: &'a dyn ObjectStore,
        rows: &'a [u32],
        fields: &'a [FieldId],
    ) -> BoxFuture<'a, Result<Piece>> {
        let fields = fields.iter().filter_map(|id| self.schema.field_by_id(*id));
        self.piece(store, rows, fields.cloned().collect()).boxed()
    }

    async fn piece(
        self: &Arc<Self>,
        store: &dyn ObjectStore,
        rows: &[u32],
        fields: Vec<FieldSchema>,
    ) -> Result<Piece> {
        let (bytes, vectors) = match &self.place {
            Place::Remote(remote) => remote.read(store, rows, &fields).await?,
            Place::Decoded(_) | Place::Mapped { .. } => (Held::default(), Vec::new()),
        };
        Ok(Piece {
            columns: self.clone(),
            fields,
            rows: rows.to_vec(),
            vectors,
            bytes,
        })
    }

    /// Keys, row ids and times of all rows.
    async fn keys(self: &Arc<Self>, store: &dyn ObjectStore, path: &str) -> Result<Chunk> {
        let key = self.schema.fields.iter().find(|field| field.is_primary_key);
        let key = key.ok_or_else(|| Error::corrupt(path, "the schema has no primary key"))?;
        let count = self.pages().map_or(0, Pages::rows);
        let last = u32::try_from(count);
        let last = last.map_err(|_| Error::corrupt(path, format!("it has {count} rows")))?;
        let fields = vec![
            key.clone(),
            hidden(FieldId::ROW_ID),
            hidden(FieldId::TIMESTAMP),
        ];
        let rows: Vec<u32> = (0..last).collect();
        let (bytes, most) = KEYS_AT_ONCE;
        let data = ColumnData::with_capacity(key.data_type, key.dim, count);
        let mut keys = Column::new(key.id, data);
        let (mut ids, mut times) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for part in divide(&rows, &self.costs(&fields)?, bytes, most) {
            let piece = self.piece(store, &rows[part], fields.clone()).await?;
            let batch = reading(path, move || piece.decode()).await?;
            let [part, row_ids, timestamps] = batch.columns() else {
                return Err(Error::corrupt(path, "its keys cannot be told"));
            };
            keys.extend(part);
            ids.extend(numbers(path, row_ids)?.iter().map(|id| RowId(*id)));
            times.extend(
                numbers(path, timestamps)?
                    .iter()
                    .map(|ts| Timestamp(*ts as u64)),
            );
        }
        let batch = RowBatch::new(count, vec![keys]);
        let batch = batch.ok_or_else(|| Error::corrupt(path, "its columns differ in length"))?;
        let chunk = Chunk::new(key.id, batch, ids, times);
        chunk.map_err(|reason| Error::corrupt(path, reason))
    }
}

/// A hidden column as a field.
fn hidden(field: FieldId) -> FieldSchema {
    FieldSchema {
        id: field,
        ..FieldSchema::new(hidden_name(field), DataType::Int64)
    }
}

fn numbers<'a>(path: &str, column: &'a Column) -> Result<&'a [i64]> {
    match column {
        Column {
            data: ColumnData::Int64(values),
            valid: None,
            ..
        } => Ok(values),
        _ => Err(Error::corrupt(path, "a hidden column has nulls")),
    }
}

impl Piece {
    /// Those of the rows that pass a filter, whose fields were read. Computes.
    ///
    /// # Errors
    /// `Corrupt` · `Filter`
    pub fn passing(self, filter: &Plan) -> Result<Vec<u32>> {
        let (segment, rows) = (self.columns.segment, self.rows.clone());
        let batch = self.decode()?;
        let passing = redkite_expr::eval(filter, &batch, rows.len());
        let passing = passing.map_err(|source| Error::Filter { segment, source })?;
        Ok(passing.iter().map(|at| rows[at]).collect())
    }

    /// The rows, with the fields in the order in which they were asked for. Computes.
    ///
    /// # Errors
    /// `Corrupt`
    pub fn decode(self) -> Result<RowBatch> {
        let Self {
            columns,
            fields,
            rows,
            mut vectors,
            bytes,
        } = self;
        let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
        let mut decoded = Vec::with_capacity(fields.len());
        for field in &fields {
            let at_hand = vectors.iter().position(|column| column.field == field.id);
            let at_hand = at_hand.map(|at| vectors.swap_remove(at));
            decoded.push(match at_hand {
                Some(column) => column,
                None => columns.decode(field, &rows, &bytes)?,
            });
        }
        let batch = RowBatch::new(rows.len(), decoded);
        let path = columns.pages().map_or("rows of a segment", Pages::path);
        batch.ok_or_else(|| Error::corrupt(path, "its columns differ in length"))
    }
}

impl StreamedColumns {
    fn decode(&self, field: &FieldSchema, rows: &[usize], bytes: &Held) -> Result<Column> {
        let some = Some(rows);
        match &self.place {
            Place::Decoded(batch) => match batch.column(field.id) {
                Some(column) => Ok(column.take(rows)),
                None => decode::missing(field, rows.len())
                    .map_err(|reason| Error::corrupt("rows of an older schema", reason)),
            },
            Place::Mapped {
                pages,
                scalars,
                vectors,
            } => match vectors.iter().find(|column| column.field == field.id) {
                Some(column) => Ok(column.take(rows)),
                None => pages.decode(field, scalars.clone(), some, RowSelectionPolicy::default()),
            },
            // A mask would decode the pages between the rows too, which are not there.
            Place::Remote(Remote { pages, .. }) => {
                pages.decode(field, bytes.clone(), some, RowSelectionPolicy::Selectors)
            }
        }
    }
}
