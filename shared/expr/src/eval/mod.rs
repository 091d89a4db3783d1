//! Plan and columns to a bitmap.
//!
//! A condition is true, false or unknown on a row. Instead of carrying that along, the evaluation
//! asks each condition for the rows where it *is true* or where it *is false*, whichever is needed:
//! `not` turns the question round, `and` and `or` exchange roles under it, and a row that is
//! unknown answers neither. Each question is asked only about the rows that still matter.

mod block;
mod column;
mod json;
mod operand;

use redkite_types::{BitSet, Column, FieldId, RowBatch};

use crate::{
    error::Result,
    plan::{Plan, Predicate},
};

/// Where the columns of the rows in question come from.
pub trait ColumnSource {
    /// The column of a field, or `None` where no row has a value of it.
    ///
    /// # Correctness
    /// Row `i` of every column is the same row. A column may be longer than the evaluation asks.
    fn column(&self, field: FieldId) -> Option<&Column>;
}

impl ColumnSource for RowBatch {
    fn column(&self, field: FieldId) -> Option<&Column> {
        Self::column(self, field)
    }
}

impl ColumnSource for [Column] {
    fn column(&self, field: FieldId) -> Option<&Column> {
        self.iter().find(|column| column.field == field)
    }
}

impl ColumnSource for Vec<Column> {
    fn column(&self, field: FieldId) -> Option<&Column> {
        self.as_slice().column(field)
    }
}

/// The rows below `rows` that pass the filter.
///
/// # Errors
/// [`crate::Error::Column`] when a column is shorter than `rows` or of another type than the
/// plan was made for: a fault of ours, not of the filter.
pub fn eval(plan: &Plan, source: &dyn ColumnSource, rows: usize) -> Result<BitSet> {
    eval_among(plan, source, &BitSet::full(rows))
}

/// The members of `among` that pass the filter; its length is the number of rows.
///
/// Costs less the fewer members there are: conditions that read text or JSON look at no others.
///
/// # Errors
/// As [`eval`].
pub fn eval_among(plan: &Plan, source: &dyn ColumnSource, among: &BitSet) -> Result<BitSet> {
    let evaluator = Evaluator {
        source,
        rows: among.len(),
    };
    evaluator.rows_where(plan.predicate(), true, among)
}

struct Evaluator<'a> {
    source: &'a dyn ColumnSource,
    rows: usize,
}

impl Evaluator<'_> {
    /// The members of `among` for which the answer is known and is `wanted`.
    fn rows_where(&self, predicate: &Predicate, wanted: bool, among: &BitSet) -> Result<BitSet> {
        match predicate {
            Predicate::Const(value) if *value == wanted => Ok(among.clone()),
            Predicate::Const(_) => Ok(BitSet::new(self.rows)),
            Predicate::Leaf(leaf) => self.leaf(leaf, wanted, among),
            Predicate::Not(child) => self.rows_where(child, !wanted, among),
            Predicate::And(children) if wanted => self.in_every(children, wanted, among),
            Predicate::And(children) => self.in_any(children, wanted, among),
            Predicate::Or(children) if wanted => self.in_any(children, wanted, among),
            Predicate::Or(children) => self.in_every(children, wanted, among),
        }
    }

    fn in_every(&self, children: &[Predicate], wanted: bool, among: &BitSet) -> Result<BitSet> {
        let mut left = among.clone();
        for child in children {
            if !left.any() {
                break;
            }
            left = self.rows_where(child, wanted, &left)?;
        }
        Ok(left)
    }

    fn in_any(&self, children: &[Predicate], wanted: bool, among: &BitSet) -> Result<BitSet> {
        let mut found = BitSet::new(self.rows);
        let mut left = among.clone();
        for child in children {
            if !left.any() {
                break;
            }
            let more = self.rows_where(child, wanted, &left)?;
            left.and_not(&more);
            found.or(&more);
        }
        Ok(found)
    }
}
