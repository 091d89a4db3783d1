//! One scalar value, and one primary key.

use serde::{Deserialize, Serialize};

use crate::schema::DataType;

/// A scalar value: a literal of a filter, a default, or one cell of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Absent.
    Null,
    /// True or false.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// Float or double.
    Double(f64),
    /// VarChar.
    Str(String),
    /// A list, as a template value or a JSON array.
    List(Vec<Value>),
}

/// A primary key: int64 or VarChar. Ordered as query results are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PrimaryKey {
    /// An int64 key.
    Int(i64),
    /// A VarChar key.
    Str(String),
}

/// A value by which rows are grouped. Rows without a value are a group too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKey {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// VarChar.
    Str(String),
}

impl GroupKey {
    /// The key of a value; `None` for the types that make no groups.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(value) => Some(Self::Bool(value)),
            Value::Int(value) => Some(Self::Int(value)),
            Value::Str(value) => Some(Self::Str(value)),
            Value::Double(_) | Value::List(_) => None,
        }
    }
}

impl std::fmt::Display for PrimaryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(key) => key.fmt(f),
            Self::Str(key) => key.fmt(f),
        }
    }
}

/// Many primary keys of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrimaryKeys {
    /// Int64 keys.
    Int(Vec<i64>),
    /// VarChar keys.
    Str(Vec<String>),
}

impl PrimaryKeys {
    /// No keys yet, of the type of a primary key field, and room for so many.
    #[must_use]
    pub fn with_capacity(data_type: DataType, capacity: usize) -> Self {
        if data_type.is_integer() {
            Self::Int(Vec::with_capacity(capacity))
        } else {
            Self::Str(Vec::with_capacity(capacity))
        }
    }

    /// No keys, of the same type as `self`.
    #[must_use]
    pub fn empty_like(&self) -> Self {
        match self {
            Self::Int(_) => Self::Int(Vec::new()),
            Self::Str(_) => Self::Str(Vec::new()),
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        match self {
            Self::Int(keys) => keys.len(),
            Self::Str(keys) => keys.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key at a position.
    ///
    /// # Panics
    /// When `index` is past the end.
    pub fn get(&self, index: usize) -> PrimaryKey {
        match self {
            Self::Int(keys) => PrimaryKey::Int(keys[index]),
            Self::Str(keys) => PrimaryKey::Str(keys[index].clone()),
        }
    }

    /// The keys one by one.
    pub fn iter(&self) -> impl Iterator<Item = PrimaryKey> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Appends a key. A key of the other type is a bug of the caller and is ignored in release.
    pub fn push(&mut self, key: PrimaryKey) {
        match (self, key) {
            (Self::Int(keys), PrimaryKey::Int(key)) => keys.push(key),
            (Self::Str(keys), PrimaryKey::Str(key)) => keys.push(key),
            (Self::Int(_), PrimaryKey::Str(_)) | (Self::Str(_), PrimaryKey::Int(_)) => {
                debug_assert!(false, "primary keys of one collection have one type");
            }
        }
    }
}
