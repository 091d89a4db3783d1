//! The meaning of a filter, row by row over the syntax tree, as plainly as it can be written.

use std::cmp::Ordering;

use redkite_expr::ast::{ArithOp, CompareOp, ContainsMode, Kind, Node};
use redkite_types::{CollectionSchema, DataType, RowBatch, Value};
use serde_json::Value as Json;

/// One row of a batch.
pub(crate) struct Row<'a> {
    pub(crate) schema: &'a CollectionSchema,
    pub(crate) batch: &'a RowBatch,
    pub(crate) row: usize,
}

#[derive(Clone, Debug)]
enum Cell {
    Int(i64),
    Float(f64),
    Json(Json),
}

fn from_json(value: Json) -> Option<Cell> {
    match value {
        Json::Null => None,
        Json::Number(number) => Some(match number.as_i64() {
            Some(int) => Cell::Int(int),
            None => Cell::Float(number.as_f64()?),
        }),
        other => Some(Cell::Json(other)),
    }
}

fn is_constant(node: &Node) -> bool {
    match &node.kind {
        Kind::Name { .. } => false,
        Kind::Negate(inner) => is_constant(inner),
        Kind::Arith(_, left, right) => is_constant(left) && is_constant(right),
        _ => true,
    }
}

impl Row<'_> {
    /// True, false or unknown.
    pub(crate) fn answer(&self, node: &Node) -> Option<bool> {
        match &node.kind {
            Kind::And(nodes) => {
                let answers: Vec<_> = nodes.iter().map(|node| self.answer(node)).collect();
                if answers.contains(&Some(false)) {
                    return Some(false);
                }
                (!answers.contains(&None)).then_some(true)
            }
            Kind::Or(nodes) => {
                let answers: Vec<_> = nodes.iter().map(|node| self.answer(node)).collect();
                if answers.contains(&Some(true)) {
                    return Some(true);
                }
                (!answers.contains(&None)).then_some(false)
            }
            Kind::Not(inner) => self.answer(inner).map(|answer| !answer),
            Kind::Compare(first, rest) => self.chain(first, rest),
            Kind::In {
                negated,
                needle,
                list,
            } => {
                let found = self.value(needle)?;
                let Kind::List(items) = &list.kind else {
                    panic!("lists only");
                };
                let member = items.iter().any(|item| {
                    let item = self.rounded(needle, item);
                    item.is_some_and(|item| same(&found, &item))
                });
                Some(member != *negated)
            }
            Kind::Like {
                negated,
                operand,
                pattern,
            } => {
                let Kind::Str(pattern) = &pattern.kind else {
                    panic!("strings only");
                };
                let matches = match self.value(operand)? {
                    Cell::Json(Json::String(text)) => {
                        let characters = |s: &str| s.chars().collect::<Vec<_>>();
                        like(&characters(pattern), &characters(&text))
                    }
                    _ => false,
                };
                Some(matches != *negated)
            }
            Kind::IsNull { negated, operand } => Some(self.is_null(operand) != *negated),
            Kind::Exists(operand) => Some(self.exists(operand)),
            Kind::Contains {
                mode,
                operand,
                wanted,
            } => self.contains(*mode, operand, wanted),
            _ => match self.value(node)? {
                Cell::Json(Json::Bool(value)) => Some(value),
                other => panic!("{other:?} is no condition"),
            },
        }
    }

    fn chain(&self, first: &Node, rest: &[(CompareOp, Node)]) -> Option<bool> {
        let mut left = first;
        let mut all = Some(true);
        for (op, right) in rest {
            let values = (self.rounded(right, left), self.rounded(left, right));
            let link = match values {
                // Two arrays or objects out of rows are not compared.
                (Some(Cell::Json(Json::Array(_))), Some(Cell::Json(Json::Array(_))))
                | (Some(Cell::Json(Json::Object(_))), Some(Cell::Json(Json::Object(_))))
                    if !is_constant(left) && !is_constant(right) =>
                {
                    None
                }
                (Some(a), Some(b)) => compare(&a, *op, &b),
                _ => None,
            };
            all = match (all, link) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (None, _) | (_, None) => None,
                (Some(true), Some(true)) => Some(true),
            };
            left = right;
        }
        all
    }

    /// The value; a constant next to a Float or Double field is rounded to what the field can hold.
    fn rounded(&self, beside: &Node, node: &Node) -> Option<Cell> {
        let value = self.value(node)?;
        let field = match &beside.kind {
            Kind::Name { name, path } if path.is_empty() => self.schema.field(name),
            _ => None,
        };
        let number = match value {
            Cell::Int(number) => number as f64,
            Cell::Float(number) => number,
            Cell::Json(_) => return Some(value),
        };
        match field.map(|field| field.data_type) {
            Some(DataType::Float) if is_constant(node) => {
                Some(Cell::Float(f64::from(number as f32)))
            }
            Some(DataType::Double) if is_constant(node) => Some(Cell::Float(number)),
            _ => Some(value),
        }
    }

    fn is_null(&self, node: &Node) -> bool {
        let Kind::Name { name, path } = &node.kind else {
            panic!("{node} is no name");
        };
        // A whole field is null by its own mark, whatever document it holds.
        if path.is_empty() && self.schema.field(name).is_some() {
            return self.cell(name) == Value::Null;
        }
        !self.exists(node)
    }

    fn exists(&self, node: &Node) -> bool {
        let Kind::Name { name, path } = &node.kind else {
            panic!("{node} is no name");
        };
        self.json(name, path).is_some_and(|json| !json.is_null())
    }

    fn cell(&self, name: &str) -> Value {
        let field = self.schema.field(name).expect("a field");
        match self.batch.column(field.id) {
            Some(column) if column.is_valid(self.row) => column.data.value(self.row),
            _ => Value::Null,
        }
    }

    fn json(&self, name: &str, path: &[String]) -> Option<Json> {
        let is_field = self.schema.field(name).is_some();
        let Value::Str(text) = self.cell(if is_field { name } else { "$meta" }) else {
            return None;
        };
        let mut json: Json = serde_json::from_str(&text).expect("a JSON document");
        let dynamic_key = (!is_field).then(|| name.to_owned());
        for key in dynamic_key.iter().chain(path) {
            json = match json {
                Json::Object(mut members) => members.remove(key)?,
                Json::Array(items) => items.get(key.parse::<usize>().ok()?)?.clone(),
                _ => return None,
            };
        }
        Some(json)
    }

    fn value(&self, node: &Node) -> Option<Cell> {
        match &node.kind {
            Kind::Bool(value) => Some(Cell::Json(Json::from(*value))),
            Kind::Int(value) => Some(Cell::Int(*value)),
            Kind::Float(value) => Some(Cell::Float(*value)),
            Kind::Str(value) => Some(Cell::Json(Json::from(value.as_str()))),
            Kind::List(items) => {
                let item = |node: &Node| match self.value(node) {
                    Some(Cell::Int(number)) => Json::from(number),
                    Some(Cell::Float(number)) => Json::from(number),
                    Some(Cell::Json(json)) => json,
                    None => panic!("constants have a value"),
                };
                Some(Cell::Json(items.iter().map(item).collect()))
            }
            Kind::Name { name, path } => match self.schema.field(name) {
                Some(field) if field.data_type != DataType::Json => match self.cell(name) {
                    Value::Null => None,
                    Value::Bool(value) => Some(Cell::Json(Json::from(value))),
                    Value::Int(value) => Some(Cell::Int(value)),
                    Value::Double(value) => Some(Cell::Float(value)),
                    Value::Str(value) => Some(Cell::Json(Json::from(value))),
                    Value::List(_) => panic!("no field holds a list"),
                },
                _ => from_json(self.json(name, path)?),
            },
            Kind::Negate(inner) => match self.value(inner)? {
                Cell::Int(number) => number.checked_neg().map(Cell::Int),
                Cell::Float(number) => Some(Cell::Float(-number)),
                Cell::Json(_) => None,
            },
            Kind::Arith(op, left, right) => arith(*op, &self.value(left)?, &self.value(right)?),
            _ => self
                .answer(node)
                .map(|answer| Cell::Json(Json::from(answer))),
        }
    }

    fn contains(&self, mode: ContainsMode, operand: &Node, wanted: &Node) -> Option<bool> {
        let Cell::Json(Json::Array(found)) = self.value(operand)? else {
            return Some(false);
        };
        let found: Vec<Cell> = found.into_iter().filter_map(from_json).collect();
        let has = |node: &Node| {
            let wanted = self.value(node).expect("constants have a value");
            found.iter().any(|element| same(element, &wanted))
        };
        let items = match &wanted.kind {
            Kind::List(items) if mode != ContainsMode::One => items.as_slice(),
            _ => std::slice::from_ref(wanted),
        };
        Some(match mode {
            ContainsMode::One | ContainsMode::All => items.iter().all(has),
            ContainsMode::Any => items.iter().any(has),
        })
    }
}

