//! Query vectors of a search, and vectors as little-endian bytes.

use bytes::Bytes;
use prost::Message as _;
use redkite_types::{DataType, Error, FieldSchema, Result};

use super::schema;
use crate::milvus::common::{PlaceholderGroup, PlaceholderType, PlaceholderValue};

/// The vectors that a search looks for.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryVectors {
    /// How many there are, at least one.
    pub nq: usize,
    /// Dimensions, those of the field.
    pub dim: usize,
    /// `[nq, dim]`, row-major.
    pub values: Vec<f32>,
}

/// Reads the encoded `SearchRequest.placeholder_group` for a search on `field`.
///
/// # Errors
/// Code 1100 naming the field, and the query where there is one, when the vectors are of another
/// type or dimension, are no numbers, or are absent; never worth a retry.
pub fn from_placeholder_group(group: Bytes, field: &FieldSchema) -> Result<QueryVectors> {
    let group = PlaceholderGroup::decode(group).map_err(|why| {
        Error::invalid_parameter(format!("failed to read the placeholder group: {why}"))
    })?;
    let mut placeholders = group.placeholders.into_iter();
    let (Some(placeholder), None) = (placeholders.next(), placeholders.next()) else {
        return Err(Error::invalid_parameter(
            "a search needs exactly one placeholder",
        ));
    };
    if field.data_type != DataType::FloatVector
        || placeholder.r#type != PlaceholderType::FloatVector as i32
    {
        return Err(Error::invalid_parameter(format!(
            "vector type must be the same, field {} - type {}, search info type {}",
            field.name,
            field.data_type,
            schema::data_type_name(placeholder.r#type)
        )));
    }
    if placeholder.values.is_empty() {
        return Err(Error::invalid_parameter(format!(
            "no vector to search field {} for",
            field.name
        )));
    }
    let nq = placeholder.values.len();
    let mut values = Vec::with_capacity(nq * field.dim);
    for (query, bytes) in placeholder.values.iter().enumerate() {
        if bytes.len() != field.dim * size_of::<f32>() {
            return Err(Error::invalid_parameter(format!(
                "vector dimension mismatch, expected vector size(byte) {}, actual {}: field {} has \
                 dimension {}, query {query} has {}",
                field.dim * size_of::<f32>(),
                bytes.len(),
                field.name,
                field.dim,
                bytes.len() / size_of::<f32>()
            )));
        }
        append_le_bytes(&mut values, bytes);
        if !values[query * field.dim..]
            .iter()
            .fold(true, |finite, value| finite & value.is_finite())
        {
            return Err(Error::invalid_parameter(format!(
                "query {query} of field {} holds a value that is not a number or infinity",
                field.name
            )));
        }
    }
    Ok(QueryVectors {
        nq,
        dim: field.dim,
        values,
    })
}

/// Encodes vectors as a client does for `SearchRequest.placeholder_group`.
///
/// # Shapes
/// `values` is `[nq, dim]`, row-major.
pub fn to_placeholder_group(values: &[f32], dim: usize) -> Bytes {
    let placeholder = PlaceholderValue {
        tag: "$0".to_owned(),
        r#type: PlaceholderType::FloatVector as i32,
        values: values.chunks(dim.max(1)).map(to_le_bytes).collect(),
        element_level: false,
    };
    PlaceholderGroup {
        placeholders: vec![placeholder],
    }
    .encode_to_vec()
    .into()
}

/// The numbers as little-endian bytes, four each.
pub fn to_le_bytes(values: &[f32]) -> Bytes {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.into()
}

/// The numbers in little-endian bytes; `None` when they are no multiple of four.
pub fn from_le_bytes(bytes: &[u8]) -> Option<Vec<f32>> {
    if !bytes.len().is_multiple_of(size_of::<f32>()) {
        return None;
    }
    let mut values = Vec::with_capacity(bytes.len() / size_of::<f32>());
    append_le_bytes(&mut values, bytes);
    Some(values)
}

fn append_le_bytes(values: &mut Vec<f32>, bytes: &[u8]) {
    let (numbers, _) = bytes.as_chunks::<4>();
    values.extend(numbers.iter().map(|number| f32::from_le_bytes(*number)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field() -> FieldSchema {
        FieldSchema {
            dim: 3,
            ..FieldSchema::new("vector", DataType::FloatVector)
        }
    }

    #[test]
    fn vectors_come_back() {
        let values = vec![1.0, -2.5, 0.0, 4.0, f32::MIN_POSITIVE, f32::MAX];
        let group = to_placeholder_group(&values, 3);
        let read = from_placeholder_group(group, &field()).unwrap();
        assert_eq!(
            read,
            QueryVectors {
                nq: 2,
                dim: 3,
                values: values.clone()
            }
        );
        assert_eq!(from_le_bytes(&to_le_bytes(&values)).unwrap(), values);
        assert_eq!(from_le_bytes(&[0; 5]), None);
    }

    #[test]
    fn vectors_that_do_not_fit_name_the_field() {
        let other = |kind: PlaceholderType| {
            let values = vec![Bytes::from_static(&[0; 12])];
            let placeholder = PlaceholderValue {
                r#type: kind as i32,
                values,
                ..PlaceholderValue::default()
            };
            Bytes::from(
                PlaceholderGroup {
                    placeholders: vec![placeholder],
                }
                .encode_to_vec(),
            )
        };
        let cases = [
            (to_placeholder_group(&[0.0; 8], 4), "dimension mismatch"),
            (to_placeholder_group(&[], 3), "no vector"),
            (
                to_placeholder_group(&[0.0, 1.0, f32::NAN], 3),
                "not a number",
            ),
            (
                other(PlaceholderType::SparseFloatVector),
                "search info type SparseFloatVector",
            ),
            (other(PlaceholderType::VarChar), "search info type VarChar"),
        ];
        for (group, want) in cases {
            let error = from_placeholder_group(group, &field()).unwrap_err();
            assert_eq!(error.code.number(), 1100);
            assert!(
                error.message.contains(want),
                "{} does not contain {want}",
                error.message
            );
            assert!(error.message.contains("vector"));
        }
        for group in [Bytes::new(), Bytes::from_static(b"\xff\xff")] {
            assert!(from_placeholder_group(group, &field()).is_err());
        }
        let scalar = FieldSchema::new("age", DataType::Int64);
        assert!(from_placeholder_group(to_placeholder_group(&[0.0], 1), &scalar).is_err());
    }
}
