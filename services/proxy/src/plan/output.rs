//! Which fields come back, and under which names.

use redkite_types::{CollectionSchema, Error, ErrorCode, FieldId, FieldSchema, Result};

/// The fields to fetch and the names to report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputFields {
    /// Fields to fetch, in schema order.
    pub fields: Vec<FieldId>,
    /// What the client asked for, with `*` replaced; dynamic keys stand here under their own names.
    pub names: Vec<String>,
}

impl OutputFields {
    /// Resolves the names that a client asks for.
    ///
    /// # Errors
    /// Code 65535 for a name that is no field where dynamic fields are off.
    pub fn resolve(schema: &CollectionSchema, asked: &[String]) -> Result<Self> {
        let mut wanted: Vec<FieldId> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut add_name = |name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        };
        for name in asked {
            let name = name.trim();
            if name == "*" || name == "%" {
                for field in &schema.fields {
                    wanted.push(field.id);
                    add_name(&field.name);
                }
            } else if let Some(field) = schema.field(name) {
                wanted.push(field.id);
                add_name(&field.name);
            } else if let Some(dynamic) = schema.dynamic_field() {
                wanted.push(dynamic.id);
                add_name(dynamic_key(name));
            } else {
                return Err(Error::input(
                    ErrorCode::Unexpected,
                    format!("field {name} not exist"),
                ));
            }
        }
        let fields = schema
            .fields
            .iter()
            .map(|field| field.id)
            .filter(|id| wanted.contains(id))
            .collect();
        Ok(Self { fields, names })
    }

    /// Adds the primary key in front, which every query brings back.
    #[must_use]
    pub fn with_primary_key(mut self, key: &FieldSchema) -> Self {
        if !self.fields.contains(&key.id) {
            self.fields.insert(0, key.id);
        }
        if !self.names.contains(&key.name) {
            self.names.insert(0, key.name.clone());
        }
        self
    }
}

/// The key itself where it is written as a path: `$meta["key"]`.
fn dynamic_key(name: &str) -> &str {
    name.strip_prefix("$meta[")
        .and_then(|rest| rest.strip_suffix(']'))
        .map(|key| key.trim_matches(['"', '\'']))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use redkite_types::DataType;

    use super::*;

    fn schema(dynamic: bool) -> CollectionSchema {
        let id = FieldSchema {
            is_primary_key: true,
            ..FieldSchema::new("id", DataType::Int64)
        };
        let vector = FieldSchema {
            dim: 2,
            ..FieldSchema::new("v", DataType::FloatVector)
        };
        let color = FieldSchema {
            max_length: 9,
            ..FieldSchema::new("color", DataType::VarChar)
        };
        CollectionSchema {
            fields: vec![id, vector, color],
            enable_dynamic_field: dynamic,
            ..CollectionSchema::default()
        }
        .prepare()
        .unwrap()
    }

    fn resolve(dynamic: bool, asked: &[&str]) -> Result<(Vec<i64>, Vec<String>)> {
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        let output = OutputFields::resolve(&schema(dynamic), &asked)?;
        Ok((output.fields.iter().map(|id| id.0).collect(), output.names))
    }

    #[test]
    fn names_become_fields_in_schema_order() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            resolve(false, &["color", "id"]).unwrap(),
            (vec![100, 102], names(&["color", "id"]))
        );
        assert_eq!(
            resolve(true, &["*"]).unwrap(),
            (
                vec![100, 101, 102, 103],
                names(&["id", "v", "color", "$meta"])
            )
        );
        assert_eq!(
            resolve(true, &["size", "size"]).unwrap(),
            (vec![103], names(&["size"]))
        );
        assert_eq!(
            resolve(true, &["$meta[\"size\"]"]).unwrap(),
            (vec![103], names(&["size"]))
        );
        let error = resolve(false, &["size"]).unwrap_err();
        assert!(error.message.contains("field size not exist"));
    }
}
