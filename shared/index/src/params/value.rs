//! Values of parameters: their types and ranges, with Milvus's texts.

use serde_json::Value;

use super::kind::IndexType;
use crate::error::{Error, Result};

/// Largest value of an integer parameter without a range of its own.
pub(super) const INT_MAX: i64 = i32::MAX as i64;

pub(crate) fn boolean(key: &str, value: &Value) -> Result<bool> {
    let parsed = match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) => text.to_ascii_lowercase().parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Error::invalid(format!(
            "invalid {key} value: {value}, expected: true, false"
        ))
    })
}

pub(crate) fn unknown(key: &str, index_type: IndexType) -> Error {
    Error::invalid(format!(
        "unknown parameter '{key}' of index type {}",
        index_type.name()
    ))
}

pub(crate) fn in_range(key: &str, number: i64, low: i64, high: i64) -> Result<()> {
    if (low..=high).contains(&number) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Out of range in json: param '{key}' ({number}) should be in range [{low}, {high}]"
        )))
    }
}

/// A build parameter: an integer or its decimal text; null means the default.
pub(crate) fn build_integer(
    key: &str,
    value: &Value,
    low: i64,
    high: i64,
) -> Result<Option<usize>> {
    let wrong = |text: &str| {
        let problem = if text.parse::<f64>().is_ok() {
            format!("wrong data type in json, key: '{key}', value: '{text}'")
        } else {
            format!("invalid integer value, key: '{key}', value: '{text}'")
        };
        Error::invalid(problem)
    };
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text == "None" || text == "null" => return Ok(None),
        Value::String(text) => text.trim().parse::<i64>().map_err(|_| wrong(text))?,
        other => other.as_i64().ok_or_else(|| wrong(&other.to_string()))?,
    };
    in_range(key, number, low, high)?;
    Ok(Some(number as usize))
}

/// A search parameter: an integer or its decimal text.
pub(super) fn search_integer(key: &str, value: &Value, low: i64, high: i64) -> Result<i64> {
    let number = match value {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        other => other.as_i64(),
    };
    let Some(number) = number else {
        return Err(Error::invalid(format!(
            "Type conflict in json: param '{key}' ({value}) should be integer"
        )));
    };
    in_range(key, number, low, high)?;
    Ok(number)
}

/// A search parameter: a number or its text.
pub(super) fn search_float(key: &str, value: &Value) -> Result<f32> {
    let number = match value {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    match number {
        Some(number) if !number.is_nan() => Ok(number as f32),
        _ => Err(Error::invalid(format!(
            "Type conflict in json: param '{key}' ({value}) should be a number"
        ))),
    }
}

/// A part of a whole: at least 0, below 1.
pub(crate) fn ratio(key: &str, value: &Value) -> Result<f32> {
    let ratio = search_float(key, value)?;
    if (0.0..1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(Error::invalid(format!(
        "Out of range in json: param '{key}' ({ratio}) should be in range [0.000000, 1.000000)"
    )))
}
