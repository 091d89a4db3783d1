//! Taking values out of a message. Errors are texts without a code: the caller knows who is to
//! blame.

use bytes::Bytes;
use redkite_types::{BitSet, ColumnData, DataType, FieldSchema};

use crate::{
    convert::schema::{data_type_name, data_type_to_proto},
    milvus::schema::{FieldData, field_data, scalar_field::Data, vector_field},
};

/// The values of a message just as they stand there, moved where the type is the same.
///
/// # Errors
/// When the message holds another type or dimension than the field, or a number that the field's
/// type cannot hold.
pub(super) fn values(data: FieldData, field: &FieldSchema) -> Result<ColumnData, String> {
    if data.r#type != data_type_to_proto(field.data_type) as i32 {
        return Err(wrong_type(field, &data_type_name(data.r#type)));
    }
    // A column of nothing but nulls may come without the list that would hold its values.
    let scalars = match data.field {
        None => return Ok(ColumnData::empty(field.data_type, field.dim)),
        Some(field_data::Field::Scalars(scalars)) => scalars,
        Some(field_data::Field::Vectors(vectors)) => {
            return vector_values(vectors.dim, vectors.data, field);
        }
        Some(field_data::Field::StructArrays(_)) => return Err(wrong_type(field, "ArrayOfStruct")),
    };
    match (field.data_type, scalars.data) {
        (kind, _) if kind.is_vector() => Err(wrong_type(field, "a scalar")),
        (kind, None) => Ok(ColumnData::empty(kind, 0)),
        (DataType::Bool, Some(Data::BoolData(array))) => Ok(ColumnData::Bool(array.data)),
        (DataType::Int8, Some(Data::IntData(array))) => {
            narrow(array.data, field).map(ColumnData::Int8)
        }
        (DataType::Int16, Some(Data::IntData(array))) => {
            narrow(array.data, field).map(ColumnData::Int16)
        }
        (DataType::Int32, Some(Data::IntData(array))) => Ok(ColumnData::Int32(array.data)),
        (DataType::Int64, Some(Data::LongData(array))) => Ok(ColumnData::Int64(array.data)),
        (DataType::Float, Some(Data::FloatData(array))) => Ok(ColumnData::Float(array.data)),
        (DataType::Double, Some(Data::DoubleData(array))) => Ok(ColumnData::Double(array.data)),
        (DataType::VarChar, Some(Data::StringData(array))) => Ok(ColumnData::VarChar(array.data)),
        (DataType::Json, Some(Data::JsonData(array))) => Ok(ColumnData::Json(array.data)),
        (_, Some(other)) => Err(wrong_type(field, list_name(&other))),
    }
}

/// Which rows have a value; `None` when all do.
///
/// # Errors
/// When there is not one flag a row, or a row without a value in a field that must have one.
pub(super) fn validity(
    data: &mut FieldData,
    field: &FieldSchema,
    rows: usize,
) -> Result<Option<BitSet>, String> {
    let flags = take_flags(data);
    if flags.is_empty() {
        return Ok(None);
    }
    if flags.len() != rows {
        return Err(format!(
            "the length of valid_data of field({}) is wrong: {} flags for {rows} rows",
            field.name,
            flags.len()
        ));
    }
    match flags.iter().position(|valid| !valid) {
        None => Ok(None),
        Some(row) if !field.nullable && field.default_value.is_none() => Err(format!(
            "field {} is not nullable and has no default value, but row {row} has no value",
            field.name
        )),
        Some(_) => Ok(Some(BitSet::from_fn(rows, |row| flags[row]))),
    }
}

/// Newer clients may put the flags beside the values.
fn take_flags(data: &mut FieldData) -> Vec<bool> {
    if !data.valid_data.is_empty() {
        return std::mem::take(&mut data.valid_data);
    }
    match &mut data.field {
        Some(field_data::Field::Scalars(scalars)) => std::mem::take(&mut scalars.valid_data),
        Some(field_data::Field::Vectors(vectors)) => std::mem::take(&mut vectors.valid_data),
        Some(field_data::Field::StructArrays(_)) | None => Vec::new(),
    }
}

/// Checks a number of rows; `rows` is what the request says.
pub(super) fn check_rows(
    values: &ColumnData,
    expected: usize,
    field: &FieldSchema,
    rows: usize,
) -> Result<(), String> {
    if values.len() == expected {
        return Ok(());
    }
    if expected == rows {
        return Err(format!(
            "the num_rows ({}) of field ({}) is not equal to passed num_rows ({rows})",
            values.len(),
            field.name
        ));
    }
    Err(format!(
        "the length of field ({}) is wrong: {} values for {expected} rows that are valid in \
         valid_data",
        field.name,
        values.len()
    ))
}

/// One row for where there is no value: the default value if wanted, else a placeholder.
pub(super) fn filler(field: &FieldSchema, with_default: bool) -> ColumnData {
    let mut filler = ColumnData::with_capacity(field.data_type, field.dim, 1);
    let default = field.default_value.as_ref().filter(|_| with_default);
    if !default.is_some_and(|value| filler.push_value(value)) {
        filler.push_placeholder();
    }
    filler
}

/// Puts compact values into their rows, and the filler into all others.
///
/// There must be as many values as valid rows; `filler` is one row of the same type.
pub(super) fn spread(values: ColumnData, filler: &ColumnData, valid: &BitSet) -> ColumnData {
    use ColumnData as C;
    match (values, filler) {
        (C::Bool(values), C::Bool(filler)) => C::Bool(spread_rows(values, filler, valid)),
        (C::Int8(values), C::Int8(filler)) => C::Int8(spread_rows(values, filler, valid)),
        (C::Int16(values), C::Int16(filler)) => C::Int16(spread_rows(values, filler, valid)),
        (C::Int32(values), C::Int32(filler)) => C::Int32(spread_rows(values, filler, valid)),
        (C::Int64(values), C::Int64(filler)) => C::Int64(spread_rows(values, filler, valid)),
        (C::Float(values), C::Float(filler)) => C::Float(spread_rows(values, filler, valid)),
        (C::Double(values), C::Double(filler)) => C::Double(spread_rows(values, filler, valid)),
        (C::VarChar(values), C::VarChar(filler)) => C::VarChar(spread_rows(values, filler, valid)),
        (C::Json(values), C::Json(filler)) => C::Json(spread_rows(values, filler, valid)),
        (C::FloatVector { dim, values }, C::FloatVector { values: filler, .. }) => C::FloatVector {
            dim,
            values: spread_rows(values.into_vec(), filler, valid).into(),
        },
        (C::PackedVector { kind, dim, values }, C::PackedVector { values: filler, .. }) => {
            C::PackedVector {
                kind,
                dim,
                values: spread_rows(values.to_vec(), filler, valid).into(),
            }
        }
        (C::SparseVector(values), C::SparseVector(filler)) => {
            C::SparseVector(spread_rows(values, filler, valid))
        }
        (values, filler) => {
            debug_assert_eq!(
                values.data_type(),
                filler.data_type(),
                "one field has one type"
            );
            values
        }
    }
}

fn spread_rows<T: Clone>(values: Vec<T>, filler: &[T], valid: &BitSet) -> Vec<T> {
    let mut rows = Vec::with_capacity(valid.len() * filler.len());
    let mut values = values.into_iter();
    for row in 0..valid.len() {
        if valid.get(row) {
            rows.extend(values.by_ref().take(filler.len()));
        } else {
            rows.extend_from_slice(filler);
        }
    }
    rows
}

fn vector_values(
    dim: i64,
    data: Option<vector_field::Data>,
    field: &FieldSchema,
) -> Result<ColumnData, String> {
    if !field.data_type.is_vector() {
        return Err(wrong_type(field, "a vector"));
    }
    use vector_field::Data;
    let values = match (field.data_type, data) {
        (DataType::FloatVector, None) => Vec::new(),
        (DataType::FloatVector, Some(Data::FloatVector(array))) => array.data,
        (DataType::SparseFloatVector, None) => return Ok(ColumnData::SparseVector(Vec::new())),
        (DataType::SparseFloatVector, Some(Data::SparseFloatVector(array))) => {
            return Ok(ColumnData::SparseVector(array.contents));
        }
        (kind, None) if kind.is_packed_vector() => return packed(dim, Bytes::new(), field),
        (DataType::BinaryVector, Some(Data::BinaryVector(bytes)))
        | (DataType::Float16Vector, Some(Data::Float16Vector(bytes)))
        | (DataType::BFloat16Vector, Some(Data::Bfloat16Vector(bytes)))
        | (DataType::Int8Vector, Some(Data::Int8Vector(bytes))) => {
            return packed(dim, bytes, field);
        }
        (_, _) => return Err(wrong_type(field, "another kind of vector")),
    };
    check_dim(dim, values.is_empty(), field)?;
    let dim = field.dim.max(1);
    if !values.len().is_multiple_of(dim) {
        return Err(format!(
            "the length({}) of float data should divide the dim({dim}), field {}",
            values.len(),
            field.name
        ));
    }
    Ok(ColumnData::FloatVector {
        dim,
        values: values.into(),
    })
}

fn check_dim(dim: i64, is_empty: bool, field: &FieldSchema) -> Result<(), String> {
    if usize::try_from(dim) == Ok(field.dim) || dim == 0 && is_empty {
        return Ok(());
    }
    Err(format!(
        "the dim ({dim}) of field data({}) is not equal to schema dim ({})",
        field.name, field.dim
    ))
}

/// Vectors of fixed length that are no f32.
fn packed(dim: i64, bytes: Bytes, field: &FieldSchema) -> Result<ColumnData, String> {
    check_dim(dim, bytes.is_empty(), field)?;
    let width = field.data_type.vector_bytes(field.dim).max(1);
    if !bytes.len().is_multiple_of(width) {
        return Err(format!(
            "the length({}) of {} data should divide the dim({}), field {}: a vector takes {width} \
             bytes",
            bytes.len(),
            field.data_type,
            field.dim,
            field.name
        ));
    }
    Ok(ColumnData::PackedVector {
        kind: field.data_type,
        dim: field.dim,
        // Not a view: rows outlive the message that brought them.
        values: Vec::from(bytes).into(),
    })
}

/// Narrows integers, which all travel as int32.
fn narrow<T: TryFrom<i32>>(values: Vec<i32>, field: &FieldSchema) -> Result<Vec<T>, String> {
    values
        .into_iter()
        .enumerate()
        .map(|(row, value)| {
            T::try_from(value).map_err(|_| {
                let (low, high) = field.data_type.integer_range().unwrap_or_default();
                format!(
                    "the {row} th element ({value}) out of range: [{low}, {high}], field {}",
                    field.name
                )
            })
        })
        .collect()
}

fn wrong_type(field: &FieldSchema, given: &str) -> String {
    format!(
        "field {}: the data given is of type {given}, the schema says {}",
        field.name, field.data_type
    )
}

fn list_name(data: &Data) -> &'static str {
    match data {
        Data::BoolData(_) => "bool",
        Data::IntData(_) => "int32",
        Data::LongData(_) => "int64",
        Data::FloatData(_) => "float",
        Data::DoubleData(_) => "double",
        Data::StringData(_) => "string",
        Data::BytesData(_) => "bytes",
        Data::ArrayData(_) => "array",
        Data::JsonData(_) => "JSON",
        Data::GeometryData(_) | Data::GeometryWktData(_) => "geometry",
        Data::TimestamptzData(_) => "timestamptz",
        Data::MolData(_) | Data::MolSmilesData(_) => "mol",
        Data::DateData(_) => "date",
        Data::TimeData(_) => "time",
    }
}
