//! Our columns to Arrow's and back, and Parquet files in memory.

use std::{collections::HashMap, sync::Arc};

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType as ArrowType, Field, Schema};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter, PARQUET_FIELD_ID_META_KEY, ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use redkite_types::{BitSet, Column, ColumnData, DataType, FieldId, FieldSchema, PrimaryKeys};

use super::hidden_name;

/// Any failure, as text for the error that names the file.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Of text: twice as fast to write as level 3, and a few percent larger (`examples/codecs.rs`).
const ZSTD_LEVEL: i32 = 1;
/// Rows that a reader must decode to get at one of them.
const PAGE_ROWS: usize = 1_024;
/// Bytes of a column's distinct values that a reader must decode before any row.
const DICTIONARY_BYTES: usize = 64 << 10;
/// The key under which Arrow's readers look for the types that Parquet does not have.
pub(super) const ARROW_SCHEMA_KEY: &str = "ARROW:schema";
/// Rows decoded at a time.
pub(super) const READ_ROWS: usize = 65_536;

/// A column of a file.
#[derive(Clone, Debug)]
pub(crate) struct ColumnSpec {
    field: Field,
    is_vector: bool,
    /// Ascending numbers, which are best written as differences.
    is_sequence: bool,
}

/// Arrow's type for a field.
pub(crate) fn user_type(schema: &FieldSchema) -> ArrowType {
    match schema.data_type {
        DataType::Bool => ArrowType::Boolean,
        DataType::Int8 => ArrowType::Int8,
        DataType::Int16 => ArrowType::Int16,
        DataType::Int32 => ArrowType::Int32,
        DataType::Int64 => ArrowType::Int64,
        DataType::Float => ArrowType::Float32,
        DataType::Double => ArrowType::Float64,
        DataType::VarChar | DataType::Json => ArrowType::Utf8,
        DataType::FloatVector => vector_type(schema.dim),
        DataType::BinaryVector
        | DataType::Float16Vector
        | DataType::BFloat16Vector
        | DataType::Int8Vector => {
            // Limits keep it far below what an i32 holds.
            ArrowType::FixedSizeBinary(schema.data_type.vector_bytes(schema.dim) as i32)
        }
        DataType::SparseFloatVector => ArrowType::Binary,
    }
}

/// The column of a field.
pub(super) fn user_spec(schema: &FieldSchema) -> ColumnSpec {
    let kind = user_type(schema);
    ColumnSpec {
        field: with_id(
            Field::new(&schema.name, kind, schema.nullable || schema.is_dynamic),
            schema.id,
        ),
        is_vector: schema.data_type.is_fixed_vector(),
        is_sequence: false,
    }
}

/// A hidden column.
pub(super) fn hidden_spec(field: FieldId) -> ColumnSpec {
    ColumnSpec {
        field: with_id(
            Field::new(hidden_name(field), ArrowType::Int64, false),
            field,
        ),
        is_vector: false,
        is_sequence: true,
    }
}

/// A plain column of a file that is no segment's data.
pub(crate) fn key_column(name: &str, keys: &PrimaryKeys) -> (ColumnSpec, ArrayRef) {
    let (kind, array): (ArrowType, ArrayRef) = match keys {
        PrimaryKeys::Int(keys) => (ArrowType::Int64, Arc::new(Int64Array::from(keys.clone()))),
        PrimaryKeys::Str(keys) => (
            ArrowType::Utf8,
            Arc::new(StringArray::from_iter_values(keys)),
        ),
    };
    let spec = ColumnSpec {
        field: Field::new(name, kind, false),
        is_vector: false,
        is_sequence: false,
    };
    (spec, array)
}

impl ColumnSpec {
    /// A hidden int64 column of that name.
    pub(crate) fn sequence(name: &str) -> Self {
        Self {
            field: Field::new(name, ArrowType::Int64, false),
            is_vector: false,
            is_sequence: true,
        }
    }
}

fn with_id(field: Field, id: FieldId) -> Field {
    let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
    field.with_metadata(HashMap::from([id]))
}

fn vector_type(dim: usize) -> ArrowType {
    // Limits keep dimensions far below what an i32 holds.
    ArrowType::FixedSizeList(vector_item(), dim as i32)
}

fn vector_item() -> Arc<Field> {
    // The name that the Parquet specification gives to a list's values.
    Arc::new(Field::new("element", ArrowType::Float32, false))
}

/// Text and floats, which zstd makes a good deal smaller than lz4 does; of integers neither leaves
/// less, and lz4 is faster.
fn is_squeezed(kind: &ArrowType) -> bool {
    matches!(
        kind,
        ArrowType::Utf8 | ArrowType::Binary | ArrowType::Float32 | ArrowType::Float64
    )
}

