//! The pages of a data file's scalar columns: where they are, what they take, and how they are decoded.

use std::{ops::Range, sync::Arc};

use parquet::{
    arrow::{
        PARQUET_FIELD_ID_META_KEY, ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy, RowSelector,
        },
    },
    file::{
        metadata::{
            PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, page_index::RowGroupPageIndex,
        },
        page_index::offset_index::PageLocation,
        reader::ChunkReader,
    },
};
use redkite_types::{CollectionSchema, Column, ColumnData, FieldId, FieldSchema};

use super::{
    arrow::{READ_ROWS, from_array},
    decode,
    parts::Layout,
};
use crate::error::{Error, Result};

/// What a decoded value takes beside its own bytes: a text's or a document's place, or a number.
const VALUE_BYTES: u64 = 32;

/// The scalar columns of an open file, whose bytes are elsewhere.
#[derive(Debug)]
pub(super) struct Pages {
    path: String,
    metadata: ArrowReaderMetadata,
    schema: Arc<CollectionSchema>,
    rows: usize,
    /// Bytes from the file's start in which all pages are.
    scalar_bytes: u64,
}

/// Where some rows of a column are.
#[derive(Debug, Default)]
pub(super) struct PageRanges {
    /// What a reader needs whichever rows it wants.
    pub(super) dictionaries: Vec<Range<u64>>,
    /// The pages, in order.
    pub(super) pages: Vec<Range<u64>>,
}

/// What the rows of a column take, page by page.
#[derive(Debug)]
pub(super) struct Costs(Vec<PageCost>);

#[derive(Debug)]
struct PageCost {
    first_row: u64,
    /// Of a row, decoded.
    row_bytes: u64,
    /// Of the page, as it is encoded.
    page_bytes: u64,
}

