//! Schemas of collections and fields, and the rules that a new one must meet.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorCode, Result},
    ids::FieldId,
    limits, name,
    value::Value,
};

/// The type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataType {
    /// True or false.
    Bool,
    /// 8-bit signed integer.
    Int8,
    /// 16-bit signed integer.
    Int16,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// UTF-8 text of limited length.
    VarChar,
    /// A JSON document.
    Json,
    /// A dense vector of 32-bit floats.
    FloatVector,
    /// A vector of bits, eight to a byte.
    BinaryVector,
    /// A dense vector of IEEE 754 16-bit floats.
    Float16Vector,
    /// A dense vector of 16-bit floats with the exponent of 32-bit ones.
    BFloat16Vector,
    /// A vector of which most values are zero.
    SparseFloatVector,
    /// A dense vector of 8-bit signed integers.
    Int8Vector,
}

impl DataType {
    /// Milvus's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "Bool",
            Self::Int8 => "Int8",
            Self::Int16 => "Int16",
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::Float => "Float",
            Self::Double => "Double",
            Self::VarChar => "VarChar",
            Self::Json => "JSON",
            Self::FloatVector => "FloatVector",
            Self::BinaryVector => "BinaryVector",
            Self::Float16Vector => "Float16Vector",
            Self::BFloat16Vector => "BFloat16Vector",
            Self::SparseFloatVector => "SparseFloatVector",
            Self::Int8Vector => "Int8Vector",
        }
    }

    /// Whether it holds vectors.
    pub const fn is_vector(self) -> bool {
        self.is_fixed_vector() || matches!(self, Self::SparseFloatVector)
    }

    /// Whether it holds vectors that all take the same number of bytes: all but sparse ones.
    pub const fn is_fixed_vector(self) -> bool {
        matches!(self, Self::FloatVector) || self.is_packed_vector()
    }

    /// Whether it holds vectors of fixed length that are no f32; their columns are
    /// [`crate::ColumnData::PackedVector`].
    pub const fn is_packed_vector(self) -> bool {
        matches!(
            self,
            Self::BinaryVector | Self::Float16Vector | Self::BFloat16Vector | Self::Int8Vector
        )
    }

    /// Bytes of a vector of so many dimensions; zero for sparse vectors and scalars.
    pub const fn vector_bytes(self, dim: usize) -> usize {
        match self {
            Self::FloatVector => dim * 4,
            Self::Float16Vector | Self::BFloat16Vector => dim * 2,
            Self::Int8Vector => dim,
            Self::BinaryVector => dim / 8,
            Self::SparseFloatVector
            | Self::Bool
            | Self::Int8
            | Self::Int16
            | Self::Int32
            | Self::Int64
            | Self::Float
            | Self::Double
            | Self::VarChar
            | Self::Json => 0,
        }
    }

    /// Whether it holds integers.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// Whether it holds floating-point numbers.
    pub const fn is_floating(self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }

    /// The values that fit, for an integer type.
    pub const fn integer_range(self) -> Option<(i64, i64)> {
        match self {
            Self::Int8 => Some((i8::MIN as i64, i8::MAX as i64)),
            Self::Int16 => Some((i16::MIN as i64, i16::MAX as i64)),
            Self::Int32 => Some((i32::MIN as i64, i32::MAX as i64)),
            Self::Int64 => Some((i64::MIN, i64::MAX)),
            Self::Bool
            | Self::Float
            | Self::Double
            | Self::VarChar
            | Self::Json
            | Self::FloatVector
            | Self::BinaryVector
            | Self::Float16Vector
            | Self::BFloat16Vector
            | Self::SparseFloatVector
            | Self::Int8Vector => None,
        }
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How fresh a read must be, unless the request says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConsistencyLevel {
    /// Sees every write acknowledged before the read was sent.
    Strong,
    /// Sees at least the writes of the same client.
    Session,
    /// May lag by a bounded time.
    #[default]
    Bounded,
    /// Sees whatever is there.
    Eventually,
    /// Sees at least a timestamp that the request names.
    Customized,
}

/// One field of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldSchema {
    /// Given by rootcoord; zero until then.
    pub id: FieldId,
    /// Unique in the collection.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The type of its values.
    pub data_type: DataType,
    /// Whether it is the collection's primary key.
    pub is_primary_key: bool,
    /// Whether the server makes its values; only for primary keys.
    pub auto_id: bool,
    /// Whether its hash chooses a row's partition.
    pub is_partition_key: bool,
    /// Whether rows are clustered by it; kept and reported.
    pub is_clustering_key: bool,
    /// Whether it is the hidden field of dynamic keys.
    pub is_dynamic: bool,
    /// Whether a row may have no value.
    pub nullable: bool,
    /// The value of a row that gives none.
    pub default_value: Option<Value>,
    /// Dimensions, for a vector; zero otherwise.
    pub dim: usize,
    /// Bytes at most, for VarChar; zero otherwise.
    pub max_length: usize,
    /// All other type parameters, as the client gave them.
    pub type_params: Vec<(String, String)>,
}

