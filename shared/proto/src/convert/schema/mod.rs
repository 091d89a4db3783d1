//! `schema.CollectionSchema` and its parts.
//!
//! Converting checks only that the message can be held by our types; the rules of a new schema are
//! [`redkite_types::CollectionSchema::prepare`]'s.

use bytes::Bytes;
use prost::Message as _;
use redkite_types::{
    CollectionSchema, ConsistencyLevel, DataType, Error, FieldId, FieldSchema, Result, Value,
    limits,
};

use super::kv;
use crate::milvus::{
    common::{self, KeyValuePair},
    schema::{self as proto, value_field::Data},
};

/// Type parameter of a vector: its dimensions.
pub const DIM: &str = "dim";
/// Type parameter of a VarChar: its bytes at most.
pub const MAX_LENGTH: &str = "max_length";

/// What a client asks for in `CreateCollectionRequest.schema`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSchema {
    /// The name inside the schema; the request carries one of its own.
    pub name: String,
    /// The schema, not prepared yet.
    pub schema: CollectionSchema,
    /// Properties inside the schema; the request carries its own as well.
    pub properties: Vec<(String, String)>,
}

/// Reads the encoded schema of a client's `CreateCollection`.
///
/// # Errors
/// Code 1100 when the bytes are no schema or ask for what is not supported; never worth a retry.
pub fn decode_client(bytes: Bytes) -> Result<ClientSchema> {
    let mut message = proto::CollectionSchema::decode(bytes)
        .map_err(|why| Error::invalid_parameter(format!("failed to read the schema: {why}")))?;
    if let Some(field) = message.fields.iter().find(|field| field.is_dynamic) {
        return Err(Error::invalid_parameter(format!(
            "cannot explicitly set a field as a dynamic field, field name = {}",
            field.name
        )));
    }
    let name = std::mem::take(&mut message.name);
    let properties = std::mem::take(&mut message.properties);
    let mut schema = from_proto(message)?;
    schema.version = 0;
    let properties = properties
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect();
    Ok(ClientSchema {
        name,
        schema,
        properties,
    })
}

/// Reads the encoded field of a client's `AddCollectionField`.
///
/// # Errors
/// Code 1100 when the bytes are no field or ask for what is not supported; never worth a retry.
pub fn decode_client_field(bytes: Bytes) -> Result<FieldSchema> {
    let field = proto::FieldSchema::decode(bytes)
        .map_err(|why| Error::invalid_parameter(format!("failed to read the field: {why}")))?;
    field_from_proto(field)
}

/// Takes a schema out of a message, hidden fields included.
///
/// # Errors
/// Code 1100 naming the first part that is not supported; never worth a retry.
pub fn from_proto(message: proto::CollectionSchema) -> Result<CollectionSchema> {
    if let Some(function) = message.functions.first() {
        return Err(unsupported(format!(
            "function {}: functions are",
            function.name
        )));
    }
    if let Some(field) = message.struct_array_fields.first() {
        return Err(unsupported_type(
            &field.name,
            proto::DataType::ArrayOfStruct as i32,
        ));
    }
    if !message.external_source.is_empty() {
        return Err(unsupported("external collections are"));
    }
    if message.enable_namespace {
        return Err(unsupported("namespaces are"));
    }
    Ok(CollectionSchema {
        description: message.description,
        fields: message
            .fields
            .into_iter()
            .map(field_from_proto)
            .collect::<Result<_>>()?,
        enable_dynamic_field: message.enable_dynamic_field,
        version: message.version,
    })
}

/// Puts a schema into a message, hidden fields included.
pub fn to_proto(name: &str, schema: &CollectionSchema) -> proto::CollectionSchema {
    proto::CollectionSchema {
        name: name.to_owned(),
        description: schema.description.clone(),
        fields: schema.fields.iter().map(field_to_proto).collect(),
        enable_dynamic_field: schema.enable_dynamic_field,
        version: schema.version,
        ..proto::CollectionSchema::default()
    }
}

/// Puts a schema into a reply to a user, who must not see the hidden `$meta`.
pub fn to_client(name: &str, schema: &CollectionSchema) -> proto::CollectionSchema {
    let mut message = to_proto(name, schema);
    message.fields.retain(|field| !field.is_dynamic);
    message
}

/// Takes a field out of a message.
///
/// # Errors
/// Code 1100 naming the field for a type, parameter or default value that our types cannot hold;
/// never worth a retry.
pub fn field_from_proto(message: proto::FieldSchema) -> Result<FieldSchema> {
    let data_type = data_type_from_proto(message.data_type, &message.name)?;
    let mut field = FieldSchema {
        id: FieldId(message.field_id),
        description: message.description,
        is_primary_key: message.is_primary_key,
        auto_id: message.auto_id,
        is_partition_key: message.is_partition_key,
        is_clustering_key: message.is_clustering_key,
        is_dynamic: message.is_dynamic,
        nullable: message.nullable,
        ..FieldSchema::new(message.name, data_type)
    };
    field.default_value = match message.default_value.and_then(|value| value.data) {
        Some(data) => Some(default_from_proto(&field, data)?),
        None => None,
    };
    read_type_params(&mut field, message.type_params)?;
    Ok(field)
}

