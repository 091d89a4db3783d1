//! A data file that is open: vectors in place, key and hidden columns decoded, the others when
//! somebody asks for them.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use redkite_index::AlignedBuffer;
use redkite_storage::{ObjectStore, layout};
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, FloatBuffer,
    PackedBuffer, RowBatch, RowId, Timestamp,
};

use super::{
    FORMAT_VERSION, FileEntry, FileKind, SegmentManifest,
    cache::ColumnCache,
    checked::{Found, Mapped, find},
    columns::{FileColumns, Scalars},
    decode,
    page::VectorPart,
    parts::Layout,
    reading,
    rows::{RowsFile, RowsInFile},
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
};

/// Which columns of a segment stay in its file, and are mapped or decoded when they are used.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Vector fields whose values are mapped, and other fields that are not kept once decoded.
    pub mapped: BTreeSet<FieldId>,
    /// Where decoded columns of the latter are kept for a while.
    pub cache: Arc<ColumnCache>,
}

impl Placement {
    /// Everything that was used stays in memory.
    pub fn memory() -> Self {
        Self {
            mapped: BTreeSet::new(),
            cache: Arc::new(ColumnCache::new(0)),
        }
    }
}

/// Opens a segment's rows, after checking the file's checksum: vectors are read or mapped as they
/// are, other columns are decoded when they are first used. Works where blocking is allowed.
/// `schema` is today's, as for [`super::read_segment`]. Files of version 1 are decoded as a whole.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub async fn open_segment(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: Arc<CollectionSchema>,
    placement: &Placement,
) -> Result<Chunk> {
    let file = data_entry(manifest)?.clone();
    let found = find(store, &file).await?;
    let (path, rows, placement) = (file.path.clone(), manifest.rows, placement.clone());
    let chunk = reading(&path, move || open(found, &file, &schema, &placement)).await?;
    if chunk.len() as u64 != rows {
        let reason = format!("it has {} rows instead of {rows}", chunk.len());
        return Err(Error::corrupt(&path, reason));
    }
    Ok(chunk)
}

/// The data file that a manifest names.
pub(super) fn data_entry(manifest: &SegmentManifest) -> Result<&FileEntry> {
    if manifest.format_version > FORMAT_VERSION {
        return Err(Error::UnsupportedVersion {
            path: layout::segment_data(manifest.collection, manifest.partition, manifest.segment),
            found: manifest.format_version,
            supported: FORMAT_VERSION,
        });
    }
    manifest.file(FileKind::Data).ok_or_else(|| {
        let path = format!("manifest of segment {}", manifest.segment);
        Error::corrupt(&path, "it names no data file")
    })
}

/// Opens a file whose bytes are at hand.
pub(super) fn open(
    found: Found,
    file: &FileEntry,
    schema: &Arc<CollectionSchema>,
    placement: &Placement,
) -> Result<Chunk> {
    let path = &file.path;
    let corrupt = |reason: String| Error::corrupt(path, reason);
    let layout = found.layout(path)?;
    if layout.version < 2 {
        return decode::data_file(path, found.whole(file)?, schema);
    }
    let ranges = layout.ranges(file.size_bytes).map_err(corrupt)?;
    let opened = match found.is_local() && !placement.mapped.is_empty() {
        true => Parts::mapped(found, file, &layout, &ranges, schema, placement)?,
        false => Parts::in_memory(found, file, &ranges)?,
    };
    let rows = opened.rows(&layout, placement);
    let Parts {
        scalars,
        vectors,
        file: mapped,
    } = opened;
    let vectors = layout.vectors.iter().zip(vectors);
    // A field that the schema has lost since is skipped.
    let vectors = vectors.filter_map(|(part, bytes)| {
        let in_place = mapped.is_none() || placement.mapped.contains(&part.field);
        let field = schema.field_by_id(part.field)?;
        Some(vector_column(field, part, bytes, in_place))
    });
    let vectors = vectors.collect::<Result<Vec<_>, _>>().map_err(corrupt)?;
    let columns = FileColumns::new(path, scalars, layout, schema.clone(), placement.clone());
    let columns = columns.map_err(corrupt)?.with_rows(rows);
    chunk(columns, vectors, schema)
}

/// The parts of a file, checked.
struct Parts {
    scalars: Scalars,
    /// Each vector column's values.
    vectors: Vec<Bytes>,
    /// The file, if it is mapped.
    file: Option<Arc<RowsFile>>,
}

impl Parts {
    fn in_memory(found: Found, file: &FileEntry, ranges: &[Range<u64>]) -> Result<Self> {
        let mut parts = found.read(file, ranges)?.into_iter();
        let scalars = parts.next().unwrap_or_default();
        Ok(Self {
            scalars: Scalars::InMemory(scalars),
            vectors: parts.collect(),
            file: None,
        })
    }