/// The schema that Arrow's readers see.
pub(super) fn arrow_schema(specs: Vec<ColumnSpec>) -> Schema {
    let fields: Vec<Field> = specs.into_iter().map(|spec| spec.field).collect();
    Schema::new(fields)
}

/// Writes batches of columns as one Parquet file in memory.
pub(crate) fn parquet_bytes(
    specs: Vec<ColumnSpec>,
    metadata: Vec<(String, String)>,
    batches: impl Iterator<Item = Result<Vec<ArrayRef>, Failure>>,
) -> Result<Bytes, Failure> {
    let entries = metadata
        .into_iter()
        .map(|(key, value)| KeyValue::new(key, value))
        .collect();
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("redkite ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::LZ4_RAW)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(Some(entries));
    for spec in &specs {
        let name = spec.field.name().clone();
        if spec.is_vector {
            let path = match spec.field.data_type() {
                ArrowType::FixedSizeBinary(_) => ColumnPath::from(name),
                _ => ColumnPath::from(vec![name, "list".to_owned(), "element".to_owned()]),
            };
            properties = properties
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::PLAIN)
                .set_column_statistics_enabled(path, EnabledStatistics::None);
        } else if is_squeezed(spec.field.data_type()) {
            let zstd = Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?);
            properties = properties.set_column_compression(ColumnPath::from(name), zstd);
        } else if spec.is_sequence {
            let path = ColumnPath::from(name);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    let schema = Arc::new(arrow_schema(specs));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.build()))?;
    for arrays in batches {
        writer.write(&RecordBatch::try_new(schema.clone(), arrays?)?)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// A Parquet file's metadata entries, and its batches.
pub(crate) fn read_batches(
    bytes: Bytes,
) -> Result<(HashMap<String, String>, ParquetRecordBatchReader), Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let entries = entries.into_iter().flatten();
    let metadata = entries
        .filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)))
        .collect();
    Ok((metadata, builder.with_batch_size(READ_ROWS).build()?))
}

/// The batches of one column of a Parquet file, no other one is decoded; `None` without such a
/// column.
pub(super) fn read_column_batches(
    bytes: Bytes,
    field: FieldId,
) -> Result<Option<ParquetRecordBatchReader>, Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let wanted = field.to_string();
    let mut columns = builder.schema().fields().iter();
    let position = columns
        .position(|column| column.metadata().get(PARQUET_FIELD_ID_META_KEY) == Some(&wanted));
    let Some(position) = position else {
        return Ok(None);
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [position]);
    let builder = builder.with_projection(mask).with_batch_size(READ_ROWS);
    Ok(Some(builder.build()?))
}

/// Copies a column into an Arrow array.
pub(crate) fn to_array(column: &Column) -> Result<ArrayRef, Failure> {
    let nulls = nulls(column);
    Ok(match &column.data {
        ColumnData::Bool(values) => {
            let bits = BooleanBuffer::from(values.as_slice());
            Arc::new(BooleanArray::new(bits, nulls))
        }
        ColumnData::Int8(values) => Arc::new(Int8Array::new(values.clone().into(), nulls)),
        ColumnData::Int16(values) => Arc::new(Int16Array::new(values.clone().into(), nulls)),
        ColumnData::Int32(values) => Arc::new(Int32Array::new(values.clone().into(), nulls)),
        ColumnData::Int64(values) => Arc::new(Int64Array::new(values.clone().into(), nulls)),
        ColumnData::Float(values) => Arc::new(Float32Array::new(values.clone().into(), nulls)),
        ColumnData::Double(values) => Arc::new(Float64Array::new(values.clone().into(), nulls)),
        ColumnData::VarChar(values) => text_array(values.iter().map(String::as_bytes), nulls)?,
        ColumnData::Json(values) => text_array(values.iter().map(Bytes::as_ref), nulls)?,
        ColumnData::FloatVector { dim, values } => {
            let values = Arc::new(Float32Array::new(values.to_vec().into(), None));
            let dim = i32::try_from(*dim)?;
            Arc::new(FixedSizeListArray::try_new(
                vector_item(),
                dim,
                values,
                nulls,
            )?)
        }
        ColumnData::PackedVector { kind, dim, values } => {
            let width = i32::try_from(kind.vector_bytes(*dim))?;
            let values = Buffer::from_vec(values.to_vec());
            Arc::new(FixedSizeBinaryArray::try_new(width, values, nulls)?)
        }
        ColumnData::SparseVector(rows) => {
            let (offsets, bytes) = joined(rows.iter().map(Bytes::as_ref))?;
            Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?)
        }
    })
}

