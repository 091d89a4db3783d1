//! Arithmetic: constants are folded, the rest becomes postfix steps.

use redkite_types::DataType;

use super::{Checker, Term, scalar};
use crate::{
    ast::{ArithOp, Node},
    error::{Flaw, Result, flaw},
    plan::{Constant, Number, Operand, Scalar, Step},
};

impl<'a> Checker<'a> {
    pub(super) fn negation(&self, at: usize, inner: &Node) -> Result<Term<'a>, Flaw> {
        let term = self.term(inner)?;
        if let Some(number) = constant_number(&term) {
            let negated = number.negate();
            return negated
                .map(number_term)
                .ok_or_else(|| flaw(at, "integer overflow"));
        }
        let mut operand = numeric_operand(inner.at, &term)?;
        operand.steps.push(Step::Negate);
        Ok(Term::Arith(operand))
    }

    pub(super) fn arithmetic(
        &self,
        at: usize,
        op: ArithOp,
        left_node: &Node,
        right_node: &Node,
    ) -> Result<Term<'a>, Flaw> {
        let left = self.term(left_node)?;
        let right = self.term(right_node)?;
        let divisor = constant_number(&right);
        if divisor.is_some_and(Number::is_zero) {
            match op {
                ArithOp::Div => return Err(flaw(at, "cannot divide by zero")),
                ArithOp::Mod => return Err(flaw(at, "cannot take a modulus by zero")),
                ArithOp::Add | ArithOp::Sub | ArithOp::Mul | ArithOp::Pow => {}
            }
        }
        if op == ArithOp::Mod && (is_floating(&left) || is_floating(&right)) {
            return Err(flaw(at, "modulo can only apply on integer types"));
        }
        if let (Some(a), Some(b)) = (constant_number(&left), divisor) {
            return fold(at, op, a, b);
        }
        let mut operand = numeric_operand(left_node.at, &left)?;
        operand
            .steps
            .extend(numeric_operand(right_node.at, &right)?.steps);
        operand.steps.push(Step::Arith(op));
        Ok(Term::Arith(operand))
    }
}

fn fold<'a>(at: usize, op: ArithOp, a: Number, b: Number) -> Result<Term<'a>, Flaw> {
    match a.arith(op, b) {
        Some(Number::Float(result)) if !result.is_finite() => {
            Err(flaw(at, format!("'{}' has no finite result", op.symbol())))
        }
        Some(result) => Ok(number_term(result)),
        None => Err(flaw(at, format!("integer overflow in '{}'", op.symbol()))),
    }
}

fn number_term<'a>(number: Number) -> Term<'a> {
    scalar(match number {
        Number::Int(number) => Scalar::Int(number),
        Number::Float(number) => Scalar::Float(number),
    })
}

fn constant_number(term: &Term<'_>) -> Option<Number> {
    match term {
        Term::Constant(Constant::Scalar(scalar)) => scalar.number(),
        _ => None,
    }
}

/// Whether it certainly gives floats; JSON shows only per row what it holds.
fn is_floating(term: &Term<'_>) -> bool {
    match term {
        Term::Constant(Constant::Scalar(scalar)) => matches!(scalar, Scalar::Float(_)),
        Term::Field(field) => field.data_type.is_floating(),
        Term::Constant(Constant::List(_)) | Term::Json(_) | Term::Arith(_) | Term::Condition(_) => {
            false
        }
    }
}

/// The steps that compute a number, if the term can be one.
fn numeric_operand(at: usize, term: &Term<'_>) -> Result<Operand, Flaw> {
    let step = match term {
        Term::Arith(operand) => return Ok(operand.clone()),
        Term::Constant(_) => constant_number(term).map(number_step),
        Term::Field(field) if field.data_type.is_integer() || field.data_type.is_floating() => {
            Some(Step::Field(field.id))
        }
        Term::Field(field) if field.data_type == DataType::Json => term.json_path().map(Step::Json),
        Term::Json(path) => Some(Step::Json(path.clone())),
        Term::Field(_) | Term::Condition(_) => None,
    };
    match step {
        Some(step) => Ok(Operand { steps: vec![step] }),
        None => {
            let problem = format!("arithmetic needs numbers, found {}", term.describe());
            Err(flaw(at, problem))
        }
    }
}

pub(super) fn number_step(number: Number) -> Step {
    match number {
        Number::Int(number) => Step::Int(number),
        Number::Float(number) => Step::Float(number),
    }
}
