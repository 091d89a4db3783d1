//! Schemas that change: a new field, other parameters of a field.

use crate::{
    error::{Error, ErrorCode, Result},
    ids::FieldId,
    limits,
    schema::{CollectionSchema, DataType, FieldSchema},
};

/// Type parameter of a VarChar: its bytes at most.
const MAX_LENGTH: &str = "max_length";
/// Type parameter of an array: its elements at most.
const MAX_CAPACITY: &str = "max_capacity";
/// Type parameter: whether values stay in files, mapped.
pub const MMAP_ENABLED: &str = "mmap.enabled";
/// How older clients write it.
const MMAP_ENABLED_ALIAS: &str = "mmap_enabled";
/// Type parameter: whether values are brought in when a collection is loaded.
const WARMUP: &str = "warmup";
/// Names that no user's field may have.
const SYSTEM_FIELDS: [&str; 4] = ["RowID", "Timestamp", limits::DYNAMIC_FIELD, "$namespace_id"];

/// Today's name of a type parameter.
pub fn canonical_param(key: &str) -> &str {
    match key {
        MMAP_ENABLED_ALIAS => MMAP_ENABLED,
        key => key,
    }
}

impl CollectionSchema {
    /// The schema with one field more, which gets an id of its own and stands before `$meta`. Rows
    /// that were written before have its default, or no value.
    ///
    /// # Errors
    /// Milvus's code and text for the first rule that is broken; code 3000 for a vector; never worth
    /// a retry.
    pub fn with_field(&self, mut field: FieldSchema) -> Result<Self> {
        let refused = |why: String| Err(Error::invalid_parameter(why));
        let name = field.name.clone();
        let users = self.fields.iter().filter(|field| !field.is_dynamic);
        if users.count() >= limits::MAX_FIELDS {
            return refused(format!(
                "maximum field's number should be limited to {}",
                limits::MAX_FIELDS
            ));
        }
        if SYSTEM_FIELDS.contains(&name.as_str()) || field.is_dynamic {
            return refused(format!(
                "not support to add system field, field name = {name}"
            ));
        }
        if field.is_primary_key {
            return refused(format!("not support to add pk field, field name = {name}"));
        }
        if field.auto_id {
            return refused(format!(
                "only primary field can speficy AutoID with true, field name = {name}"
            ));
        }
        if field.is_partition_key {
            // Two spaces, as in Milvus.
            return refused(format!(
                "not support to add partition key field, field name  = {name}"
            ));
        }
        if field.is_clustering_key && self.fields.iter().any(|field| field.is_clustering_key) {
            return refused(format!(
                "already has another clustering key field, field name: {name}"
            ));
        }
        if self.field(&name).is_some() {
            return refused(format!("duplicate field name: {name}"));
        }
        if !field.nullable && field.default_value.is_none() {
            return refused(format!(
                "added field must be nullable, please check it, field name = {name}"
            ));
        }
        if field.data_type.is_vector() {
            return Err(Error::input(
                ErrorCode::UnsupportedOperation,
                format!("unsupported operation: adding vector field {name} is not served"),
            ));
        }
        field.validate()?;
        let last = self.fields.iter().map(|field| field.id.0).max();
        field.id = FieldId(last.map_or(FieldId::FIRST_USER.0, |last| last + 1));
        let mut changed = self.clone();
        let at = self.fields.iter().position(|field| field.is_dynamic);
        let at = at.unwrap_or(self.fields.len());
        changed.fields.insert(at, field);
        changed.version += 1;
        Ok(changed)
    }

