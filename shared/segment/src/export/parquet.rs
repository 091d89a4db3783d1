//! A Parquet file that any reader opens: lists are lists, nothing is ours.

use std::{mem, sync::Arc};

use arrow_array::{
    ArrayRef, Float32Array, ListArray, RecordBatch,
    builder::{Int64Builder, ListBuilder, StringBuilder},
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field, Schema};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use redkite_types::{Column, ColumnData, FloatBuffer, RowBatch};

use super::columns::{
    ExportColumn, ListKind, failure, list_of, no_form, not_a_list, paired, widened,
};
use crate::{
    error::Result,
    file::{export_array, export_type, null_rows},
};

/// A row group is written once it is so large: what a writer and a reader need at a time.
const ROW_GROUP_BYTES: usize = 16 << 20;
const ZSTD_LEVEL: i32 = 1;

pub(super) struct ParquetFile {
    columns: Vec<ExportColumn>,
    schema: Arc<Schema>,
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetFile {
    pub(super) fn new(columns: Vec<ExportColumn>) -> Result<Self> {
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let schema = Arc::new(Schema::new(fields));
        let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(failure)?;
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("redkite ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(None);
        for column in &columns {
            if column.field.data_type.is_fixed_vector() {
                let name = column.field.name.clone();
                let path = ColumnPath::from(vec![name, "list".to_owned(), "element".to_owned()]);
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
        }
        // Without Arrow's own description the file says what it holds in Parquet's terms alone.
        let options = ArrowWriterOptions::new()
            .with_properties(properties.build())
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options);
        Ok(Self {
            columns,
            schema,
            writer: writer.map_err(failure)?,
        })
    }

    pub(super) fn write(&mut self, rows: RowBatch) -> Result<()> {
        paired(&self.columns, &rows)?;
        let columns = self.columns.iter().zip(rows.into_columns());
        let arrays = columns.map(|(column, values)| array(column, values));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(failure)?;
        self.writer.write(&batch).map_err(failure)?;
        let size = self.writer.in_progress_size();
        if size >= ROW_GROUP_BYTES {
            // A buffer that grew by itself would take twice as much, and for as long as it is on its way.
            self.writer.inner_mut().reserve_exact(size);
            self.writer.flush().map_err(failure)?;
        }
        Ok(())
    }

    pub(super) fn take(&mut self) -> Bytes {
        // The writer counts its offsets by itself.
        mem::take(self.writer.inner_mut()).into()
    }

    pub(super) fn size(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub(super) fn finish(self) -> Result<Bytes> {
        self.writer.into_inner().map(Bytes::from).map_err(failure)
    }
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

fn array(column: &ExportColumn, values: Column) -> Result<ArrayRef> {
    let (rows, nulls) = (values.len(), null_rows(&values));
    match (column.list, values.data) {
        (None, ColumnData::FloatVector { dim, values }) => lists(dim, floats(values), rows, nulls),
        (list, data) => other_array(column, list, &Column { data, ..values }, nulls),
    }
}

fn other_array(
    column: &ExportColumn,
    list: Option<ListKind>,
    values: &Column,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    match (list, &values.data) {
        (Some(ListKind::Int), _) => ints(column, values),
        (Some(ListKind::Text), _) => texts(column, values),
        (None, ColumnData::PackedVector { dim, .. }) => {
            let flat = widened(values, 0..values.len())?;
            lists(*dim, flat.into(), values.len(), nulls)
        }
        (None, ColumnData::SparseVector(_)) => Err(no_form(values)),
        (None, _) => export_array(values).map_err(failure),
    }
}

/// The values as they are, without a copy.
fn floats(values: FloatBuffer) -> ScalarBuffer<f32> {
    match values.shared_bytes() {
        Some(bytes) => ScalarBuffer::from(Buffer::from(bytes.clone())),
        None => values.into_vec().into(),
    }
}

fn lists(
    dim: usize,
    flat: ScalarBuffer<f32>,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let offsets = OffsetBuffer::from_repeated_length(dim, rows);
    let kind = element(ArrowType::Float32, false);
    let flat = Arc::new(Float32Array::new(flat, None));
    let lists = ListArray::try_new(kind, offsets, flat, nulls);
    Ok(Arc::new(lists.map_err(failure)?))
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
