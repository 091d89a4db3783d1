//! What exists.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use redkite_catalog::{CollectionEntry, VIKINGDB_TYPE};
use redkite_proto::milvus::{
    common::{ConsistencyLevel, KeyValuePair},
    milvus::{
        CreateCollectionRequest, CreateIndexRequest, DropCollectionRequest, LoadCollectionRequest,
    },
    schema::{self, CollectionSchema, ValueField, value_field},
};
use redkite_types::{DataType, FieldSchema, Timestamp, Value as FieldValue, limits};
use serde_json::{Value, json};

use super::{
    Call,
    answer::{Failure, Outcome},
    body::Body,
    types::{AUTO_ID, FieldType, STRING_BYTES, TEXT_BYTES},
};
use crate::{grpc::ddl, lookup};

/// Index of a new collection's vectors, so that it can be loaded at once.
const INDEX: [(&str, &str); 2] = [("index_type", "AUTOINDEX"), ("metric_type", "IP")];

/// `/api/collection/create`: the collection, an index on its vectors, and loading it. All or
/// nothing, unless the process dies in between.
pub(super) async fn create(call: Call<'_>) -> Outcome {
    call.caller
        .check("CreateCollection", limits::DEFAULT_DATABASE, "*")?;
    let body = &call.body;
    if body.get("vectorize").is_some() {
        return Err(Failure::invalid("vectorize is not served"));
    }
    body.only(&[
        "collection_name",
        "description",
        "project",
        "primary_key",
        "fields",
    ])?;
    let name = body.text("collection_name")?;
    let (schema, properties) = read_schema(body, name)?;
    let view = call.context.view();
    if lookup::collection(&view, &call.meta.database, name).is_ok() {
        return Err(Failure::collection_exists(""));
    }
    let vectors: Vec<String> = schema
        .fields
        .iter()
        .filter(|field| field.data_type() == schema::DataType::FloatVector)
        .map(|field| field.name.clone())
        .collect();
    let message = CreateCollectionRequest {
        collection_name: name.to_owned(),
        schema: schema.encode_to_vec().into(),
        consistency_level: ConsistencyLevel::Strong.into(),
        properties,
        ..CreateCollectionRequest::default()
    };
    ddl::create_collection(call.context, call.meta.clone(), message).await?;
    if let Err(error) = make_ready(&call, name, vectors).await {
        let _ = drop_named(&call, name).await;
        return Err(error);
    }
    Ok(Value::Null)
}

async fn make_ready(call: &Call<'_>, name: &str, vectors: Vec<String>) -> Result<(), Failure> {
    for field_name in vectors {
        let message = CreateIndexRequest {
            collection_name: name.to_owned(),
            field_name,
            extra_params: INDEX.iter().map(|(key, value)| pair(key, value)).collect(),
            ..CreateIndexRequest::default()
        };
        ddl::create_index(call.context, call.meta.clone(), message).await?;
    }
    let message = LoadCollectionRequest {
        collection_name: name.to_owned(),
        replica_number: 1,
        ..LoadCollectionRequest::default()
    };
    ddl::load_collection(call.context, call.meta.clone(), message).await?;
    Ok(())
}

fn pair(key: &str, value: &str) -> KeyValuePair {
    KeyValuePair {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// The schema, and the properties that say what it does not.
fn read_schema(body: &Body, name: &str) -> Result<(CollectionSchema, Vec<KeyValuePair>), Failure> {
    let key = body.text_or("primary_key", AUTO_ID)?;
    let mut fields = Vec::new();
    let mut properties = Vec::new();
    if key == AUTO_ID || key.is_empty() {
        fields.push(schema::FieldSchema {
            name: AUTO_ID.to_owned(),
            data_type: schema::DataType::Int64.into(),
            is_primary_key: true,
            auto_id: true,
            ..schema::FieldSchema::default()
        });
    }
    for field in body.list("fields")? {
        let Value::Object(field) = field else {
            return Err(Failure::invalid("a field is no object"));
        };
        let field = Body::read(Value::Object(field).to_string().as_bytes(), "")?;
        let (field, kind) = read_field(&field, key)?;
        if kind.needs_property() {
            let kind = body_type(kind);
            properties.push(pair(&format!("{VIKINGDB_TYPE}{}", field.name), kind));
        }
        fields.push(field);
    }
    if !fields.iter().any(|field| field.is_primary_key) {
        return Err(Failure::invalid(format!("primary_key {key} is no field")));
    }
    let schema = CollectionSchema {
        name: name.to_owned(),
        description: body.text_or("description", "")?.to_owned(),
        fields,
        ..CollectionSchema::default()
    };
    Ok((schema, properties))
}

const fn body_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::ListInt64 => "list<int64>",
        FieldType::ListString => "list<string>",
        _ => "text",
    }
}

