//! Typed columns of many rows.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    bitset::BitSet,
    floats::FloatBuffer,
    ids::FieldId,
    packed::PackedBuffer,
    schema::DataType,
    value::{PrimaryKey, PrimaryKeys, Value},
};

/// The values of one field over many rows, always full length: a row without a value holds a
/// placeholder, and [`Column::valid`] says so.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    /// `[rows]`.
    Bool(Vec<bool>),
    /// `[rows]`.
    Int8(Vec<i8>),
    /// `[rows]`.
    Int16(Vec<i16>),
    /// `[rows]`.
    Int32(Vec<i32>),
    /// `[rows]`.
    Int64(Vec<i64>),
    /// `[rows]`.
    Float(Vec<f32>),
    /// `[rows]`.
    Double(Vec<f64>),
    /// `[rows]`.
    VarChar(Vec<String>),
    /// `[rows]`, each a UTF-8 JSON document.
    Json(Vec<Bytes>),
    /// `[rows, dim]`, row-major.
    FloatVector {
        /// Dimensions, at least one.
        dim: usize,
        /// `rows * dim` values.
        values: FloatBuffer,
    },
    /// `[rows, dim]`, row-major, of a type of which [`DataType::is_packed_vector`] is true.
    PackedVector {
        /// The type, which says how values lie in bytes: eight bits to a byte with the first one
        /// lowest, little-endian 16-bit floats, or 8-bit integers.
        kind: DataType,
        /// Dimensions, at least eight of bits and at least one of others.
        dim: usize,
        /// `rows * kind.vector_bytes(dim)` bytes.
        values: PackedBuffer,
    },
    /// `[rows]`, each the pairs of a little-endian u32 index and a little-endian f32 value, by index.
    SparseVector(Vec<Bytes>),
}

/// One field's values over the rows of a batch or segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Which field.
    pub field: FieldId,
    /// The values.
    pub data: ColumnData,
    /// Which rows have a value; `None` means all.
    pub valid: Option<BitSet>,
}

macro_rules! per_scalar {
    ($self:expr, $values:ident => $scalar:expr, $width:ident, $vector:ident => $dense:expr) => {
        match $self {
            ColumnData::Bool($values) => $scalar,
            ColumnData::Int8($values) => $scalar,
            ColumnData::Int16($values) => $scalar,
            ColumnData::Int32($values) => $scalar,
            ColumnData::Int64($values) => $scalar,
            ColumnData::Float($values) => $scalar,
            ColumnData::Double($values) => $scalar,
            ColumnData::VarChar($values) => $scalar,
            ColumnData::Json($values) => $scalar,
            ColumnData::SparseVector($values) => $scalar,
            ColumnData::FloatVector {
                dim: $width,
                values: $vector,
            } => $dense,
            ColumnData::PackedVector {
                kind,
                dim,
                values: $vector,
            } => {
                let $width = &packed_width(*kind, *dim);
                $dense
            }
        }
    };
}

/// Bytes of a packed vector, at least one so that rows can be counted.
const fn packed_width(kind: DataType, dim: usize) -> usize {
    match kind.vector_bytes(dim) {
        0 => 1,
        width => width,
    }
}

impl ColumnData {
    /// No rows of a type; `dim` counts for vectors only.
    pub fn empty(data_type: DataType, dim: usize) -> Self {
        Self::with_capacity(data_type, dim, 0)
    }