fn order(left: &Cell, right: &Cell) -> Option<Ordering> {
    match (left, right) {
        (Cell::Int(a), Cell::Int(b)) => Some(a.cmp(b)),
        (Cell::Float(a), Cell::Float(b)) => a.partial_cmp(b),
        (Cell::Int(a), Cell::Float(b)) => {
            if b.is_nan() {
                return None;
            }
            // Both sides doubled have no fraction where the fraction is a half, and others are
            // decided by the whole part alone.
            let whole = (b.floor() as i128, b.fract() != 0.0);
            Some(match (i128::from(*a).cmp(&whole.0), whole.1) {
                (Ordering::Equal, true) => Ordering::Less,
                (order, _) => order,
            })
        }
        (Cell::Float(_), Cell::Int(_)) => order(right, left).map(Ordering::reverse),
        (Cell::Json(Json::String(a)), Cell::Json(Json::String(b))) => {
            Some(a.as_bytes().cmp(b.as_bytes()))
        }
        _ => None,
    }
}

fn is_number(cell: &Cell) -> bool {
    matches!(cell, Cell::Int(_) | Cell::Float(_))
}

fn same(left: &Cell, right: &Cell) -> bool {
    match (left, right) {
        (Cell::Json(Json::Array(a)), Cell::Json(Json::Array(b))) => {
            let pair = |(a, b): (&Json, &Json)| match (from_json(a.clone()), from_json(b.clone())) {
                (Some(a), Some(b)) => same(&a, &b),
                _ => false,
            };
            a.len() == b.len() && a.iter().zip(b).all(pair)
        }
        (Cell::Json(a), Cell::Json(b)) => a == b,
        _ => order(left, right) == Some(Ordering::Equal),
    }
}

