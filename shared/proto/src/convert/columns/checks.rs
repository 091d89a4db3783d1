//! Checks of single values that a client inserts. `row_of` turns a value's position into its row.

use bytes::Bytes;
use redkite_types::{ColumnData, FieldSchema, limits, sparse};
use serde::de::IgnoredAny;

use crate::convert::vectors;

/// Checks that numbers are finite, texts short enough and documents JSON.
///
/// # Errors
/// A text that names the field and the row.
pub(super) fn check_values(
    values: &ColumnData,
    field: &FieldSchema,
    row_of: impl Fn(usize) -> usize,
) -> Result<(), String> {
    let not_finite = |value: f64, index: usize| {
        let row = row_of(index);
        Err(format!(
            "value '{value}' is not a number or infinity, field {}, row {row}",
            field.name
        ))
    };
    match values {
        ColumnData::Bool(_)
        | ColumnData::Int8(_)
        | ColumnData::Int16(_)
        | ColumnData::Int32(_)
        | ColumnData::Int64(_) => Ok(()),
        ColumnData::Float(values) => match first_not_finite(values, |value| value.is_finite()) {
            Some(index) => not_finite(values[index].into(), index),
            None => Ok(()),
        },
        ColumnData::Double(values) => match first_not_finite(values, |value| value.is_finite()) {
            Some(index) => not_finite(values[index], index),
            None => Ok(()),
        },
        ColumnData::FloatVector { dim, values } => {
            match first_not_finite(values, |value| value.is_finite()) {
                Some(index) => not_finite(values[index].into(), index / dim),
                None => Ok(()),
            }
        }
        ColumnData::PackedVector { kind, dim, values } => {
            match vectors::first_not_finite(*kind, values) {
                Some(index) => {
                    let row = row_of(index / dim);
                    Err(format!(
                        "value of {kind} is not a number or infinity, field {}, row {row}",
                        field.name
                    ))
                }
                None => Ok(()),
            }
        }
        ColumnData::SparseVector(rows) => rows.iter().enumerate().try_for_each(|(index, row)| {
            sparse::check(row)
                .map_err(|why| format!("{why}, field {}, row {}", field.name, row_of(index)))
        }),
        ColumnData::VarChar(values) => check_lengths(values, field, row_of),
        ColumnData::Json(documents) => documents
            .iter()
            .enumerate()
            .try_for_each(|(index, document)| check_json(document, field, || row_of(index))),
    }
}

/// Looks at whole blocks without a branch for each number, so that it runs at memory speed.
fn first_not_finite<T: Copy>(values: &[T], is_finite: impl Fn(&T) -> bool) -> Option<usize> {
    const BLOCK: usize = 1_024;
    let bad_block = values.chunks(BLOCK).position(|block| {
        !block
            .iter()
            .fold(true, |finite, value| finite & is_finite(value))
    })?;
    let start = bad_block * BLOCK;
    values[start..]
        .iter()
        .position(|value| !is_finite(value))
        .map(|index| start + index)
}

fn check_lengths(
    values: &[String],
    field: &FieldSchema,
    row_of: impl Fn(usize) -> usize,
) -> Result<(), String> {
    match values
        .iter()
        .position(|value| value.len() > field.max_length)
    {
        Some(index) => Err(format!(
            "length of varchar field {} exceeds max length, row number: {}, length: {}, max \
             length: {}",
            field.name,
            row_of(index),
            values[index].len(),
            field.max_length
        )),
        None => Ok(()),
    }
}

fn check_json(
    document: &Bytes,
    field: &FieldSchema,
    row: impl Fn() -> usize,
) -> Result<(), String> {
    if document.len() > limits::JSON_MAX_BYTES {
        return Err(format!(
            "the length ({}) of json field ({}) exceeds max length ({}), row {}",
            document.len(),
            field.name,
            limits::JSON_MAX_BYTES,
            row()
        ));
    }
    if let Err(why) = serde_json::from_slice::<IgnoredAny>(document) {
        return Err(format!(
            "field {} holds no JSON in row {}: {why}",
            field.name,
            row()
        ));
    }
    if field.is_dynamic && document.trim_ascii_start().first() != Some(&b'{') {
        return Err(format!(
            "field {} holds no JSON object in row {}",
            field.name,
            row()
        ));
    }
    Ok(())
}
