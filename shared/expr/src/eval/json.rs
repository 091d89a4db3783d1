//! Conditions on JSON: each row's text is searched for the one value that counts.

use redkite_types::{BitSet, ColumnData};

use super::{
    Evaluator,
    column::{Known, visit, wrong_type},
};
use crate::{
    ast::{CompareOp, ContainsMode},
    error::Result,
    json::{Cell, elements, value_at},
    plan::{Constant, JsonPath, JsonSet, Leaf, Like, Scalar},
};

impl Evaluator<'_> {
    pub(super) fn json(&self, leaf: &Leaf, wanted: bool, among: &BitSet) -> Result<BitSet> {
        match leaf {
            Leaf::JsonNull { path } => self.json_null(path, wanted, among),
            Leaf::JsonCompare { path, op, value } => self.json_where(path, wanted, among, |cell| {
                compare_constant(&cell, *op, value)
            }),
            Leaf::JsonIn { path, values } => {
                self.json_where(path, wanted, among, |cell| Some(is_member(&cell, values)))
            }
            Leaf::JsonLike { path, pattern } => {
                self.json_where(path, wanted, among, |cell| Some(is_like(&cell, pattern)))
            }
            Leaf::JsonContains { path, mode, values } => {
                self.json_where(path, wanted, among, |cell| {
                    Some(contains(&cell, *mode, values))
                })
            }
            Leaf::IsNull { .. }
            | Leaf::Bool { .. }
            | Leaf::IntRange { .. }
            | Leaf::IntIn { .. }
            | Leaf::FloatCompare { .. }
            | Leaf::FloatIn { .. }
            | Leaf::StrCompare { .. }
            | Leaf::StrIn { .. }
            | Leaf::StrLike { .. }
            | Leaf::Compare { .. } => self.leaf(leaf, wanted, among),
        }
    }

    /// The rows whose value gives the wanted answer; one without a value gives none.
    fn json_where(
        &self,
        path: &JsonPath,
        wanted: bool,
        among: &BitSet,
        answer: impl Fn(Cell<'_>) -> Option<bool>,
    ) -> Result<BitSet> {
        let Some(Known { column, among }) = self.known(path.field, among)? else {
            return Ok(BitSet::new(self.rows));
        };
        let ColumnData::Json(documents) = &column.data else {
            return Err(wrong_type(column, "JSON"));
        };
        Ok(visit(&among, |row| {
            value_at(&documents[row], &path.keys).and_then(&answer) == Some(wanted)
        }))
    }

    fn json_null(&self, path: &JsonPath, wanted: bool, among: &BitSet) -> Result<BitSet> {
        let present = self.json_where(path, true, among, |_| Some(true))?;
        if !wanted {
            return Ok(present);
        }
        let mut absent = among.clone();
        absent.and_not(&present);
        Ok(absent)
    }
}

fn compare_constant(cell: &Cell<'_>, op: CompareOp, constant: &Constant) -> Option<bool> {
    let order = match (cell, constant) {
        (Cell::Number(found), Constant::Scalar(Scalar::Int(_) | Scalar::Float(_))) => {
            let Constant::Scalar(scalar) = constant else {
                return None;
            };
            found.compare(scalar.number()?)
        }
        (Cell::Text(found), Constant::Scalar(Scalar::Str(text))) => {
            Some(found.as_ref().cmp(text.as_str()))
        }
        _ if op.is_equality() => {
            return Some(equals(cell, constant) == (op == CompareOp::Eq));
        }
        _ => return None,
    };
    Some(op.accepts(order))
}

/// Values of different kinds are different.
fn equals(cell: &Cell<'_>, constant: &Constant) -> bool {
    match constant {
        Constant::Scalar(scalar) => equals_scalar(cell, scalar),
        Constant::List(items) => equals_list(cell, items),
    }
}

fn equals_scalar(cell: &Cell<'_>, scalar: &Scalar) -> bool {
    match (cell, scalar) {
        (Cell::Bool(found), Scalar::Bool(value)) => found == value,
        (Cell::Text(found), Scalar::Str(text)) => found == text,
        (Cell::Number(found), scalar) => scalar
            .number()
            .is_some_and(|number| found.compare(number) == Some(std::cmp::Ordering::Equal)),
        _ => false,
    }
}

fn equals_list(cell: &Cell<'_>, items: &[Scalar]) -> bool {
    let Cell::Array(text) = cell else {
        return false;
    };
    let mut expected = items.iter();
    for element in elements(text) {
        let matches = match (element, expected.next()) {
            (Some(element), Some(scalar)) => equals_scalar(&element, scalar),
            _ => false,
        };
        if !matches {
            return false;
        }
    }
    expected.next().is_none()
}

fn is_member(cell: &Cell<'_>, values: &JsonSet) -> bool {
    match cell {
        Cell::Bool(found) => values.bools[usize::from(*found)],
        Cell::Number(found) => values.has_number(*found),
        Cell::Text(found) => {
            let order = |value: &String| value.as_str().cmp(found);
            values.texts.binary_search_by(order).is_ok()
        }
        Cell::Array(_) => values.lists.iter().any(|items| equals_list(cell, items)),
        Cell::Object => false,
    }
}

fn is_like(cell: &Cell<'_>, pattern: &Like) -> bool {
    matches!(cell, Cell::Text(found) if pattern.matches(found))
}

fn contains(cell: &Cell<'_>, mode: ContainsMode, values: &[Constant]) -> bool {
    let Cell::Array(text) = cell else {
        return false;
    };
    let found: Vec<Cell<'_>> = elements(text).flatten().collect();
    let has = |value: &Constant| found.iter().any(|element| equals(element, value));
    match mode {
        ContainsMode::One | ContainsMode::All => values.iter().all(has),
        ContainsMode::Any => values.iter().any(has),
    }
}
