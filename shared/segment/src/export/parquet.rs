//! A Parquet file that any reader opens: lists are lists, nothing is ours.

use std::{mem, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{Int64Builder, ListBuilder, StringBuilder},
};
use arrow_schema::{DataType as ArrowType, Field, Schema};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowSchemaConverter, ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    file::{
        metadata::{
            ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataWriter,
            RowGroupMetaData,
        },
        properties::{EnabledStatistics, WriterProperties},
        writer::TrackedWrite,
    },
    schema::types::{SchemaDescPtr, SchemaDescriptor},
};
use redkite_types::{Column, ColumnData, RowBatch};

use super::{
    columns::{ExportColumn, ListKind, failure, list_of, no_form, not_a_list, paired},
    vectors::VectorColumn,
};
use crate::{
    error::Result,
    file::{export_array, export_type},
};

/// A row group is written once it is so large: what a writer and a reader need at a time.
const ROW_GROUP_BYTES: usize = 16 << 20;
const ZSTD_LEVEL: i32 = 1;
/// What a file begins with.
const MAGIC: &[u8] = b"PAR1";
const CREATED_BY: &str = concat!("redkite ", env!("CARGO_PKG_VERSION"));

/// A file whose row groups are each put together from two: the pages of the vectors, which are ours, and those of the
/// other columns, which the library writes as a file of its own.
pub(super) struct ParquetFile {
    columns: Vec<ExportColumn>,
    /// Of all columns.
    schema: SchemaDescPtr,
    vectors: Vec<VectorColumn>,
    /// Of the other columns.
    others: Arc<Schema>,
    options: ArrowWriterOptions,
    writer: Option<ArrowWriter<Vec<u8>>>,
    /// Rows of the row group.
    rows: usize,
    groups: Vec<RowGroupMetaData>,
    ready: Vec<Bytes>,
    /// Bytes of the file that are ready or were taken.
    written: u64,
}

impl ParquetFile {
    pub(super) fn new(columns: Vec<ExportColumn>) -> Result<Self> {
        let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(failure)?;
        let all = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let others = columns.iter().filter(|column| !is_vector(column));
        let others = Schema::new(others.map(field).collect::<Vec<_>>());
        let vectors = columns.iter().filter(|column| is_vector(column));
        let vectors = vectors.map(|column| VectorColumn::new(column, level));
        let properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(None);
        let schema = ArrowSchemaConverter::new().convert(&all).map_err(failure)?;
        Ok(Self {
            vectors: vectors.collect::<Result<Vec<_>>>()?,
            columns,
            schema: Arc::new(schema),
            others: Arc::new(others),
            // Without Arrow's own description the file says what it holds in Parquet's terms alone.
            options: ArrowWriterOptions::new()
                .with_properties(properties.build())
                .with_skip_arrow_metadata(true),
            writer: None,
            rows: 0,
            groups: Vec::new(),
            ready: vec![Bytes::from_static(MAGIC)],
            written: MAGIC.len() as u64,
        })
    }

