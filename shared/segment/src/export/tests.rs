//! What is written reads back with other programs' readers.

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::{Array, Float32Array, Int64Array, ListArray, StringArray};
use redkite_types::{BitSet, Column, ColumnData, DataType, FieldId, FieldSchema};

use super::*;

fn field(id: i64, name: &str, data_type: DataType, dim: usize) -> FieldSchema {
    let mut field = FieldSchema::new(name, data_type);
    field.id = FieldId(id);
    field.dim = dim;
    field.nullable = name != "id";
    field
}

fn columns() -> Vec<ExportColumn> {
    let plain = |field| ExportColumn { field, list: None };
    vec![
        plain(field(100, "id", DataType::Int64, 0)),
        ExportColumn {
            field: field(101, "visits", DataType::Json, 0),
            list: Some(ListKind::Int),
        },
        plain(field(102, "about", DataType::Json, 0)),
        plain(field(103, "vector", DataType::FloatVector, 2)),
    ]
}

fn rows(first: i64, count: i64) -> RowBatch {
    let keys: Vec<i64> = (first..first + count).collect();
    let lists = keys
        .iter()
        .map(|key| format!("[{key}, {}]", key + 1).into());
    let documents = keys.iter().map(|key| format!("{{\"k\": {key}}}").into());
    let values: Vec<f32> = keys.iter().flat_map(|key| [*key as f32, 0.5]).collect();
    let mut visits = Column::new(FieldId(101), ColumnData::Json(lists.collect()));
    // The first row has none.
    visits.valid = Some(BitSet::from_fn(keys.len(), |row| row > 0));
    let columns = vec![
        Column::new(FieldId(100), ColumnData::Int64(keys.clone())),
        visits,
        Column::new(FieldId(102), ColumnData::Json(documents.collect())),
        Column::new(
            FieldId(103),
            ColumnData::FloatVector {
                dim: 2,
                values: values.into(),
            },
        ),
    ];
    RowBatch::new(keys.len(), columns).unwrap()
}

/// A whole file, taken piece by piece.
fn file(format: ExportFormat, batches: &[RowBatch]) -> Vec<u8> {
    let mut file = ExportFile::new(format, columns()).unwrap();
    let mut bytes = Vec::new();
    for batch in batches {
        file.write(batch.clone()).unwrap();
        bytes.extend(file.take().concat());
        assert!(file.size() >= bytes.len() as u64);
    }
    bytes.extend(file.finish().unwrap().concat());
    bytes
}

#[test]
fn parquet_reads_back_as_lists_and_is_the_same_again() {
    let batches = [rows(0, 3), rows(3, 2)];
    let bytes = file(ExportFormat::Parquet, &batches);
    assert_eq!(bytes, file(ExportFormat::Parquet, &batches));
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    let [batch] = &batches[..] else {
        panic!("{} batches", batches.len());
    };
    let keys = batch.column(0).as_any().downcast_ref::<Int64Array>();
    assert_eq!(keys.unwrap().values().to_vec(), [0, 1, 2, 3, 4]);
    let visits = batch
        .column(1)
        .as_any()
        .downcast_ref::<ListArray>()
        .unwrap();
    let nulls: Vec<bool> = (0..5).map(|row| visits.is_null(row)).collect();
    assert_eq!(nulls, [true, false, false, true, false]);
    let second = visits.value(1);
    let second = second.as_any().downcast_ref::<Int64Array>().unwrap();
    assert_eq!(second.values().to_vec(), [1, 2]);
    let about = batch.column(2).as_any().downcast_ref::<StringArray>();
    assert_eq!(about.unwrap().value(4), r#"{"k": 4}"#);
    let vectors = batch
        .column(3)
        .as_any()
        .downcast_ref::<ListArray>()
        .unwrap();
    let last = vectors.value(4);
    let last = last.as_any().downcast_ref::<Float32Array>().unwrap();
    assert_eq!(last.values().to_vec(), [4.0, 0.5]);
}

#[test]
fn json_is_one_array_with_a_row_a_line() {
    let bytes = file(ExportFormat::Json, &[rows(0, 1), rows(1, 1)]);
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "[",
            r#"{"id": 0, "visits": null, "about": "{\"k\": 0}", "vector": [0.0,0.5]},"#,
            r#"{"id": 1, "visits": null, "about": "{\"k\": 1}", "vector": [1.0,0.5]}"#,
            "]"
        ]
    );
    let empty = file(ExportFormat::Json, &[]);
    let parsed: serde_json::Value = serde_json::from_slice(&empty).unwrap();
    assert_eq!(parsed, serde_json::json!([]));
}

