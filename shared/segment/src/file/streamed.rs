//! A data file that is read some rows at a time, so that what it takes does not grow with it.
//!
//! In memory are where pages are and the rows that are being read. The file is mapped where it is on a local disk; else
//! its bytes are asked of the store (`remote`). A file of version 1 is decoded as a whole.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use parquet::{arrow::arrow_reader::RowSelectionPolicy, file::reader::ChunkReader};
use redkite_expr::Plan;
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionSchema, Column, ColumnData, FieldId, FieldSchema, FloatBuffer, RowBatch, SegmentId,
};

use super::{
    FileEntry, SegmentManifest,
    blocks::{CheckedFiles, Held},
    checked::{Found, OpenFile, local},
    decode,
    open::{data_entry, vector_column},
    pages::{Costs, Pages, divide},
    parts::Layout,
    reading,
    remote::{self, Remote},
};
use crate::error::{Error, Result};

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

/// What kind of file is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// A segment's data.
    Segment,
    /// Columns that are found by their names, of which this build knows versions up to one.
    Table(u32),
}

impl Form {
    /// What the footer says; `None` of a file that must be decoded as a whole.
    pub(super) fn layout(
        self,
        file: &FileEntry,
        footer: &impl ChunkReader,
    ) -> Result<Option<Layout>> {
        let layout = match self {
            Self::Segment => Layout::parse(&file.path, footer)?,
            Self::Table(newest) => Layout::of_table(file, footer, newest)?,
        };
        if layout.version < 2 {
            return Ok(None);
        }
        Ok(Some(layout))
    }

    /// Decodes a file as a whole. Computes.
    pub(super) fn whole(
        self,
        path: &str,
        bytes: Bytes,
        schema: &CollectionSchema,
    ) -> Result<RowBatch> {
        match self {
            Self::Segment => {
                let (batch, ids, times) = decode::data_file(path, bytes, schema)?.into_parts();
                let ids = ids.into_iter().map(|id| id.0).collect();
                let times = times.into_iter().map(|ts| ts.0 as i64).collect();
                let rows = batch.len();
                let mut columns = batch.into_columns();
                columns.push(Column::new(FieldId::ROW_ID, ColumnData::Int64(ids)));
                columns.push(Column::new(FieldId::TIMESTAMP, ColumnData::Int64(times)));
                let batch = RowBatch::new(rows, columns);
                batch.ok_or_else(|| Error::corrupt(path, "its columns differ in length"))
            }
            Self::Table(_) => decode::table(path, bytes, schema),
        }
    }
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
) -> BoxFuture<'a, Result<Arc<StreamedColumns>>> {
    let open = async move {
        let file = data_entry(manifest)?;
        let (segment, form) = (manifest.segment, Form::Segment);
        let columns = open_as(store, file, schema, checked, segment, form).await?;
        if columns.rows() as u64 != manifest.rows {
            let (found, rows) = (columns.rows(), manifest.rows);
            let reason = format!("it has {found} rows instead of {rows}");
            return Err(Error::corrupt(&file.path, reason));
        }
        Ok(columns)
    };
    open.boxed()
}

pub(crate) async fn open_as(
    store: &dyn ObjectStore,
    file: &FileEntry,
    schema: Arc<CollectionSchema>,
    checked: &CheckedFiles,
    segment: SegmentId,
    form: Form,
) -> Result<Arc<StreamedColumns>> {
    let place = match local(store, file).await? {
        Some(local) => {
            let (file, schema) = (file.clone(), schema.clone());
            let path = file.path.clone();
            reading(&path, move || map(local, &file, &schema, form)).await?
        }
        None => remote::open(store, file, &schema, checked, form).await?,
    };
    let columns = StreamedColumns {
        segment,
        schema,
        place,
    };
    if u32::try_from(columns.rows()).is_err() {
        let reason = format!("it has {} rows", columns.rows());
        return Err(Error::corrupt(&file.path, reason));
    }
    Ok(Arc::new(columns))
}

fn map(
    local: OpenFile,
    file: &FileEntry,
    schema: &Arc<CollectionSchema>,
    form: Form,
) -> Result<Place> {
    let corrupt = |reason: String| Error::corrupt(&file.path, reason);
    let layout = form.layout(file, &local.file)?;
    let found = Found::Local(local);
    let Some(layout) = layout else {
        let bytes = found.whole(file)?;
        return Ok(Place::Decoded(form.whole(&file.path, bytes, schema)?));
    };
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
    Ok(Place::Mapped {
        pages,
        scalars,
        vectors,
    })
}

impl StreamedColumns {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        match &self.place {
            Place::Decoded(batch) => batch.len(),
            Place::Mapped { pages, .. } | Place::Remote(Remote { pages, .. }) => pages.rows(),
        }
    }

    pub(super) fn schema(&self) -> &CollectionSchema {
        &self.schema
    }

    /// The file, or what there is to say of rows that are in memory.
    pub(super) fn path(&self) -> &str {
        self.pages().map_or("rows of a segment", Pages::path)
    }

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

    pub(super) fn costs(&self, fields: &[FieldSchema]) -> Result<Vec<Costs>> {
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

    pub(super) async fn piece(
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
}

impl Piece {
    /// The first of the rows.
    pub(super) fn first_row(&self) -> u32 {
        self.rows.first().copied().unwrap_or_default()
    }

    pub(super) fn columns(&self) -> &Arc<StreamedColumns> {
        &self.columns
    }

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
        batch.ok_or_else(|| Error::corrupt(columns.path(), "its columns differ in length"))
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
                Some(column) => Ok(in_place(column, rows).unwrap_or_else(|| column.take(rows))),
                None => pages.decode(field, scalars.clone(), some, RowSelectionPolicy::default()),
            },
            // A mask would decode the pages between the rows too, which are not there.
            Place::Remote(Remote { pages, .. }) => {
                pages.decode(field, bytes.clone(), some, RowSelectionPolicy::Selectors)
            }
        }
    }
}

/// Rows of a vector column that lie side by side, without a copy of what is mapped.
fn in_place(column: &Column, rows: &[usize]) -> Option<Column> {
    let (first, last) = (*rows.first()?, *rows.last()?);
    let ColumnData::FloatVector { dim, values } = &column.data else {
        return None;
    };
    if last - first + 1 != rows.len() || column.valid.is_some() {
        return None;
    }
    let row_bytes = dim * size_of::<f32>();
    let bytes = values.shared_bytes()?;
    let values = bytes.slice(first * row_bytes..(last + 1) * row_bytes);
    let data = ColumnData::FloatVector {
        dim: *dim,
        values: FloatBuffer::from_le_bytes(values)?,
    };
    Some(Column::new(column.field, data))
}