    /// The schema with other parameters of one field: those in `set` are set, those in `delete`
    /// taken away. Only what rows that exist already cannot break may be changed.
    ///
    /// # Errors
    /// Code 1100 with Milvus's text for an unknown field, a parameter that may not be changed or a
    /// value that makes no sense; code 3000 for one that nothing acts on; never worth a retry.
    pub fn with_field_params(
        &self,
        name: &str,
        set: &[(String, String)],
        delete: &[String],
    ) -> Result<Self> {
        let refused = |why: String| Err(Error::invalid_parameter(why));
        let found = self.fields.iter().position(|field| field.name == name);
        let Some(at) = found.filter(|at| !self.fields[*at].is_dynamic) else {
            return refused(format!("field {name} does not exist in collection"));
        };
        let mut changed = self.clone();
        let field = &mut changed.fields[at];
        for (key, value) in set {
            match canonical_param(key) {
                MAX_LENGTH => field.max_length = longer(field, value)?,
                MMAP_ENABLED => {
                    let on = value.to_ascii_lowercase().parse::<bool>();
                    if on.is_err() {
                        return refused(format!(
                            "invalid {MMAP_ENABLED} value: {value}, expected: true, false"
                        ));
                    }
                    field.type_params.retain(|(key, _)| key != MMAP_ENABLED);
                    let param = (MMAP_ENABLED.to_owned(), value.clone());
                    field.type_params.push(param);
                }
                MAX_CAPACITY => {
                    return refused(format!(
                        "{name} can not modify the maxcapacity for non-array types"
                    ));
                }
                WARMUP => {
                    return Err(Error::input(
                        ErrorCode::UnsupportedOperation,
                        format!("unsupported operation: field param {key}={value} is not served"),
                    ));
                }
                key => {
                    return refused(format!(
                        "{key} does not allow update in collection field param"
                    ));
                }
            }
        }
        for key in delete {
            if canonical_param(key) != MMAP_ENABLED {
                return refused(format!(
                    "{key} is not allowed to drop in collection field param"
                ));
            }
            field.type_params.retain(|(key, _)| key != MMAP_ENABLED);
        }
        changed.version += 1;
        Ok(changed)
    }
}