#[test]
fn a_list_field_with_something_else_is_an_error() {
    let mut wrong = rows(0, 2).into_columns();
    wrong[1].data = ColumnData::Json(vec!["[1]".into(), r#"["x"]"#.into()]);
    let wrong = RowBatch::new(2, wrong).unwrap();
    for format in [ExportFormat::Parquet, ExportFormat::Json] {
        let mut file = ExportFile::new(format, columns()).unwrap();
        assert!(file.write(wrong.clone()).is_err(), "{format:?}");
    }
}

/// What a reader finds of a column of vectors.
fn vectors_of(bytes: Vec<u8>, column: usize) -> Vec<Option<Vec<f32>>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    let batches = reader.with_batch_size(777).build().unwrap();
    let mut found = Vec::new();
    for batch in batches.map(Result::unwrap) {
        let lists = batch.column(column).as_any();
        let lists = lists.downcast_ref::<ListArray>().unwrap();
        found.extend(lists.iter().map(|list| {
            let list = list?;
            let values = list.as_any().downcast_ref::<Float32Array>().unwrap();
            Some(values.values().to_vec())
        }));
    }
    found
}

#[test]
fn vectors_of_many_pages_and_row_groups_are_those_that_were_written() {
    for (dim, rows) in [(2, 150_000), (7, 40_000), (1_000, 5_000), (300_000, 9)] {
        for share in [1.0, 0.6] {
            let plain = |field| ExportColumn { field, list: None };
            let mut vector = field(103, "vector", DataType::FloatVector, dim);
            vector.nullable = share < 1.0;
            let columns = vec![plain(vector), plain(field(100, "id", DataType::Int64, 0))];
            let mut file = ExportFile::new(ExportFormat::Parquet, columns).unwrap();
            let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
            let mut first = 0;
            // Batches and pages do not end together.
            while first < rows {
                let count = (rows - first).min(1 + first / 2);
                let keys: Vec<i64> = (first..first + count).map(|row| row as i64).collect();
                let value = |at: usize| (first * dim + at) as f32;
                let values: Vec<f32> = (0..count * dim).map(value).collect();
                let valid =
                    BitSet::from_fn(count, |row| (first + row) % 10 < (share * 10.0) as usize);
                let of_row = |row: usize| values[row * dim..(row + 1) * dim].to_vec();
                wanted.extend((0..count).map(|row| valid.get(row).then(|| of_row(row))));
                let mut vectors = Column::new(
                    FieldId(103),
                    ColumnData::FloatVector {
                        dim,
                        values: values.into(),
                    },
                );
                vectors.valid = (share < 1.0).then_some(valid);
                let columns = vec![vectors, Column::new(FieldId(100), ColumnData::Int64(keys))];
                file.write(RowBatch::new(count, columns).unwrap()).unwrap();
                bytes.extend(file.take().concat());
                first += count;
            }
            bytes.extend(file.finish().unwrap().concat());
            assert_eq!(vectors_of(bytes, 0), wanted, "{rows} rows of {dim}");
        }
    }
}

#[test]
fn a_row_without_a_vector_that_must_have_one_is_an_error() {
    let mut vector = field(103, "vector", DataType::FloatVector, 2);
    vector.nullable = false;
    let mut columns = columns();
    columns[3].field = vector;
    let mut rows = rows(0, 2).into_columns();
    rows[3].valid = Some(BitSet::from_fn(2, |row| row > 0));
    let mut file = ExportFile::new(ExportFormat::Parquet, columns).unwrap();
    assert!(file.write(RowBatch::new(2, rows).unwrap()).is_err());
}
