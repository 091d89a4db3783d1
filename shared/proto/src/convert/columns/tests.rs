use bytes::Bytes;
use proptest::prelude::*;
use redkite_types::{BitSet, ColumnData, DataType, Value, sparse};

use super::*;
use crate::milvus::schema::{
    self as proto, FloatArray, LongArray, ScalarField, VectorField, field_data::Field,
    scalar_field::Data, vector_field,
};

const TYPES: [DataType; 15] = [
    DataType::Bool,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::Float,
    DataType::Double,
    DataType::VarChar,
    DataType::Json,
    DataType::FloatVector,
    DataType::BinaryVector,
    DataType::Float16Vector,
    DataType::BFloat16Vector,
    DataType::SparseFloatVector,
    DataType::Int8Vector,
];

fn dim(data_type: DataType) -> usize {
    match data_type {
        DataType::BinaryVector => 16,
        kind if kind.is_fixed_vector() => 2,
        _ => 0,
    }
}

fn field(name: &str, data_type: DataType) -> FieldSchema {
    FieldSchema {
        id: FieldId(100),
        dim: dim(data_type),
        max_length: if data_type == DataType::VarChar { 4 } else { 0 },
        ..FieldSchema::new(name, data_type)
    }
}

fn nullable(data_type: DataType) -> FieldSchema {
    FieldSchema {
        nullable: true,
        ..field("f", data_type)
    }
}

fn schema(fields: Vec<FieldSchema>) -> CollectionSchema {
    let fields = (100..).zip(fields).map(|(id, field)| FieldSchema {
        id: FieldId(id),
        ..field
    });
    CollectionSchema {
        fields: fields.collect(),
        ..CollectionSchema::default()
    }
}

fn filled(data_type: DataType, rows: usize) -> ColumnData {
    let mut data = ColumnData::with_capacity(data_type, dim(data_type), rows);
    for row in 0..rows as i64 {
        let value = match data_type {
            DataType::Bool => Value::Bool(row % 3 == 0),
            DataType::Float | DataType::Double => Value::Double(row as f64 / 4.0),
            DataType::VarChar => Value::Str(format!("{}", row % 1_000)),
            _ => Value::Int(row % 128 - 64),
        };
        match &mut data {
            ColumnData::Json(documents) => documents.push(format!("{{\"k\":{row}}}").into()),
            ColumnData::FloatVector { values, .. } => values.extend_from_slice(&[row as f32, -1.5]),
            ColumnData::PackedVector { kind, dim, values } => {
                values.extend_from_slice(&vec![row as u8 % 8; kind.vector_bytes(*dim)]);
            }
            ColumnData::SparseVector(rows) => {
                rows.push(sparse::encode(&[(row as u32, 1.5), (row as u32 + 9, 0.25)]));
            }
            data => assert!(data.push_value(&value)),
        }
    }
    data
}

/// A column with nulls where `valid` is false, placeholders there.
fn column(data_type: DataType, valid: &[bool]) -> Column {
    let compact = filled(data_type, valid.iter().filter(|valid| **valid).count());
    let set = BitSet::from_fn(valid.len(), |row| valid[row]);
    let placeholder = read::filler(&field("f", data_type), false);
    let data = read::spread(compact, &placeholder, &set);
    Column {
        field: FieldId(100),
        data,
        valid: valid.contains(&false).then_some(set),
    }
}

/// What a client sends for a column: only the values of valid rows.
fn insert_form(column: &Column, field: &FieldSchema) -> FieldData {
    let rows: Vec<usize> = (0..column.len())
        .filter(|&row| column.is_valid(row))
        .collect();
    let compact = Column::new(field.id, column.data.take(&rows));
    let mut data = to_proto(
        compact,
        &FieldSchema {
            nullable: false,
            ..field.clone()
        },
    );
    data.field_id = 0;
    if field.nullable {
        data.valid_data = (0..column.len()).map(|row| column.is_valid(row)).collect();
    }
    data
}

fn insert_one(data: FieldData, field: &FieldSchema, rows: usize) -> Result<Column> {
    let mut columns = insert_columns(vec![data], &schema(vec![field.clone()]), rows)?;
    Ok(columns.remove(0))
}

fn refused(data: FieldData, field: &FieldSchema, rows: usize, want: &str) {
    let error = insert_one(data, field, rows).unwrap_err();
    assert_eq!(error.code.number(), 1100);
    assert!(error.is_input_error);
    assert!(
        error.message.contains(want),
        "{} does not contain {want}",
        error.message
    );
    assert!(
        error.message.contains(&field.name),
        "{} names no field",
        error.message
    );
}

