//! Conditions on typed columns: one loop per type, the type chosen once per column.

use std::borrow::Cow;

use redkite_types::{BitSet, Column, ColumnData, DataType, FieldId};

use super::Evaluator;
use crate::{
    ast::CompareOp,
    error::{Error, Result},
    plan::{Leaf, has_float},
};

/// A column and the rows in question that have a value in it.
pub(super) struct Known<'a, 'b> {
    pub(super) column: &'a Column,
    pub(super) among: Cow<'b, BitSet>,
}

/// The rows of `among` whose value passes. Few rows are visited one by one, many in one sweep.
fn pick<T>(values: &[T], among: &BitSet, passes: impl Fn(&T) -> bool) -> BitSet {
    let rows = among.len();
    if among.count_ones() < rows / 4 {
        return visit(among, |row| values.get(row).is_some_and(&passes));
    }
    let mut found = BitSet::from_fn(rows, |row| values.get(row).is_some_and(&passes));
    found.and(among);
    found
}

/// The rows of `among` that pass, visited one by one: for tests that cost more than a comparison.
pub(super) fn visit(among: &BitSet, mut passes: impl FnMut(usize) -> bool) -> BitSet {
    let mut found = BitSet::new(among.len());
    for row in among.iter() {
        if passes(row) {
            found.set(row);
        }
    }
    found
}

impl<'a> Evaluator<'a> {
    pub(super) fn leaf(&self, leaf: &Leaf, wanted: bool, among: &BitSet) -> Result<BitSet> {
        match leaf {
            Leaf::IsNull { field } => Ok(self.null_rows(*field, wanted, among)),
            Leaf::Bool { field, value } => self.bools(*field, *value == wanted, among),
            Leaf::IntRange { field, low, high } => {
                self.int_range(*field, (*low, *high), wanted, among)
            }
            Leaf::IntIn { field, values } => self.int_in(*field, values, wanted, among),
            Leaf::FloatCompare { field, op, value } => self.floats(*field, among, |found| {
                op.accepts(found.partial_cmp(value)) == wanted
            }),
            Leaf::FloatIn { field, values } => {
                self.floats(*field, among, |found| has_float(values, found) == wanted)
            }
            Leaf::StrCompare { field, op, value } => {
                self.str_compare(*field, *op, value, wanted, among)
            }
            Leaf::StrIn { field, values } => match values.as_slice() {
                [value] => self.texts(*field, among, |found| (found == value) == wanted),
                _ => self.texts(*field, among, |found| {
                    values
                        .binary_search_by(|value| value.as_str().cmp(found))
                        .is_ok()
                        == wanted
                }),
            },
            Leaf::StrLike { field, pattern } => {
                self.texts(*field, among, |found| pattern.matches(found) == wanted)
            }
            Leaf::Compare { op, left, right } => self.compare(*op, left, right, wanted, among),
            Leaf::JsonCompare { .. }
            | Leaf::JsonIn { .. }
            | Leaf::JsonLike { .. }
            | Leaf::JsonNull { .. }
            | Leaf::JsonContains { .. } => self.json(leaf, wanted, among),
        }
    }

