//! Conditions on single fields, and the constants in them.

use std::{cmp::Ordering, collections::BTreeSet};

use redkite_types::FieldId;
use serde::{Deserialize, Serialize};

use super::{Like, Number};
use crate::ast::{ArithOp, CompareOp, ContainsMode};

/// One condition. On a row whose field has no value each is unknown, except the null tests.
///
/// The order of the variants is part of the encoded form: append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Leaf {
    /// The field has no value.
    IsNull { field: FieldId },
    /// A Bool field has this value.
    Bool { field: FieldId, value: bool },
    /// An integer field lies between the two, both included; with `low > high` no value does.
    IntRange { field: FieldId, low: i64, high: i64 },
    /// An integer field is one of the values, which ascend.
    IntIn { field: FieldId, values: Vec<i64> },
    /// A Float or Double field compared; for Float the value is one that Float can hold.
    FloatCompare {
        field: FieldId,
        op: CompareOp,
        value: f64,
    },
    /// A Float or Double field is one of the values, which ascend.
    FloatIn { field: FieldId, values: Vec<f64> },
    /// A VarChar field compared bytewise.
    StrCompare {
        field: FieldId,
        op: CompareOp,
        value: String,
    },
    /// A VarChar field is one of the values, which ascend.
    StrIn { field: FieldId, values: Vec<String> },
    /// A VarChar field matches.
    StrLike { field: FieldId, pattern: Like },
    /// Anything computed from fields, compared.
    Compare {
        op: CompareOp,
        left: Operand,
        right: Operand,
    },
    /// A JSON value compared.
    JsonCompare {
        path: JsonPath,
        op: CompareOp,
        value: Constant,
    },
    /// A JSON value is one of these.
    JsonIn { path: JsonPath, values: JsonSet },
    /// A JSON string matches.
    JsonLike { path: JsonPath, pattern: Like },
    /// There is no JSON value at the path, or it is null. Never unknown.
    JsonNull { path: JsonPath },
    /// A JSON array contains values.
    JsonContains {
        path: JsonPath,
        mode: ContainsMode,
        values: Vec<Constant>,
    },
}

/// A place in a JSON field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JsonPath {
    pub(crate) field: FieldId,
    /// Keys from the root; in an array a key is an index in decimal digits.
    pub(crate) keys: Vec<String>,
}

/// A constant that is no list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
}

/// A constant that JSON is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Constant {
    Scalar(Scalar),
    List(Vec<Scalar>),
}

impl Scalar {
    pub(crate) fn number(&self) -> Option<Number> {
        match self {
            Self::Int(number) => Some(Number::Int(*number)),
            Self::Float(number) => Some(Number::Float(*number)),
            Self::Bool(_) | Self::Str(_) => None,
        }
    }

    /// As an error message names its type.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "Bool",
            Self::Int(_) => "Int64",
            Self::Float(_) => "Double",
            Self::Str(_) => "VarChar",
        }
    }
}

/// Constants by kind, each list ascending, so that a value is looked up in its own kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct JsonSet {
    /// Whether false and true are members.
    pub(crate) bools: [bool; 2],
    /// Every number that is an integer, floats included.
    pub(crate) ints: Vec<i64>,
    /// The other numbers.
    pub(crate) floats: Vec<f64>,
    pub(crate) texts: Vec<String>,
    pub(crate) lists: Vec<Vec<Scalar>>,
}

impl JsonSet {
    pub(crate) fn new(constants: Vec<Constant>) -> Self {
        let mut set = Self::default();
        for constant in constants {
            match constant {
                Constant::Scalar(Scalar::Bool(value)) => set.bools[usize::from(value)] = true,
                Constant::Scalar(Scalar::Int(number)) => set.ints.push(number),
                Constant::Scalar(Scalar::Float(number)) => {
                    match Number::Float(number).exact_int() {
                        Some(number) => set.ints.push(number),
                        None => set.floats.push(number),
                    }
                }
                Constant::Scalar(Scalar::Str(text)) => set.texts.push(text),
                Constant::List(items) => set.lists.push(items),
            }
        }
        sort_set(&mut set.ints);
        sort_floats(&mut set.floats);
        sort_set(&mut set.texts);
        set
    }

    pub(crate) fn has_number(&self, number: Number) -> bool {
        match (number.exact_int(), number) {
            (Some(int), _) => self.ints.binary_search(&int).is_ok(),
            (None, Number::Float(float)) => has_float(&self.floats, float),
            (None, Number::Int(_)) => false,
        }
    }
}

/// Sorts and drops doubles.
pub(crate) fn sort_set<T: Ord>(values: &mut Vec<T>) {
    values.sort_unstable();
    values.dedup();
}

