//! What of a collection's segments stays in files and is mapped, as its settings say.

use std::collections::{BTreeSet, HashMap};

use redkite_index::IndexType;
use redkite_proto::redkite::meta::IndexInfo;
use redkite_types::{CollectionSchema, FieldId, FieldSchema};

use crate::options::Mmap;

/// Milvus's key among a collection's properties, a field's type parameters and an index's
/// parameters.
const KEY: &str = "mmap.enabled";

/// The fields whose values, and those whose index, stay in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Whose values do.
    pub(crate) columns: BTreeSet<FieldId>,
    /// Whose values do, in addition, in a segment that has its index: nothing else looks at them there
    /// but single rows.
    indexed: BTreeSet<FieldId>,
    /// Whose index does.
    pub(crate) indexes: BTreeSet<FieldId>,
}

impl Mapping {
    /// A field's or an index's own setting counts before the collection's, and that before the
    /// node's. An index that is meant to stay on disk is always mapped, and so are the vectors of its
    /// field when nothing is set: it never looks at them.
    pub(crate) fn new(
        schema: &CollectionSchema,
        properties: &[(String, String)],
        indexes: &HashMap<FieldId, IndexInfo>,
        node: Mmap,
    ) -> Self {
        let collection = setting(pairs(properties));
        let is_on_disk = |index: &IndexInfo| kind(index).is_some_and(IndexType::is_on_disk);
        let set = |field: &FieldSchema| setting(pairs(&field.type_params)).or(collection);
        let columns = schema.fields.iter().filter(|field| {
            let by_default = || {
                let index = indexes.get(&field.id);
                node == Mmap::All || index.is_some_and(is_on_disk)
            };
            set(field).unwrap_or_else(by_default)
        });
        let columns = columns.map(|field| field.id).collect();
        let indexed = schema.fields.iter().filter(|field| {
            let goes_by_codes = || {
                let index = indexes.get(&field.id).and_then(kind);
                index.is_some_and(|index| index.goes_by_codes(field.data_type))
            };
            node == Mmap::Vectors && set(field).is_none() && goes_by_codes()
        });
        let indexed = indexed.map(|field| field.id).collect();
        let is_mapped = |index: &IndexInfo| {
            let params = index.params.iter();
            let params = params.map(|pair| (pair.key.as_str(), pair.value.as_str()));
            let set = setting(params).or(collection);
            is_on_disk(index) || set.unwrap_or(node == Mmap::All)
        };
        let indexes = indexes.iter().filter(|(_, index)| is_mapped(index));
        Self {
            columns,
            indexed,
            indexes: indexes.map(|(field, _)| *field).collect(),
        }
    }
}

impl Mapping {
    /// The fields whose values stay in the file of a segment that has indexes over some fields.
    pub(crate) fn columns_with(&self, indexed: impl Iterator<Item = FieldId>) -> BTreeSet<FieldId> {
        let by_index = indexed.filter(|field| self.indexed.contains(field));
        by_index.chain(self.columns.iter().copied()).collect()
    }
}

fn kind(index: &IndexInfo) -> Option<IndexType> {
    IndexType::parse(&index.index_type).ok()
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
        assert_eq!(all(&[], Mmap::Off), [2]);
        assert_eq!(all(&[], Mmap::All), [1, 2]);
        assert_eq!(all(&[(KEY, "true")], Mmap::Off), [1, 2]);
        assert_eq!(all(&[(KEY, "false")], Mmap::All), [2]);
        assert_eq!(all(&[("other", "true")], Mmap::Off), [2]);
    }

    #[test]
    fn an_index_on_disk_is_mapped_whatever_is_set_and_its_vectors_unless_they_are_not_to_be() {
        let schema = CollectionSchema {
            fields: vec![field(1, None), field(2, Some("false")), field(3, None)],
            ..CollectionSchema::default()
        };
        let index = |index_type: &str| IndexInfo {
            index_type: index_type.to_owned(),
            params: vec![kv::pair(KEY, "false")],
            ..IndexInfo::default()
        };
        let indexes = HashMap::from([
            (FieldId(1), index("DISKANN")),
            (FieldId(2), index("DISKANN")),
            (FieldId(3), index("HNSW")),
        ]);
        let off = [(KEY.to_owned(), "false".to_owned())];
        for (properties, columns) in [(&[][..], &[FieldId(1)][..]), (&off[..], &[][..])] {
            let mapping = Mapping::new(&schema, properties, &indexes, Mmap::Off);
            let columns: BTreeSet<FieldId> = columns.iter().copied().collect();
            assert_eq!(mapping.columns, columns);
            assert_eq!(mapping.indexes, BTreeSet::from([FieldId(1), FieldId(2)]));
        }
    }

    #[test]
    fn vectors_that_are_only_looked_up_stay_in_the_file_where_their_index_is() {
        let vector = |id, own| FieldSchema {
            data_type: DataType::FloatVector,
            ..field(id, own)
        };
        let schema = CollectionSchema {
            fields: vec![
                vector(1, None),
                vector(2, None),
                vector(3, Some("false")),
                vector(4, None),
                FieldSchema {
                    data_type: DataType::BinaryVector,
                    ..field(5, None)
                },
            ],
            ..CollectionSchema::default()
        };
        let index = |index_type: &str| IndexInfo {
            index_type: index_type.to_owned(),
            ..IndexInfo::default()
        };
        let indexes = HashMap::from([
            (FieldId(1), index("HNSW")),
            (FieldId(2), index("FLAT")),
            (FieldId(3), index("HNSW")),
            (FieldId(5), index("AUTOINDEX")),
        ]);
        let built = || schema.fields.iter().map(|field| field.id);
        let mapping = Mapping::new(&schema, &[], &indexes, Mmap::Vectors);
        assert_eq!(mapping.columns_with(built()), BTreeSet::from([FieldId(1)]));
        assert_eq!(mapping.columns_with(std::iter::empty()), BTreeSet::new());
        assert_eq!(mapping.indexes, BTreeSet::new());
        let off = [(KEY.to_owned(), "false".to_owned())];
        let mapping = Mapping::new(&schema, &off, &indexes, Mmap::Vectors);
        assert_eq!(mapping, Mapping::default());
    }
}
