//! Rows to a Parquet file.
//!
//! The file is put together from two: everything but the vectors as the library writes it, its
//! page index included, which stays at its offsets; then one page a vector column
//! ([`super::page`]); then a footer that speaks of both.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowSchemaConverter, encode_arrow_schema},
    basic::{Compression, Encoding},
    file::{
        metadata::{
            ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataReader,
            ParquetMetaDataWriter, RowGroupMetaData,
        },
        writer::TrackedWrite,
    },
    schema::types::SchemaDescPtr,
};
use redkite_types::{CollectionSchema, ColumnData, DataType, FieldId, FieldSchema};

use super::{
    FORMAT_VERSION, METADATA_PREFIX, SCALAR_BYTES_KEY, VECTORS_KEY,
    arrow::{
        ARROW_SCHEMA_KEY, ColumnSpec, Failure, arrow_schema, hidden_spec, parquet_bytes, to_array,
        user_spec,
    },
    page::{self, ALIGNMENT, VectorPart},
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
    segment::SegmentMeta,
};

/// Bytes at a Parquet file's end: the footer's length and the magic.
const TAIL_BYTES: usize = 8;

/// The data file of a segment.
pub(super) fn data_file(meta: &SegmentMeta, chunks: &[Arc<Chunk>]) -> Result<Bytes> {
    let failed = |source| Error::Encode {
        segment: meta.segment,
        source,
    };
    let schema = serde_json::to_string(&*meta.schema).map_err(|error| failed(error.into()))?;
    let entries = vec![
        ("format_version", FORMAT_VERSION.to_string()),
        ("schema", schema),
        ("collection", meta.collection.to_string()),
        ("partition", meta.partition.to_string()),
        ("segment", meta.segment.to_string()),
    ];
    let entries = entries
        .into_iter()
        .map(|(key, value)| (format!("{METADATA_PREFIX}{key}"), value))
        .collect();
    encode(&meta.schema, chunks, entries).map_err(failed)
}

fn encode(
    schema: &CollectionSchema,
    chunks: &[Arc<Chunk>],
    mut entries: Vec<(String, String)>,
) -> Result<Bytes, Failure> {
    let rows: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    let is_page = |field: &FieldSchema| {
        field.data_type.is_fixed_vector()
            && !field.nullable
            && page::fits(rows, field.data_type.vector_bytes(field.dim))
    };
    let in_pages: Vec<&FieldSchema> = schema
        .fields
        .iter()
        .filter(|field| is_page(field))
        .collect();
    let others = schema.fields.iter().filter(|field| !is_page(field));
    let hidden = [FieldId::ROW_ID, FieldId::TIMESTAMP].map(hidden_spec);
    let other_ids: Vec<FieldId> = others.clone().map(|field| field.id).collect();
    let specs = others.map(user_spec).chain(hidden.clone()).collect();
    let batches = chunks.iter().map(|chunk| arrays(chunk, &other_ids));
    let scalars = parquet_bytes(specs, Vec::new(), batches)?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&scalars)?;
    let footer = scalars.len() - TAIL_BYTES - footer_length(&scalars);

    let whole: Vec<ColumnSpec> = schema.fields.iter().map(user_spec).chain(hidden).collect();
    let whole = arrow_schema(whole);
    let descriptor = Arc::new(ArrowSchemaConverter::new().convert(&whole)?);
    let row_bytes = |field: &&FieldSchema| field.data_type.vector_bytes(field.dim);
    let vectors: usize = in_pages.iter().map(row_bytes).sum::<usize>() * rows;
    let mut file = Vec::with_capacity(footer + vectors + vectors / 24 + (64 << 10));
    file.extend_from_slice(&scalars[..footer]);
    // At least one byte: the library's reader wants one behind the page index.
    file.resize((footer + 1).next_multiple_of(ALIGNMENT), 0);
    let scalar_bytes = file.len();
    let (mut parts, mut columns) = (Vec::new(), Vec::new());
    for field in in_pages {
        let (part, column) = append_vectors(&mut file, field, chunks, rows, &descriptor)?;
        parts.push(part);
        columns.push(column);
    }
    entries.push((SCALAR_BYTES_KEY.to_owned(), scalar_bytes.to_string()));
    entries.push((VECTORS_KEY.to_owned(), serde_json::to_string(&parts)?));
    entries.push((ARROW_SCHEMA_KEY.to_owned(), encode_arrow_schema(&whole)));
    columns.extend(metadata.row_groups()[0].columns().iter().cloned());
    append_footer(&mut file, rows, &metadata, columns, descriptor, entries)?;
    Ok(Bytes::from(file))
}

