//! How each field is written.

use redkite_types::{Column, ColumnData, FieldSchema, RowBatch};
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