    /// No rows yet, with room for some.
    pub fn with_capacity(data_type: DataType, dim: usize, rows: usize) -> Self {
        match data_type {
            DataType::Bool => Self::Bool(Vec::with_capacity(rows)),
            DataType::Int8 => Self::Int8(Vec::with_capacity(rows)),
            DataType::Int16 => Self::Int16(Vec::with_capacity(rows)),
            DataType::Int32 => Self::Int32(Vec::with_capacity(rows)),
            DataType::Int64 => Self::Int64(Vec::with_capacity(rows)),
            DataType::Float => Self::Float(Vec::with_capacity(rows)),
            DataType::Double => Self::Double(Vec::with_capacity(rows)),
            DataType::VarChar => Self::VarChar(Vec::with_capacity(rows)),
            DataType::Json => Self::Json(Vec::with_capacity(rows)),
            DataType::FloatVector => Self::FloatVector {
                dim: dim.max(1),
                values: Vec::with_capacity(rows * dim).into(),
            },
            DataType::BinaryVector
            | DataType::Float16Vector
            | DataType::BFloat16Vector
            | DataType::Int8Vector => {
                let dim = match data_type {
                    DataType::BinaryVector => dim.max(8),
                    _ => dim.max(1),
                };
                Self::PackedVector {
                    kind: data_type,
                    dim,
                    values: Vec::with_capacity(rows * packed_width(data_type, dim)).into(),
                }
            }
            DataType::SparseFloatVector => Self::SparseVector(Vec::with_capacity(rows)),
        }
    }

