//! Comparisons: against a constant in the form of the field's type, or between computed values.

use redkite_types::{DataType, FieldId, FieldSchema};

use super::{Checker, Term, arith::number_step};
use crate::{
    ast::{CompareOp, Node},
    error::{Flaw, Result, flaw},
    plan::{Constant, JsonPath, Leaf, Number, Operand, Predicate, Scalar, Step},
};

impl Checker<'_> {
    /// `a < b`, or a chain `a < b <= c`, which means `a < b and b <= c`.
    pub(super) fn comparison(
        &self,
        at: usize,
        first: &Node,
        rest: &[(CompareOp, Node)],
    ) -> Result<Predicate, Flaw> {
        let mut left = self.term(first)?;
        let mut links = Vec::with_capacity(rest.len());
        for (op, node) in rest {
            let right = self.term(node)?;
            links.push(compare(at, left, *op, right.clone())?);
            left = right;
        }
        Ok(Predicate::and(links))
    }
}

fn compare(at: usize, left: Term<'_>, op: CompareOp, right: Term<'_>) -> Result<Predicate, Flaw> {
    match (left, right) {
        (Term::Constant(left), Term::Constant(right)) => fold(at, &left, op, &right),
        (Term::Constant(constant), term) => with_constant(at, &term, op.mirrored(), constant),
        (term, Term::Constant(constant)) => with_constant(at, &term, op, constant),
        (left, right) => between(at, &left, op, &right),
    }
}

fn mismatch(at: usize, left: impl AsRef<str>, op: CompareOp, right: impl AsRef<str>) -> Flaw {
    let problem = format!(
        "comparisons between {} and {} with '{}' are not supported",
        left.as_ref(),
        right.as_ref(),
        op.symbol()
    );
    flaw(at, problem)
}

fn constant_kind(constant: &Constant) -> &'static str {
    match constant {
        Constant::Scalar(scalar) => scalar.kind(),
        Constant::List(_) => "a list",
    }
}

fn fold(at: usize, left: &Constant, op: CompareOp, right: &Constant) -> Result<Predicate, Flaw> {
    let order = match (left, right) {
        (Constant::Scalar(a), Constant::Scalar(b)) => match (a, b) {
            (Scalar::Str(a), Scalar::Str(b)) => Some(a.cmp(b)),
            (Scalar::Bool(a), Scalar::Bool(b)) if op.is_equality() => Some(a.cmp(b)),
            _ => match (a.number(), b.number()) {
                (Some(a), Some(b)) => a.compare(b),
                _ => None,
            },
        },
        _ => None,
    };
    match order {
        Some(order) => Ok(Predicate::Const(op.accepts(Some(order)))),
        None => Err(mismatch(at, constant_kind(left), op, constant_kind(right))),
    }
}

fn with_constant(
    at: usize,
    term: &Term<'_>,
    op: CompareOp,
    constant: Constant,
) -> Result<Predicate, Flaw> {
    if let Some(path) = term.json_path() {
        return json_with_constant(at, path, op, constant);
    }
    let found = constant_kind(&constant);
    let refused = || mismatch(at, term.describe(), op, found);
    let Constant::Scalar(scalar) = constant else {
        return Err(refused());
    };
    match term {
        Term::Field(field) => field_with_constant(field, op, scalar).ok_or_else(refused),
        Term::Condition(condition) => match (op, scalar) {
            (CompareOp::Eq, Scalar::Bool(true)) | (CompareOp::Ne, Scalar::Bool(false)) => {
                Ok(condition.clone())
            }
            (CompareOp::Eq | CompareOp::Ne, Scalar::Bool(_)) => {
                Ok(Predicate::not(condition.clone()))
            }
            _ => Err(refused()),
        },
        Term::Arith(operand) => {
            let number = scalar.number().ok_or_else(refused)?;
            Ok(Predicate::Leaf(Leaf::Compare {
                op,
                left: operand.clone(),
                right: Operand {
                    steps: vec![number_step(number)],
                },
            }))
        }
        Term::Constant(_) | Term::Json(_) => Err(refused()),
    }
}

/// The comparison in the form of the field's type; `None` if the types do not fit.
fn field_with_constant(field: &FieldSchema, op: CompareOp, scalar: Scalar) -> Option<Predicate> {
    let id = field.id;
    match (field.data_type, scalar) {
        (DataType::Bool, Scalar::Bool(value)) if op.is_equality() => {
            Some(Predicate::Leaf(Leaf::Bool {
                field: id,
                value: value == (op == CompareOp::Eq),
            }))
        }
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64, scalar) => {
            Some(int_compare(id, op, scalar.number()?))
        }
        (DataType::Float | DataType::Double, scalar) => {
            let value = float_constant(field.data_type, scalar.number()?);
            Some(Predicate::Leaf(Leaf::FloatCompare {
                field: id,
                op,
                value,
            }))
        }
        (DataType::VarChar, Scalar::Str(value)) => Some(str_compare(id, op, value)),
        (
            DataType::Bool
            | DataType::VarChar
            | DataType::Json
            | DataType::FloatVector
            | DataType::BinaryVector
            | DataType::Float16Vector
            | DataType::BFloat16Vector
            | DataType::SparseFloatVector
            | DataType::Int8Vector,
            _,
        ) => None,
    }
}

