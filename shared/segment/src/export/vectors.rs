//! Vectors as pages of lists of floats.
//!
//! All lists of a column have one length, so that what says where they begin and end is written without looking at each
//! value, as a general writer must.

use std::{io::Cursor, mem};

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::metadata::ColumnChunkMetaData,
    schema::types::ColumnDescPtr,
};
use redkite_types::{Column, ColumnData};
use zstd::{bulk::Compressor, zstd_safe::compress_bound};

use super::columns::{ExportColumn, failure, widened};
use crate::{
    error::Result,
    file::{list_levels, page_header},
};

/// Bytes of values in a page, unless a single row takes more.
const PAGE_BYTES: usize = 1 << 20;
/// More than any page's header takes.
const HEADER_BYTES: usize = 64;
/// More than one run of definition levels takes.
const RUN_BYTES: usize = 16;

/// A vector column of a row group.
pub(super) struct VectorColumn {
    dim: usize,
    is_optional: bool,
    zstd: (ZstdLevel, Compressor<'static>),
    page_rows: usize,
    /// Room for the levels of a page, and its values so far.
    page: Vec<u8>,
    levels_room: usize,
    /// Which rows of the page have a vector.
    present: Vec<bool>,
    pages: Vec<Bytes>,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    values: usize,
    plain_bytes: usize,
    stored_bytes: usize,
}

impl VectorColumn {
    pub(super) fn new(column: &ExportColumn, level: ZstdLevel) -> Result<Self> {
        let dim = column.field.dim.max(1);
        let is_optional = column.field.nullable;
        let page_rows = (PAGE_BYTES / (dim * size_of::<f32>())).max(1);
        let runs = if is_optional { page_rows } else { 1 };
        let levels_room = page_rows * dim / 8 + (runs + 1) * RUN_BYTES;
        Ok(Self {
            dim,
            is_optional,
            zstd: (
                level,
                Compressor::new(level.compression_level()).map_err(failure)?,
            ),
            page_rows,
            page: vec![0; levels_room],
            levels_room,
            present: Vec::new(),
            pages: Vec::new(),
            totals: Totals::default(),
        })
    }

    /// Appends rows.
    pub(super) fn write(&mut self, values: &Column) -> Result<()> {
        let mut row = 0;
        while row < values.len() {
            let room = self.page_rows - self.present.len();
            let rows = row..values.len().min(row + room);
            row = rows.end;
            match &values.data {
                ColumnData::FloatVector { dim, values: all } if *dim == self.dim => {
                    let all = &all[rows.start * dim..rows.end * dim];
                    self.append(values, rows.start, all)?;
                }
                ColumnData::FloatVector { dim, .. } => {
                    let wanted = self.dim;
                    return Err(failure(format!("a vector of dim {dim} is not of {wanted}")));
                }
                _ => {
                    let first = rows.start;
                    self.append(values, first, &widened(values, rows)?)?;
                }
            }
            if self.present.len() >= self.page_rows {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Appends the values of rows from `first` on to the page.
    fn append(&mut self, column: &Column, first: usize, values: &[f32]) -> Result<()> {
        let rows = values.len() / self.dim;
        if column.valid.is_none() {
            // The format is little-endian, and so are all processors that we build for.
            self.page.extend_from_slice(bytemuck::cast_slice(values));
            self.present.resize(self.present.len() + rows, true);
            return Ok(());
        }
        for (row, values) in values.chunks_exact(self.dim).enumerate() {
            let is_valid = column.is_valid(first + row);
            self.present.push(is_valid);
            if is_valid {
                self.page.extend_from_slice(bytemuck::cast_slice(values));
            } else if !self.is_optional {
                return Err(failure("a row has no vector, which it must have"));
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        if self.present.is_empty() {
            return Ok(());
        }
        let levels = list_levels(self.present.iter().copied(), self.dim, self.is_optional);
        let start = self.levels_room - levels.len();
        self.page[start..self.levels_room].copy_from_slice(&levels);
        let plain = &self.page[start..];
        let mut stored = Vec::with_capacity(HEADER_BYTES + compress_bound(plain.len()));
        stored.resize(HEADER_BYTES, 0);
        let mut out = Cursor::new(&mut stored);
        out.set_position(HEADER_BYTES as u64);
        self.zstd
            .1
            .compress_to_buffer(plain, &mut out)
            .map_err(failure)?;
        let entries = |is_there: &bool| if *is_there { self.dim } else { 1 };
        let values: usize = self.present.iter().map(entries).sum();
        let number = |count: usize| i32::try_from(count).map_err(failure);
        let header = page_header(
            number(values)?,
            number(plain.len())?,
            number(stored.len() - HEADER_BYTES)?,
        );
        let first = HEADER_BYTES - header.len();
        stored[first..HEADER_BYTES].copy_from_slice(&header);
        self.totals.values += values;
        self.totals.plain_bytes += header.len() + plain.len();
        self.totals.stored_bytes += stored.len() - first;
        self.pages.push(Bytes::from(stored).slice(first..));
        self.page.truncate(self.levels_room);
        self.present.clear();
        Ok(())
    }

    /// About what there is of the row group, in bytes.
    pub(super) fn size(&self) -> usize {
        self.totals.stored_bytes + self.page.len() - self.levels_room
    }

    /// The pages of the row group, which begin at a byte of the file, and what is to be said of them.
    pub(super) fn end_group(
        &mut self,
        column: ColumnDescPtr,
        at: u64,
    ) -> Result<(Vec<Bytes>, ColumnChunkMetaData)> {
        self.end_page()?;
        let totals = mem::take(&mut self.totals);
        let metadata = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_compression(Compression::ZSTD(self.zstd.0))
            .set_num_values(totals.values as i64)
            .set_total_compressed_size(totals.stored_bytes as i64)
            .set_total_uncompressed_size(totals.plain_bytes as i64)
            .set_data_page_offset(at as i64)
            .build();
        Ok((mem::take(&mut self.pages), metadata.map_err(failure)?))
    }
}
