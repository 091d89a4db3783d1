//! The order in which a query's rows come.

use redkite_types::{CollectionSchema, DataType, Error, Result, order::OrderBy};

/// Reads `order_by_fields`: `field[:direction[:nulls]]`, separated by commas. Without a direction the
/// smallest value comes first; rows without a value count as the largest unless `nulls_first` or
/// `nulls_last` says otherwise.
///
/// # Errors
/// Code 1100 with Milvus's text for what is not understood, a field that is not there and one whose
/// type has no order.
pub(super) fn parse(text: &str, schema: &CollectionSchema) -> Result<Vec<OrderBy>> {
    let fields = text.split(',').map(str::trim);
    let fields = fields.filter(|field| !field.is_empty());
    fields.map(|field| parse_one(field, schema)).collect()
}

fn parse_one(text: &str, schema: &CollectionSchema) -> Result<OrderBy> {
    let mut parts = text.split(':').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let direction = parts.next().unwrap_or_default().to_ascii_lowercase();
    let descending = match direction.as_str() {
        "" | "asc" | "ascending" => false,
        "desc" | "descending" => true,
        _ => {
            return Err(Error::invalid_parameter(format!(
                "invalid order direction '{direction}' for field '{name}', must be 'asc' or 'desc'"
            )));
        }
    };
    let nulls = parts.next().map(str::to_ascii_lowercase);
    let nulls_first = match nulls.as_deref() {
        None => descending,
        Some("nulls_first") => true,
        Some("nulls_last") => false,
        Some(other) => {
            return Err(Error::invalid_parameter(format!(
                "invalid null ordering '{other}', must be 'nulls_first' or 'nulls_last'"
            )));
        }
    };
    if parts.next().is_some() {
        return Err(Error::invalid_parameter(format!(
            "invalid order_by field '{text}'"
        )));
    }
    let field = schema.field(name).ok_or_else(|| {
        Error::invalid_parameter(format!(
            "order_by field '{name}' does not exist in collection schema"
        ))
    })?;
    match field.data_type {
        DataType::Bool
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float
        | DataType::Double
        | DataType::VarChar => Ok(OrderBy {
            field: field.id,
            descending,
            nulls_first,
        }),
        other => Err(Error::invalid_parameter(format!(
            "order_by field '{name}' has type {other} which is not sortable"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::FieldSchema;

    use super::*;

    fn parse_all(text: &str) -> Result<Vec<(i64, bool, bool)>> {
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
        let order = parse(text, &schema.prepare()?)?;
        let parts = |by: OrderBy| (by.field.0, by.descending, by.nulls_first);
        Ok(order.into_iter().map(parts).collect())
    }

    #[test]
    fn directions_and_nulls_are_read_or_refused() {
        assert_eq!(
            parse_all("price:desc, id").unwrap(),
            [(102, true, true), (100, false, false)]
        );
        assert_eq!(
            parse_all("price:DESC:nulls_last,price::nulls_first").unwrap(),
            [(102, true, false), (102, false, true)]
        );
        for (text, want) in [
            ("price:up", "invalid order direction 'up' for field 'price'"),
            ("price:asc:last", "invalid null ordering 'last'"),
            ("size", "order_by field 'size' does not exist"),
            ("v", "which is not sortable"),
        ] {
            let error = parse_all(text).unwrap_err();
            assert!(error.message.contains(want), "{error}");
        }
    }
}