/// A new limit of a text's length: texts that are there already must not break it.
fn longer(field: &FieldSchema, value: &str) -> Result<usize> {
    let name = &field.name;
    if field.data_type != DataType::VarChar {
        return Err(Error::invalid_parameter(format!(
            "{name} can not modify the maxlength for non-string types"
        )));
    }
    let Ok(length) = value.parse::<i64>() else {
        return Err(Error::invalid_parameter(format!(
            "{MAX_LENGTH} should be an integer, but got {value}"
        )));
    };
    if length > limits::VARCHAR_MAX_LENGTH {
        return Err(Error::invalid_parameter(format!(
            "{value} exceeds the maximum allowed value {}",
            limits::VARCHAR_MAX_LENGTH
        )));
    }
    match usize::try_from(length) {
        Ok(length) if length >= field.max_length => Ok(length),
        Ok(_) | Err(_) => Err(Error::invalid_parameter(format!(
            "{MAX_LENGTH} of field {name} may only grow: {value} is less than {}",
            field.max_length
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn schema() -> CollectionSchema {
        let id = FieldSchema {
            is_primary_key: true,
            ..FieldSchema::new("id", DataType::Int64)
        };
        let vector = FieldSchema {
            dim: 8,
            ..FieldSchema::new("vector", DataType::FloatVector)
        };
        let text = FieldSchema {
            max_length: 10,
            is_clustering_key: true,
            ..FieldSchema::new("text", DataType::VarChar)
        };
        let schema = CollectionSchema {
            fields: vec![id, vector, text],
            enable_dynamic_field: true,
            ..CollectionSchema::default()
        };
        schema.prepare().unwrap()
    }

    fn nullable(name: &str, data_type: DataType) -> FieldSchema {
        FieldSchema {
            nullable: true,
            ..FieldSchema::new(name, data_type)
        }
    }

    #[test]
    fn a_new_field_has_a_new_id_and_the_dynamic_field_stays_last() {
        let once = schema().with_field(nullable("a", DataType::Int64)).unwrap();
        let with_default = FieldSchema {
            default_value: Some(Value::Int(7)),
            ..FieldSchema::new("b", DataType::Int8)
        };
        let twice = once.with_field(with_default).unwrap();
        let fields: Vec<(&str, i64)> = twice
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.id.0))
            .collect();
        let want = [
            ("id", 100),
            ("vector", 101),
            ("text", 102),
            ("a", 104),
            ("b", 105),
            ("$meta", 103),
        ];
        assert_eq!(fields, want);
        assert_eq!((once.version, twice.version), (1, 2));
    }

    #[test]
    fn fields_that_old_rows_cannot_have_are_refused() {
        let int = |name: &str| nullable(name, DataType::Int64);
        let cases: Vec<(FieldSchema, i32, &str)> = vec![
            (
                FieldSchema::new("a", DataType::Int64),
                1100,
                "added field must be nullable, please check it, field name = a",
            ),
            (int("text"), 1100, "duplicate field name: text"),
            (int("RowID"), 1100, "not support to add system field"),
            (int("$meta"), 1100, "not support to add system field"),
            (int("9a"), 1701, "Invalid field name: 9a"),
            (
                FieldSchema {
                    is_primary_key: true,
                    ..int("a")
                },
                1100,
                "not support to add pk field, field name = a",
            ),
            (
                FieldSchema {
                    auto_id: true,
                    ..int("a")
                },
                1100,
                "only primary field can speficy AutoID with true, field name = a",
            ),
            (
                FieldSchema {
                    is_partition_key: true,
                    ..int("a")
                },
                1100,
                "not support to add partition key field, field name  = a",
            ),
            (
                FieldSchema {
                    is_clustering_key: true,
                    ..int("a")
                },
                1100,
                "already has another clustering key field",
            ),
            (
                FieldSchema {
                    max_length: 65_536,
                    ..nullable("a", DataType::VarChar)
                },
                1100,
                "should be in (0, 65535], but got 65536 instead",
            ),
            (
                FieldSchema {
                    dim: 8,
                    ..nullable("a", DataType::FloatVector)
                },
                3000,
                "adding vector field a",
            ),
            (
                FieldSchema {
                    default_value: Some(Value::Bool(true)),
                    ..int("a")
                },
                1100,
                "is not equal to the type(Bool) of default_value",
            ),
        ];
        for (field, code, text) in cases {
            let error = schema().with_field(field).unwrap_err();
            assert_eq!(error.code.number(), code, "{error}");
            assert!(error.message.contains(text), "{error} lacks {text}");
        }
        let mut full = schema();
        for number in 0.. {
            match full.with_field(int(&format!("f{number}"))) {
                Ok(more) => full = more,
                Err(error) => {
                    assert!(error.message.contains("limited to 64"), "{error}");
                    break;
                }
            }
        }
        assert_eq!(full.fields.len(), limits::MAX_FIELDS + 1);
    }

    #[test]
    fn parameters_of_a_field_change_within_what_its_rows_allow() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let alter =
            |field: &str, set: &[(&str, &str)]| schema().with_field_params(field, &pairs(set), &[]);
        let longer = alter("text", &[("max_length", "20"), ("mmap_enabled", "True")]).unwrap();
        let text = longer.field("text").unwrap();
        assert_eq!((text.max_length, longer.version), (20, 1));
        assert_eq!(text.type_params, pairs(&[("mmap.enabled", "True")]));
        let dropped = longer
            .with_field_params("text", &[], &["mmap.enabled".to_owned()])
            .unwrap();
        assert!(dropped.field("text").unwrap().type_params.is_empty());
        for (field, key, value, code, text) in [
            ("nope", "max_length", "20", 1100, "does not exist"),
            ("$meta", "mmap.enabled", "true", 1100, "does not exist"),
            (
                "id",
                "max_length",
                "20",
                1100,
                "can not modify the maxlength for non-string types",
            ),
            ("text", "max_length", "ten", 1100, "should be an integer"),
            (
                "text",
                "max_length",
                "65536",
                1100,
                "exceeds the maximum allowed value 65535",
            ),
            ("text", "max_length", "9", 1100, "may only grow"),
            ("text", "max_length", "-1", 1100, "may only grow"),
            (
                "text",
                "max_capacity",
                "9",
                1100,
                "can not modify the maxcapacity for non-array types",
            ),
            (
                "text",
                "mmap.enabled",
                "1",
                1100,
                "invalid mmap.enabled value",
            ),
            ("text", "warmup", "sync", 3000, "warmup=sync"),
            (
                "text",
                "analyzer_params",
                "{}",
                1100,
                "analyzer_params does not allow update in collection field param",
            ),
        ] {
            let error = alter(field, &[(key, value)]).unwrap_err();
            assert_eq!(error.code.number(), code, "{error}");
            assert!(error.message.contains(text), "{error} lacks {text}");
        }
        let error = schema()
            .with_field_params("text", &[], &["max_length".to_owned()])
            .unwrap_err();
        assert!(error.message.contains("is not allowed to drop"), "{error}");
    }
}
