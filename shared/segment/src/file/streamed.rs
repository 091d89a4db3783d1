//! A data file that lies on no local disk, read piece by piece.
//!
//! The file is read once from its start to its end, a few blocks at a time, which checks its checksum; what is kept
//! are the scalar columns, as they are encoded, and the checksum of each block. Vectors, which are most of a file, are
//! read again by those who want them, and each block is compared with what it was the first time.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use parking_lot::Mutex;
use parquet::{
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{ChunkReader, Length},
};
use redkite_index::AlignedBuffer;
use redkite_storage::{
    ObjectStore,
    checksum::{crc32c, crc32c_combine, verify_crc, verify_size},
};
use redkite_types::{CollectionSchema, Column, FieldId, FieldSchema};

use super::{
    FileEntry, SegmentManifest,
    checked::{Found, local},
    columns::{FileColumns, Scalars},
    open::{Placement, chunk, data_entry, open, vector_column},
    page::VectorPart,
    parts::Layout,
    reading,
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
};

/// Bytes that are read, and checked, at a time.
const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks that are on their way at a time.
const AHEAD: usize = 8;
/// Bytes from a file's end that are read for the footer, unless it is longer.
const TAIL_BYTES: u64 = 64 << 10;
/// Bytes at a Parquet file's end: the footer's length and the magic.
const MAGIC_BYTES: usize = 8;

/// A segment's rows, and the vectors that are in none of its columns.
#[derive(Debug)]
pub struct Streamed {
    /// The rows. Where the file is on no local disk they lack the fields of [`Streamed::vectors`].
    pub chunk: Chunk,
    /// Vectors that are read from the store when they are asked for.
    pub vectors: Option<RemoteVectors>,
}

/// Vector columns of a file in a store that keeps nothing on a local disk.
#[derive(Debug)]
pub struct RemoteVectors {
    file: FileEntry,
    /// The checksum of each block.
    blocks: Vec<u32>,
    parts: Vec<(FieldSchema, VectorPart)>,
    /// The block that was read last, of which the next rows may want the rest.
    last: Mutex<Option<(u64, Bytes)>>,
}

/// Opens a segment's rows as [`super::open_segment`] does, but does not hold the vectors of a file that is on no
/// local disk. Files of version 1 are read as a whole all the same.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub fn open_streamed<'a>(
    store: &'a dyn ObjectStore,
    manifest: &'a SegmentManifest,
    schema: Arc<CollectionSchema>,
    placement: &'a Placement,
) -> BoxFuture<'a, Result<Streamed>> {
    open_anywhere(store, manifest, schema, placement).boxed()
}

async fn open_anywhere(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: Arc<CollectionSchema>,
    placement: &Placement,
) -> Result<Streamed> {
    let file = data_entry(manifest)?.clone();
    let opened = match local(store, &file).await? {
        Some(local) => whole(Found::Local(local), &file, schema, placement).await?,
        None => remote(store, &file, schema, placement).await?,
    };
    if opened.chunk.len() as u64 != manifest.rows {
        let (found, rows) = (opened.chunk.len(), manifest.rows);
        let reason = format!("it has {found} rows instead of {rows}");
        return Err(Error::corrupt(&file.path, reason));
    }
    Ok(opened)
}

async fn whole(
    found: Found,
    file: &FileEntry,
    schema: Arc<CollectionSchema>,
    placement: &Placement,
) -> Result<Streamed> {
    let (file, placement) = (file.clone(), placement.clone());
    let path = file.path.clone();
    let chunk = reading(&path, move || open(found, &file, &schema, &placement)).await?;
    Ok(Streamed {
        chunk,
        vectors: None,
    })
}

