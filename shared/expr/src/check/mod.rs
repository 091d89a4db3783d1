//! Syntax tree to [`Plan`]: names become fields, types are checked, constants are folded.

mod arith;
mod compare;
mod member;

use std::collections::HashMap;

use redkite_types::{CollectionSchema, DataType, FieldSchema, Value};

use crate::{
    ast::{Kind, Node},
    error::{Flaw, Result, flaw},
    parse::parse_tree,
    plan::{Constant, JsonPath, Leaf, Operand, Plan, Predicate, Scalar},
};

/// Template variables by name.
pub type Templates = HashMap<String, Value>;

/// Makes the plan of a filter: parses it, resolves its names against the schema, checks its types
/// and puts in the template variables. A filter without any token matches every row.
///
/// # Errors
/// [`crate::Error::Invalid`]: a mistake in the filter, with what was expected and where; never
/// worth a retry.
pub fn compile(text: &str, templates: &Templates, schema: &CollectionSchema) -> Result<Plan> {
    let checked = parse_tree(text).and_then(|tree| {
        let checker = Checker { schema, templates };
        match tree {
            Some(node) => checker.condition(&node),
            None => Ok(Predicate::Const(true)),
        }
    });
    let predicate = checked.map_err(|mistake| mistake.in_text(text))?;
    let key = schema.fields.iter().find(|field| field.is_primary_key);
    Ok(Plan::new(predicate, key.map(|field| field.id)))
}

struct Checker<'a> {
    schema: &'a CollectionSchema,
    templates: &'a Templates,
}

/// A node whose names are resolved.
#[derive(Clone)]
enum Term<'a> {
    Constant(Constant),
    /// A whole field, of any type.
    Field(&'a FieldSchema),
    /// A place below a JSON field, or a dynamic key.
    Json(JsonPath),
    /// A number computed from fields.
    Arith(Operand),
    Condition(Predicate),
}

impl Term<'_> {
    /// As an error message names it.
    fn describe(&self) -> String {
        match self {
            Self::Constant(Constant::Scalar(scalar)) => scalar.kind().to_owned(),
            Self::Constant(Constant::List(_)) => "a list".to_owned(),
            Self::Field(field) => field.data_type.name().to_owned(),
            Self::Json(_) => "JSON".to_owned(),
            Self::Arith(_) => "a number".to_owned(),
            Self::Condition(_) => "a condition".to_owned(),
        }
    }

    /// The place in JSON, if it is one.
    fn json_path(&self) -> Option<JsonPath> {
        match self {
            Self::Json(path) => Some(path.clone()),
            Self::Field(field) if field.data_type == DataType::Json => Some(JsonPath {
                field: field.id,
                keys: Vec::new(),
            }),
            Self::Field(_) | Self::Constant(_) | Self::Arith(_) | Self::Condition(_) => None,
        }
    }
}

impl<'a> Checker<'a> {
    fn condition(&self, node: &Node) -> Result<Predicate, Flaw> {
        match &node.kind {
            Kind::And(nodes) => Ok(Predicate::and(self.conditions(nodes)?)),
            Kind::Or(nodes) => Ok(Predicate::or(self.conditions(nodes)?)),
            Kind::Not(inner) => Ok(Predicate::not(self.condition(inner)?)),
            Kind::Compare(first, rest) => self.comparison(node.at, first, rest),
            Kind::In {
                negated,
                needle,
                list,
            } => Ok(negate_if(*negated, self.membership(needle, list)?)),
            Kind::Like {
                negated,
                operand,
                pattern,
            } => Ok(negate_if(*negated, self.like(operand, pattern)?)),
            Kind::IsNull { negated, operand } => Ok(negate_if(*negated, self.null_test(operand)?)),
            Kind::Exists(operand) => self.existence(operand),
            Kind::Contains {
                mode,
                operand,
                wanted,
            } => self.containment(*mode, operand, wanted),
            Kind::Bool(_)
            | Kind::Int(_)
            | Kind::Float(_)
            | Kind::Str(_)
            | Kind::Template(_)
            | Kind::List(_)
            | Kind::Name { .. }
            | Kind::Negate(_)
            | Kind::Arith(..) => self.bare_condition(node),
        }
    }

    fn conditions(&self, nodes: &[Node]) -> Result<Vec<Predicate>, Flaw> {
        nodes.iter().map(|node| self.condition(node)).collect()
    }

    /// A value that stands where a condition should: a Bool will do.
    fn bare_condition(&self, node: &Node) -> Result<Predicate, Flaw> {
        match self.term(node)? {
            Term::Constant(Constant::Scalar(Scalar::Bool(value))) => Ok(Predicate::Const(value)),
            Term::Field(field) if field.data_type == DataType::Bool => {
                Ok(Predicate::Leaf(Leaf::Bool {
                    field: field.id,
                    value: true,
                }))
            }
            other => {
                let problem = format!("expected a condition, found {}", other.describe());
                Err(flaw(node.at, problem))
            }
        }
    }

