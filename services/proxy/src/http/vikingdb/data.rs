//! Rows.

use std::collections::HashMap;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::schema::data_type_to_proto,
    milvus::{
        common::ConsistencyLevel,
        milvus::{DeleteRequest, InsertRequest, QueryRequest, UpsertRequest},
        schema::{
            BoolArray, DoubleArray, FieldData, FloatArray, IntArray, JsonArray, LongArray,
            ScalarField, StringArray, VectorField, field_data::Field, scalar_field::Data,
            vector_field,
        },
    },
};
use redkite_types::{CollectionSchema, DataType, FieldSchema};
use serde_json::{Map, Value, json};

use super::{
    Call,
    answer::{Failure, Outcome},
    filter,
    types::FieldType,
};
use crate::{
    grpc::{dml, dql},
    lookup,
};

/// Rows of one request, as VikingDB limits them.
const MAX_ROWS: usize = 10_000;

/// `/api/collection/upsert_data`: durable and visible when it is answered, also with `async`.
pub(super) async fn upsert(call: Call<'_>) -> Outcome {
    let body = &call.body;
    let name = body.text("collection_name")?;
    call.caller.check("Upsert", &call.meta.database, name)?;
    body.only(&["collection_name", "fields", "ttl", "async"])?;
    body.flag("async")?;
    match body.get("ttl") {
        None => {}
        Some(ttl) if ttl.as_i64() == Some(0) => {}
        Some(_) => return Err(Failure::invalid("ttl of single rows is not served")),
    }
    let view = call.context.view();
    let entry = lookup::collection(&view, &call.meta.database, name)?;
    let rows = body.list("fields")?;
    if rows.is_empty() || rows.len() > MAX_ROWS {
        let text = format!(
            "fields has {} rows, 1 to {MAX_ROWS} are allowed",
            rows.len()
        );
        return Err(Failure::invalid(text));
    }
    let rows = objects(rows)?;
    let schema = entry.schema();
    let key = schema.primary_key();
    let rows = if key.auto_id {
        rows
    } else {
        last_of_each_key(rows, &key.name)?
    };
    let num_rows = rows.len() as u32;
    let fields_data = columns(&entry, &rows)?;
    if key.auto_id {
        let message = InsertRequest {
            collection_name: name.to_owned(),
            fields_data,
            num_rows,
            ..InsertRequest::default()
        };
        dml::insert(call.context, call.meta.clone(), message).await?;
    } else {
        let message = UpsertRequest {
            collection_name: name.to_owned(),
            fields_data,
            num_rows,
            ..UpsertRequest::default()
        };
        dml::upsert(call.context, call.meta.clone(), message).await?;
    }
    Ok(Value::Null)
}

fn objects(rows: Vec<Value>) -> Result<Vec<Map<String, Value>>, Failure> {
    let object = |row| match row {
        Value::Object(fields) => Ok(fields),
        _ => Err(Failure::invalid("a row is no object")),
    };
    rows.into_iter().map(object).collect()
}

/// Of rows with one key the last one counts.
fn last_of_each_key(
    rows: Vec<Map<String, Value>>,
    key: &str,
) -> Result<Vec<Map<String, Value>>, Failure> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(rows.len());
    let mut kept: Vec<Map<String, Value>> = Vec::with_capacity(rows.len());
    for row in rows {
        let value = row.get(key).filter(|value| !value.is_null());
        let value = value.ok_or_else(|| Failure::invalid(format!("a row has no {key}")))?;
        match places.get(&value.to_string()) {
            Some(place) => kept[*place] = row,
            None => {
                places.insert(value.to_string(), kept.len());
                kept.push(row);
            }
        }
    }
    Ok(kept)
}

/// Rows as the columns of an insert.
fn columns(
    entry: &CollectionEntry,
    rows: &[Map<String, Value>],
) -> Result<Vec<FieldData>, Failure> {
    let schema = entry.schema();
    let fields = schema.fields.iter().filter(|field| !field.is_dynamic);
    let fields: Vec<&FieldSchema> = fields.filter(|field| !field.auto_id).collect();
    for name in rows.iter().flat_map(Map::keys) {
        if !fields.iter().any(|field| field.name == *name) {
            let text = format!("field {name} is not in the collection");
            return Err(Failure::invalid(text));
        }
    }
    let column = |field: &&FieldSchema| column(entry, field, rows);
    fields.iter().map(column).collect()
}

