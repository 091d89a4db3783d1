//! `schema.IDs` and primary keys.

use redkite_types::{Error, PrimaryKeys, Result};

use crate::milvus::schema::{IDs, LongArray, StringArray, i_ds::IdField};

/// Takes the keys out of a message.
///
/// # Errors
/// Code 1101 when neither list is set, code 1100 for UUID keys; never worth a retry.
pub fn from_proto(ids: IDs) -> Result<PrimaryKeys> {
    match ids.id_field {
        Some(IdField::IntId(keys)) => Ok(PrimaryKeys::Int(keys.data)),
        Some(IdField::StrId(keys)) => Ok(PrimaryKeys::Str(keys.data)),
        Some(IdField::UuidId(_)) => Err(Error::invalid_parameter(
            "primary keys of type UUID are not supported",
        )),
        None => Err(Error::missing_parameter("ids hold no primary keys")),
    }
}

/// Puts keys into a message.
pub fn to_proto(keys: PrimaryKeys) -> IDs {
    let id_field = match keys {
        PrimaryKeys::Int(data) => IdField::IntId(LongArray { data }),
        PrimaryKeys::Str(data) => IdField::StrId(StringArray { data }),
    };
    IDs {
        id_field: Some(id_field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milvus::schema::UuidArray;

    #[test]
    fn keys_come_back() {
        let ints = PrimaryKeys::Int(vec![1, -2, i64::MAX]);
        let strs = PrimaryKeys::Str(vec!["a".to_owned(), String::new()]);
        for keys in [ints, strs, PrimaryKeys::Int(Vec::new())] {
            assert_eq!(from_proto(to_proto(keys.clone())).unwrap(), keys);
        }
    }

    #[test]
    fn other_keys_are_refused() {
        assert_eq!(
            from_proto(IDs { id_field: None })
                .unwrap_err()
                .code
                .number(),
            1101
        );
        let uuids = IDs {
            id_field: Some(IdField::UuidId(UuidArray { data: Vec::new() })),
        };
        assert_eq!(from_proto(uuids).unwrap_err().code.number(), 1100);
    }
}