    /// The type of the values.
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Bool,
            Self::Int8(_) => DataType::Int8,
            Self::Int16(_) => DataType::Int16,
            Self::Int32(_) => DataType::Int32,
            Self::Int64(_) => DataType::Int64,
            Self::Float(_) => DataType::Float,
            Self::Double(_) => DataType::Double,
            Self::VarChar(_) => DataType::VarChar,
            Self::Json(_) => DataType::Json,
            Self::FloatVector { .. } => DataType::FloatVector,
            Self::PackedVector { kind, .. } => *kind,
            Self::SparseVector(_) => DataType::SparseFloatVector,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        per_scalar!(self, values => values.len(), width, values => values.len() / width)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the rows of another column of the same type; another type is a bug of the caller
    /// and appends nothing.
    pub fn extend(&mut self, other: &Self) {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.extend_from_slice(b),
            (Self::Int8(a), Self::Int8(b)) => a.extend_from_slice(b),
            (Self::Int16(a), Self::Int16(b)) => a.extend_from_slice(b),
            (Self::Int32(a), Self::Int32(b)) => a.extend_from_slice(b),
            (Self::Int64(a), Self::Int64(b)) => a.extend_from_slice(b),
            (Self::Float(a), Self::Float(b)) => a.extend_from_slice(b),
            (Self::Double(a), Self::Double(b)) => a.extend_from_slice(b),
            (Self::VarChar(a), Self::VarChar(b)) => a.extend_from_slice(b),
            (Self::Json(a), Self::Json(b)) => a.extend_from_slice(b),
            (Self::FloatVector { values: a, .. }, Self::FloatVector { values: b, .. }) => {
                a.extend_from_slice(b);
            }
            (
                Self::PackedVector {
                    kind: ours,
                    values: a,
                    ..
                },
                Self::PackedVector {
                    kind, values: b, ..
                },
            ) if ours == kind => a.extend_from_slice(b),
            (Self::SparseVector(a), Self::SparseVector(b)) => a.extend_from_slice(b),
            _ => debug_assert!(false, "columns of one field have one type"),
        }
    }

    /// The chosen rows, in the order given.
    ///
    /// # Panics
    /// When a row is past the end.
    #[must_use]
    pub fn take(&self, rows: &[usize]) -> Self {
        macro_rules! pick {
            ($values:expr) => {
                rows.iter().map(|&row| $values[row].clone()).collect()
            };
        }
        match self {
            Self::Bool(values) => Self::Bool(pick!(values)),
            Self::Int8(values) => Self::Int8(pick!(values)),
            Self::Int16(values) => Self::Int16(pick!(values)),
            Self::Int32(values) => Self::Int32(pick!(values)),
            Self::Int64(values) => Self::Int64(pick!(values)),
            Self::Float(values) => Self::Float(pick!(values)),
            Self::Double(values) => Self::Double(pick!(values)),
            Self::VarChar(values) => Self::VarChar(pick!(values)),
            Self::Json(values) => Self::Json(pick!(values)),
            Self::FloatVector { dim, values } => {
                let mut taken = Vec::with_capacity(rows.len() * dim);
                for &row in rows {
                    taken.extend_from_slice(&values[row * dim..(row + 1) * dim]);
                }
                Self::FloatVector {
                    dim: *dim,
                    values: taken.into(),
                }
            }
            Self::PackedVector { kind, dim, values } => {
                let width = packed_width(*kind, *dim);
                let mut taken = Vec::with_capacity(rows.len() * width);
                for &row in rows {
                    taken.extend_from_slice(&values[row * width..(row + 1) * width]);
                }
                Self::PackedVector {
                    kind: *kind,
                    dim: *dim,
                    values: taken.into(),
                }
            }
            Self::SparseVector(values) => Self::SparseVector(pick!(values)),
        }
    }

    /// Appends the placeholder of a row without a value.
    pub fn push_placeholder(&mut self) {
        match self {
            Self::Bool(values) => values.push(false),
            Self::Int8(values) => values.push(0),
            Self::Int16(values) => values.push(0),
            Self::Int32(values) => values.push(0),
            Self::Int64(values) => values.push(0),
            Self::Float(values) => values.push(0.0),
            Self::Double(values) => values.push(0.0),
            Self::VarChar(values) => values.push(String::new()),
            Self::Json(values) => values.push(Bytes::new()),
            Self::FloatVector { dim, values } => {
                let values = values.make_mut();
                values.resize(values.len() + *dim, 0.0);
            }
            Self::PackedVector { kind, dim, values } => {
                let values = values.make_mut();
                values.resize(values.len() + packed_width(*kind, *dim), 0);
            }
            Self::SparseVector(values) => values.push(Bytes::new()),
        }
    }

    /// Appends a value; false (and nothing appended) when it is of another type or out of range.
    #[must_use]
    pub fn push_value(&mut self, value: &Value) -> bool {
        macro_rules! narrow {
            ($values:expr, $number:expr) => {
                match (*$number).try_into() {
                    Ok(number) => {
                        $values.push(number);
                        true
                    }
                    Err(_) => false,
                }
            };
        }
        match (self, value) {
            (Self::Bool(values), Value::Bool(value)) => values.push(*value),
            (Self::Int8(values), Value::Int(value)) => return narrow!(values, value),
            (Self::Int16(values), Value::Int(value)) => return narrow!(values, value),
            (Self::Int32(values), Value::Int(value)) => return narrow!(values, value),
            (Self::Int64(values), Value::Int(value)) => values.push(*value),
            (Self::Float(values), Value::Double(value)) => values.push(*value as f32),
            (Self::Float(values), Value::Int(value)) => values.push(*value as f32),
            (Self::Double(values), Value::Double(value)) => values.push(*value),
            (Self::Double(values), Value::Int(value)) => values.push(*value as f64),
            (Self::VarChar(values), Value::Str(value)) => values.push(value.clone()),
            _ => return false,
        }
        true
    }

    /// The scalar in a row; JSON comes as its text, a vector as [`Value::Null`].
    ///
    /// # Panics
    /// When the row is past the end.
    pub fn value(&self, row: usize) -> Value {
        match self {
            Self::Bool(values) => Value::Bool(values[row]),
            Self::Int8(values) => Value::Int(values[row].into()),
            Self::Int16(values) => Value::Int(values[row].into()),
            Self::Int32(values) => Value::Int(values[row].into()),
            Self::Int64(values) => Value::Int(values[row]),
            Self::Float(values) => Value::Double(values[row].into()),
            Self::Double(values) => Value::Double(values[row]),
            Self::VarChar(values) => Value::Str(values[row].clone()),
            Self::Json(values) => Value::Str(String::from_utf8_lossy(&values[row]).into_owned()),
            Self::FloatVector { .. } | Self::PackedVector { .. } | Self::SparseVector(_) => {
                Value::Null
            }
        }
    }

    /// Dimensions of vectors of fixed length; zero for all other types.
    pub const fn dim(&self) -> usize {
        match self {
            Self::FloatVector { dim, .. } | Self::PackedVector { dim, .. } => *dim,
            Self::Bool(_)
            | Self::Int8(_)
            | Self::Int16(_)
            | Self::Int32(_)
            | Self::Int64(_)
            | Self::Float(_)
            | Self::Double(_)
            | Self::VarChar(_)
            | Self::Json(_)
            | Self::SparseVector(_) => 0,
        }
    }

    /// The vector in a row as it travels: little-endian values, bits, or pairs of a sparse one;
    /// `None` for scalars.
    ///
    /// # Panics
    /// When the row is past the end.
    pub fn vector_bytes(&self, row: usize) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::FloatVector { dim, values } => {
                let vector = values[row * dim..(row + 1) * dim].iter();
                Some(vector.flat_map(|value| value.to_le_bytes()).collect())
            }
            Self::PackedVector { kind, dim, values } => {
                let width = packed_width(*kind, *dim);
                Some(Cow::Borrowed(&values[row * width..(row + 1) * width]))
            }
            Self::SparseVector(values) => Some(Cow::Borrowed(&values[row])),
            Self::Bool(_)
            | Self::Int8(_)
            | Self::Int16(_)
            | Self::Int32(_)
            | Self::Int64(_)
            | Self::Float(_)
            | Self::Double(_)
            | Self::VarChar(_)
            | Self::Json(_) => None,
        }
    }

    /// Memory taken by the values, in bytes.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::Int8(values) => values.len(),
            Self::Int16(values) => values.len() * 2,
            Self::Int32(values) => values.len() * 4,
            Self::Int64(values) => values.len() * 8,
            Self::Float(values) => values.len() * 4,
            Self::Double(values) => values.len() * 8,
            Self::VarChar(values) => values
                .iter()
                .map(|value| value.len() + size_of::<String>())
                .sum(),
            Self::Json(values) | Self::SparseVector(values) => values
                .iter()
                .map(|value| value.len() + size_of::<Bytes>())
                .sum(),
            Self::FloatVector { values, .. } => values.len() * 4,
            Self::PackedVector { values, .. } => values.len(),
        }
    }
}