async fn remote(
    store: &dyn ObjectStore,
    file: &FileEntry,
    schema: Arc<CollectionSchema>,
    placement: &Placement,
) -> Result<Streamed> {
    let (path, size) = (&file.path, file.size_bytes);
    verify_size(path, store.stat(path).await?.size_bytes, size)?;
    let tail = Tail::read(store, file).await?;
    let layout = Layout::parse(path, &tail)?;
    if layout.version < 2 {
        let found = Found::Fetched(store.get(path).await?);
        return whole(found, file, schema, placement).await;
    }
    let ranges = layout.ranges(size);
    let ranges = ranges.map_err(|reason| Error::corrupt(path, reason))?;
    let scalar_bytes = ranges.first().map_or(0, |range| range.end);
    let (scalars, blocks) = checked(store, file, scalar_bytes).await?;
    let of_field = |part: &VectorPart| {
        // A field that the schema has lost since is skipped.
        let field = schema.field_by_id(part.field)?;
        Some((field.clone(), part.clone()))
    };
    let parts = layout.vectors.iter().filter_map(of_field).collect();
    let vectors = RemoteVectors {
        file: file.clone(),
        blocks,
        parts,
        last: Mutex::default(),
    };
    let apart: BTreeSet<FieldId> = vectors.fields().collect();
    let (name, placement) = (path.clone(), placement.clone());
    let chunk = reading(path, move || {
        let scalars = Scalars::InMemory(scalars);
        let columns = FileColumns::new(&name, scalars, layout, schema.clone(), placement);
        let columns = columns.map_err(|reason| Error::corrupt(&name, reason))?;
        chunk(columns, Vec::new(), &schema, &apart)
    })
    .await?;
    Ok(Streamed {
        chunk,
        vectors: Some(vectors),
    })
}

/// Reads the whole file; its first bytes, and the checksum of each block.
async fn checked(
    store: &dyn ObjectStore,
    file: &FileEntry,
    keep: u64,
) -> Result<(Bytes, Vec<u32>)> {
    let mut kept = Vec::with_capacity(keep as usize);
    let mut blocks = Vec::new();
    let mut crc = 0;
    let mut read = Vec::new();
    for block in 0..file.size_bytes.div_ceil(BLOCK_BYTES) {
        read.push(store.get_range(&file.path, range(file, block)));
    }
    let mut read = stream::iter(read).buffered(AHEAD);
    while let Some(bytes) = read.next().await {
        let bytes = bytes?;
        let left = (keep as usize).saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..left.min(bytes.len())]);
        let of_block = crc32c(&bytes);
        crc = crc32c_combine(crc, of_block, bytes.len());
        blocks.push(of_block);
    }
    verify_crc(&file.path, crc, file.crc32c)?;
    Ok((kept.into(), blocks))
}

/// The bytes of a block.
fn range(file: &FileEntry, block: u64) -> Range<u64> {
    let start = block * BLOCK_BYTES;
    start..file.size_bytes.min(start + BLOCK_BYTES)
}

impl RemoteVectors {
    /// The fields whose vectors these are.
    pub fn fields(&self) -> impl Iterator<Item = FieldId> {
        self.parts.iter().map(|(field, _)| field.id)
    }

