//! Comparisons between computed values, row by row where the kinds of the values differ by row.

use std::borrow::Cow;

use redkite_types::{BitSet, ColumnData};

use super::{Evaluator, block, column::visit};
use crate::{
    ast::{ArithOp, CompareOp},
    error::{Error, Result},
    json::{Cell, value_at},
    plan::{Number, Operand, Step},
};

/// A [`Step`] with its column at hand.
pub(super) enum Bound<'a> {
    Column(&'a ColumnData),
    Json(&'a ColumnData, &'a [String]),
    Constant(Number),
    Negate,
    Arith(ArithOp),
}

impl<'a> Evaluator<'a> {
    pub(super) fn compare(
        &self,
        op: CompareOp,
        left: &Operand,
        right: &Operand,
        wanted: bool,
        among: &BitSet,
    ) -> Result<BitSet> {
        // Rows where any of the fields has no value are unknown whatever is computed.
        let mut among = Cow::Borrowed(among);
        let (Some(left), Some(right)) =
            (self.bind(left, &mut among)?, self.bind(right, &mut among)?)
        else {
            return Ok(BitSet::new(self.rows));
        };
        if block::is_supported(&left) && block::is_supported(&right) {
            return Ok(block::compare(op, &left, &right, wanted, &among));
        }
        let mut stack = Vec::new();
        Ok(visit(&among, |row| {
            let left = compute(&left, row, &mut stack);
            let right = compute(&right, row, &mut stack);
            match (left, right) {
                (Some(left), Some(right)) => compare_cells(&left, op, &right) == Some(wanted),
                _ => false,
            }
        }))
    }

    /// Finds the columns and narrows `among` to rows with values in all of them; `None` when a
    /// column is not there at all.
    fn bind<'b>(
        &self,
        operand: &'b Operand,
        among: &mut Cow<'_, BitSet>,
    ) -> Result<Option<Vec<Bound<'b>>>>
    where
        'a: 'b,
    {
        let mut bound = Vec::with_capacity(operand.steps.len());
        for step in &operand.steps {
            let (field, keys) = match step {
                Step::Field(field) => (*field, None),
                Step::Json(path) => (path.field, Some(path.keys.as_slice())),
                Step::Int(number) => {
                    bound.push(Bound::Constant(Number::Int(*number)));
                    continue;
                }
                Step::Float(number) => {
                    bound.push(Bound::Constant(Number::Float(*number)));
                    continue;
                }
                Step::Negate => {
                    bound.push(Bound::Negate);
                    continue;
                }
                Step::Arith(op) => {
                    bound.push(Bound::Arith(*op));
                    continue;
                }
            };
            let Some(known) = self.known(field, among)? else {
                return Ok(None);
            };
            let data = &known.column.data;
            let narrowed = known.among.into_owned();
            bound.push(match (keys, data) {
                (Some(keys), ColumnData::Json(_)) => Bound::Json(data, keys),
                (None, _) if !data.data_type().is_vector() => Bound::Column(data),
                _ => {
                    let reason = format!("no comparable value in {}", data.data_type());
                    return Err(Error::Column { field, reason });
                }
            });
            *among = Cow::Owned(narrowed);
        }
        Ok(Some(bound))
    }
}

/// Runs the steps for one row; `None` where there is no value.
fn compute<'a>(steps: &[Bound<'a>], row: usize, stack: &mut Vec<Cell<'a>>) -> Option<Cell<'a>> {
    stack.clear();
    for step in steps {
        let cell = match step {
            Bound::Column(data) => cell(data, row)?,
            Bound::Json(ColumnData::Json(documents), keys) => value_at(&documents[row], keys)?,
            Bound::Json(..) => return None,
            Bound::Constant(number) => Cell::Number(*number),
            Bound::Negate => Cell::Number(pop_number(stack)?.negate()?),
            Bound::Arith(op) => {
                let right = pop_number(stack)?;
                let left = pop_number(stack)?;
                Cell::Number(left.arith(*op, right)?)
            }
        };
        stack.push(cell);
    }
    stack.pop()
}

fn pop_number(stack: &mut Vec<Cell<'_>>) -> Option<Number> {
    match stack.pop()? {
        Cell::Number(number) => Some(number),
        Cell::Bool(_) | Cell::Text(_) | Cell::Array(_) | Cell::Object => None,
    }
}

fn cell(data: &ColumnData, row: usize) -> Option<Cell<'_>> {
    let cell = match data {
        ColumnData::Bool(values) => Cell::Bool(*values.get(row)?),
        ColumnData::Int8(values) => Cell::Number(Number::Int(i64::from(*values.get(row)?))),
        ColumnData::Int16(values) => Cell::Number(Number::Int(i64::from(*values.get(row)?))),
        ColumnData::Int32(values) => Cell::Number(Number::Int(i64::from(*values.get(row)?))),
        ColumnData::Int64(values) => Cell::Number(Number::Int(*values.get(row)?)),
        ColumnData::Float(values) => Cell::Number(Number::Float(f64::from(*values.get(row)?))),
        ColumnData::Double(values) => Cell::Number(Number::Float(*values.get(row)?)),
        ColumnData::VarChar(values) => Cell::Text(Cow::Borrowed(values.get(row)?)),
        ColumnData::Json(values) => value_at(values.get(row)?, &[])?,
        ColumnData::FloatVector { .. }
        | ColumnData::PackedVector { .. }
        | ColumnData::SparseVector(_) => return None,
    };
    Some(cell)
}

/// Compares two values of any kinds; `None` if that cannot be said.
fn compare_cells(left: &Cell<'_>, op: CompareOp, right: &Cell<'_>) -> Option<bool> {
    match (left, right) {
        (Cell::Number(a), Cell::Number(b)) => Some(op.accepts(a.compare(*b))),
        (Cell::Text(a), Cell::Text(b)) => Some(op.accepts(Some(a.cmp(b)))),
        (Cell::Bool(a), Cell::Bool(b)) if op.is_equality() => {
            Some((a == b) == (op == CompareOp::Eq))
        }
        (Cell::Bool(_), Cell::Bool(_))
        | (Cell::Array(_), Cell::Array(_))
        | (Cell::Object, Cell::Object) => None,
        // Values of different kinds are different, and have no order.
        _ => op.is_equality().then_some(op == CompareOp::Ne),
    }
}