    pub(super) fn write(&mut self, rows: RowBatch) -> Result<()> {
        paired(&self.columns, &rows)?;
        let count = rows.len();
        let mut arrays = Vec::with_capacity(self.columns.len());
        let mut vectors = self.vectors.iter_mut();
        for (column, values) in self.columns.iter().zip(rows.into_columns()) {
            if !is_vector(column) {
                arrays.push(array(column, &values)?);
            } else if let Some(vectors) = vectors.next() {
                vectors.write(&values)?;
            }
        }
        let batch = RecordBatch::try_new(self.others.clone(), arrays).map_err(failure)?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(writer(&self.others, &self.options)?),
        };
        writer.write(&batch).map_err(failure)?;
        self.rows += count;
        if self.in_group() >= ROW_GROUP_BYTES {
            self.end_group()?;
        }
        Ok(())
    }

    /// About what there is of the row group, in bytes.
    fn in_group(&self) -> usize {
        let others = self
            .writer
            .as_ref()
            .map_or(0, ArrowWriter::in_progress_size);
        let vectors = self.vectors.iter().map(VectorColumn::size);
        others + vectors.sum::<usize>()
    }

    fn end_group(&mut self) -> Result<()> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        let start = self.written;
        let metadata = writer.finish().map_err(failure)?;
        let mut columns = self.put_others(&metadata, mem::take(writer.inner_mut()))?;
        let mut vectors = self.vectors.iter_mut();
        for (index, column) in self.columns.iter().enumerate() {
            if is_vector(column)
                && let Some(vectors) = vectors.next()
            {
                let leaf = leaf(&self.schema, index)?;
                let (pages, metadata) =
                    vectors.end_group(self.schema.column(leaf), self.written)?;
                self.written += pages.iter().map(|page| page.len() as u64).sum::<u64>();
                self.ready.extend(pages);
                columns.push((index, metadata));
            }
        }
        columns.sort_by_key(|(index, _)| *index);
        let columns: Vec<_> = columns.into_iter().map(|(_, column)| column).collect();
        let bytes = columns.iter().map(ColumnChunkMetaData::uncompressed_size);
        let group = RowGroupMetaData::builder(self.schema.clone())
            .set_num_rows(self.rows as i64)
            .set_total_byte_size(bytes.sum())
            .set_ordinal(i32::try_from(self.groups.len()).map_err(failure)?)
            .set_file_offset(start as i64)
            .set_column_metadata(columns)
            .build();
        self.groups.push(group.map_err(failure)?);
        self.rows = 0;
        Ok(())
    }

    /// Takes the columns of a file that the library has written over; answers where each of them belongs.
    fn put_others(
        &mut self,
        metadata: &ParquetMetaData,
        file: Vec<u8>,
    ) -> Result<Vec<(usize, ColumnChunkMetaData)>> {
        let columns = metadata
            .row_groups()
            .iter()
            .flat_map(|group| group.columns());
        let columns: Vec<&ColumnChunkMetaData> = columns.collect();
        let ends = columns.iter().map(|column| {
            let (start, length) = column.byte_range();
            start + length
        });
        let end = ends.max().unwrap_or(MAGIC.len() as u64) as usize;
        let moved = self.written as i64 - MAGIC.len() as i64;
        self.ready.push(Bytes::from(file).slice(MAGIC.len()..end));
        self.written += (end - MAGIC.len()) as u64;
        let others = self.columns.iter().enumerate();
        let others = others.filter(|(_, column)| !is_vector(column));
        let place = |((index, _), column): ((usize, _), &ColumnChunkMetaData)| {
            let dictionary = column.dictionary_page_offset().map(|at| at + moved);
            let moved = column
                .clone()
                .into_builder()
                .set_data_page_offset(column.data_page_offset() + moved)
                .set_dictionary_page_offset(dictionary);
            Ok((index, moved.build().map_err(failure)?))
        };
        others.zip(columns).map(place).collect()
    }

    pub(super) fn take(&mut self) -> Vec<Bytes> {
        mem::take(&mut self.ready)
    }

    pub(super) fn size(&self) -> u64 {
        self.written + self.in_group() as u64
    }

    pub(super) fn finish(mut self) -> Result<Vec<Bytes>> {
        self.end_group()?;
        let rows = self.groups.iter().map(RowGroupMetaData::num_rows).sum();
        let created_by = Some(CREATED_BY.to_owned());
        let of_file = FileMetaData::new(1, rows, created_by, None, self.schema.clone(), None);
        let metadata = ParquetMetaData::new(of_file, mem::take(&mut self.groups));
        let mut footer = Vec::new();
        ParquetMetaDataWriter::new_with_tracked(TrackedWrite::new(&mut footer), &metadata)
            .finish()
            .map_err(failure)?;
        self.ready.push(footer.into());
        Ok(self.ready)
    }
}

fn writer(schema: &Arc<Schema>, options: &ArrowWriterOptions) -> Result<ArrowWriter<Vec<u8>>> {
    let writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options.clone());
    writer.map_err(failure)
}

fn is_vector(column: &ExportColumn) -> bool {
    column.list.is_none() && column.field.data_type.is_fixed_vector()
}

/// The leaf of a column that has one.
fn leaf(schema: &SchemaDescriptor, column: usize) -> Result<usize> {
    let mut leaves = 0..schema.num_columns();
    let leaf = leaves.find(|leaf| schema.get_column_root_idx(*leaf) == column);
    leaf.ok_or_else(|| failure("a column has no values"))
}

/// The name that the Parquet specification gives to a list's values.
fn element(kind: ArrowType, nullable: bool) -> Arc<Field> {
    Arc::new(Field::new("element", kind, nullable))
}

fn field(column: &ExportColumn) -> Field {
    let schema = &column.field;
    let kind = match (column.list, schema.data_type) {
        (Some(ListKind::Int), _) => ArrowType::List(element(ArrowType::Int64, true)),
        (Some(ListKind::Text), _) => ArrowType::List(element(ArrowType::Utf8, true)),
        (None, kind) if kind.is_fixed_vector() => {
            ArrowType::List(element(ArrowType::Float32, false))
        }
        (None, _) => export_type(schema),
    };
    Field::new(&schema.name, kind, schema.nullable || schema.is_dynamic)
}

/// A column that is no vector.
fn array(column: &ExportColumn, values: &Column) -> Result<ArrayRef> {
    match (column.list, &values.data) {
        (Some(ListKind::Int), _) => ints(column, values),
        (Some(ListKind::Text), _) => texts(column, values),
        (None, ColumnData::SparseVector(_)) => Err(no_form(values)),
        (None, _) => export_array(values).map_err(failure),
    }
}

fn ints(column: &ExportColumn, values: &Column) -> Result<ArrayRef> {
    let mut lists =
        ListBuilder::new(Int64Builder::new()).with_field(element(ArrowType::Int64, true));
    for row in 0..values.len() {
        let list = list_of(column, values, row)?;
        for value in list.iter().flatten() {
            let value = value.as_i64().ok_or_else(|| not_a_list(column))?;
            lists.values().append_value(value);
        }
        lists.append(list.is_some());
    }
    Ok(Arc::new(lists.finish()))
}

fn texts(column: &ExportColumn, values: &Column) -> Result<ArrayRef> {
    let mut lists =
        ListBuilder::new(StringBuilder::new()).with_field(element(ArrowType::Utf8, true));
    for row in 0..values.len() {
        let list = list_of(column, values, row)?;
        for value in list.iter().flatten() {
            let value = value.as_str().ok_or_else(|| not_a_list(column))?;
            lists.values().append_value(value);
        }
        lists.append(list.is_some());
    }
    Ok(Arc::new(lists.finish()))
}
