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
        bytes.extend_from_slice(&file.take());
        assert!(file.size() >= bytes.len() as u64);
    }
    bytes.extend_from_slice(&file.finish().unwrap());
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