fn data_of(field: &FieldSchema, data: ColumnData) -> FieldData {
    to_proto(Column::new(field.id, data), field)
}

proptest! {
    #[test]
    fn columns_come_back_from_both_forms(valid in prop::collection::vec(any::<bool>(), 0..40)) {
        for data_type in TYPES {
            let (column, field) = (column(data_type, &valid), nullable(data_type));
            let result = to_proto(column.clone(), &field);
            prop_assert_eq!(&from_proto(result, &field, valid.len()).unwrap(), &column);
            let insert = insert_form(&column, &field);
            prop_assert_eq!(&insert_one(insert, &field, valid.len()).unwrap(), &column);
        }
    }
}

#[test]
fn columns_without_nulls_come_back_and_say_nothing_of_nulls() {
    for data_type in TYPES {
        for rows in [0, 1, 70] {
            let field = field("f", data_type);
            let column = Column::new(field.id, filled(data_type, rows));
            let message = to_proto(column.clone(), &field);
            assert!(message.valid_data.is_empty());
            assert!(message.field.is_some());
            assert_eq!(from_proto(message.clone(), &field, rows).unwrap(), column);
            assert_eq!(insert_one(message, &field, rows).unwrap(), column);
        }
    }
}

#[test]
fn results_have_full_scalars_and_compact_vectors() {
    let valid = [true, false, true];
    let message = to_proto(column(DataType::Int64, &valid), &nullable(DataType::Int64));
    assert_eq!(message.valid_data, valid);
    let Some(Field::Scalars(ScalarField {
        data: Some(Data::LongData(longs)),
        ..
    })) = message.field
    else {
        panic!("no int64 values")
    };
    assert_eq!(longs.data, [-64, 0, -63]);

    let vectors = nullable(DataType::FloatVector);
    let message = to_proto(column(DataType::FloatVector, &valid), &vectors);
    assert_eq!(message.valid_data, valid);
    let Some(Field::Vectors(VectorField {
        dim: 2,
        data: Some(data),
        ..
    })) = message.field
    else {
        panic!("no vectors")
    };
    let vector_field::Data::FloatVector(floats) = data else {
        panic!("no float vectors")
    };
    assert_eq!(floats.data, [0.0, -1.5, 1.0, -1.5]);

    // Flags are there even when no row is null.
    let message = to_proto(column(DataType::Int64, &[true]), &nullable(DataType::Int64));
    assert_eq!(message.valid_data, [true]);
}

#[test]
fn values_move_without_a_copy() {
    let longs = vec![1i64; 100];
    let floats = vec![1f32; 200];
    let (longs_at, floats_at) = (longs.as_ptr(), floats.as_ptr());
    let (key, vector) = (
        field("key", DataType::Int64),
        field("vector", DataType::FloatVector),
    );
    let fields = vec![
        data_of(&key, ColumnData::Int64(longs)),
        data_of(
            &vector,
            ColumnData::FloatVector {
                dim: 2,
                values: floats.into(),
            },
        ),
    ];
    let columns = insert_columns(fields, &schema(vec![key, vector]), 100).unwrap();
    let (ColumnData::Int64(longs), ColumnData::FloatVector { values, .. }) =
        (&columns[0].data, &columns[1].data)
    else {
        panic!("other types")
    };
    assert_eq!((longs.as_ptr(), values.as_ptr()), (longs_at, floats_at));
}

#[test]
fn a_null_takes_the_default_value() {
    for is_nullable in [false, true] {
        let field = FieldSchema {
            default_value: Some(Value::Int(7)),
            nullable: is_nullable,
            ..field("f", DataType::Int16)
        };
        let mut data = data_of(&field, ColumnData::Int16(vec![1, 2]));
        data.valid_data = vec![true, false, true, false];
        let column = insert_one(data, &field, 4).unwrap();
        assert_eq!(
            column,
            Column::new(field.id, ColumnData::Int16(vec![1, 7, 2, 7]))
        );
        let absent = insert_columns(Vec::new(), &schema(vec![field.clone()]), 2).unwrap();
        assert_eq!(
            absent,
            [Column::new(field.id, ColumnData::Int16(vec![7, 7]))]
        );
    }
}

#[test]
fn an_absent_field_is_null_or_refused() {
    for data_type in TYPES {
        let column = absent(&nullable(data_type), 3).unwrap();
        assert_eq!(column.len(), 3);
        assert!((0..3).all(|row| !column.is_valid(row)));
        let error = absent(&field("needed", data_type), 3).unwrap_err();
        assert_eq!(error.code.number(), 1100);
        assert!(
            error
                .message
                .contains("fieldSchema(needed) has no corresponding fieldData")
        );
    }
}

