//! VikingDB's field types and ours.

use redkite_catalog::{CollectionEntry, LIST_INT64, LIST_STRING, VIKINGDB_TYPE};
use redkite_types::{DataType, FieldSchema};

/// How VikingDB names a primary key that the server makes.
pub const AUTO_ID: &str = "__AUTO_ID__";
/// Bytes of a `string`; a primary key has the same limit as any other.
pub const STRING_BYTES: usize = 4_096;
/// Bytes of a `text`.
pub const TEXT_BYTES: usize = 65_535;

/// A VikingDB field type that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Int64.
    Int64,
    /// VarChar.
    String,
    /// VarChar, not filterable.
    Text,
    /// Bool.
    Bool,
    /// Float.
    Float32,
    /// JSON: an array of integers.
    ListInt64,
    /// JSON: an array of texts.
    ListString,
    /// FloatVector.
    Vector,
    /// A field of ours that VikingDB has no type for.
    Other,
}

const NAMES: [(FieldType, &str); 8] = [
    (FieldType::Int64, "int64"),
    (FieldType::String, "string"),
    (FieldType::Text, "text"),
    (FieldType::Bool, "bool"),
    (FieldType::Float32, "float32"),
    (FieldType::ListInt64, LIST_INT64),
    (FieldType::ListString, LIST_STRING),
    (FieldType::Vector, "vector"),
];

impl FieldType {
    /// The type of a name; `None` for what is not served.
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = NAMES.iter();
        all.find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// Its name, with ours for what VikingDB has no type for.
    pub fn name(self, field: &FieldSchema) -> &'static str {
        let mut all = NAMES.iter();
        let found = all.find(|(kind, _)| *kind == self);
        found.map_or(field.data_type.name(), |(_, name)| name)
    }

    /// Whether the collection must say that a field of [`FieldType::data_type`] is of this type.
    pub const fn needs_property(self) -> bool {
        matches!(self, Self::Text | Self::ListInt64 | Self::ListString)
    }

    /// Our type for it.
    pub const fn data_type(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::String | Self::Text => DataType::VarChar,
            Self::Bool => DataType::Bool,
            Self::Float32 => DataType::Float,
            Self::ListInt64 | Self::ListString | Self::Other => DataType::Json,
            Self::Vector => DataType::FloatVector,
        }
    }

    /// The VikingDB type of a field of any collection.
    pub fn of(entry: &CollectionEntry, field: &FieldSchema) -> Self {
        let named = entry.property(&format!("{VIKINGDB_TYPE}{}", field.name));
        if let Some(kind) = named.and_then(Self::parse)
            && kind.data_type() == field.data_type
        {
            return kind;
        }
        match field.data_type {
            DataType::Int64 => Self::Int64,
            DataType::VarChar => Self::String,
            DataType::Bool => Self::Bool,
            DataType::Float => Self::Float32,
            DataType::FloatVector => Self::Vector,
            _ => Self::Other,
        }
    }
}