/// Which rows have a value, in Arrow's form; `None` when all do.
fn nulls(column: &Column) -> Option<NullBuffer> {
    let valid = column.valid.as_ref()?;
    Some(NullBuffer::new(BooleanBuffer::collect_bool(
        column.len(),
        |row| valid.get(row),
    )))
}

fn text_array<'a>(
    values: impl Iterator<Item = &'a [u8]> + Clone,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Failure> {
    let (offsets, text) = joined(values)?;
    Ok(Arc::new(StringArray::try_new(offsets, text, nulls)?))
}

/// Values one after the other, and where they begin.
fn joined<'a>(
    values: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(OffsetBuffer<i32>, Buffer), Failure> {
    let offsets = OffsetBuffer::<i32>::try_from_lengths(values.clone().map(<[u8]>::len))?;
    let mut bytes = Vec::with_capacity(values.clone().map(<[u8]>::len).sum());
    for value in values {
        bytes.extend_from_slice(value);
    }
    Ok((offsets, Buffer::from_vec(bytes)))
}

/// Copies an Arrow array into a column of a type; `None` when the array is of another one.
pub(super) fn from_array(
    array: &dyn Array,
    field: FieldId,
    kind: DataType,
    dim: usize,
) -> Option<Column> {
    let any = array.as_any();
    // What a decoder leaves in the place of a null is its own affair: it becomes our placeholder.
    macro_rules! numbers {
        ($array:ty, $variant:ident) => {{
            let numbers = any.downcast_ref::<$array>()?;
            ColumnData::$variant(match numbers.null_count() {
                0 => numbers.values().to_vec(),
                _ => numbers.iter().map(Option::unwrap_or_default).collect(),
            })
        }};
    }
    let data = match kind {
        DataType::Bool => {
            let bools = any.downcast_ref::<BooleanArray>()?.iter();
            ColumnData::Bool(bools.map(Option::unwrap_or_default).collect())
        }
        DataType::Int8 => numbers!(Int8Array, Int8),
        DataType::Int16 => numbers!(Int16Array, Int16),
        DataType::Int32 => numbers!(Int32Array, Int32),
        DataType::Int64 => numbers!(Int64Array, Int64),
        DataType::Float => numbers!(Float32Array, Float),
        DataType::Double => numbers!(Float64Array, Double),
        DataType::VarChar => {
            let texts = any.downcast_ref::<StringArray>()?;
            let texts = texts.iter().map(Option::unwrap_or_default);
            ColumnData::VarChar(texts.map(str::to_owned).collect())
        }
        DataType::Json => {
            let texts = any.downcast_ref::<StringArray>()?;
            let texts = texts.iter().map(Option::unwrap_or_default);
            ColumnData::Json(
                texts
                    .map(|text| Bytes::copy_from_slice(text.as_bytes()))
                    .collect(),
            )
        }
        DataType::FloatVector => {
            let lists = any.downcast_ref::<FixedSizeListArray>()?;
            if usize::try_from(lists.value_length()) != Ok(dim) || dim == 0 {
                return None;
            }
            let values = lists.values().as_any().downcast_ref::<Float32Array>()?;
            let first = lists.value_offset_at(0);
            let values = values.values().get(first..first + lists.len() * dim)?;
            ColumnData::FloatVector {
                dim,
                values: values.to_vec().into(),
            }
        }
        DataType::BinaryVector
        | DataType::Float16Vector
        | DataType::BFloat16Vector
        | DataType::Int8Vector => {
            let rows = any.downcast_ref::<FixedSizeBinaryArray>()?;
            let width = usize::try_from(rows.value_length()).ok()?;
            if width == 0 || width != kind.vector_bytes(dim) {
                return None;
            }
            let mut values = Vec::with_capacity(rows.len() * width);
            for row in rows {
                match row {
                    Some(row) => values.extend_from_slice(row),
                    None => values.resize(values.len() + width, 0),
                }
            }
            ColumnData::PackedVector {
                kind,
                dim,
                values: values.into(),
            }
        }
        DataType::SparseFloatVector => {
            let rows = any.downcast_ref::<BinaryArray>()?.iter();
            let rows = rows.map(Option::unwrap_or_default);
            ColumnData::SparseVector(rows.map(Bytes::copy_from_slice).collect())
        }
    };
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    Some(Column {
        field,
        data,
        valid: nulls.map(|nulls| BitSet::from_fn(nulls.len(), |row| nulls.is_valid(row))),
    })
}