impl FieldSchema {
    /// A plain field without any option.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Self {
            id: FieldId(0),
            name: name.into(),
            description: String::new(),
            data_type,
            is_primary_key: false,
            auto_id: false,
            is_partition_key: false,
            is_clustering_key: false,
            is_dynamic: false,
            nullable: false,
            default_value: None,
            dim: 0,
            max_length: 0,
            type_params: Vec::new(),
        }
    }

    /// The hidden field that holds dynamic keys.
    pub fn dynamic() -> Self {
        let mut field = Self::new(limits::DYNAMIC_FIELD, DataType::Json);
        field.is_dynamic = true;
        field.description = "dynamic schema".to_owned();
        field
    }

    pub(crate) fn validate(&self) -> Result<()> {
        name::check_field(&self.name)?;
        match self.data_type {
            DataType::FloatVector
            | DataType::BinaryVector
            | DataType::Float16Vector
            | DataType::BFloat16Vector
            | DataType::SparseFloatVector
            | DataType::Int8Vector => self.validate_vector()?,
            DataType::VarChar => self.validate_varchar()?,
            DataType::Bool
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float
            | DataType::Double
            | DataType::Json => {}
        }
        if self.is_primary_key {
            self.validate_primary_key()?;
        } else if self.auto_id {
            return Err(Error::invalid_parameter(format!(
                "only primary field can speficy AutoID with true, field name = {}",
                self.name
            )));
        }
        if self.is_partition_key {
            self.validate_partition_key()?;
        }
        self.validate_default()
    }

    fn validate_vector(&self) -> Result<()> {
        self.validate_dim()?;
        if self.nullable {
            return Err(Error::invalid_parameter(format!(
                "vector type not support null, field {}",
                self.name
            )));
        }
        Ok(())
    }

    fn validate_dim(&self) -> Result<()> {
        let (kind, range) = match self.data_type {
            DataType::SparseFloatVector => return Ok(()),
            DataType::BinaryVector => ("binary", limits::BINARY_DIM_RANGE),
            _ => ("float", limits::DIM_RANGE),
        };
        if !range.contains(&(self.dim as i64)) {
            return Err(Error::invalid_parameter(format!(
                "invalid dimension: {} of field {}. {kind} vector dimension should be in range {} ~ {}",
                self.dim,
                self.name,
                range.start(),
                range.end()
            )));
        }
        if self.data_type == DataType::BinaryVector && !self.dim.is_multiple_of(8) {
            return Err(Error::invalid_parameter(format!(
                "invalid dimension: {} of field {}. binary vector dimension should be multiple of 8. ",
                self.dim, self.name
            )));
        }
        Ok(())
    }

    fn validate_varchar(&self) -> Result<()> {
        if self.max_length == 0 {
            return Err(Error::invalid_parameter(format!(
                "type param(max_length) should be specified for the field({}) of varChar type",
                self.name
            )));
        }
        if self.max_length as i64 > limits::VARCHAR_MAX_LENGTH {
            return Err(Error::invalid_parameter(format!(
                "the maximum length specified for the field({}) should be in (0, {}], but got {} instead",
                self.name,
                limits::VARCHAR_MAX_LENGTH,
                self.max_length
            )));
        }
        Ok(())
    }

    fn validate_primary_key(&self) -> Result<()> {
        if !matches!(self.data_type, DataType::Int64 | DataType::VarChar) {
            return Err(Error::invalid_parameter(
                "the data type of primary key should be Int64 or VarChar",
            ));
        }
        if self.nullable {
            return Err(Error::invalid_parameter("primary field not support null"));
        }
        if self.default_value.is_some() {
            return Err(Error::invalid_parameter(
                "primary field not support default_value",
            ));
        }
        if self.is_partition_key {
            return Err(Error::invalid_parameter(
                "the partition key field must not be primary field",
            ));
        }
        Ok(())
    }

    fn validate_partition_key(&self) -> Result<()> {
        if !matches!(self.data_type, DataType::Int64 | DataType::VarChar) {
            return Err(Error::invalid_parameter(
                "the data type of partition key should be Int64 or VarChar",
            ));
        }
        if self.nullable {
            return Err(Error::invalid_parameter(
                "partition key field not support nullable",
            ));
        }
        Ok(())
    }

    fn validate_default(&self) -> Result<()> {
        let Some(value) = &self.default_value else {
            return Ok(());
        };
        if self.data_type.is_vector() || self.data_type == DataType::Json {
            return Err(Error::invalid_parameter(format!(
                "type not support default_value, type:{}, name:{}",
                self.data_type, self.name
            )));
        }
        let fits = match (self.data_type, value) {
            (DataType::Bool, Value::Bool(_)) => true,
            (DataType::Float | DataType::Double, Value::Double(number)) => number.is_finite(),
            (DataType::VarChar, Value::Str(text)) => {
                if text.len() > self.max_length {
                    return Err(Error::invalid_parameter(format!(
                        "the length ({}) of string exceeds max length ({}): default_value of field {}",
                        text.len(),
                        self.max_length,
                        self.name
                    )));
                }
                true
            }
            (kind, Value::Int(number)) => match kind.integer_range() {
                Some((low, high)) if !(low..=high).contains(number) => {
                    return Err(Error::invalid_parameter(format!(
                        "[{low}, {high}] is the range of {kind}, default_value {number} of field {} is out of range",
                        self.name
                    )));
                }
                found => found.is_some(),
            },
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::invalid_parameter(format!(
            "type ({}) of field ({}) is not equal to the type({}) of default_value",
            self.data_type,
            self.name,
            match value {
                Value::Null => "None",
                Value::Bool(_) => "Bool",
                Value::Int(_) => "Int64",
                Value::Double(_) => "Double",
                Value::Str(_) => "VarChar",
                Value::List(_) => "Array",
            }
        )))
    }
}