    fn term(&self, node: &Node) -> Result<Term<'a>, Flaw> {
        match &node.kind {
            Kind::Bool(value) => Ok(scalar(Scalar::Bool(*value))),
            Kind::Int(value) => Ok(scalar(Scalar::Int(*value))),
            Kind::Float(value) => Ok(scalar(Scalar::Float(*value))),
            Kind::Str(value) => Ok(scalar(Scalar::Str(value.clone()))),
            Kind::List(items) => self.list(items),
            Kind::Template(name) => {
                let value = self.template(node.at, name)?;
                Ok(Term::Constant(constant(node.at, value)?))
            }
            Kind::Name { name, path } => self.name(node.at, name, path),
            Kind::Negate(inner) => self.negation(node.at, inner),
            Kind::Arith(op, left, right) => self.arithmetic(node.at, *op, left, right),
            Kind::Compare(..)
            | Kind::In { .. }
            | Kind::Like { .. }
            | Kind::IsNull { .. }
            | Kind::Exists(_)
            | Kind::Contains { .. }
            | Kind::Not(_)
            | Kind::And(_)
            | Kind::Or(_) => Ok(Term::Condition(self.condition(node)?)),
        }
    }

    fn name(&self, at: usize, name: &str, path: &[String]) -> Result<Term<'a>, Flaw> {
        if let Some(field) = self.schema.field(name) {
            return match (path.is_empty(), field.data_type) {
                (true, _) => Ok(Term::Field(field)),
                (false, DataType::Json) => Ok(Term::Json(JsonPath {
                    field: field.id,
                    keys: path.to_vec(),
                })),
                (false, other) => {
                    let problem = format!("field {name} is {other}, only JSON fields have keys");
                    Err(flaw(at, problem))
                }
            };
        }
        let Some(dynamic) = self.schema.dynamic_field() else {
            return Err(flaw(at, format!("field {name} not exist")));
        };
        let mut keys = vec![name.to_owned()];
        keys.extend_from_slice(path);
        Ok(Term::Json(JsonPath {
            field: dynamic.id,
            keys,
        }))
    }

    fn list(&self, items: &[Node]) -> Result<Term<'a>, Flaw> {
        let mut scalars = Vec::with_capacity(items.len());
        for item in items {
            match self.term(item)? {
                Term::Constant(Constant::Scalar(scalar)) => scalars.push(scalar),
                other => {
                    let problem = format!("expected a constant, found {}", other.describe());
                    return Err(flaw(item.at, problem));
                }
            }
        }
        Ok(Term::Constant(Constant::List(scalars)))
    }

    fn template(&self, at: usize, name: &str) -> Result<&'a Value, Flaw> {
        self.templates.get(name).ok_or_else(|| {
            let problem =
                format!("the value of expression template variable name {{{name}}} is not found");
            flaw(at, problem)
        })
    }

    /// The constants of a list, each with its position; a list may hold lists.
    fn constants(&self, node: &Node) -> Result<Vec<(usize, Constant)>, Flaw> {
        match &node.kind {
            Kind::List(items) => items
                .iter()
                .map(|item| match self.term(item)? {
                    Term::Constant(constant) => Ok((item.at, constant)),
                    other => {
                        let problem = format!("expected a constant, found {}", other.describe());
                        Err(flaw(item.at, problem))
                    }
                })
                .collect(),
            Kind::Template(name) => match self.template(node.at, name)? {
                Value::List(values) => values
                    .iter()
                    .map(|value| Ok((node.at, constant(node.at, value)?)))
                    .collect(),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Str(_) => {
                    Err(flaw(
                        node.at,
                        format!("template variable {{{name}}} is no list"),
                    ))
                }
            },
            _ => Err(flaw(node.at, "expected a list")),
        }
    }
}

fn negate_if(negated: bool, predicate: Predicate) -> Predicate {
    if negated {
        Predicate::not(predicate)
    } else {
        predicate
    }
}

fn scalar<'a>(scalar: Scalar) -> Term<'a> {
    Term::Constant(Constant::Scalar(scalar))
}

fn constant(at: usize, value: &Value) -> Result<Constant, Flaw> {
    let Value::List(values) = value else {
        return template_scalar(at, value).map(Constant::Scalar);
    };
    let scalars: Result<Vec<Scalar>, Flaw> = values
        .iter()
        .map(|value| template_scalar(at, value))
        .collect();
    scalars.map(Constant::List)
}

fn template_scalar(at: usize, value: &Value) -> Result<Scalar, Flaw> {
    match value {
        Value::Bool(value) => Ok(Scalar::Bool(*value)),
        Value::Int(value) => Ok(Scalar::Int(*value)),
        Value::Double(value) if value.is_finite() => Ok(Scalar::Float(*value)),
        Value::Double(_) => Err(flaw(at, "a template value is not a finite number")),
        Value::Str(value) => Ok(Scalar::Str(value.clone())),
        Value::Null => Err(flaw(at, "a template value is null, use 'is null'")),
        Value::List(_) => Err(flaw(at, "a template value is a list nested too deep")),
    }
}