/// Puts a field into a message.
pub fn field_to_proto(field: &FieldSchema) -> proto::FieldSchema {
    let mut type_params = Vec::with_capacity(field.type_params.len() + 1);
    if field.data_type.is_fixed_vector() {
        type_params.push(kv::pair(DIM, field.dim));
    }
    if field.data_type == DataType::VarChar {
        type_params.push(kv::pair(MAX_LENGTH, field.max_length));
    }
    type_params.extend(
        field
            .type_params
            .iter()
            .map(|(key, value)| kv::pair(key, value)),
    );
    proto::FieldSchema {
        field_id: field.id.0,
        name: field.name.clone(),
        is_primary_key: field.is_primary_key,
        description: field.description.clone(),
        data_type: data_type_to_proto(field.data_type) as i32,
        type_params,
        auto_id: field.auto_id,
        default_value: field.default_value.as_ref().map(|value| proto::ValueField {
            data: default_to_proto(field.data_type, value),
        }),
        is_dynamic: field.is_dynamic,
        is_partition_key: field.is_partition_key,
        is_clustering_key: field.is_clustering_key,
        nullable: field.nullable,
        ..proto::FieldSchema::default()
    }
}

/// Our data type for the number on the wire; `field` is for the error's text.
///
/// # Errors
/// Code 1100 naming field and type when it is not supported; never worth a retry.
pub fn data_type_from_proto(number: i32, field: &str) -> Result<DataType> {
    use proto::DataType as Wire;
    match Wire::try_from(number) {
        Ok(Wire::Bool) => Ok(DataType::Bool),
        Ok(Wire::Int8) => Ok(DataType::Int8),
        Ok(Wire::Int16) => Ok(DataType::Int16),
        Ok(Wire::Int32) => Ok(DataType::Int32),
        Ok(Wire::Int64) => Ok(DataType::Int64),
        Ok(Wire::Float) => Ok(DataType::Float),
        Ok(Wire::Double) => Ok(DataType::Double),
        Ok(Wire::VarChar) => Ok(DataType::VarChar),
        Ok(Wire::Json) => Ok(DataType::Json),
        Ok(Wire::FloatVector) => Ok(DataType::FloatVector),
        Ok(Wire::BinaryVector) => Ok(DataType::BinaryVector),
        Ok(Wire::Float16Vector) => Ok(DataType::Float16Vector),
        Ok(Wire::BFloat16Vector) => Ok(DataType::BFloat16Vector),
        Ok(Wire::SparseFloatVector) => Ok(DataType::SparseFloatVector),
        Ok(Wire::Int8Vector) => Ok(DataType::Int8Vector),
        Ok(_) | Err(_) => Err(unsupported_type(field, number)),
    }
}

/// The wire's data type for ours.
pub const fn data_type_to_proto(data_type: DataType) -> proto::DataType {
    match data_type {
        DataType::Bool => proto::DataType::Bool,
        DataType::Int8 => proto::DataType::Int8,
        DataType::Int16 => proto::DataType::Int16,
        DataType::Int32 => proto::DataType::Int32,
        DataType::Int64 => proto::DataType::Int64,
        DataType::Float => proto::DataType::Float,
        DataType::Double => proto::DataType::Double,
        DataType::VarChar => proto::DataType::VarChar,
        DataType::Json => proto::DataType::Json,
        DataType::FloatVector => proto::DataType::FloatVector,
        DataType::BinaryVector => proto::DataType::BinaryVector,
        DataType::Float16Vector => proto::DataType::Float16Vector,
        DataType::BFloat16Vector => proto::DataType::BFloat16Vector,
        DataType::SparseFloatVector => proto::DataType::SparseFloatVector,
        DataType::Int8Vector => proto::DataType::Int8Vector,
    }
}

/// Milvus's name for a type's number, also for types that we do not support.
pub fn data_type_name(number: i32) -> String {
    proto::DataType::try_from(number).map_or_else(
        |_| format!("Unknown({number})"),
        |kind| kind.as_str_name().to_owned(),
    )
}