/// The fields of a collection, the hidden `$meta` included where dynamic fields are enabled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectionSchema {
    /// Free text.
    pub description: String,
    /// In the order that the user gave, `$meta` last.
    pub fields: Vec<FieldSchema>,
    /// Whether rows may carry keys that are no fields.
    pub enable_dynamic_field: bool,
    /// Grows with every change of the schema.
    pub version: i32,
}

impl CollectionSchema {
    /// Checks a schema that a client asks for, appends `$meta` where dynamic fields are enabled and
    /// gives each field its id, from 100 in order.
    ///
    /// # Errors
    /// Milvus's code and text for the first rule that is broken; never worth a retry.
    pub fn prepare(mut self) -> Result<Self> {
        self.validate()?;
        if self.enable_dynamic_field {
            self.fields.push(FieldSchema::dynamic());
        }
        for (offset, field) in (0i64..).zip(&mut self.fields) {
            field.id = FieldId(FieldId::FIRST_USER.0 + offset);
        }
        Ok(self)
    }

    fn validate(&self) -> Result<()> {
        if self.description.len() > limits::MAX_DESCRIPTION_LENGTH {
            return Err(Error::invalid_parameter(format!(
                "the length of collection description exceeds the limit {}",
                limits::MAX_DESCRIPTION_LENGTH
            )));
        }
        if self.fields.len() > limits::MAX_FIELDS {
            return Err(Error::invalid_parameter(format!(
                "maximum field's number should be limited to {}",
                limits::MAX_FIELDS
            )));
        }
        let mut names = std::collections::HashSet::new();
        for field in &self.fields {
            field.validate()?;
            if !names.insert(field.name.as_str()) {
                return Err(Error::invalid_parameter(format!(
                    "duplicated field name {} found",
                    field.name
                )));
            }
        }
        let count = |test: fn(&FieldSchema) -> bool| self.fields.iter().filter(|f| test(f)).count();
        match count(|field| field.is_primary_key) {
            0 => {
                return Err(Error::input(
                    ErrorCode::Unexpected,
                    "primary key is not specified",
                ));
            }
            1 => {}
            _ => {
                return Err(Error::input(
                    ErrorCode::Unexpected,
                    "there are more than one primary key",
                ));
            }
        }
        if count(|field| field.is_partition_key) > 1 {
            return Err(Error::input(
                ErrorCode::Unexpected,
                "there are more than one partition key",
            ));
        }
        match count(|field| field.data_type.is_vector()) {
            0 => Err(Error::invalid_parameter(
                "schema does not contain vector field",
            )),
            vectors if vectors > limits::MAX_VECTOR_FIELDS => {
                Err(Error::invalid_parameter(format!(
                    "maximum vector field's number should be limited to {}",
                    limits::MAX_VECTOR_FIELDS
                )))
            }
            _ => Ok(()),
        }
    }

    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field with this id.
    pub fn field_by_id(&self, id: FieldId) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.id == id)
    }

    /// The primary key.
    ///
    /// # Panics
    /// When the schema was not made by [`CollectionSchema::prepare`], which demands one.
    pub fn primary_key(&self) -> &FieldSchema {
        self.fields
            .iter()
            .find(|field| field.is_primary_key)
            .expect("a prepared schema has a primary key")
    }

    /// The partition key, if there is one.
    pub fn partition_key(&self) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.is_partition_key)
    }

    /// The hidden field of dynamic keys, if enabled.
    pub fn dynamic_field(&self) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.is_dynamic)
    }

    /// The vector fields in order.
    pub fn vector_fields(&self) -> impl Iterator<Item = &FieldSchema> {
        self.fields
            .iter()
            .filter(|field| field.data_type.is_vector())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> FieldSchema {
        FieldSchema {
            is_primary_key: true,
            ..FieldSchema::new("id", DataType::Int64)
        }
    }

    fn vector() -> FieldSchema {
        FieldSchema {
            dim: 8,
            ..FieldSchema::new("vector", DataType::FloatVector)
        }
    }

    fn schema(fields: Vec<FieldSchema>) -> CollectionSchema {
        CollectionSchema {
            fields,
            ..CollectionSchema::default()
        }
    }

    #[test]
    fn ids_start_at_100_and_the_dynamic_field_is_last() {
        let schema = CollectionSchema {
            enable_dynamic_field: true,
            ..schema(vec![id(), vector()])
        };
        let prepared = schema.prepare().unwrap();
        let ids: Vec<i64> = prepared.fields.iter().map(|field| field.id.0).collect();
        assert_eq!(ids, [100, 101, 102]);
        assert_eq!(prepared.dynamic_field().unwrap().name, "$meta");
    }

    #[test]
    fn broken_schemas_are_refused_with_a_reason() {
        let varchar = FieldSchema::new("s", DataType::VarChar);
        let text = FieldSchema {
            max_length: 3,
            ..varchar.clone()
        };
        let with_default = |field: &FieldSchema, value| FieldSchema {
            default_value: Some(value),
            ..field.clone()
        };
        let tiny = FieldSchema::new("t", DataType::Int8);
        let cases: Vec<(Vec<FieldSchema>, &str)> = vec![
            (vec![vector()], "primary key is not specified"),
            (vec![id(), id(), vector()], "duplicated field name"),
            (vec![id()], "schema does not contain vector field"),
            (vec![id(), vector(), varchar], "max_length"),
            (
                vec![
                    id(),
                    FieldSchema {
                        dim: 12,
                        ..FieldSchema::new("b", DataType::BinaryVector)
                    },
                ],
                "should be multiple of 8",
            ),
            (
                vec![id(), FieldSchema { dim: 1, ..vector() }],
                "invalid dimension: 1",
            ),
            (
                vec![
                    id(),
                    vector(),
                    with_default(&text, Value::Str("long".into())),
                ],
                "exceeds max length",
            ),
            (
                vec![id(), vector(), with_default(&tiny, Value::Int(200))],
                "out of range",
            ),
            (
                vec![id(), vector(), with_default(&tiny, Value::Bool(true))],
                "type (Int8) of field (t) is not equal to the type(Bool) of default_value",
            ),
            (
                vec![
                    FieldSchema {
                        nullable: true,
                        ..id()
                    },
                    vector(),
                ],
                "not support null",
            ),
        ];
        for (fields, want) in cases {
            let error = schema(fields).prepare().unwrap_err();
            assert!(
                error.message.contains(want),
                "{} does not contain {want}",
                error.message
            );
        }
    }
}
