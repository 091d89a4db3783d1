//! How each field is written.

use std::ops::Range;

use redkite_index::ColumnRows;
use redkite_types::{Column, ColumnData, DataType, FieldSchema, RowBatch};
use serde_json::Value;

use crate::error::{Error, Result};

/// What the JSON arrays of a field hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// 64-bit integers.
    Int,
    /// Texts.
    Text,
}

/// A field and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportColumn {
    /// The field.
    pub field: FieldSchema,
    /// That a JSON field's documents are arrays, which are written as lists. Other JSON documents
    /// are written as text.
    pub list: Option<ListKind>,
}

/// Pairs the columns of a file with those of a batch.
pub(super) fn paired<'a>(
    columns: &'a [ExportColumn],
    rows: &'a RowBatch,
) -> Result<Vec<(&'a ExportColumn, &'a Column)>> {
    let found = rows.columns();
    let fits = found.len() == columns.len()
        && columns
            .iter()
            .zip(found)
            .all(|(wanted, found)| wanted.field.id == found.field);
    if !fits {
        return Err(failure("the rows do not have the columns of the file"));
    }
    Ok(columns.iter().zip(found).collect())
}

/// The list that a row of a list field has; `None` where there is none.
pub(super) fn list_of(
    column: &ExportColumn,
    values: &Column,
    row: usize,
) -> Result<Option<Vec<Value>>> {
    let ColumnData::Json(documents) = &values.data else {
        return Err(not_a_list(column));
    };
    if !values.is_valid(row) {
        return Ok(None);
    }
    match serde_json::from_slice(&documents[row]) {
        Ok(Value::Array(list)) => Ok(Some(list)),
        Ok(Value::Null) => Ok(None),
        Ok(_) | Err(_) => Err(not_a_list(column)),
    }
}

/// The numbers of vectors of floats in some rows, as 32-bit ones.
pub(super) fn widened(values: &Column, rows: Range<usize>) -> Result<Vec<f32>> {
    let taken: Vec<usize> = rows.collect();
    let taken = values.data.take(&taken);
    match (taken.data_type(), ColumnRows::of(&taken)) {
        (
            DataType::FloatVector | DataType::Float16Vector | DataType::BFloat16Vector,
            Some(ColumnRows::Dense(rows)),
        ) => Ok(rows.widened().into_owned()),
        _ => Err(no_form(values)),
    }
}

/// Vectors that no file for other programs has a form for.
pub(super) fn no_form(values: &Column) -> Error {
    failure(format!(
        "field {} of type {} cannot be exported",
        values.field,
        values.data.data_type()
    ))
}

pub(super) fn not_a_list(column: &ExportColumn) -> Error {
    failure(format!(
        "field {} has a value that is not the list it should be",
        column.field.name
    ))
}

pub(super) fn failure(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Export {
        source: source.into(),
    }
}
