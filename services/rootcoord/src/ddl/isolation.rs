//! The property `partitionkey.isolation`: every search must say one value of the partition key.

use redkite_catalog::CollectionEntry;
use redkite_types::{CollectionSchema, Error, ErrorCode, Result};

/// The property's key.
pub const ISOLATION: &str = "partitionkey.isolation";

/// Checks the property, where it is set, against the schema that it is for.
///
/// # Errors
/// Code 65535 for a value that is no boolean; 105 for a collection without partition key.
pub fn check(properties: &[(String, String)], name: &str, schema: &CollectionSchema) -> Result<()> {
    if is_isolated(properties)? && schema.partition_key().is_none() {
        return Err(Error::input(
            ErrorCode::CollectionIllegalSchema,
            format!(
                "partition key isolation mode is enabled but no partition key field is set. Please set \
                 the partition key first: illegal collection schema[collection={name}]"
            ),
        ));
    }
    Ok(())
}

/// Checks a change of the property: with a vector index there must be none, as in Milvus.
///
/// # Errors
/// As [`check`]; code 702 when there is a vector index.
pub fn check_change(
    entry: &CollectionEntry,
    name: &str,
    set: &[(String, String)],
    delete: &[String],
) -> Result<()> {
    let is_set = set.iter().any(|(key, _)| key == ISOLATION);
    if !is_set && !delete.iter().any(|key| key == ISOLATION) {
        return Ok(());
    }
    check(set, name, entry.schema())?;
    let info = entry.info();
    let pairs = info.iter().flat_map(|info| &info.properties);
    let now: Vec<(String, String)> = pairs
        .map(|pair| (pair.key.clone(), pair.value.clone()))
        .collect();
    if is_isolated(&now)? == is_isolated(set)? {
        return Ok(());
    }
    let fields = &entry.schema().fields;
    let mut vectors = fields.iter().filter(|field| field.data_type.is_vector());
    match vectors.find(|field| entry.index_on(field.id).is_some()) {
        None => Ok(()),
        Some(field) => Err(Error::input(
            ErrorCode::IndexDuplicate,
            format!(
                "can not alter partition key isolation mode if the collection already has a vector index. \
                 Please drop the index first: index duplicates[indexName={}]",
                field.name
            ),
        )),
    }
}

/// Reads the property as Milvus does.
fn is_isolated(properties: &[(String, String)]) -> Result<bool> {
    let Some((_, value)) = properties.iter().find(|(key, _)| key == ISOLATION) else {
        return Ok(false);
    };
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        lower => Err(Error::input(
            ErrorCode::Unexpected,
            format!(
                "failed to parse partition key isolation: strconv.ParseBool: parsing \"{lower}\": invalid \
                 syntax"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::{DataType, FieldSchema};

    use super::*;

    #[test]
    fn it_needs_a_partition_key_and_a_boolean() {
        let mut schema = CollectionSchema {
            fields: vec![FieldSchema::new("tenant", DataType::Int64)],
            ..CollectionSchema::default()
        };
        let set = |value: &str| [(ISOLATION.to_owned(), value.to_owned())];
        for (value, code) in [("true", 105), ("T", 105), ("yes", 65_535)] {
            let error = check(&set(value), "c", &schema).unwrap_err();
            assert_eq!(error.code.number(), code, "{value}: {error}");
        }
        check(&set("False"), "c", &schema).unwrap();
        schema.fields[0].is_partition_key = true;
        check(&set("true"), "c", &schema).unwrap();
        check(&[], "c", &schema).unwrap();
    }
}