fn column(
    entry: &CollectionEntry,
    field: &FieldSchema,
    rows: &[Map<String, Value>],
) -> Result<FieldData, Failure> {
    let kind = FieldType::of(entry, field);
    let given = |row: &Map<String, Value>| match row.get(&field.name) {
        Some(Value::Null) | None => None,
        Some(value) => Some(value.clone()),
    };
    let given: Vec<Option<Value>> = rows.iter().map(given).collect();
    let valid: Vec<bool> = given.iter().map(Option::is_some).collect();
    let complete = valid.iter().all(|valid| *valid);
    if !complete && !field.nullable && field.default_value.is_none() {
        return Err(Failure::invalid(format!("a row has no {}", field.name)));
    }
    let values: Vec<Value> = given.into_iter().flatten().collect();
    let wrong = |value: &Value| {
        let mut text = value.to_string();
        if let Some((cut, _)) = text.char_indices().nth(60) {
            text.truncate(cut);
        }
        let kind = kind.name(field);
        Failure::invalid(format!(
            "value {text} does not fit field {} of type {kind}",
            field.name
        ))
    };
    Ok(FieldData {
        r#type: data_type_to_proto(field.data_type).into(),
        field_name: field.name.clone(),
        field: Some(values_of(kind, field, &values).map_err(wrong)?),
        valid_data: if complete { Vec::new() } else { valid },
        ..FieldData::default()
    })
}

/// The values of a column, or the first one that does not fit.
fn values_of<'a>(
    kind: FieldType,
    field: &FieldSchema,
    values: &'a [Value],
) -> Result<Field, &'a Value> {
    fn all<'a, T>(
        values: &'a [Value],
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, &'a Value> {
        values
            .iter()
            .map(|value| read(value).ok_or(value))
            .collect()
    }
    let is_list_of = |value: &Value, element: fn(&Value) -> bool| {
        value
            .as_array()
            .is_some_and(|list| list.iter().all(element))
    };
    let json = |value: &Value| {
        let fits = match kind {
            FieldType::ListInt64 => is_list_of(value, Value::is_i64),
            FieldType::ListString => is_list_of(value, Value::is_string),
            _ => true,
        };
        fits.then(|| value.to_string().into_bytes().into())
    };
    let data = match field.data_type {
        DataType::Bool => Data::BoolData(BoolArray {
            data: all(values, Value::as_bool)?,
        }),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Data::IntData(IntArray {
            data: all(values, |value| value.as_i64()?.try_into().ok())?,
        }),
        DataType::Int64 => Data::LongData(LongArray {
            data: all(values, Value::as_i64)?,
        }),
        DataType::Float => Data::FloatData(FloatArray {
            data: all(values, |value| value.as_f64().map(|value| value as f32))?,
        }),
        DataType::Double => Data::DoubleData(DoubleArray {
            data: all(values, Value::as_f64)?,
        }),
        DataType::VarChar => Data::StringData(StringArray {
            data: all(values, |value| value.as_str().map(ToOwned::to_owned))?,
        }),
        DataType::Json => Data::JsonData(JsonArray {
            data: all(values, json)?,
        }),
        DataType::FloatVector => {
            let vector = |value: &Value| -> Option<Vec<f32>> {
                let numbers = value.as_array()?.iter();
                let vector: Option<Vec<f32>> = numbers
                    .map(|number| number.as_f64().map(|number| number as f32))
                    .collect();
                vector.filter(|vector| vector.len() == field.dim)
            };
            return Ok(Field::Vectors(VectorField {
                dim: field.dim as i64,
                data: Some(vector_field::Data::FloatVector(FloatArray {
                    data: all(values, vector)?.concat(),
                })),
                ..VectorField::default()
            }));
        }
        DataType::BinaryVector
        | DataType::Float16Vector
        | DataType::BFloat16Vector
        | DataType::SparseFloatVector
        | DataType::Int8Vector => {
            // VikingDB has no such vectors: no value of its own form is one.
            return match values.first() {
                Some(value) => Err(value),
                None => Ok(Field::Vectors(VectorField::default())),
            };
        }
    };
    Ok(Field::Scalars(ScalarField {
        data: Some(data),
        ..ScalarField::default()
    }))
}

/// Refuses collections with vectors of other types: VikingDB has no form for them.
pub(super) fn refuse_vectors(schema: &CollectionSchema, known: &[DataType]) -> Result<(), Failure> {
    let mut vectors = schema.vector_fields();
    match vectors.find(|field| !known.contains(&field.data_type)) {
        None => Ok(()),
        Some(field) => Err(Failure::not_allowed(format!(
            "field {} of type {} has no form in VikingDB",
            field.name, field.data_type
        ))),
    }
}