impl Column {
    /// A column in which every row has a value.
    pub fn new(field: FieldId, data: ColumnData) -> Self {
        Self {
            field,
            data,
            valid: None,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Whether the row has a value.
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid.get(row))
    }

    /// The scalar in a row, [`Value::Null`] where there is none.
    ///
    /// # Panics
    /// When the row is past the end.
    pub fn value(&self, row: usize) -> Value {
        if self.is_valid(row) {
            self.data.value(row)
        } else {
            Value::Null
        }
    }

    /// The chosen rows, in the order given.
    ///
    /// # Panics
    /// When a row is past the end.
    #[must_use]
    pub fn take(&self, rows: &[usize]) -> Self {
        Self {
            field: self.field,
            data: self.data.take(rows),
            valid: self
                .valid
                .as_ref()
                .map(|valid| BitSet::from_fn(rows.len(), |index| valid.get(rows[index]))),
        }
    }

    /// Appends the rows of another column of the same field.
    pub fn extend(&mut self, other: &Self) {
        let (before, added) = (self.len(), other.len());
        self.data.extend(&other.data);
        if self.valid.is_none() && other.valid.is_none() {
            return;
        }
        let valid = self.valid.get_or_insert_with(|| BitSet::full(before));
        valid.resize(before + added);
        for row in 0..added {
            if other.is_valid(row) {
                valid.set(before + row);
            }
        }
    }