fn compare(left: &Cell, op: CompareOp, right: &Cell) -> Option<bool> {
    let numbers = is_number(left) && is_number(right);
    let texts = matches!(
        (left, right),
        (Cell::Json(Json::String(_)), Cell::Json(Json::String(_)))
    );
    match op {
        CompareOp::Eq => Some(same(left, right)),
        CompareOp::Ne => Some(!same(left, right)),
        _ if numbers || texts => Some(op.accepts(order(left, right))),
        _ => None,
    }
}

fn arith(op: ArithOp, left: &Cell, right: &Cell) -> Option<Cell> {
    if let (Cell::Int(a), Cell::Int(b)) = (left, right) {
        let (wide_a, wide_b) = (i128::from(*a), i128::from(*b));
        let wide = match op {
            ArithOp::Add => wide_a + wide_b,
            ArithOp::Sub => wide_a - wide_b,
            ArithOp::Mul => wide_a * wide_b,
            ArithOp::Div if *b == 0 => return None,
            ArithOp::Div => wide_a / wide_b,
            ArithOp::Mod if *b == 0 || (*a == i64::MIN && *b == -1) => return None,
            ArithOp::Mod => wide_a % wide_b,
            ArithOp::Pow if *b < 0 => return Some(Cell::Float((*a as f64).powf(*b as f64))),
            ArithOp::Pow => return a.checked_pow(u32::try_from(*b).ok()?).map(Cell::Int),
        };
        return i64::try_from(wide).ok().map(Cell::Int);
    }
    let number = |cell: &Cell| match cell {
        Cell::Int(number) => Some(*number as f64),
        Cell::Float(number) => Some(*number),
        Cell::Json(_) => None,
    };
    let (a, b) = (number(left)?, number(right)?);
    match op {
        ArithOp::Add => Some(Cell::Float(a + b)),
        ArithOp::Sub => Some(Cell::Float(a - b)),
        ArithOp::Mul => Some(Cell::Float(a * b)),
        ArithOp::Div => (b != 0.0).then_some(Cell::Float(a / b)),
        ArithOp::Mod => None,
        ArithOp::Pow => Some(Cell::Float(a.powf(b))),
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['%', rest @ ..], _) => {
            like(rest, text) || (!text.is_empty() && like(pattern, &text[1..]))
        }
        (['\\'], ['\\']) => true,
        (['\\', literal, rest @ ..], [c, others @ ..]) => c == literal && like(rest, others),
        (['_', rest @ ..], [_, others @ ..]) => like(rest, others),
        ([p, rest @ ..], [c, others @ ..]) if *p != '\\' => p == c && like(rest, others),
        _ => false,
    }
}
