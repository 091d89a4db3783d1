//! Query vectors of a search, and vectors as little-endian bytes.

use bytes::Bytes;
use prost::Message as _;
use redkite_types::{DataType, Error, FieldSchema, Result, sparse};

use super::schema;
use crate::milvus::common::{PlaceholderGroup, PlaceholderType, PlaceholderValue};

/// The vectors that a search looks for, as they travel to those who search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryVectors {
    /// How many there are, at least one.
    pub nq: usize,
    /// Their bytes, one after the other, of the field's type.
    pub bytes: Bytes,
    /// Bytes of each sparse vector; empty for types whose vectors have one length.
    pub lengths: Vec<u32>,
}

impl QueryVectors {
    /// Puts vectors together that have the field's type and dimension.
    pub fn join<'a>(kind: DataType, vectors: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut joined = Self::default();
        let mut bytes = Vec::new();
        for vector in vectors {
            bytes.extend_from_slice(vector);
            joined.nq += 1;
            if !kind.is_fixed_vector() {
                // A message, and so a vector in it, is far shorter than 4 GB.
                joined.lengths.push(vector.len() as u32);
            }
        }
        joined.bytes = bytes.into();
        joined
    }
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
    // The numbers of placeholder types are those of data types.
    if !field.data_type.is_vector()
        || placeholder.r#type != schema::data_type_to_proto(field.data_type) as i32
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
    for (query, bytes) in placeholder.values.iter().enumerate() {
        check_query(query, bytes, field)?;
    }
    let vectors = placeholder.values.iter().map(AsRef::as_ref);
    Ok(QueryVectors::join(field.data_type, vectors))
}

fn check_query(query: usize, bytes: &[u8], field: &FieldSchema) -> Result<()> {
    let kind = field.data_type;
    if !kind.is_fixed_vector() {
        return sparse::check(bytes).map_err(|why| {
            Error::invalid_parameter(format!("{why}: query {query} of field {}", field.name))
        });
    }
    let expected = kind.vector_bytes(field.dim);
    if bytes.len() != expected {
        return Err(Error::invalid_parameter(format!(
            "vector dimension mismatch, expected vector size(byte) {expected}, actual {}: field {} \
             has dimension {}, query {query} has {}",
            bytes.len(),
            field.name,
            field.dim,
            bytes.len() * field.dim / expected.max(1)
        )));
    }
    if first_not_finite(kind, bytes).is_some() {
        return Err(Error::invalid_parameter(format!(
            "query {query} of field {} holds a value that is not a number or infinity",
            field.name
        )));
    }
    Ok(())
}

/// The position of the first value that is not a number or infinite, in vectors of a type as they
/// travel; bits and integers have none.
pub(super) fn first_not_finite(kind: DataType, bytes: &[u8]) -> Option<usize> {
    // All ones in the exponent.
    let find = |exponent: u16| {
        let (values, _) = bytes.as_chunks::<2>();
        let is_special = |value: &[u8; 2]| u16::from_le_bytes(*value) & exponent == exponent;
        values.iter().position(is_special)
    };
    match kind {
        DataType::Float16Vector => find(0x7c00),
        DataType::BFloat16Vector => find(0x7f80),
        DataType::FloatVector => {
            let (values, _) = bytes.as_chunks::<4>();
            let is_special = |value: &[u8; 4]| !f32::from_le_bytes(*value).is_finite();
            values.iter().position(is_special)
        }
        _ => None,
    }
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
                bytes: to_le_bytes(&values),
                lengths: Vec::new(),
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

    #[test]
    fn queries_of_every_type_are_checked_by_their_own_rules() {
        let group = |kind: DataType, vectors: &[&[u8]]| {
            let placeholder = PlaceholderValue {
                r#type: schema::data_type_to_proto(kind) as i32,
                values: vectors.iter().map(|v| Bytes::copy_from_slice(v)).collect(),
                ..PlaceholderValue::default()
            };
            let placeholders = vec![placeholder];
            Bytes::from(PlaceholderGroup { placeholders }.encode_to_vec())
        };
        let read = |kind: DataType, dim: usize, vectors: &[&[u8]]| {
            let field = FieldSchema {
                dim,
                ..FieldSchema::new("v", kind)
            };
            from_placeholder_group(group(kind, vectors), &field)
        };
        let good: [(DataType, usize, usize); 4] = [
            (DataType::BinaryVector, 16, 2),
            (DataType::Float16Vector, 4, 8),
            (DataType::BFloat16Vector, 4, 8),
            (DataType::Int8Vector, 5, 5),
        ];
        for (kind, dim, bytes) in good {
            let vector = vec![1u8; bytes];
            let queries = read(kind, dim, &[&vector, &vector]).unwrap();
            assert_eq!((queries.nq, queries.bytes.len()), (2, 2 * bytes), "{kind}");
            assert!(queries.lengths.is_empty());
            let why = read(kind, dim, &[&vector[1..]]).unwrap_err();
            assert!(why.message.contains("dimension mismatch"), "{why}");
        }
        let (one, none) = (sparse::encode(&[(4, 1.0)]), Bytes::new());
        let queries = read(DataType::SparseFloatVector, 0, &[&one, &none]).unwrap();
        assert_eq!((queries.nq, queries.lengths), (2, vec![8, 0]));
        let infinite: [(DataType, [u8; 4]); 2] = [
            (DataType::Float16Vector, [0, 0, 0, 0xfc]),
            (DataType::BFloat16Vector, [0, 0, 0xc0, 0x7f]),
        ];
        for (kind, vector) in infinite {
            let why = read(kind, 2, &[&vector]).unwrap_err();
            assert!(why.message.contains("query 0 of field v"), "{why}");
        }
        let bad = sparse::encode(&[(4, 1.0), (4, 1.0)]);
        assert!(read(DataType::SparseFloatVector, 0, &[&bad]).is_err());
    }
}
