//! `in`, `like`, null tests and the functions over JSON arrays.

use redkite_types::{DataType, FieldSchema};

use super::{Checker, Term, compare::float_constant};
use crate::{
    ast::{ContainsMode, Node},
    error::{Flaw, Result, flaw},
    plan::{Constant, JsonSet, Leaf, Like, Predicate, Scalar, sort_floats, sort_set},
};

impl Checker<'_> {
    pub(super) fn membership(&self, needle: &Node, list: &Node) -> Result<Predicate, Flaw> {
        let term = self.term(needle)?;
        let constants = self.constants(list)?;
        if let Some(path) = term.json_path() {
            let constants = constants.into_iter().map(|(_, constant)| constant);
            let values = JsonSet::new(constants.collect());
            return Ok(Predicate::Leaf(Leaf::JsonIn { path, values }));
        }
        match term {
            Term::Field(field) => field_in(needle.at, field, constants),
            other => {
                let problem = format!("'in' needs a field on its left, found {}", other.describe());
                Err(flaw(needle.at, problem))
            }
        }
    }

    pub(super) fn like(&self, operand: &Node, pattern: &Node) -> Result<Predicate, Flaw> {
        let Term::Constant(Constant::Scalar(Scalar::Str(text))) = self.term(pattern)? else {
            return Err(flaw(pattern.at, "'like' needs a string on its right"));
        };
        let pattern = Like::new(&text);
        let term = self.term(operand)?;
        if let Some(path) = term.json_path() {
            return Ok(Predicate::Leaf(Leaf::JsonLike { path, pattern }));
        }
        match (&term, pattern) {
            (Term::Field(field), pattern) if field.data_type == DataType::VarChar => {
                let field = field.id;
                Ok(Predicate::Leaf(match pattern {
                    Like::Exact(text) => Leaf::StrIn {
                        field,
                        values: vec![text],
                    },
                    pattern => Leaf::StrLike { field, pattern },
                }))
            }
            _ => {
                let found = term.describe();
                let problem = format!("'like' needs a VarChar or JSON value, found {found}");
                Err(flaw(operand.at, problem))
            }
        }
    }

    pub(super) fn null_test(&self, operand: &Node) -> Result<Predicate, Flaw> {
        match self.term(operand)? {
            Term::Field(field) => Ok(Predicate::Leaf(Leaf::IsNull { field: field.id })),
            Term::Json(path) => Ok(Predicate::Leaf(Leaf::JsonNull { path })),
            other => {
                let problem = format!("'is null' needs a field, found {}", other.describe());
                Err(flaw(operand.at, problem))
            }
        }
    }

    pub(super) fn existence(&self, operand: &Node) -> Result<Predicate, Flaw> {
        let term = self.term(operand)?;
        match term.json_path() {
            Some(path) => Ok(Predicate::not(Predicate::Leaf(Leaf::JsonNull { path }))),
            None => {
                let found = term.describe();
                let problem =
                    format!("exists is only supported on JSON and dynamic fields, found {found}");
                Err(flaw(operand.at, problem))
            }
        }
    }

    pub(super) fn containment(
        &self,
        mode: ContainsMode,
        operand: &Node,
        wanted: &Node,
    ) -> Result<Predicate, Flaw> {
        let term = self.term(operand)?;
        let Some(path) = term.json_path() else {
            let found = term.describe();
            let problem = format!("{} needs a JSON value, found {found}", mode.function());
            return Err(flaw(operand.at, problem));
        };
        let values = match mode {
            ContainsMode::One => match self.term(wanted)? {
                Term::Constant(constant) => vec![constant],
                other => {
                    let problem = format!("expected a constant, found {}", other.describe());
                    return Err(flaw(wanted.at, problem));
                }
            },
            ContainsMode::All | ContainsMode::Any => {
                let constants = self.constants(wanted)?;
                constants
                    .into_iter()
                    .map(|(_, constant)| constant)
                    .collect()
            }
        };
        Ok(Predicate::Leaf(Leaf::JsonContains { path, mode, values }))
    }
}

fn field_in(
    needle_at: usize,
    field: &FieldSchema,
    constants: Vec<(usize, Constant)>,
) -> Result<Predicate, Flaw> {
    let id = field.id;
    match field.data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            // A number with a fraction equals no integer, so it is left out.
            let numbers = typed(field, constants, |scalar| scalar.number())?;
            let mut values: Vec<i64> = numbers.into_iter().filter_map(|n| n.exact_int()).collect();
            sort_set(&mut values);
            Ok(Predicate::Leaf(Leaf::IntIn { field: id, values }))
        }
        DataType::Float | DataType::Double => {
            let numbers = typed(field, constants, |scalar| scalar.number())?;
            let cast = |number| float_constant(field.data_type, number);
            let mut values: Vec<f64> = numbers.into_iter().map(cast).collect();
            sort_floats(&mut values);
            Ok(Predicate::Leaf(Leaf::FloatIn { field: id, values }))
        }
        DataType::VarChar => {
            let mut values = typed(field, constants, |scalar| match scalar {
                Scalar::Str(text) => Some(text),
                Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) => None,
            })?;
            sort_set(&mut values);
            Ok(Predicate::Leaf(Leaf::StrIn { field: id, values }))
        }
        DataType::Bool => {
            let values = typed(field, constants, |scalar| match scalar {
                Scalar::Bool(value) => Some(value),
                Scalar::Int(_) | Scalar::Float(_) | Scalar::Str(_) => None,
            })?;
            let leaf = |value| Predicate::Leaf(Leaf::Bool { field: id, value });
            Ok(match (values.contains(&true), values.contains(&false)) {
                (true, true) => Predicate::or(vec![leaf(true), leaf(false)]),
                (true, false) => leaf(true),
                (false, true) => leaf(false),
                // False where there is a value, unknown where there is none.
                (false, false) => Predicate::and(vec![leaf(true), leaf(false)]),
            })
        }
        DataType::Json
        | DataType::FloatVector
        | DataType::BinaryVector
        | DataType::Float16Vector
        | DataType::BFloat16Vector
        | DataType::SparseFloatVector
        | DataType::Int8Vector => {
            let problem = format!("'in' is not supported on {}", field.data_type);
            Err(flaw(needle_at, problem))
        }
    }
}

fn typed<T>(
    field: &FieldSchema,
    constants: Vec<(usize, Constant)>,
    cast: impl Fn(Scalar) -> Option<T>,
) -> Result<Vec<T>, Flaw> {
    let mut values = Vec::with_capacity(constants.len());
    for (at, constant) in constants {
        let (kind, value) = match constant {
            Constant::Scalar(scalar) => (scalar.kind(), cast(scalar)),
            Constant::List(_) => ("a list", None),
        };
        let Some(value) = value else {
            let problem = format!(
                "{kind} in the list cannot be cast to {} of field {}",
                field.data_type, field.name
            );
            return Err(flaw(at, problem));
        };
        values.push(value);
    }
    Ok(values)
}