    /// The primary keys that this column holds, if its type can be one.
    pub fn primary_keys(&self) -> Option<PrimaryKeys> {
        match &self.data {
            ColumnData::Int64(keys) => Some(PrimaryKeys::Int(keys.clone())),
            ColumnData::VarChar(keys) => Some(PrimaryKeys::Str(keys.clone())),
            _ => None,
        }
    }

    /// The primary key in a row, if the column's type can be one.
    pub fn primary_key(&self, row: usize) -> Option<PrimaryKey> {
        match &self.data {
            ColumnData::Int64(keys) => keys.get(row).map(|key| PrimaryKey::Int(*key)),
            ColumnData::VarChar(keys) => keys.get(row).map(|key| PrimaryKey::Str(key.clone())),
            _ => None,
        }
    }
}

/// Rows as columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowBatch {
    rows: usize,
    columns: Vec<Column>,
}

impl RowBatch {
    /// Puts columns together; `None` when their lengths differ from `rows`.
    pub fn new(rows: usize, columns: Vec<Column>) -> Option<Self> {
        columns
            .iter()
            .all(|column| column.len() == rows)
            .then_some(Self { rows, columns })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns in schema order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns themselves.
    pub fn into_columns(self) -> Vec<Column> {
        self.columns
    }

    /// The column of a field.
    pub fn column(&self, field: FieldId) -> Option<&Column> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// The chosen rows, in the order given.
    ///
    /// # Panics
    /// When a row is past the end.
    #[must_use]
    pub fn take(&self, rows: &[usize]) -> Self {
        Self {
            rows: rows.len(),
            columns: self
                .columns
                .iter()
                .map(|column| column.take(rows))
                .collect(),
        }
    }

    /// Appends the rows of another batch with the same fields in the same order.
    pub fn extend(&mut self, other: &Self) {
        debug_assert_eq!(
            self.columns.len(),
            other.columns.len(),
            "batches of one schema"
        );
        for (column, more) in self.columns.iter_mut().zip(&other.columns) {
            column.extend(more);
        }
        self.rows += other.rows;
    }

    /// Memory taken by the values, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.columns
            .iter()
            .map(|column| column.data.memory_bytes())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_follows_extend_and_take() {
        let all = Column::new(FieldId(1), ColumnData::Int64(vec![1, 2]));
        let mut valid = BitSet::new(3);
        valid.set(1);
        let some = Column {
            field: FieldId(1),
            data: ColumnData::Int64(vec![0, 4, 0]),
            valid: Some(valid),
        };
        let mut both = all.clone();
        both.extend(&some);
        let values: Vec<Value> = (0..5).map(|row| both.value(row)).collect();
        let want = [
            Value::Int(1),
            Value::Int(2),
            Value::Null,
            Value::Int(4),
            Value::Null,
        ];
        assert_eq!(values, want);
        let taken = both.take(&[3, 2, 0]);
        assert_eq!(taken.value(0), Value::Int(4));
        assert_eq!(taken.value(1), Value::Null);
        assert_eq!(taken.value(2), Value::Int(1));
    }

    #[test]
    fn batches_demand_equal_lengths() {
        let a = Column::new(FieldId(1), ColumnData::Int64(vec![1, 2]));
        let b = Column::new(
            FieldId(2),
            ColumnData::FloatVector {
                dim: 2,
                values: vec![0.0; 6].into(),
            },
        );
        assert!(RowBatch::new(2, vec![a.clone(), b]).is_none());
        assert_eq!(RowBatch::new(2, vec![a]).unwrap().len(), 2);
    }

    #[test]
    fn values_out_of_range_are_not_pushed() {
        let mut data = ColumnData::empty(DataType::Int8, 0);
        assert!(!data.push_value(&Value::Int(128)));
        assert!(data.push_value(&Value::Int(-128)));
        assert_eq!(data.len(), 1);
    }
}
