//! `schema.FieldData` and columns of rows.
//!
//! The wire has two forms, which differ where rows have no value:
//!
//! - *insert form*, from clients: `valid_data` has one flag a row and the values are compact, only
//!   those of the rows that have one. A null takes the field's default value if it has one, and a
//!   field that may be null or has a default may be absent. [`insert_columns`] reads it and checks
//!   every value.
//! - *result form*, to clients and between our services: scalars are full length with a placeholder
//!   in rows without a value, vectors are compact. [`to_proto`] writes it; [`from_proto`] reads it
//!   and checks no more than shapes, since the values were checked when they were inserted.

mod checks;
mod insert;
mod read;
mod write;

use redkite_types::{
    CollectionSchema, Column, Error, ErrorCode, FieldId, FieldSchema, Result, RowBatch,
};

pub use self::{
    insert::{absent, insert_columns},
    write::to_proto,
};
use crate::milvus::schema::FieldData;

/// Reads a column in result form.
///
/// # Errors
/// Code 1009 naming the field when type, dimension or number of rows are not as expected: the
/// message was not written by [`to_proto`] from this schema.
pub fn from_proto(data: FieldData, field: &FieldSchema, rows: usize) -> Result<Column> {
    read_result(data, field, rows).map_err(|why| Error::new(ErrorCode::DataIntegrity, why))
}

/// Reads a batch in result form: one column for each field of the schema, found by field id.
///
/// A field that the message lacks (it was added to the schema later) is filled as
/// [`absent`] does.
///
/// # Errors
/// Code 1009 naming the field, see [`from_proto`], and for a field that cannot be absent.
pub fn batch_from_proto(
    fields: Vec<FieldData>,
    schema: &CollectionSchema,
    rows: usize,
) -> Result<RowBatch> {
    let mut slots: Vec<Option<FieldData>> = vec![None; schema.fields.len()];
    for data in fields {
        let id = FieldId(data.field_id);
        // A field that the schema has lost since is skipped.
        if let Some(index) = schema.fields.iter().position(|field| field.id == id) {
            slots[index] = Some(data);
        }
    }
    let columns = slots
        .into_iter()
        .zip(&schema.fields)
        .map(|(data, field)| match data {
            Some(data) => from_proto(data, field, rows),
            None => insert::fill_absent(field, rows)
                .map_err(|why| Error::new(ErrorCode::DataIntegrity, why)),
        })
        .collect::<Result<Vec<Column>>>()?;
    RowBatch::new(rows, columns)
        .ok_or_else(|| Error::internal(format!("columns of a batch are not {rows} rows long")))
}

/// Writes a batch in result form; columns that are no field of the schema are left out.
pub fn batch_to_proto(batch: RowBatch, schema: &CollectionSchema) -> Vec<FieldData> {
    batch
        .into_columns()
        .into_iter()
        .filter_map(|column| {
            let field = schema.field_by_id(column.field)?;
            Some(to_proto(column, field))
        })
        .collect()
}

fn read_result(mut data: FieldData, field: &FieldSchema, rows: usize) -> Result<Column, String> {
    let valid = read::validity(&mut data, field, rows)?;
    let mut values = read::values(data, field)?;
    if let Some(valid) = &valid
        && field.data_type.is_vector()
    {
        read::check_rows(&values, valid.count_ones(), field, rows)?;
        values = read::spread(values, &read::filler(field, false), valid);
    }
    read::check_rows(&values, rows, field, rows)?;
    Ok(Column {
        field: field.id,
        data: values,
        valid,
    })
}

#[cfg(test)]
mod tests;
