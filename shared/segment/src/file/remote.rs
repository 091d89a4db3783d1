//! The columns of a data file that is on no local disk: which bytes of it some rows need.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::{
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{ChunkReader, Length},
};
use redkite_index::AlignedBuffer;
use redkite_storage::ObjectStore;
use redkite_types::{CollectionSchema, Column, FieldId, FieldSchema};

use super::{
    FileEntry,
    blocks::{Blocks, CheckedFiles, Held, Wish},
    checked::Found,
    open::vector_column,
    page::VectorPart,
    pages::{Pages, index_range},
    reading,
    streamed::{Form, Place},
};
use crate::error::{Error, Result};

/// Bytes from a file's end that are read for the footer, unless it is longer.
const TAIL_BYTES: u64 = 64 << 10;
/// Bytes at a Parquet file's end: the footer's length and the magic.
const MAGIC_BYTES: usize = 8;
/// The columns of such a file.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) pages: Pages,
    blocks: Blocks,
    vectors: Vec<VectorPart>,
    /// Those that were read, by where they are: every page of their columns needs them.
    dictionaries: Mutex<HashMap<u64, Bytes>>,
    /// The page of each column that was read last, of which the next rows may want the rest.
    last: Mutex<HashMap<FieldId, (u64, Bytes)>>,
}

/// Opens a file after checking it.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub(super) async fn open(
    store: &dyn ObjectStore,
    file: &FileEntry,
    schema: &Arc<CollectionSchema>,
    checked: &CheckedFiles,
    form: Form,
) -> Result<Place> {
    let path = &file.path;
    let corrupt = |reason: String| Error::corrupt(path, reason);
    let blocks = Blocks::check(store, file, checked).await?;
    let tail = Tail::read(store, &blocks).await?;
    let Some(layout) = form.layout(file, &tail)? else {
        let found = Found::Fetched(store.get(path).await?);
        let (file, schema) = (file.clone(), schema.clone());
        let whole = move || form.whole(&file.path, found.whole(&file)?, &schema);
        return Ok(Place::Decoded(reading(path, whole).await?));
    };
    layout.ranges(file.size_bytes).map_err(corrupt)?;
    let vectors = layout.vectors.clone();
    let index = index_range(&layout.metadata).unwrap_or_default();
    let index = match index.start < index.end && index.end <= file.size_bytes {
        true => vec![(index.start, bytes_of(store, &blocks, index).await?)],
        false => Vec::new(),
    };
    let index = Held::new(file.size_bytes, index);
    Ok(Place::Remote(Remote {
        pages: Pages::new(path, &index, layout, schema.clone()).map_err(corrupt)?,
        blocks,
        vectors,
        dictionaries: Mutex::default(),
        last: Mutex::default(),
    }))
}

async fn bytes_of(store: &dyn ObjectStore, blocks: &Blocks, range: Range<u64>) -> Result<Bytes> {
    let mut out = vec![0; (range.end - range.start) as usize];
    let wish = Wish {
        // No column's: nothing that is read for one is wanted again.
        field: FieldId(-1),
        ranges: std::slice::from_ref(&range),
        out: &mut out,
    };
    blocks.fill(store, &mut [wish]).await?;
    Ok(out.into())
}

/// Bytes that are read for one column.
struct Asked<'a> {
    field: FieldId,
    ranges: Vec<Range<u64>>,
    to: To<'a>,
}

enum To<'a> {
    /// Also the place of the last page.
    Pages(Vec<u8>, Range<u64>),
    Dictionary(Vec<u8>),
    Vectors(&'a FieldSchema, &'a VectorPart, AlignedBuffer),
}

impl Remote {
    /// Whether a field's values are read as they are.
    pub(super) fn is_in_place(&self, field: FieldId) -> bool {
        self.vectors.iter().any(|part| part.field == field)
    }