/// Our consistency level for the number on the wire.
///
/// # Errors
/// Code 1100 for an unknown number; never worth a retry.
pub fn consistency_from_proto(number: i32) -> Result<ConsistencyLevel> {
    use common::ConsistencyLevel as Wire;
    match Wire::try_from(number) {
        Ok(Wire::Strong) => Ok(ConsistencyLevel::Strong),
        Ok(Wire::Session) => Ok(ConsistencyLevel::Session),
        Ok(Wire::Bounded) => Ok(ConsistencyLevel::Bounded),
        Ok(Wire::Eventually) => Ok(ConsistencyLevel::Eventually),
        Ok(Wire::Customized) => Ok(ConsistencyLevel::Customized),
        Err(_) => Err(Error::invalid_parameter(format!(
            "invalid consistency level {number}"
        ))),
    }
}

/// The wire's consistency level for ours.
pub const fn consistency_to_proto(level: ConsistencyLevel) -> common::ConsistencyLevel {
    match level {
        ConsistencyLevel::Strong => common::ConsistencyLevel::Strong,
        ConsistencyLevel::Session => common::ConsistencyLevel::Session,
        ConsistencyLevel::Bounded => common::ConsistencyLevel::Bounded,
        ConsistencyLevel::Eventually => common::ConsistencyLevel::Eventually,
        ConsistencyLevel::Customized => common::ConsistencyLevel::Customized,
    }
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::invalid_parameter(format!("{what} not supported"))
}

fn unsupported_type(field: &str, number: i32) -> Error {
    unsupported(format!(
        "field {field}: data type {} is",
        data_type_name(number)
    ))
}

/// Moves `dim` and `max_length` into their members and keeps every other parameter as it is.
fn read_type_params(field: &mut FieldSchema, params: Vec<KeyValuePair>) -> Result<()> {
    let mut has_dim = false;
    for KeyValuePair { key, value } in params {
        match key.as_str() {
            DIM if field.data_type == DataType::SparseFloatVector => {
                return Err(Error::invalid_parameter(format!(
                    "dim should not be specified for sparse vector field {}({})",
                    field.name, field.id
                )));
            }
            DIM if field.data_type.is_vector() => {
                field.dim = value.trim().parse().map_err(|_| {
                    Error::invalid_parameter(format!(
                        "invalid dimension: {value} of field {}. float vector dimension should be \
                         in range {} ~ {}",
                        field.name,
                        limits::DIM_RANGE.start(),
                        limits::DIM_RANGE.end()
                    ))
                })?;
                has_dim = true;
            }
            MAX_LENGTH if field.data_type == DataType::VarChar => {
                // Zero means "not given" in our schema, and is out of range on the wire.
                field.max_length = value
                    .trim()
                    .parse()
                    .ok()
                    .filter(|length| *length > 0)
                    .ok_or_else(|| {
                        Error::invalid_parameter(format!(
                            "the maximum length specified for the field({}) should be in (0, {}], \
                             but got {value} instead",
                            field.name,
                            limits::VARCHAR_MAX_LENGTH
                        ))
                    })?;
            }
            _ => field.type_params.push((key, value)),
        }
    }
    if field.data_type.is_fixed_vector() && !has_dim {
        return Err(Error::invalid_parameter(format!(
            "dimension is not defined in field type params of field {}, check type param `dim` \
             for vector field",
            field.name
        )));
    }
    Ok(())
}

// Whether the value fits the field is checked when the schema is prepared.
fn default_from_proto(field: &FieldSchema, data: Data) -> Result<Value> {
    let wrong = |kind: &str| {
        Err(Error::invalid_parameter(format!(
            "type ({}) of field ({}) is not equal to the type({kind}) of default_value",
            field.data_type, field.name
        )))
    };
    match data {
        Data::BoolData(value) => Ok(Value::Bool(value)),
        Data::IntData(value) => Ok(Value::Int(value.into())),
        Data::LongData(value) => Ok(Value::Int(value)),
        Data::FloatData(value) => Ok(Value::Double(value.into())),
        Data::DoubleData(value) => Ok(Value::Double(value)),
        Data::StringData(value) => Ok(Value::Str(value)),
        Data::BytesData(_) => wrong("JSON"),
        Data::TimestamptzData(_) => wrong("Timestamptz"),
        Data::DateData(_) => wrong("Date"),
        Data::TimeData(_) => wrong("Time"),
    }
}

/// `None` for a value that no default can be; a prepared schema holds none.
fn default_to_proto(data_type: DataType, value: &Value) -> Option<Data> {
    match value {
        Value::Bool(value) => Some(Data::BoolData(*value)),
        Value::Int(value) => match (data_type, i32::try_from(*value)) {
            (DataType::Int8 | DataType::Int16 | DataType::Int32, Ok(value)) => {
                Some(Data::IntData(value))
            }
            _ => Some(Data::LongData(*value)),
        },
        Value::Double(value) if data_type == DataType::Float => {
            Some(Data::FloatData(*value as f32))
        }
        Value::Double(value) => Some(Data::DoubleData(*value)),
        Value::Str(value) => Some(Data::StringData(value.clone())),
        Value::Null | Value::List(_) => None,
    }
}

#[cfg(test)]
mod tests;