impl Pages {
    /// Reads where pages are; `index` has the bytes of [`index_range`].
    ///
    /// # Errors
    /// What is wrong, as text.
    pub(super) fn new(
        path: &str,
        index: &impl ChunkReader,
        layout: Layout,
        schema: Arc<CollectionSchema>,
    ) -> Result<Self, String> {
        let text = |error: parquet::errors::ParquetError| error.to_string();
        let scalar_bytes = layout.scalar_bytes;
        let rows = layout.metadata.file_metadata().num_rows();
        let rows = usize::try_from(rows).map_err(|_| format!("it has {rows} rows"))?;
        if index_range(&layout.metadata).is_some_and(|range| range.end > scalar_bytes) {
            return Err("its page index is misplaced".to_owned());
        }
        let mut reader = ParquetMetaDataReader::new_with_metadata(layout.metadata)
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        reader.read_page_indexes(index).map_err(text)?;
        let metadata = Arc::new(reader.finish().map_err(text)?);
        let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new());
        Ok(Self {
            path: path.to_owned(),
            metadata: metadata.map_err(text)?,
            schema,
            rows,
            scalar_bytes,
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The schema that the columns are read by.
    pub(super) fn schema(&self) -> &CollectionSchema {
        &self.schema
    }

    fn corrupt(&self, reason: impl std::fmt::Display) -> Error {
        Error::corrupt(&self.path, reason)
    }

    /// Decodes a column, or some rows of it, which are in order, out of the file's bytes. With
    /// [`RowSelectionPolicy::Selectors`] only the pages of these rows are read.
    ///
    /// # Errors
    /// `Corrupt`
    pub(super) fn decode(
        &self,
        field: &FieldSchema,
        bytes: impl ChunkReader + 'static,
        rows: Option<&[usize]>,
        policy: RowSelectionPolicy,
    ) -> Result<Column> {
        let count = rows.map_or(self.rows, <[usize]>::len);
        let Some(position) = self.position(field.id) else {
            return decode::missing(field, count).map_err(|reason| self.corrupt(reason));
        };
        let data = ColumnData::with_capacity(field.data_type, field.dim, count);
        let mut whole = Column::new(field.id, data);
        let selection = rows.map(selection);
        for batch in self.batches(position, bytes, selection, policy)? {
            let batch = batch.map_err(|error| self.corrupt(error))?;
            let array = batch.column(0).as_ref();
            let read = from_array(array, field.id, field.data_type, field.dim);
            whole.extend(&read.ok_or_else(|| {
                let found = array.data_type();
                self.corrupt(format!(
                    "column {} is {found} where {} was expected",
                    field.name, field.data_type
                ))
            })?);
        }
        if whole.len() != count {
            let reason = format!("column {} has {} rows", field.name, whole.len());
            return Err(self.corrupt(reason));
        }
        Ok(whole)
    }

    /// Whether the file has a column of the field.
    pub(super) fn has(&self, field: FieldId) -> bool {
        self.position(field).is_some()
    }

    /// The position of a field's column, by the field id in the column's metadata, or by its name if it has none.
    fn position(&self, field: FieldId) -> Option<usize> {
        let wanted = field.to_string();
        let name = self.schema.field_by_id(field).map(|field| &field.name);
        let mut columns = self.metadata.schema().fields().iter();
        columns.position(
            |column| match column.metadata().get(PARQUET_FIELD_ID_META_KEY) {
                Some(id) => *id == wanted,
                None => Some(column.name()) == name,
            },
        )
    }

    /// The leaves of a column and their bytes.
    fn leaves(&self, position: usize) -> Result<Vec<(usize, Range<u64>)>> {
        let schema = self.metadata.parquet_schema();
        let columns = self.metadata.metadata().row_group(0).columns();
        let of_column = columns.iter().enumerate();
        let of_column = of_column.filter(|(leaf, _)| schema.get_column_root_idx(*leaf) == position);
        let place = |(leaf, column): (usize, &parquet::file::metadata::ColumnChunkMetaData)| {
            let (start, length) = column.byte_range();
            let end = start
                .checked_add(length)
                .filter(|end| *end <= self.scalar_bytes);
            let end = end.ok_or_else(|| self.corrupt("a column is misplaced"))?;
            Ok((leaf, start..end))
        };
        of_column.map(place).collect()
    }

    fn batches(
        &self,
        position: usize,
        bytes: impl ChunkReader + 'static,
        selection: Option<RowSelection>,
        policy: RowSelectionPolicy,
    ) -> Result<ParquetRecordBatchReader> {
        self.leaves(position)?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [position]);
        let metadata = self.metadata.clone();
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
            .with_projection(mask)
            .with_batch_size(READ_ROWS.min(self.rows.max(1)));
        if let Some(selection) = selection {
            builder = builder
                .with_row_selection(selection)
                .with_row_selection_policy(policy);
        }
        builder.build().map_err(|error| self.corrupt(error))
    }

    fn index(&self) -> RowGroupPageIndex {
        self.metadata.metadata().page_index_for_row_group(0)
    }

    /// Where the rows of a column are, which are in order; nowhere when the file has no such column.
    ///
    /// # Errors
    /// `Corrupt`
    pub(super) fn ranges(&self, field: FieldId, rows: &[u32]) -> Result<PageRanges> {
        let mut found = PageRanges::default();
        let Some(position) = self.position(field).filter(|_| !rows.is_empty()) else {
            return Ok(found);
        };
        let index = self.index();
        for (leaf, whole) in self.leaves(position)? {
            let Some(pages) = index.page_locations(leaf) else {
                found.pages.push(whole);
                continue;
            };
            let first = pages.first().map_or(whole.end, |page| page.offset as u64);
            if first > whole.start && first <= whole.end {
                found.dictionaries.push(whole.start..first);
            }
            let mut next = 0;
            while let Some(row) = rows.get(next) {
                let row = i64::from(*row);
                let at = pages.partition_point(|page| page.first_row_index <= row);
                let page = at
                    .checked_sub(1)
                    .and_then(|at| page_range(&pages[at], &whole));
                let page = page.ok_or_else(|| self.corrupt("a page is misplaced"))?;
                found.pages.push(page);
                let end = pages.get(at).map_or(i64::MAX, |page| page.first_row_index);
                next += rows[next..].partition_point(|row| i64::from(*row) < end);
            }
        }
        Ok(found)
    }

    /// What the rows of a field take that is not in place.
    ///
    /// # Errors
    /// `Corrupt`
    pub(super) fn costs(&self, field: &FieldSchema) -> Result<Vec<Costs>> {
        let fixed = field.data_type.vector_bytes(field.dim) as u64 + VALUE_BYTES;
        let Some(position) = self.position(field.id) else {
            return Ok(vec![Costs::even(fixed, 0)]);
        };
        let index = self.index();
        let columns = self.metadata.metadata().row_group(0).columns();
        let mut all = Vec::new();
        for (leaf, whole) in self.leaves(position)? {
            let column = &columns[leaf];
            let texts = column.unencoded_byte_array_data_bytes();
            let of_column = texts.unwrap_or(column.uncompressed_size()).max(0) as u64;
            let average = fixed + of_column / self.rows.max(1) as u64;
            let Some(pages) = index.offset_index(leaf) else {
                all.push(Costs::even(average, whole.end - whole.start));
                continue;
            };
            let texts = pages.unencoded_byte_array_data_bytes();
            let pages = pages.page_locations();
            let cost = |(at, page): (usize, &PageLocation)| {
                let end = pages
                    .get(at + 1)
                    .map_or(self.rows as i64, |next| next.first_row_index);
                let rows = end.saturating_sub(page.first_row_index).max(1) as u64;
                let texts = texts.and_then(|texts| texts.get(at));
                PageCost {
                    first_row: page.first_row_index.max(0) as u64,
                    row_bytes: texts.map_or(average, |bytes| fixed + *bytes as u64 / rows),
                    page_bytes: page.compressed_page_size.max(0) as u64,
                }
            };
            all.push(Costs(pages.iter().enumerate().map(cost).collect()));
        }
        Ok(all)
    }
}

impl Costs {
    fn even(row_bytes: u64, page_bytes: u64) -> Self {
        Self(vec![PageCost {
            first_row: 0,
            row_bytes,
            page_bytes,
        }])
    }