/// Sorts and drops doubles; there is no NaN among constants.
pub(crate) fn sort_floats(values: &mut Vec<f64>) {
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
}

/// Whether an ascending list holds a number; a NaN is in no list.
#[inline]
pub(crate) fn has_float(values: &[f64], wanted: f64) -> bool {
    values
        .binary_search_by(|value| value.partial_cmp(&wanted).unwrap_or(Ordering::Less))
        .is_ok()
}

/// A value computed from a row, in postfix order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Operand {
    pub(crate) steps: Vec<Step>,
}

/// One step of an [`Operand`], on a stack of values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Pushes a field's value.
    Field(FieldId),
    /// Pushes a JSON value.
    Json(JsonPath),
    /// Pushes a constant.
    Int(i64),
    /// Pushes a constant.
    Float(f64),
    /// Turns the sign of the top.
    Negate,
    /// Takes the right side, then the left side; pushes the result.
    Arith(ArithOp),
}

impl Operand {
    /// Whether every step finds its values on the stack and one value is left in the end.
    pub(crate) fn is_well_formed(&self) -> bool {
        let mut depth = 0usize;
        for step in &self.steps {
            let (takes, gives) = match step {
                Step::Field(_) | Step::Json(_) | Step::Int(_) | Step::Float(_) => (0, 1),
                Step::Negate => (1, 1),
                Step::Arith(_) => (2, 1),
            };
            let Some(rest) = depth.checked_sub(takes) else {
                return false;
            };
            depth = rest + gives;
        }
        depth == 1
    }

    fn add_fields(&self, fields: &mut BTreeSet<FieldId>) {
        for step in &self.steps {
            match step {
                Step::Field(field) => {
                    fields.insert(*field);
                }
                Step::Json(path) => {
                    fields.insert(path.field);
                }
                Step::Int(_) | Step::Float(_) | Step::Negate | Step::Arith(_) => {}
            }
        }
    }
}

impl Leaf {
    pub(crate) fn add_fields(&self, fields: &mut BTreeSet<FieldId>) {
        match self {
            Self::IsNull { field }
            | Self::Bool { field, .. }
            | Self::IntRange { field, .. }
            | Self::IntIn { field, .. }
            | Self::FloatCompare { field, .. }
            | Self::FloatIn { field, .. }
            | Self::StrCompare { field, .. }
            | Self::StrIn { field, .. }
            | Self::StrLike { field, .. } => {
                fields.insert(*field);
            }
            Self::Compare { left, right, .. } => {
                left.add_fields(fields);
                right.add_fields(fields);
            }
            Self::JsonCompare { path, .. }
            | Self::JsonIn { path, .. }
            | Self::JsonLike { path, .. }
            | Self::JsonNull { path }
            | Self::JsonContains { path, .. } => {
                fields.insert(path.field);
            }
        }
    }

    /// Time for one row, in rough units of one integer comparison; decides what goes first.
    pub(crate) fn cost(&self) -> u32 {
        match self {
            Self::IsNull { .. } => 0,
            Self::Bool { .. } | Self::IntRange { .. } | Self::FloatCompare { .. } => 1,
            Self::IntIn { .. } | Self::FloatIn { .. } => 4,
            Self::StrCompare { .. } | Self::StrIn { .. } => 8,
            Self::StrLike { .. } => 16,
            Self::Compare { left, right, .. } => {
                let steps = left.steps.iter().chain(&right.steps);
                let cost = |step: &Step| if matches!(step, Step::Json(_)) { 60 } else { 5 };
                steps.map(cost).sum()
            }
            Self::JsonCompare { .. } | Self::JsonNull { .. } => 60,
            Self::JsonIn { .. } | Self::JsonLike { .. } => 70,
            Self::JsonContains { .. } => 100,
        }
    }

    /// Whether what the evaluation relies on holds: lists ascend, operands have their values.
    pub(crate) fn is_well_formed(&self) -> bool {
        match self {
            Self::IntIn { values, .. } => values.is_sorted(),
            Self::FloatIn { values, .. } => values.is_sorted(),
            Self::StrIn { values, .. } => values.is_sorted(),
            Self::JsonIn { values, .. } => {
                values.ints.is_sorted() && values.floats.is_sorted() && values.texts.is_sorted()
            }
            Self::Compare { left, right, .. } => left.is_well_formed() && right.is_well_formed(),
            Self::IsNull { .. }
            | Self::Bool { .. }
            | Self::IntRange { .. }
            | Self::FloatCompare { .. }
            | Self::StrCompare { .. }
            | Self::StrLike { .. }
            | Self::JsonCompare { .. }
            | Self::JsonLike { .. }
            | Self::JsonNull { .. }
            | Self::JsonContains { .. } => true,
        }
    }
}
