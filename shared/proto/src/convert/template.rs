//! Values for the templates of a filter: `age > {min}` with `min = 30`.

use std::collections::HashMap;

use redkite_types::{Error, Result, Value};

use crate::milvus::schema::{
    TemplateArrayValue, TemplateValue, template_array_value::Data, template_value::Val,
};

/// Takes all values of a request.
///
/// # Errors
/// Code 1100 naming the template for a value that no filter can hold; never worth a retry.
pub fn from_proto(values: HashMap<String, TemplateValue>) -> Result<HashMap<String, Value>> {
    values
        .into_iter()
        .map(|(name, value)| {
            let value = value_from_proto(value)
                .map_err(|why| Error::invalid_parameter(format!("template value {name}: {why}")))?;
            Ok((name, value))
        })
        .collect()
}

/// Puts a value into a message; an empty list becomes a list of int64.
///
/// # Errors
/// Code 1100 when the value has no form on the wire (a null); never worth a retry.
pub fn to_proto(value: &Value) -> Result<TemplateValue> {
    let val = match value {
        Value::Null => return Err(Error::invalid_parameter("a template value cannot be null")),
        Value::Bool(value) => Val::BoolVal(*value),
        Value::Int(value) => Val::Int64Val(*value),
        Value::Double(value) => Val::FloatVal(*value),
        Value::Str(value) => Val::StringVal(value.clone()),
        Value::List(values) => Val::ArrayVal(list::to_proto(values)?),
    };
    Ok(TemplateValue { val: Some(val) })
}

/// Takes one value; the error is a text without code.
fn value_from_proto(value: TemplateValue) -> Result<Value, String> {
    match value.val {
        Some(Val::BoolVal(value)) => Ok(Value::Bool(value)),
        Some(Val::Int64Val(value)) => Ok(Value::Int(value)),
        Some(Val::FloatVal(value)) => Ok(Value::Double(value)),
        Some(Val::StringVal(value)) => Ok(Value::Str(value)),
        Some(Val::ArrayVal(array)) => list::from_proto(array),
        Some(Val::BytesVal(_)) => Err("type bytes is not supported".to_owned()),
        None => Err("has no value".to_owned()),
    }
}

/// Lists, which the wire splits by the type of their elements.
mod list {
    use bytes::Bytes;
    use serde_json::Value as Json;

    use super::*;
    use crate::milvus::schema::{
        BoolArray, DoubleArray, JsonArray, LongArray, StringArray, TemplateArrayValueArray,
    };

    // The depth needs no limit of ours: decoding a message stops at 100 levels.
    pub(super) fn from_proto(array: TemplateArrayValue) -> Result<Value, String> {
        let values = match array.data {
            None => Vec::new(),
            Some(Data::BoolData(array)) => array.data.into_iter().map(Value::Bool).collect(),
            Some(Data::LongData(array)) => array.data.into_iter().map(Value::Int).collect(),
            Some(Data::DoubleData(array)) => array.data.into_iter().map(Value::Double).collect(),
            Some(Data::StringData(array)) => array.data.into_iter().map(Value::Str).collect(),
            Some(Data::ArrayData(array)) => array
                .data
                .into_iter()
                .map(from_proto)
                .collect::<Result<_, _>>()?,
            Some(Data::JsonData(array)) => array
                .data
                .iter()
                .map(|bytes| {
                    let json = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
                    json_from(json)
                })
                .collect::<Result<_, String>>()?,
        };
        Ok(Value::List(values))
    }

    pub(super) fn to_proto(values: &[Value]) -> Result<TemplateArrayValue> {
        // One array of the element type where all agree, JSON where they do not.
        let data = if let Some(data) = collect(values, |v| match v {
            Value::Int(v) => Some(*v),
            _ => None,
        }) {
            Data::LongData(LongArray { data })
        } else if let Some(data) = collect(values, |v| match v {
            Value::Bool(v) => Some(*v),
            _ => None,
        }) {
            Data::BoolData(BoolArray { data })
        } else if let Some(data) = collect(values, |v| match v {
            Value::Double(v) => Some(*v),
            _ => None,
        }) {
            Data::DoubleData(DoubleArray { data })
        } else if let Some(data) = collect(values, |v| match v {
            Value::Str(v) => Some(v.clone()),
            _ => None,
        }) {
            Data::StringData(StringArray { data })
        } else if let Some(lists) = collect(values, |v| match v {
            Value::List(v) => Some(v),
            _ => None,
        }) {
            let data = lists
                .into_iter()
                .map(|list| to_proto(list))
                .collect::<Result<_>>()?;
            Data::ArrayData(TemplateArrayValueArray { data })
        } else {
            let data = values
                .iter()
                .map(|v| Bytes::from(json_of(v).to_string()))
                .collect();
            Data::JsonData(JsonArray { data })
        };
        Ok(TemplateArrayValue { data: Some(data) })
    }

    fn collect<'a, T>(
        values: &'a [Value],
        element: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        values.iter().map(element).collect()
    }

    fn json_from(json: Json) -> Result<Value, String> {
        match json {
            Json::Null => Ok(Value::Null),
            Json::Bool(value) => Ok(Value::Bool(value)),
            Json::Number(value) => match (value.as_i64(), value.as_f64()) {
                (Some(value), _) => Ok(Value::Int(value)),
                (None, Some(value)) => Ok(Value::Double(value)),
                (None, None) => Err(format!("number {value} is out of range")),
            },
            Json::String(value) => Ok(Value::Str(value)),
            Json::Array(values) => values
                .into_iter()
                .map(json_from)
                .collect::<Result<_, _>>()
                .map(Value::List),
            Json::Object(_) => Err("a JSON object cannot be an element".to_owned()),
        }
    }

    fn json_of(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Int(value) => Json::from(*value),
            Value::Double(value) => Json::from(*value),
            Value::Str(value) => Json::from(value.as_str()),
            Value::List(values) => values.iter().map(json_of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::milvus::schema::JsonArray;

    fn round_trip(value: &Value) -> Value {
        let map = HashMap::from([("x".to_owned(), to_proto(value).unwrap())]);
        from_proto(map).unwrap().remove("x").unwrap()
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e9..1e9f64).prop_map(Value::Double),
            "[a-z]{0,4}".prop_map(Value::Str),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(Value::List)
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in any_value()) {
            prop_assert_eq!(round_trip(&value), value);
        }
    }

    #[test]
    fn a_double_in_a_mixed_list_keeps_its_last_bit() {
        let mixed = Value::List(vec![
            Value::Bool(false),
            Value::Double(204_800_305.962_191_94),
        ]);
        assert_eq!(round_trip(&mixed), mixed);
    }

    #[test]
    fn a_mixed_list_travels_as_json() {
        let mixed = Value::List(vec![Value::Int(1), Value::Str("a".to_owned()), Value::Null]);
        assert_eq!(round_trip(&mixed), mixed);
    }

    #[test]
    fn a_value_that_no_filter_can_hold_names_its_template() {
        let json = |text: &'static str| {
            Val::ArrayVal(TemplateArrayValue {
                data: Some(Data::JsonData(JsonArray {
                    data: vec![Bytes::from(text)],
                })),
            })
        };
        for val in [
            None,
            Some(Val::BytesVal(Bytes::new())),
            Some(json("{}")),
            Some(json("[1")),
        ] {
            let map = HashMap::from([("min_age".to_owned(), TemplateValue { val })]);
            let error = from_proto(map).unwrap_err();
            assert_eq!(error.code.number(), 1100);
            assert!(error.message.contains("min_age"));
        }
        assert!(to_proto(&Value::Null).is_err());
    }
}