/// Length of a Parquet file's footer, as its tail says.
fn footer_length(file: &[u8]) -> usize {
    let at = file.len() - TAIL_BYTES;
    let length = [file[at], file[at + 1], file[at + 2], file[at + 3]];
    u32::from_le_bytes(length) as usize
}

fn arrays(chunk: &Chunk, fields: &[FieldId]) -> Result<Vec<ArrayRef>, Failure> {
    let mut arrays = Vec::with_capacity(fields.len() + 2);
    for field in fields {
        let column = chunk.batch().column(*field);
        arrays.push(to_array(column.ok_or_else(|| missing(*field))?)?);
    }
    let ids = chunk.row_ids().iter().map(|id| id.0);
    arrays.push(Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef);
    let times = chunk.timestamps().iter().map(|ts| ts.0 as i64);
    arrays.push(Arc::new(Int64Array::from_iter_values(times)) as ArrayRef);
    Ok(arrays)
}

fn missing(field: FieldId) -> Failure {
    format!("the rows have no column of field {field}").into()
}

/// Appends the page of a vector field; answers where its values are, and its column's metadata.
fn append_vectors(
    file: &mut Vec<u8>,
    field: &FieldSchema,
    chunks: &[Arc<Chunk>],
    rows: usize,
    schema: &SchemaDescPtr,
) -> Result<(VectorPart, ColumnChunkMetaData), Failure> {
    let row_bytes = field.data_type.vector_bytes(field.dim);
    let (before, values) = match field.data_type {
        DataType::FloatVector => (page::before_values(rows, field.dim), rows * field.dim),
        _ => (page::before_rows(rows, row_bytes), rows),
    };
    let values_at = (file.len() + before.len()).next_multiple_of(ALIGNMENT);
    file.resize(values_at - before.len(), 0);
    let page_at = file.len();
    file.extend_from_slice(&before);
    for chunk in chunks {
        let column = chunk.batch().column(field.id);
        let column = column.ok_or_else(|| missing(field.id))?;
        match &column.data {
            ColumnData::FloatVector { dim, values } if *dim == field.dim => {
                // The format is little-endian, and so are all processors that we build for.
                file.extend_from_slice(bytemuck::cast_slice(values));
            }
            ColumnData::PackedVector { kind, dim, values }
                if *dim == field.dim && *kind == field.data_type =>
            {
                file.extend_from_slice(values);
            }
            data => return Err(format!("field {} is {}", field.id, data.data_type()).into()),
        }
    }
    let bytes = (file.len() - page_at) as i64;
    if file.len() - values_at != rows * row_bytes {
        return Err(format!("field {} has another number of values", field.id).into());
    }
    let leaf = (0..schema.num_columns())
        .find(|leaf| schema.column(*leaf).path().parts()[0] == field.name)
        .ok_or_else(|| missing(field.id))?;
    let column = ColumnChunkMetaData::builder(schema.column(leaf))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
        .set_compression(Compression::UNCOMPRESSED)
        .set_num_values(values as i64)
        .set_total_compressed_size(bytes)
        .set_total_uncompressed_size(bytes)
        .set_data_page_offset(page_at as i64)
        .build()?;
    let part = VectorPart {
        field: field.id,
        offset: values_at as u64,
        rows: rows as u64,
        dim: field.dim as u64,
        row_bytes: match field.data_type {
            DataType::FloatVector => None,
            _ => Some(row_bytes as u64),
        },
    };
    Ok((part, column))
}