    /// The vectors of some rows, which are in order and each there once, of all fields. Only the blocks that hold them
    /// are read, and no more than a few are in memory at a time.
    ///
    /// # Errors
    /// `Storage` · `Corrupt`, also when the file is not what it was when it was opened
    pub fn take<'a>(
        &'a self,
        store: &'a dyn ObjectStore,
        rows: &'a [u32],
    ) -> BoxFuture<'a, Result<Vec<Column>>> {
        self.columns(store, rows).boxed()
    }

    async fn columns(&self, store: &dyn ObjectStore, rows: &[u32]) -> Result<Vec<Column>> {
        let mut columns = Vec::with_capacity(self.parts.len());
        for (field, part) in &self.parts {
            columns.push(self.column(store, field, part, rows).await?);
        }
        Ok(columns)
    }

    async fn column(
        &self,
        store: &dyn ObjectStore,
        field: &FieldSchema,
        part: &VectorPart,
        rows: &[u32],
    ) -> Result<Column> {
        let path = &self.file.path;
        let row_bytes = part.row_bytes.unwrap_or(part.dim * 4);
        let place = |row: u32| {
            let start = part.offset + u64::from(row) * row_bytes;
            start..start + row_bytes
        };
        if rows.last().is_some_and(|row| u64::from(*row) >= part.rows) {
            return Err(Error::corrupt(path, "it has fewer vectors than rows"));
        }
        let mut wanted: Vec<u64> = Vec::new();
        for bytes in rows.iter().map(|row| place(*row)) {
            let blocks = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
            let next = wanted.last().map_or(0, |last| last + 1);
            wanted.extend(blocks.start.max(next)..blocks.end);
        }
        let mut values = AlignedBuffer::zeroed(rows.len() * row_bytes as usize);
        let mut read = Vec::with_capacity(wanted.len());
        for block in wanted {
            read.push(self.block(store, block).boxed());
        }
        let mut read = stream::iter(read).buffered(AHEAD);
        // The first row that has bytes to come.
        let mut next = 0;
        while let Some(block) = read.next().await {
            let (number, bytes) = block?;
            let here = range(&self.file, number);
            while let Some(row) = rows.get(next) {
                let wanted = place(*row);
                let both = wanted.start.max(here.start)..wanted.end.min(here.end);
                if both.start < both.end {
                    let to = next * row_bytes as usize + (both.start - wanted.start) as usize;
                    let from = (both.start - here.start) as usize;
                    let length = (both.end - both.start) as usize;
                    values.as_mut()[to..to + length].copy_from_slice(&bytes[from..from + length]);
                }
                if wanted.end > here.end {
                    break;
                }
                next += 1;
            }
            *self.last.lock() = Some((number, bytes));
        }
        let column = vector_column(field, part, values.into_bytes(), true);
        column.map_err(|reason| Error::corrupt(path, reason))
    }

    /// A block and its number.
    async fn block(&self, store: &dyn ObjectStore, number: u64) -> Result<(u64, Bytes)> {
        let last = self.last.lock().clone();
        if let Some(last) = last.filter(|last| last.0 == number) {
            return Ok(last);
        }
        let path = &self.file.path;
        let bytes = store.get_range(path, range(&self.file, number)).await?;
        let recorded = self.blocks.get(number as usize).copied();
        let recorded =
            recorded.ok_or_else(|| Error::corrupt(path, "a vector is behind its end"))?;
        verify_crc(path, crc32c(&bytes), recorded)?;
        Ok((number, bytes))
    }
}

/// The last bytes of a file, at their offset.
struct Tail {
    at: u64,
    bytes: Bytes,
}

impl Tail {
    /// Reads as much as has the footer in it.
    async fn read(store: &dyn ObjectStore, file: &FileEntry) -> Result<Self> {
        let size = file.size_bytes;
        let at = size.saturating_sub(TAIL_BYTES);
        let bytes = store.get_range(&file.path, at..size).await?;
        let Some(last) = bytes.last_chunk::<MAGIC_BYTES>() else {
            return Err(Error::corrupt(&file.path, "it has no footer"));
        };
        let footer = u32::from_le_bytes([last[0], last[1], last[2], last[3]]);
        let start = size.saturating_sub(u64::from(footer) + MAGIC_BYTES as u64);
        if start >= at {
            return Ok(Self { at, bytes });
        }
        let bytes = store.get_range(&file.path, start..size).await?;
        Ok(Self { at: start, bytes })
    }
}

impl Length for Tail {
    fn len(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

impl ChunkReader for Tail {
    type T = std::io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let length = self.len().saturating_sub(start);
        let bytes = self.get_bytes(start, length as usize)?;
        Ok(std::io::Cursor::new(bytes))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let start = start.checked_sub(self.at).map(|start| start as usize);
        let end = start.and_then(|start| start.checked_add(length));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.bytes.len() => Ok(self.bytes.slice(start..end)),
            _ => Err(ParquetError::EOF("bytes before the footer".to_owned())),
        }
    }
}