/// The constant as the field can hold it: `f == 0.1` must find the Float nearest to 0.1.
pub(super) fn float_constant(data_type: DataType, number: Number) -> f64 {
    let value = number.to_f64();
    if data_type == DataType::Float {
        f64::from(value as f32)
    } else {
        value
    }
}

/// An integer field against a number of any size and kind, decided exactly, as a range.
fn int_compare(field: FieldId, op: CompareOp, number: Number) -> Predicate {
    // Every finite float is an i128 here or saturates far outside of the range of i64.
    let (floor, ceil) = match number {
        Number::Int(number) => (i128::from(number), i128::from(number)),
        Number::Float(number) => (number.floor() as i128, number.ceil() as i128),
    };
    let (lowest, highest) = (i128::from(i64::MIN), i128::from(i64::MAX));
    let (low, high) = match op {
        CompareOp::Eq | CompareOp::Ne => (ceil, floor),
        CompareOp::Lt => (lowest, ceil.saturating_sub(1)),
        CompareOp::Le => (lowest, floor),
        CompareOp::Gt => (floor.saturating_add(1), highest),
        CompareOp::Ge => (ceil, highest),
    };
    let clamped = (
        i64::try_from(low.max(lowest)),
        i64::try_from(high.min(highest)),
    );
    let (low, high) = match clamped {
        (Ok(low), Ok(high)) if low <= high => (low, high),
        _ => (1, 0),
    };
    let range = Predicate::Leaf(Leaf::IntRange { field, low, high });
    if op == CompareOp::Ne {
        Predicate::not(range)
    } else {
        range
    }
}

fn str_compare(field: FieldId, op: CompareOp, value: String) -> Predicate {
    let equal = |value| {
        let values = vec![value];
        Predicate::Leaf(Leaf::StrIn { field, values })
    };
    match op {
        CompareOp::Eq => equal(value),
        CompareOp::Ne => Predicate::not(equal(value)),
        CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => {
            Predicate::Leaf(Leaf::StrCompare { field, op, value })
        }
    }
}

fn json_with_constant(
    at: usize,
    path: JsonPath,
    op: CompareOp,
    value: Constant,
) -> Result<Predicate, Flaw> {
    let ordered = matches!(
        value,
        Constant::Scalar(Scalar::Int(_) | Scalar::Float(_) | Scalar::Str(_))
    );
    match op {
        CompareOp::Ne => {
            let op = CompareOp::Eq;
            let equal = Predicate::Leaf(Leaf::JsonCompare { path, op, value });
            Ok(Predicate::not(equal))
        }
        _ if ordered || op.is_equality() => {
            Ok(Predicate::Leaf(Leaf::JsonCompare { path, op, value }))
        }
        _ => Err(mismatch(at, "JSON", op, constant_kind(&value))),
    }
}

/// What a computed value is, as far as the schema tells.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Bool,
    Number,
    Text,
    /// Anything; rows will tell.
    Json,
}

fn between(at: usize, left: &Term<'_>, op: CompareOp, right: &Term<'_>) -> Result<Predicate, Flaw> {
    let refused = || mismatch(at, left.describe(), op, right.describe());
    let (left_class, left_operand) = computed(left).ok_or_else(refused)?;
    let (right_class, right_operand) = computed(right).ok_or_else(refused)?;
    let same = left_class == right_class || [left_class, right_class].contains(&Class::Json);
    let with_bool = [left_class, right_class].contains(&Class::Bool);
    if !same || with_bool && !op.is_equality() {
        return Err(refused());
    }
    Ok(Predicate::Leaf(Leaf::Compare {
        op,
        left: left_operand,
        right: right_operand,
    }))
}

fn computed(term: &Term<'_>) -> Option<(Class, Operand)> {
    let class = match term {
        Term::Arith(operand) => return Some((Class::Number, operand.clone())),
        Term::Json(_) => Class::Json,
        Term::Field(field) => match field.data_type {
            DataType::Bool => Class::Bool,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float
            | DataType::Double => Class::Number,
            DataType::VarChar => Class::Text,
            DataType::Json => Class::Json,
            DataType::FloatVector
            | DataType::BinaryVector
            | DataType::Float16Vector
            | DataType::BFloat16Vector
            | DataType::SparseFloatVector
            | DataType::Int8Vector => return None,
        },
        Term::Constant(_) | Term::Condition(_) => return None,
    };
    let step = match (term.json_path(), term) {
        (Some(path), _) => Step::Json(path),
        (None, Term::Field(field)) => Step::Field(field.id),
        (None, _) => return None,
    };
    Some((class, Operand { steps: vec![step] }))
}