/// `/api/collection/fetch_data`: rows by their keys, in the order of the keys.
pub(super) async fn fetch(call: Call<'_>) -> Outcome {
    let body = &call.body;
    let name = body.text("collection_name")?;
    call.caller.check("Query", &call.meta.database, name)?;
    let view = call.context.view();
    let entry = lookup::collection(&view, &call.meta.database, name)?;
    let schema = entry.schema();
    refuse_vectors(schema, &[DataType::FloatVector])?;
    let key = &schema.primary_key().name;
    let keys = body.list("primary_keys")?;
    let fields = schema.fields.iter().filter(|field| !field.is_dynamic);
    let message = QueryRequest {
        collection_name: name.to_owned(),
        expr: key_filter(key, &keys)?,
        output_fields: fields.map(|field| field.name.clone()).collect(),
        consistency_level: ConsistencyLevel::Strong.into(),
        ..QueryRequest::default()
    };
    let found = dql::query(call.context, call.meta.clone(), message).await?;
    let mut by_key: HashMap<String, Value> = rows(found.fields_data)
        .into_iter()
        .map(|row| (row[key.as_str()].to_string(), row))
        .collect();
    let mut ordered = Vec::with_capacity(keys.len());
    for wanted in &keys {
        let Some(row) = by_key.remove(&wanted.to_string()) else {
            return Err(Failure::no_data(format!("primary key {wanted}")));
        };
        ordered.push(row);
    }
    Ok(Value::Array(ordered))
}

fn key_filter(key: &str, keys: &[Value]) -> Result<String, Failure> {
    if keys.is_empty() {
        return Err(Failure::invalid("primary_keys is empty"));
    }
    let nodes = keys.iter().map(|value| {
        filter::key(value).ok_or_else(|| Failure::invalid(format!("{value} is no primary key")))
    });
    Ok(filter::key_in(key, nodes.collect::<Result<_, _>>()?))
}

/// The columns of an answer as rows.
fn rows(fields: Vec<FieldData>) -> Vec<Value> {
    let mut rows: Vec<Value> = Vec::new();
    for field in fields {
        for (row, value) in cells(&field).into_iter().enumerate() {
            if rows.len() <= row {
                rows.push(json!({}));
            }
            rows[row][&field.field_name] = value;
        }
    }
    rows
}

/// One value a row, null where there is none.
fn cells(field: &FieldData) -> Vec<Value> {
    fn all<T: Clone + Into<Value>>(values: &[T]) -> Vec<Value> {
        values.iter().cloned().map(Into::into).collect()
    }
    let mut cells = match &field.field {
        Some(Field::Scalars(ScalarField {
            data: Some(data), ..
        })) => match data {
            Data::BoolData(array) => all(&array.data),
            Data::IntData(array) => all(&array.data),
            Data::LongData(array) => all(&array.data),
            Data::FloatData(array) => all(&array.data),
            Data::DoubleData(array) => all(&array.data),
            Data::StringData(array) => all(&array.data),
            Data::JsonData(array) => {
                let parse =
                    |text: &bytes::Bytes| serde_json::from_slice(text).unwrap_or(Value::Null);
                array.data.iter().map(parse).collect()
            }
            _ => Vec::new(),
        },
        Some(Field::Vectors(vectors)) => match &vectors.data {
            Some(vector_field::Data::FloatVector(array)) => {
                let dim = usize::try_from(vectors.dim).unwrap_or(1).max(1);
                array
                    .data
                    .chunks(dim)
                    .map(|vector| Value::Array(all(vector)))
                    .collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let valid = &field.valid_data;
    if valid.is_empty() {
        return cells;
    }
    if cells.len() == valid.len() {
        for (cell, valid) in cells.iter_mut().zip(valid) {
            if !valid {
                *cell = Value::Null;
            }
        }
        return cells;
    }
    // Only the values that there are.
    let mut present = cells.into_iter();
    let spread = valid.iter().map(|valid| match valid {
        true => present.next().unwrap_or(Value::Null),
        false => Value::Null,
    });
    spread.collect()
}

/// `/api/collection/del_data`.
pub(super) async fn delete(call: Call<'_>) -> Outcome {
    let body = &call.body;
    let name = body.text("collection_name")?;
    call.caller.check("Delete", &call.meta.database, name)?;
    body.only(&["collection_name", "primary_keys", "del_all"])?;
    if body.flag("del_all")? {
        return Err(Failure::not_allowed(
            "del_all is not served: drop the collection",
        ));
    }
    let view = call.context.view();
    let entry = lookup::collection(&view, &call.meta.database, name)?;
    let key = &entry.schema().primary_key().name;
    let message = DeleteRequest {
        collection_name: name.to_owned(),
        expr: key_filter(key, &body.list("primary_keys")?)?,
        ..DeleteRequest::default()
    };
    dml::delete(call.context, call.meta.clone(), message).await?;
    Ok(Value::Null)
}