#[test]
fn a_column_of_nulls_may_come_without_values() {
    for data_type in TYPES {
        let field = nullable(data_type);
        for inner in [
            None,
            Some(if data_type.is_vector() {
                Field::Vectors(VectorField::default())
            } else {
                Field::Scalars(ScalarField::default())
            }),
        ] {
            let mut data = data_of(&field, ColumnData::empty(data_type, 2));
            data.field = inner;
            data.valid_data = vec![false; 3];
            let column = insert_one(data.clone(), &field, 3).unwrap();
            assert_eq!(column, absent(&field, 3).unwrap());
            data.valid_data.clear();
            refused(data, &field, 3, "is not equal to passed num_rows (3)");
        }
    }
}

#[test]
fn flags_beside_the_values_count_too() {
    let field = nullable(DataType::Int64);
    let mut data = data_of(&field, ColumnData::Int64(vec![5]));
    data.valid_data.clear();
    data.field = Some(Field::Scalars(ScalarField {
        data: Some(Data::LongData(LongArray { data: vec![5] })),
        valid_data: vec![false, true],
    }));
    let column = insert_one(data, &field, 2).unwrap();
    assert_eq!(
        (column.value(0), column.value(1)),
        (Value::Null, Value::Int(5))
    );
}

#[test]
fn the_dynamic_field_is_found_by_its_flag_and_may_be_absent() {
    let schema = schema(vec![field("key", DataType::Int64), FieldSchema::dynamic()]);
    let key = || data_of(&schema.fields[0], ColumnData::Int64(vec![1, 2]));
    let meta = |text: &'static str| {
        let documents = vec![
            Bytes::from_static(b" {\"a\":1}"),
            Bytes::from_static(text.as_bytes()),
        ];
        let mut data = data_of(&schema.fields[1], ColumnData::Json(documents));
        assert!(data.is_dynamic);
        data.field_name.clear();
        data
    };
    let columns = insert_columns(vec![meta("{}"), key()], &schema, 2).unwrap();
    assert_eq!(columns[1].value(0), Value::Str(" {\"a\":1}".to_owned()));
    let columns = insert_columns(vec![key()], &schema, 2).unwrap();
    assert_eq!(columns[1].value(1), Value::Str("{}".to_owned()));
    let error = insert_columns(vec![key(), meta("[1]")], &schema, 2).unwrap_err();
    assert!(
        error.message.contains("no JSON object in row 1"),
        "{}",
        error.message
    );
    let plain = CollectionSchema {
        fields: schema.fields[..1].to_vec(),
        ..schema.clone()
    };
    let error = insert_columns(vec![key(), meta("{}")], &plain, 2).unwrap_err();
    assert!(error.message.contains("without dynamic schema enabled"));
}

