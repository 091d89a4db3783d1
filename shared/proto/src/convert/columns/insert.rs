//! Rows that a client inserts.

use bytes::Bytes;
use redkite_types::{
    BitSet, CollectionSchema, Column, ColumnData, Error, FieldSchema, Result, limits,
};

use super::{checks, read};
use crate::milvus::schema::FieldData;

/// The document of a row without dynamic keys.
const EMPTY_OBJECT: &[u8] = b"{}";

/// Reads the columns of an insert or upsert, checks every value and fills what may be absent.
///
/// The result is in schema order and has a column for each field; only the primary key is left out
/// when the server makes it and the client did not give it.
///
/// # Errors
/// Code 1100 naming the field, and the row where there is one; never worth a retry.
pub fn insert_columns(
    fields: Vec<FieldData>,
    schema: &CollectionSchema,
    rows: usize,
) -> Result<Vec<Column>> {
    let given = assign(fields, schema).map_err(Error::invalid_parameter)?;
    let mut columns = Vec::with_capacity(schema.fields.len());
    for (data, field) in given.into_iter().zip(&schema.fields) {
        let column = match data {
            Some(data) => read_column(data, field, rows),
            None if field.is_primary_key && field.auto_id => continue,
            None => fill_absent(field, rows),
        };
        columns.push(column.map_err(Error::invalid_parameter)?);
    }
    Ok(columns)
}

/// The column of a field that a request does not carry: default values, else nulls; no keys for
/// the dynamic field.
///
/// # Errors
/// Code 1100 naming the field when it must be given; never worth a retry.
pub fn absent(field: &FieldSchema, rows: usize) -> Result<Column> {
    fill_absent(field, rows).map_err(Error::invalid_parameter)
}

pub(super) fn fill_absent(field: &FieldSchema, rows: usize) -> Result<Column, String> {
    if field.is_dynamic {
        let documents = vec![Bytes::from_static(EMPTY_OBJECT); rows];
        return Ok(Column::new(field.id, ColumnData::Json(documents)));
    }
    if !field.nullable && field.default_value.is_none() {
        return Err(format!(
            "fieldSchema({}) has no corresponding fieldData pass in",
            field.name
        ));
    }
    let no_values = ColumnData::empty(field.data_type, field.dim);
    Ok(place(no_values, Some(BitSet::new(rows)), field))
}

/// Finds the field of each column, by name.
fn assign(
    fields: Vec<FieldData>,
    schema: &CollectionSchema,
) -> Result<Vec<Option<FieldData>>, String> {
    let mut given: Vec<Option<FieldData>> = vec![None; schema.fields.len()];
    for data in fields {
        let index = schema.fields.iter().position(|field| {
            if data.is_dynamic {
                field.is_dynamic
            } else {
                field.name == data.field_name
            }
        });
        let Some(index) = index else {
            return Err(
                if data.is_dynamic || data.field_name == limits::DYNAMIC_FIELD {
                    format!(
                        "without dynamic schema enabled, the field name cannot be set to the {}",
                        limits::DYNAMIC_FIELD
                    )
                } else {
                    format!(
                        "fieldName {} not exist in collection schema",
                        data.field_name
                    )
                },
            );
        };
        if given[index].replace(data).is_some() {
            return Err(format!(
                "duplicated field {} in the data",
                schema.fields[index].name
            ));
        }
    }
    Ok(given)
}

fn read_column(mut data: FieldData, field: &FieldSchema, rows: usize) -> Result<Column, String> {
    let valid = read::validity(&mut data, field, rows)?;
    let values = read::values(data, field)?;
    let expected = valid.as_ref().map_or(rows, BitSet::count_ones);
    read::check_rows(&values, expected, field, rows)?;
    // Checked while compact: placeholders are no values.
    checks::check_values(&values, field, |index| row_of(valid.as_ref(), index))?;
    Ok(place(values, valid, field))
}

/// The row in which the value at a compact position belongs.
fn row_of(valid: Option<&BitSet>, index: usize) -> usize {
    valid.map_or(index, |valid| valid.iter().nth(index).unwrap_or(index))
}

/// Puts compact values into their rows. With a default value no row is left without one.
fn place(values: ColumnData, valid: Option<BitSet>, field: &FieldSchema) -> Column {
    let Some(valid) = valid else {
        return Column::new(field.id, values);
    };
    let data = read::spread(values, &read::filler(field, true), &valid);
    let valid = field.default_value.is_none().then_some(valid);
    Column {
        field: field.id,
        data,
        valid,
    }
}
