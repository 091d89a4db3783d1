//! What of a collection's segments stays in files and is mapped, as its settings say.

use std::collections::{BTreeSet, HashMap};

use redkite_proto::redkite::meta::IndexInfo;
use redkite_types::{CollectionSchema, FieldId};

/// Milvus's key among a collection's properties, a field's type parameters and an index's
/// parameters.
const KEY: &str = "mmap.enabled";

/// The fields whose values, and those whose index, are mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) columns: BTreeSet<FieldId>,
    pub(crate) indexes: BTreeSet<FieldId>,
}

impl Mapping {
    /// A field's or an index's own setting counts before the collection's, and that before the
    /// node's.
    pub(crate) fn new(
        schema: &CollectionSchema,
        properties: &[(String, String)],
        indexes: &HashMap<FieldId, IndexInfo>,
        node: bool,
    ) -> Self {
        let collection = setting(pairs(properties)).unwrap_or(node);
        let columns = schema.fields.iter();
        let columns = columns
            .filter(|field| setting(pairs(&field.type_params)).unwrap_or(collection))
            .map(|field| field.id);
        let is_mapped = |index: &IndexInfo| {
            let params = index.params.iter();
            let params = params.map(|pair| (pair.key.as_str(), pair.value.as_str()));
            setting(params).unwrap_or(collection)
        };
        let indexes = indexes.iter().filter(|(_, index)| is_mapped(index));
        Self {
            columns: columns.collect(),
            indexes: indexes.map(|(field, _)| *field).collect(),
        }
    }
}

fn pairs(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Values that are neither were refused when they were set.
fn setting<'a>(mut pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<bool> {
    let (_, value) = pairs.find(|(key, _)| *key == KEY)?;
    value.to_ascii_lowercase().parse().ok()
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;
    use redkite_types::{DataType, FieldSchema};

    use super::*;

    fn field(id: i64, own: Option<&str>) -> FieldSchema {
        FieldSchema {
            id: FieldId(id),
            type_params: own
                .map(|value| (KEY.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            ..FieldSchema::new(format!("f{id}"), DataType::Int64)
        }
    }

    #[test]
    fn the_narrowest_setting_counts() {
        let schema = CollectionSchema {
            fields: vec![
                field(1, None),
                field(2, Some("True")),
                field(3, Some("false")),
            ],
            ..CollectionSchema::default()
        };
        let index = |own: Option<&str>| IndexInfo {
            params: own.map(|value| kv::pair(KEY, value)).into_iter().collect(),
            ..IndexInfo::default()
        };
        let indexes = HashMap::from([
            (FieldId(1), index(None)),
            (FieldId(2), index(Some("true"))),
            (FieldId(3), index(Some("false"))),
        ]);
        let all = |properties: &[(&str, &str)], node| {
            let properties = properties.iter();
            let properties: Vec<(String, String)> = properties
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let mapping = Mapping::new(&schema, &properties, &indexes, node);
            assert_eq!(mapping.columns, mapping.indexes);
            mapping
                .columns
                .iter()
                .map(|field| field.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&[], false), [2]);
        assert_eq!(all(&[], true), [1, 2]);
        assert_eq!(all(&[(KEY, "true")], false), [1, 2]);
        assert_eq!(all(&[(KEY, "false")], true), [2]);
        assert_eq!(all(&[("other", "true")], false), [2]);
    }
}