#[test]
fn an_automatic_key_may_be_absent() {
    let key = FieldSchema {
        is_primary_key: true,
        auto_id: true,
        ..field("key", DataType::Int64)
    };
    let schema = schema(vec![key.clone(), field("age", DataType::Int8)]);
    let age = || data_of(&schema.fields[1], ColumnData::Int8(vec![1]));
    let columns = insert_columns(vec![age()], &schema, 1).unwrap();
    assert_eq!(columns.len(), 1);
    assert_eq!(columns[0].field, FieldId(101));
    let given = data_of(&key, ColumnData::Int64(vec![9]));
    assert_eq!(
        insert_columns(vec![age(), given], &schema, 1)
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn unknown_and_repeated_fields_are_refused() {
    let known = field("known", DataType::Bool);
    let schema = schema(vec![known.clone()]);
    let data = |field: &FieldSchema| data_of(field, ColumnData::Bool(vec![true]));
    let other = field("other", DataType::Bool);
    let error = insert_columns(vec![data(&known), data(&other)], &schema, 1).unwrap_err();
    assert!(
        error
            .message
            .contains("fieldName other not exist in collection schema")
    );
    let error = insert_columns(vec![data(&known), data(&known)], &schema, 1).unwrap_err();
    assert!(error.message.contains("duplicated field known"));
}

#[test]
fn wrong_shapes_are_refused() {
    let age = field("age", DataType::Int64);
    let data = data_of(&age, ColumnData::Int64(vec![1, 2]));
    refused(
        data.clone(),
        &age,
        3,
        "the num_rows (2) of field (age) is not equal to passed num_rows (3)",
    );
    let mut flagged = data.clone();
    flagged.valid_data = vec![true, false];
    refused(flagged.clone(), &age, 2, "row 1 has no value");
    let maybe = FieldSchema {
        nullable: true,
        ..age.clone()
    };
    refused(flagged.clone(), &maybe, 2, "2 values for 1 rows");
    refused(flagged, &maybe, 3, "valid_data of field(age) is wrong");
    let mut wrong = data;
    wrong.r#type = proto::DataType::VarChar as i32;
    refused(wrong, &age, 2, "is of type VarChar, the schema says Int64");
    let mut wrong = data_of(&field("age", DataType::Bool), ColumnData::Bool(vec![true]));
    wrong.r#type = proto::DataType::Int64 as i32;
    refused(wrong, &age, 1, "is of type bool");

    let vector = field("vector", DataType::FloatVector);
    let vectors = |dim, values: usize| {
        let data = vec![0.0; values];
        let mut message = data_of(
            &vector,
            ColumnData::FloatVector {
                dim: 2,
                values: Vec::new().into(),
            },
        );
        message.field = Some(Field::Vectors(VectorField {
            dim,
            data: Some(vector_field::Data::FloatVector(FloatArray { data })),
            valid_data: Vec::new(),
        }));
        message
    };
    refused(
        vectors(3, 6),
        &vector,
        2,
        "the dim (3) of field data(vector) is not equal to schema dim (2)",
    );
    refused(vectors(-2, 4), &vector, 2, "the dim (-2)");
    refused(
        vectors(2, 5),
        &vector,
        2,
        "the length(5) of float data should divide the dim(2)",
    );
    refused(vectors(2, 6), &vector, 2, "num_rows (3)");
    let mut swapped = vectors(2, 4);
    swapped.field = data_of(&age, ColumnData::Int64(vec![1])).field;
    refused(swapped, &vector, 2, "a scalar");
}

#[test]
fn wrong_values_name_field_and_row() {
    let tiny = nullable(DataType::Int8);
    let mut data = data_of(&tiny, ColumnData::Int8(vec![0]));
    data.valid_data.clear();
    data.field = data_of(&tiny, ColumnData::Int32(vec![1, 200])).field;
    refused(
        data,
        &tiny,
        2,
        "the 1 th element (200) out of range: [-128, 127]",
    );

    let cases = [
        (
            ColumnData::VarChar(vec!["ok".into(), "längs".into()]),
            "row number: 2, length: 6",
        ),
        (ColumnData::Float(vec![0.0, f32::NAN]), "row 2"),
        (ColumnData::Double(vec![0.0, f64::INFINITY]), "value 'inf'"),
        (
            ColumnData::Json(vec!["1".into(), "{\"a\":}".into()]),
            "no JSON in row 2",
        ),
        (
            ColumnData::Json(vec!["1".into(), Bytes::new()]),
            "no JSON in row 2",
        ),
        (
            ColumnData::Json(vec!["1".into(), vec![b'1'; 65_537].into()]),
            "exceeds max length",
        ),
        (
            ColumnData::FloatVector {
                dim: 2,
                values: vec![0.0, 0.0, 1.0, f32::NAN].into(),
            },
            "row 2",
        ),
    ];
    for (values, want) in cases {
        // The second value stands in the third row.
        let field = nullable(values.data_type());
        let mut data = data_of(&field, values);
        data.valid_data = vec![true, false, true];
        refused(data, &field, 3, want);
    }
}

#[test]
fn batches_come_back_and_fields_added_since_are_filled() {
    let old = schema(vec![
        field("key", DataType::Int64),
        field("vector", DataType::FloatVector),
    ]);
    let mut columns: Vec<Column> = old
        .fields
        .iter()
        .map(|field| Column::new(field.id, filled(field.data_type, 5)))
        .collect();
    let batch = RowBatch::new(5, columns.clone()).unwrap();
    let fields = batch_to_proto(batch.clone(), &old);
    assert_eq!(batch_from_proto(fields.clone(), &old, 5).unwrap(), batch);
    assert_eq!(
        batch_from_proto(fields.clone(), &old, 4).unwrap_err().code,
        ErrorCode::DataIntegrity
    );

    let mut new = old.clone();
    new.fields.push(FieldSchema {
        id: FieldId(102),
        ..nullable(DataType::VarChar)
    });
    columns.push(absent(&new.fields[2], 5).unwrap());
    let read = batch_from_proto(fields.clone(), &new, 5).unwrap();
    assert_eq!(read, RowBatch::new(5, columns).unwrap());
    new.fields[2].nullable = false;
    assert_eq!(
        batch_from_proto(fields.clone(), &new, 5).unwrap_err().code,
        ErrorCode::DataIntegrity
    );
    // A dropped field is skipped, and a column that is no field is not written.
    new.fields.truncate(1);
    assert_eq!(
        batch_from_proto(fields, &new, 5).unwrap().columns().len(),
        1
    );
    assert_eq!(batch_to_proto(batch, &new).len(), 1);
}