    /// The column with the rows that have a value; `None` when no row has.
    pub(super) fn known<'b>(
        &self,
        field: FieldId,
        among: &'b BitSet,
    ) -> Result<Option<Known<'a, 'b>>> {
        let Some(column) = self.source.column(field) else {
            return Ok(None);
        };
        if column.len() < self.rows {
            let reason = format!("{} rows are too few for {}", column.len(), self.rows);
            return Err(Error::Column { field, reason });
        }
        let among = match &column.valid {
            None => Cow::Borrowed(among),
            Some(valid) => {
                let mut known = valid.clone();
                known.resize(self.rows);
                known.and(among);
                Cow::Owned(known)
            }
        };
        Ok(Some(Known { column, among }))
    }

    fn null_rows(&self, field: FieldId, wanted: bool, among: &BitSet) -> BitSet {
        let valid = match self.source.column(field) {
            None => Cow::Owned(BitSet::new(self.rows)),
            Some(Column { valid: None, .. }) => Cow::Owned(BitSet::full(self.rows)),
            Some(Column {
                valid: Some(valid), ..
            }) => {
                let mut valid = valid.clone();
                valid.resize(self.rows);
                Cow::Owned(valid)
            }
        };
        let mut found = among.clone();
        if wanted {
            found.and_not(&valid);
        } else {
            found.and(&valid);
        }
        found
    }

    fn nothing(&self) -> BitSet {
        BitSet::new(self.rows)
    }

    fn bools(&self, field: FieldId, value: bool, among: &BitSet) -> Result<BitSet> {
        let Some(Known { column, among }) = self.known(field, among)? else {
            return Ok(self.nothing());
        };
        match &column.data {
            ColumnData::Bool(values) => Ok(pick(values, &among, |found| *found == value)),
            _ => Err(wrong_type(column, "Bool")),
        }
    }

    fn int_range(
        &self,
        field: FieldId,
        (low, high): (i64, i64),
        wanted: bool,
        among: &BitSet,
    ) -> Result<BitSet> {
        let Some(Known { column, among }) = self.known(field, among)? else {
            return Ok(self.nothing());
        };
        macro_rules! range {
            ($values:expr, $type:ty) => {{
                let (lowest, highest) = (i64::from(<$type>::MIN), i64::from(<$type>::MAX));
                if low > high || low > highest || high < lowest {
                    constant_answer(false, wanted, among)
                } else {
                    // Both fit after the clamp, so the loop compares in the column's own type.
                    let low = low.max(lowest) as $type;
                    let high = high.min(highest) as $type;
                    pick($values, &among, |found| {
                        (low <= *found && *found <= high) == wanted
                    })
                }
            }};
        }
        match &column.data {
            ColumnData::Int8(values) => Ok(range!(values, i8)),
            ColumnData::Int16(values) => Ok(range!(values, i16)),
            ColumnData::Int32(values) => Ok(range!(values, i32)),
            ColumnData::Int64(values) => Ok(range!(values, i64)),
            _ => Err(wrong_type(column, "an integer type")),
        }
    }

    fn int_in(
        &self,
        field: FieldId,
        values: &[i64],
        wanted: bool,
        among: &BitSet,
    ) -> Result<BitSet> {
        let (Some(&low), Some(&high)) = (values.first(), values.last()) else {
            return self.int_range(field, (1, 0), wanted, among);
        };
        if low.abs_diff(high) == values.len() as u64 - 1 {
            return self.int_range(field, (low, high), wanted, among);
        }
        let Some(Known { column, among }) = self.known(field, among)? else {
            return Ok(self.nothing());
        };
        let holds = |found: i64| match values.len() {
            0..=8 => values.contains(&found),
            _ => low <= found && found <= high && values.binary_search(&found).is_ok(),
        };
        macro_rules! list {
            ($values:expr) => {
                pick($values, &among, |found| holds(i64::from(*found)) == wanted)
            };
        }
        match &column.data {
            ColumnData::Int8(values) => Ok(list!(values)),
            ColumnData::Int16(values) => Ok(list!(values)),
            ColumnData::Int32(values) => Ok(list!(values)),
            ColumnData::Int64(values) => Ok(list!(values)),
            _ => Err(wrong_type(column, "an integer type")),
        }
    }

    fn floats(
        &self,
        field: FieldId,
        among: &BitSet,
        passes: impl Fn(f64) -> bool,
    ) -> Result<BitSet> {
        let Some(Known { column, among }) = self.known(field, among)? else {
            return Ok(self.nothing());
        };
        match &column.data {
            ColumnData::Float(values) => {
                Ok(pick(values, &among, |found| passes(f64::from(*found))))
            }
            ColumnData::Double(values) => Ok(pick(values, &among, |found| passes(*found))),
            _ => Err(wrong_type(column, "Float or Double")),
        }
    }

    fn str_compare(
        &self,
        field: FieldId,
        op: CompareOp,
        value: &str,
        wanted: bool,
        among: &BitSet,
    ) -> Result<BitSet> {
        self.texts(field, among, |found| {
            op.accepts(Some(found.cmp(value))) == wanted
        })
    }

    fn texts(
        &self,
        field: FieldId,
        among: &BitSet,
        passes: impl Fn(&str) -> bool,
    ) -> Result<BitSet> {
        let Some(Known { column, among }) = self.known(field, among)? else {
            return Ok(self.nothing());
        };
        match &column.data {
            ColumnData::VarChar(values) => Ok(visit(&among, |row| passes(&values[row]))),
            _ => Err(wrong_type(column, "VarChar")),
        }
    }
}

/// The rows of `among` when all of them have one answer.
fn constant_answer(answer: bool, wanted: bool, among: Cow<'_, BitSet>) -> BitSet {
    if answer == wanted {
        among.into_owned()
    } else {
        BitSet::new(among.len())
    }
}

pub(super) fn wrong_type(column: &Column, expected: &str) -> Error {
    let found: DataType = column.data.data_type();
    Error::Column {
        field: column.field,
        reason: format!("expected {expected}, found {found}"),
    }
}