/// Appends a footer that names the columns in the order of the schema.
fn append_footer(
    file: &mut Vec<u8>,
    rows: usize,
    scalars: &ParquetMetaData,
    mut columns: Vec<ColumnChunkMetaData>,
    schema: SchemaDescPtr,
    entries: Vec<(String, String)>,
) -> Result<(), Failure> {
    let place = |column: &ColumnChunkMetaData| {
        (0..schema.num_columns())
            .find(|leaf| schema.column(*leaf).path() == column.column_path())
            .unwrap_or(usize::MAX)
    };
    columns.sort_by_key(place);
    let bytes = columns.iter().map(ColumnChunkMetaData::uncompressed_size);
    let group = RowGroupMetaData::builder(schema.clone())
        .set_num_rows(rows as i64)
        .set_total_byte_size(bytes.sum())
        .set_column_metadata(columns)
        .set_ordinal(0)
        .build()?;
    let entries = entries.into_iter();
    let entries = entries
        .map(|(key, value)| KeyValue::new(key, value))
        .collect();
    let of_scalars = scalars.file_metadata();
    let of_file = FileMetaData::new(
        of_scalars.version(),
        rows as i64,
        of_scalars.created_by().map(str::to_owned),
        Some(entries),
        schema,
        None,
    );
    let metadata = ParquetMetaData::new(of_file, vec![group]);
    ParquetMetaDataWriter::new_with_tracked(TrackedWrite::new(file), &metadata).finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, FixedSizeListArray, Float32Array};
    use redkite_types::{Column, PartitionId, RowBatch, RowId, SegmentId, Timestamp};

    use super::{super::arrow::read_batches, *};

    fn meta(dim: usize) -> SegmentMeta {
        let schema = CollectionSchema {
            fields: vec![
                FieldSchema {
                    is_primary_key: true,
                    ..FieldSchema::new("id", DataType::Int64)
                },
                FieldSchema {
                    dim,
                    ..FieldSchema::new("a", DataType::FloatVector)
                },
                FieldSchema {
                    dim: 2,
                    ..FieldSchema::new("b", DataType::FloatVector)
                },
            ],
            ..CollectionSchema::default()
        };
        SegmentMeta {
            collection: redkite_types::CollectionId(1),
            partition: PartitionId(2),
            segment: SegmentId(3),
            schema: Arc::new(schema.prepare().unwrap()),
        }
    }

    fn chunk(meta: &SegmentMeta, rows: std::ops::Range<usize>) -> Arc<Chunk> {
        let count = rows.len();
        let columns = meta.schema.fields.iter().map(|field| {
            let data = match field.data_type {
                DataType::FloatVector => ColumnData::FloatVector {
                    dim: field.dim,
                    values: (rows.start * field.dim..rows.end * field.dim)
                        .map(|at| at as f32)
                        .collect(),
                },
                _ => ColumnData::Int64(rows.clone().map(|row| row as i64).collect()),
            };
            Column::new(field.id, data)
        });
        let batch = RowBatch::new(count, columns.collect()).unwrap();
        let ids = (0..count as i64).map(RowId).collect();
        let times = vec![Timestamp(9); count];
        Arc::new(Chunk::new(meta.schema.fields[0].id, batch, ids, times).unwrap())
    }

    /// The library's own decoder, which knows nothing of where the values are.
    #[test]
    fn any_reader_of_parquet_decodes_the_vector_pages() {
        for dim in [2, 3, 7, 8, 33, 384] {
            for rows in [1, 2, 9, 1_030] {
                let meta = meta(dim);
                let chunks = [chunk(&meta, 0..rows / 2), chunk(&meta, rows / 2..rows)];
                let (metadata, batches) = read_batches(data_file(&meta, &chunks).unwrap()).unwrap();
                assert_eq!(metadata["redkite.format_version"], "2");
                let mut next = [0usize; 2];
                for batch in batches {
                    let batch = batch.unwrap();
                    assert_eq!(batch.schema().field(0).name(), "id");
                    for (column, next) in next.iter_mut().enumerate() {
                        let lists = batch.column(column + 1).as_any();
                        let lists: &FixedSizeListArray = lists.downcast_ref().unwrap();
                        let values = lists.values().as_any();
                        let values: &Float32Array = values.downcast_ref().unwrap();
                        assert_eq!(values.len(), lists.len() * [dim, 2][column]);
                        for value in values.values() {
                            assert_eq!(*value, *next as f32, "{rows} rows of {dim}");
                            *next += 1;
                        }
                    }
                }
                assert_eq!(next, [rows * dim, rows * 2]);
            }
        }
    }
}
