//! How the hits of a search are grouped.

use redkite_types::{CollectionSchema, DataType, Error, ErrorCode, FieldId, Result};

use super::params::Params;

/// Milvus's default limit of `group_size`.
const MAX_GROUP_SIZE: i64 = 10;

/// Grouping by one field: a search then finds the nearest groups, and of each its nearest rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// The field whose values make the groups.
    pub field: FieldId,
    /// Hits in a group at most.
    pub size: usize,
    /// Whether the search goes on until the groups have `size` hits, as long as there are rows.
    pub strict: bool,
}

impl GroupPlan {
    /// Reads the keys of grouping.
    ///
    /// # Errors
    /// Code 1700 for a field that is not there; 1100 for one whose type makes no groups, and for a
    /// size out of range; 3000 for several fields.
    pub fn take(params: &mut Params, schema: &CollectionSchema) -> Result<Option<Self>> {
        let one = params.take("group_by_field");
        let several = params.take("group_by_fields");
        let size = params.take_number::<i64>("group_size")?.unwrap_or(1);
        let strict = params.take_flag("strict_group_size")?;
        if size <= 0 {
            return Err(Error::invalid_parameter(format!(
                "input group size:{size} is negative, failed to do search_groupby"
            )));
        }
        if size > MAX_GROUP_SIZE {
            return Err(Error::invalid_parameter(format!(
                "input group size:{size} exceeds configured max group size:{MAX_GROUP_SIZE}"
            )));
        }
        let name = match (one, several) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(Error::invalid_parameter(
                    "group_by_field and group_by_fields are mutually exclusive",
                ));
            }
            (Some(name), None) | (None, Some(name)) => name,
        };
        if name.contains(',') {
            return Err(Error::input(
                ErrorCode::UnsupportedOperation,
                "unsupported operation: a search groups by one field",
            ));
        }
        let field = schema.field(&name).ok_or_else(|| {
            Error::input(
                ErrorCode::FieldNotFound,
                format!("field not found[field={name}]: groupBy field not found in schema"),
            )
        })?;
        match field.data_type {
            DataType::Bool
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::VarChar => Ok(Some(Self {
                field: field.id,
                size: size.unsigned_abs() as usize,
                strict,
            })),
            other => Err(Error::invalid_parameter(format!(
                "unsupported data type {other} for group by operator: field {name}"
            ))),
        }
    }
}

/// Removes the keys of grouping and paging, which a hybrid search says once for all its requests.
pub(super) fn drop_keys(params: &mut Params) {
    params.drop_keys(&[
        "group_by_field",
        "group_by_fields",
        "group_size",
        "strict_group_size",
        "rank_group_scorer",
        "offset",
    ]);
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;
    use redkite_types::FieldSchema;

    use super::*;

    fn take(pairs: &[(&str, &str)]) -> Result<Option<GroupPlan>> {
        let schema = CollectionSchema {
            fields: vec![
                FieldSchema {
                    is_primary_key: true,
                    ..FieldSchema::new("id", DataType::Int64)
                },
                FieldSchema {
                    dim: 2,
                    ..FieldSchema::new("v", DataType::FloatVector)
                },
                FieldSchema::new("price", DataType::Double),
            ],
            ..CollectionSchema::default()
        };
        let schema = schema.prepare().unwrap();
        GroupPlan::take(
            &mut Params::new(kv::from_iter(pairs.iter().copied())),
            &schema,
        )
    }

    #[test]
    fn what_makes_no_groups_is_refused() {
        assert_eq!(take(&[]).unwrap(), None);
        let plan = take(&[("group_by_field", "id"), ("group_size", "3")]).unwrap();
        assert_eq!(plan.map(|plan| (plan.size, plan.strict)), Some((3, false)));
        let plan = take(&[("group_by_field", "id"), ("strict_group_size", "True")]).unwrap();
        assert_eq!(plan.map(|plan| (plan.size, plan.strict)), Some((1, true)));
        for (pairs, want) in [
            (
                [("group_by_field", "none"), ("group_size", "1")],
                "groupBy field not found",
            ),
            (
                [("group_by_field", "price"), ("group_size", "1")],
                "unsupported data type",
            ),
            (
                [("group_by_field", "id"), ("group_size", "0")],
                "input group size:0 is negative",
            ),
            (
                [("group_by_field", "id"), ("group_size", "11")],
                "exceeds configured max group size:10",
            ),
            (
                [("group_by_fields", "id,price"), ("group_size", "1")],
                "groups by one field",
            ),
        ] {
            let error = take(&pairs).unwrap_err();
            assert!(error.message.contains(want), "{error}");
        }
    }
}
