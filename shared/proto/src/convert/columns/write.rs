//! Columns into messages, in result form.

use redkite_types::{BitSet, Column, ColumnData, DataType, FieldSchema, sparse};

use crate::{
    convert::schema::data_type_to_proto,
    milvus::schema::{
        BoolArray, DoubleArray, FieldData, FloatArray, IntArray, JsonArray, LongArray, ScalarField,
        SparseFloatArray, StringArray, VectorField, field_data::Field, scalar_field::Data,
        vector_field,
    },
};

/// Writes a column in result form.
///
/// `valid_data` is written for every field that may be null, even when no row is, so that the flags
/// of several answers can be joined. A column of no rows still says its type.
pub fn to_proto(column: Column, field: &FieldSchema) -> FieldData {
    let rows = column.len();
    let valid_data = if field.nullable || column.valid.is_some() {
        (0..rows).map(|row| column.is_valid(row)).collect()
    } else {
        Vec::new()
    };
    FieldData {
        r#type: data_type_to_proto(column.data.data_type()) as i32,
        field_name: field.name.clone(),
        field: Some(values(column.data, column.valid.as_ref())),
        field_id: field.id.0,
        is_dynamic: field.is_dynamic,
        valid_data,
    }
}

fn values(data: ColumnData, valid: Option<&BitSet>) -> Field {
    let data = match data {
        ColumnData::Bool(data) => Data::BoolData(BoolArray { data }),
        ColumnData::Int8(values) => Data::IntData(widen(values)),
        ColumnData::Int16(values) => Data::IntData(widen(values)),
        ColumnData::Int32(data) => Data::IntData(IntArray { data }),
        ColumnData::Int64(data) => Data::LongData(LongArray { data }),
        ColumnData::Float(data) => Data::FloatData(FloatArray { data }),
        ColumnData::Double(data) => Data::DoubleData(DoubleArray { data }),
        ColumnData::VarChar(data) => Data::StringData(StringArray { data }),
        ColumnData::Json(data) => Data::JsonData(JsonArray { data }),
        ColumnData::FloatVector { dim, values } => {
            let data = match valid {
                None => values.into_vec(),
                Some(valid) => compact(&values, dim, valid),
            };
            return vectors(dim, vector_field::Data::FloatVector(FloatArray { data }));
        }
        ColumnData::PackedVector { kind, dim, values } => {
            use vector_field::Data;
            let bytes = match valid {
                None => values.into_bytes(),
                Some(valid) => compact(&values, kind.vector_bytes(dim), valid).into(),
            };
            return vectors(
                dim,
                match kind {
                    DataType::Float16Vector => Data::Float16Vector(bytes),
                    DataType::BFloat16Vector => Data::Bfloat16Vector(bytes),
                    DataType::Int8Vector => Data::Int8Vector(bytes),
                    _ => Data::BinaryVector(bytes),
                },
            );
        }
        ColumnData::SparseVector(rows) => {
            let contents = match valid {
                None => rows,
                Some(valid) => valid.iter().map(|row| rows[row].clone()).collect(),
            };
            let dim = sparse::dim(&contents);
            let array = SparseFloatArray { contents, dim };
            return vectors(dim as usize, vector_field::Data::SparseFloatVector(array));
        }
    };
    Field::Scalars(ScalarField {
        data: Some(data),
        valid_data: Vec::new(),
    })
}

fn vectors(dim: usize, data: vector_field::Data) -> Field {
    Field::Vectors(VectorField {
        dim: dim as i64,
        data: Some(data),
        valid_data: Vec::new(),
    })
}

fn widen<T: Into<i32>>(values: Vec<T>) -> IntArray {
    IntArray {
        data: values.into_iter().map(Into::into).collect(),
    }
}

fn compact<T: Copy>(values: &[T], dim: usize, valid: &BitSet) -> Vec<T> {
    let mut kept = Vec::with_capacity(valid.count_ones() * dim);
    for row in valid.iter() {
        kept.extend_from_slice(&values[row * dim..(row + 1) * dim]);
    }
    kept
}