    /// What each row of a vector column in place takes.
    pub(super) fn of_vectors(row_bytes: u64) -> Self {
        Self::even(row_bytes, 0)
    }
}

/// Divides rows, which are in order, so that each part takes about `bytes` at the most, encoded and decoded, and has
/// no more than `most` rows; but each has one.
pub(super) fn divide(rows: &[u32], costs: &[Costs], bytes: u64, most: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    // The page of each column that the row before is in.
    let mut pages: Vec<Option<usize>> = vec![None; costs.len()];
    let (mut start, mut taken) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        let row = u64::from(*row);
        let mut cost = 0;
        for (Costs(of_column), page) in costs.iter().zip(&mut pages) {
            let mut here = page.unwrap_or_else(|| {
                let after = of_column.partition_point(|page| page.first_row <= row);
                after.saturating_sub(1)
            });
            while of_column
                .get(here + 1)
                .is_some_and(|next| next.first_row <= row)
            {
                here += 1;
            }
            let Some(found) = of_column.get(here) else {
                continue;
            };
            cost += found.row_bytes;
            if *page != Some(here) {
                cost += found.page_bytes;
                *page = Some(here);
            }
        }
        if at > start && (at - start >= most || taken + cost > bytes) {
            parts.push(start..at);
            (start, taken) = (at, 0);
        }
        taken += cost;
    }
    if start < rows.len() {
        parts.push(start..rows.len());
    }
    parts
}

/// The bytes that say where pages are; `None` when the file does not say it.
pub(super) fn index_range(metadata: &ParquetMetaData) -> Option<Range<u64>> {
    let columns = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns());
    let ranges = columns.filter_map(|column| column.offset_index_range());
    ranges.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end))
}

fn page_range(page: &PageLocation, column: &Range<u64>) -> Option<Range<u64>> {
    let start = u64::try_from(page.offset).ok()?;
    let end = start.checked_add(u64::try_from(page.compressed_page_size).ok()?)?;
    let is_inside = column.start <= start && start < end && end <= column.end;
    is_inside.then_some(start..end)
}

/// Rows, in order and each once, as the runs between and of them.
fn selection(rows: &[usize]) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for &row in rows {
        if row > next {
            selectors.push(RowSelector::skip(row - next));
        }
        match selectors.last_mut() {
            Some(last) if !last.skip => last.row_count += 1,
            Some(_) | None => selectors.push(RowSelector::select(1)),
        }
        next = row + 1;
    }
    selectors.into()
}