fn read_field(field: &Body, key: &str) -> Result<(schema::FieldSchema, FieldType), Failure> {
    let name = field.text("field_name")?;
    let kind_name = field.text("field_type")?;
    let Some(kind) = FieldType::parse(kind_name) else {
        let text = format!("field {name} has the type {kind_name}, which is not served");
        return Err(Failure::invalid(text));
    };
    field.only(&[
        "field_name",
        "field_type",
        "dim",
        "default_val",
        "is_primary_key",
    ])?;
    let is_key = name == key;
    let is_vector = kind == FieldType::Vector;
    let type_params = match kind {
        FieldType::String => vec![pair("max_length", &STRING_BYTES.to_string())],
        FieldType::Text => vec![pair("max_length", &TEXT_BYTES.to_string())],
        FieldType::Vector => {
            let dim = field.get("dim").and_then(Value::as_u64);
            let dim = dim.ok_or_else(|| Failure::invalid(format!("field {name} has no dim")))?;
            vec![pair("dim", &dim.to_string())]
        }
        _ => Vec::new(),
    };
    let default_value = match field.get("default_val") {
        None => None,
        Some(value) => Some(default_value(kind, name, value)?),
    };
    let made = schema::FieldSchema {
        name: name.to_owned(),
        data_type: proto_type(kind).into(),
        is_primary_key: is_key,
        type_params,
        // A row may leave out what is no key.
        nullable: !is_key && !is_vector,
        default_value,
        ..schema::FieldSchema::default()
    };
    Ok((made, kind))
}

const fn proto_type(kind: FieldType) -> schema::DataType {
    match kind {
        FieldType::Int64 => schema::DataType::Int64,
        FieldType::String | FieldType::Text => schema::DataType::VarChar,
        FieldType::Bool => schema::DataType::Bool,
        FieldType::Float32 => schema::DataType::Float,
        FieldType::ListInt64 | FieldType::ListString | FieldType::Other => schema::DataType::Json,
        FieldType::Vector => schema::DataType::FloatVector,
    }
}

fn default_value(kind: FieldType, name: &str, value: &Value) -> Result<ValueField, Failure> {
    use value_field::Data;
    let data = match kind {
        FieldType::Int64 => value.as_i64().map(Data::LongData),
        FieldType::String => value.as_str().map(|text| Data::StringData(text.to_owned())),
        FieldType::Bool => value.as_bool().map(Data::BoolData),
        FieldType::Float32 => value.as_f64().map(|value| Data::FloatData(value as f32)),
        _ => None,
    };
    let data = data.ok_or_else(|| {
        Failure::invalid(format!("default_val {value} of field {name} is not served"))
    })?;
    Ok(ValueField { data: Some(data) })
}

/// `/api/collection/info`.
pub(super) fn info(call: &Call<'_>) -> Outcome {
    let name = call.body.text("collection_name")?;
    let view = call.context.view();
    call.caller
        .check("DescribeCollection", &call.meta.database, name)?;
    let entry = lookup::collection(&view, &call.meta.database, name)?;
    if !call.caller.sees(&call.meta.database, &entry) {
        let reason = format!("user {} was granted nothing on {name}", call.caller.user);
        return Err(Failure::no_permission(reason));
    }
    Ok(describe(&entry))
}

/// `/api/collection/list`.
pub(super) fn list(call: &Call<'_>) -> Outcome {
    call.caller
        .check("ShowCollections", &call.meta.database, "*")?;
    let view = call.context.view();
    let database = lookup::database(&view, &call.meta.database)?;
    let database = redkite_types::DatabaseId(database.id);
    let all = view.collections(database).map(|entry| describe(entry));
    Ok(Value::Array(all.collect()))
}

fn describe(entry: &CollectionEntry) -> Value {
    let schema = entry.schema();
    let fields = schema.fields.iter().filter(|field| !field.is_dynamic);
    let fields: Vec<Value> = fields
        .filter(|field| field.name != AUTO_ID)
        .map(|field| describe_field(entry, field))
        .collect();
    let info = entry.info();
    let time = |ts: u64| rfc3339(Timestamp(ts));
    let rows: i64 = entry
        .segments
        .values()
        .filter_map(|segment| segment.info.as_ref())
        .map(|segment| segment.rows)
        .sum();
    json!({
        "collection_name": entry.name(),
        "description": info.map_or("", |info| info.description.as_str()),
        "primary_key": schema.primary_key().name,
        "fields": fields,
        "indexes": [],
        // Rows in files: a multiple of what counts until deletes are compacted.
        "stat": { "flushed_data_num": rows },
        "create_time": info.map(|info| time(info.created_ts)),
        "update_time": info.map(|info| time(info.updated_ts.max(info.created_ts))),
        "update_person": "",
    })
}

fn describe_field(entry: &CollectionEntry, field: &FieldSchema) -> Value {
    let mut described = json!({
        "field_name": field.name,
        "field_type": FieldType::of(entry, field).name(field),
    });
    if field.data_type == DataType::FloatVector {
        described["dim"] = json!(field.dim);
    }
    if let Some(value) = &field.default_value {
        described["default_val"] = match value {
            FieldValue::Bool(value) => json!(value),
            FieldValue::Int(value) => json!(value),
            FieldValue::Double(value) => json!(value),
            FieldValue::Str(text) => json!(text),
            // No field has such a default.
            FieldValue::Null | FieldValue::List(_) => Value::Null,
        };
    }
    described
}

/// A timestamp's wall clock.
pub(super) fn rfc3339(ts: Timestamp) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ts.physical_ms());
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `/api/collection/drop`.
pub(super) async fn drop(call: Call<'_>) -> Outcome {
    let name = call.body.text("collection_name")?;
    call.caller
        .check("DropCollection", &call.meta.database, name)?;
    let view = call.context.view();
    lookup::collection(&view, &call.meta.database, name)?;
    drop_named(&call, name).await?;
    Ok(Value::Null)
}

async fn drop_named(call: &Call<'_>, name: &str) -> Result<(), Failure> {
    let message = DropCollectionRequest {
        collection_name: name.to_owned(),
        ..DropCollectionRequest::default()
    };
    ddl::drop_collection(call.context, call.meta.clone(), message).await?;
    Ok(())
}