    /// Reads some fields of some rows, which are in order: pages, and vectors.
    ///
    /// # Errors
    /// `Storage` · `Corrupt`
    pub(super) async fn read(
        &self,
        store: &dyn ObjectStore,
        rows: &[u32],
        fields: &[FieldSchema],
    ) -> Result<(Held, Vec<Column>)> {
        let mut asked = Vec::with_capacity(fields.len());
        let mut held = Vec::new();
        for field in fields {
            self.ask(field, rows, &mut asked, &mut held)?;
        }
        let ranges = asked.iter_mut();
        let ranges = ranges.map(|one| (one.field, std::mem::take(&mut one.ranges)));
        let ranges: Vec<(FieldId, Vec<Range<u64>>)> = ranges.collect();
        let mut wishes = Vec::with_capacity(asked.len());
        for (one, (field, ranges)) in asked.iter_mut().zip(&ranges) {
            let out = match &mut one.to {
                To::Pages(bytes, _) | To::Dictionary(bytes) => bytes.as_mut_slice(),
                To::Vectors(_, _, buffer) => buffer.as_mut(),
            };
            let field = *field;
            wishes.push(Wish { field, ranges, out });
        }
        self.blocks.fill(store, &mut wishes).await?;
        drop(wishes);
        let path = &self.blocks.file().path;
        let mut vectors = Vec::new();
        for (one, (field, ranges)) in asked.into_iter().zip(ranges) {
            match one.to {
                To::Pages(bytes, last) => {
                    let at = bytes.len() - (last.end - last.start) as usize;
                    // A copy: the others are not kept alive.
                    let page = Bytes::copy_from_slice(&bytes[at..]);
                    self.last.lock().insert(field, (last.start, page));
                    hold(&mut held, &ranges, bytes.into());
                }
                To::Dictionary(bytes) => {
                    let bytes = Bytes::from(bytes);
                    if let [range] = ranges.as_slice() {
                        let mut dictionaries = self.dictionaries.lock();
                        dictionaries.insert(range.start, bytes.clone());
                    }
                    hold(&mut held, &ranges, bytes);
                }
                To::Vectors(field, part, buffer) => {
                    let column = vector_column(field, part, buffer.into_bytes(), true);
                    vectors.push(column.map_err(|reason| Error::corrupt(path, reason))?);
                }
            }
        }
        let held = Held::new(self.blocks.file().size_bytes, held);
        Ok((held, vectors))
    }

    /// What must be read of a field; what is at hand is put to what is `held`.
    fn ask<'a>(
        &'a self,
        field: &'a FieldSchema,
        rows: &[u32],
        asked: &mut Vec<Asked<'a>>,
        held: &mut Vec<(u64, Bytes)>,
    ) -> Result<()> {
        let id = field.id;
        if let Some(part) = self.vectors.iter().find(|part| part.field == id) {
            let row_bytes = part.row_bytes.unwrap_or(part.dim * 4);
            if rows.last().is_some_and(|row| u64::from(*row) >= part.rows) {
                let path = &self.blocks.file().path;
                return Err(Error::corrupt(path, "it has fewer vectors than rows"));
            }
            let buffer = AlignedBuffer::zeroed(rows.len() * row_bytes as usize);
            asked.push(Asked {
                field: id,
                ranges: vector_ranges(part.offset, row_bytes, rows),
                to: To::Vectors(field, part, buffer),
            });
            return Ok(());
        }
        let found = self.pages.ranges(id, rows)?;
        for range in found.dictionaries {
            if let Some(bytes) = self.dictionaries.lock().get(&range.start) {
                held.push((range.start, bytes.clone()));
                continue;
            }
            let bytes = vec![0; (range.end - range.start) as usize];
            asked.push(Asked {
                field: id,
                ranges: vec![range],
                to: To::Dictionary(bytes),
            });
        }
        let mut pages = found.pages.as_slice();
        let at_hand = self.last.lock().get(&id).cloned();
        if let (Some(page), Some((start, bytes))) = (pages.first(), at_hand)
            && page.start == start
        {
            held.push((start, bytes));
            pages = &pages[1..];
        }
        if let Some(last) = pages.last() {
            let length: u64 = pages.iter().map(|page| page.end - page.start).sum();
            asked.push(Asked {
                field: id,
                ranges: joined(pages),
                to: To::Pages(vec![0; length as usize], last.clone()),
            });
        }
        Ok(())
    }
}

/// Where rows of one length are.
fn vector_ranges(offset: u64, row_bytes: u64, rows: &[u32]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for row in rows {
        let start = offset + u64::from(*row) * row_bytes;
        add(&mut ranges, start..start + row_bytes);
    }
    ranges
}

/// The same bytes, those side by side as one range.
fn joined(parts: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for part in parts {
        add(&mut ranges, part.clone());
    }
    ranges
}

fn add(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        Some(_) | None => ranges.push(next),
    }
}

/// Puts bytes that were read one after the other back to their places.
fn hold(held: &mut Vec<(u64, Bytes)>, ranges: &[Range<u64>], mut bytes: Bytes) {
    for range in ranges {
        let part = bytes.split_to((range.end - range.start) as usize);
        held.push((range.start, part));
    }
}

/// The last bytes of a file, at their offset.
struct Tail {
    at: u64,
    bytes: Bytes,
}

impl Tail {
    /// Reads as much as has the footer in it.
    async fn read(store: &dyn ObjectStore, blocks: &Blocks) -> Result<Self> {
        let size = blocks.file().size_bytes;
        let at = size.saturating_sub(TAIL_BYTES);
        let bytes = bytes_of(store, blocks, at..size).await?;
        let Some(last) = bytes.last_chunk::<MAGIC_BYTES>() else {
            return Err(Error::corrupt(&blocks.file().path, "it has no footer"));
        };
        let footer = u32::from_le_bytes([last[0], last[1], last[2], last[3]]);
        let start = size.saturating_sub(u64::from(footer) + MAGIC_BYTES as u64);
        if start >= at {
            return Ok(Self { at, bytes });
        }
        let bytes = bytes_of(store, blocks, start..size).await?;
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