    /// Scalar columns are mapped, too, if one of them is to stay in the file.
    fn mapped(
        found: Found,
        file: &FileEntry,
        layout: &Layout,
        ranges: &[Range<u64>],
        schema: &CollectionSchema,
        placement: &Placement,
    ) -> Result<Self> {
        let is_vector = |field: FieldId| layout.vectors.iter().any(|part| part.field == field);
        let mut fields = schema.fields.iter().map(|field| field.id);
        let map_scalars = fields.any(|id| placement.mapped.contains(&id) && !is_vector(id));
        let read = ranges.first().filter(|_| !map_scalars);
        let Mapped { bytes, part, file } = found.map_and_read(file, read)?;
        let slice = |range: &Range<u64>| bytes.slice(range.start as usize..range.end as usize);
        let mut parts = ranges.iter().map(slice);
        let mapped = parts.next().unwrap_or_default();
        Ok(Self {
            scalars: part.map_or(Scalars::Mapped(mapped), Scalars::InMemory),
            vectors: parts.collect(),
            file: file.map(|open| Arc::new(RowsFile::new(open))),
        })
    }

    /// Where single rows of the columns are that stay in the file.
    fn rows(&self, layout: &Layout, placement: &Placement) -> Vec<RowsInFile> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let stays = |part: &&VectorPart| placement.mapped.contains(&part.field);
        let rows = layout.vectors.iter().filter(stays).map(|part| RowsInFile {
            file: file.clone(),
            field: part.field,
            offset: part.offset,
            row_bytes: part.row_bytes.unwrap_or(part.dim * 4) as usize,
        });
        rows.collect()
    }
}

/// Values in place, or copied out of the mapping.
pub(super) fn vector_column(
    field: &FieldSchema,
    part: &VectorPart,
    bytes: Bytes,
    in_place: bool,
) -> Result<Column, String> {
    let (kind, dim) = (field.data_type, field.dim);
    let row_bytes = match kind {
        DataType::FloatVector => None,
        _ => Some(kind.vector_bytes(dim) as u64),
    };
    if part.dim != dim as u64 || part.row_bytes != row_bytes || !kind.is_fixed_vector() {
        return Err(format!(
            "column {} has dim {} and rows of {:?} bytes instead of {kind} of dim {dim}",
            field.name, part.dim, part.row_bytes
        ));
    }
    let bytes = if in_place {
        bytes
    } else {
        let mut copy = AlignedBuffer::zeroed(bytes.len());
        copy.as_mut().copy_from_slice(&bytes);
        copy.into_bytes()
    };
    Ok(Column::new(field.id, vectors(field, bytes)?))
}

/// The vectors in some bytes, row after row.
pub(super) fn vectors(field: &FieldSchema, bytes: Bytes) -> Result<ColumnData, String> {
    let dim = field.dim;
    Ok(match field.data_type {
        DataType::FloatVector => {
            let values = FloatBuffer::from_le_bytes(bytes)
                .ok_or_else(|| format!("field {} has no whole number of values", field.id))?;
            ColumnData::FloatVector { dim, values }
        }
        kind => ColumnData::PackedVector {
            kind,
            dim,
            values: PackedBuffer::from_bytes(bytes),
        },
    })
}

/// Opens a file and decodes every column.
pub(super) fn read_whole(
    found: Found,
    file: &FileEntry,
    schema: &Arc<CollectionSchema>,
) -> Result<Chunk> {
    open(found, file, schema, &Placement::memory())?.into_whole()
}

/// Puts together what is in memory from the start.
fn chunk(
    columns: FileColumns,
    mut vectors: Vec<Column>,
    schema: &CollectionSchema,
) -> Result<Chunk> {
    let corrupt = |reason: String| Error::corrupt(columns.path(), reason);
    let key = schema.fields.iter().find(|field| field.is_primary_key);
    let key = key.ok_or_else(|| corrupt("the schema has no primary key".to_owned()))?;
    let rows = columns.rows();
    let ids = columns.hidden(FieldId::ROW_ID)?.into_iter().map(RowId);
    let times = columns.hidden(FieldId::TIMESTAMP)?.into_iter();
    let times = times.map(|ts| Timestamp(ts as u64)).collect();
    let mut present = Vec::with_capacity(vectors.len() + 1);
    for field in &schema.fields {
        if field.id == key.id {
            present.push(columns.decode(field)?);
        } else if field.data_type.is_fixed_vector() {
            present.push(take_vectors(field, &mut vectors, &columns)?);
        }
    }
    let batch = RowBatch::new(rows, present)
        .ok_or_else(|| corrupt("its columns differ in length".to_owned()))?;
    let (ids, key) = (ids.collect(), key.id);
    let path = columns.path().to_owned();
    Chunk::open(key, batch, ids, times, columns).map_err(|reason| Error::corrupt(&path, reason))
}

/// The column of a vector field: one that is in place, or decoded like any other.
fn take_vectors(
    field: &FieldSchema,
    vectors: &mut Vec<Column>,
    columns: &FileColumns,
) -> Result<Column> {
    let Some(at) = vectors.iter().position(|column| column.field == field.id) else {
        return columns.decode(field);
    };
    Ok(vectors.swap_remove(at))
}
