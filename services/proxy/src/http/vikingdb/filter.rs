//! VikingDB's filters in our filter language, so that there is one evaluator.
//!
//! Two forms: a map from fields to values (fields are ANDed, values ORed, a list field matches by any
//! element), and a tree of operators. A row without a value matches `must_not` and nothing else.

use redkite_catalog::CollectionEntry;
use redkite_expr::{
    Plan,
    ast::{ArithOp, CompareOp, ContainsMode, Kind, Node},
};
use redkite_types::FieldSchema;
use serde_json::{Map, Value};

use super::{answer::Failure, types::FieldType};
use crate::plan::compile_filter;

/// Bounds of a range, as they are written.
const BOUNDS: [(&str, CompareOp); 4] = [
    ("gt", CompareOp::Gt),
    ("gte", CompareOp::Ge),
    ("lt", CompareOp::Lt),
    ("lte", CompareOp::Le),
];

/// The filter of a task: `filter` and `filter_conds` of its parameters, both of which must match;
/// `None` when it has neither.
///
/// # Errors
/// 400/1000003 with what is wrong.
pub fn of_task(
    entry: &CollectionEntry,
    params: &Map<String, Value>,
) -> Result<Option<Plan>, Failure> {
    let given = |name: &str| params.get(name).filter(|value| !value.is_null());
    let mut parts = Vec::new();
    if let Some(filter) = given("filter") {
        parts.push(match filter {
            Value::Object(tree) if tree.contains_key("op") => operator(entry, filter)?,
            Value::Object(map) => by_field(entry, map)?,
            Value::Array(_) => conditions(entry, filter)?,
            _ => return Err(Failure::invalid("filter is no object")),
        });
    }
    if let Some(filter) = given("filter_conds") {
        parts.push(conditions(entry, filter)?);
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let text = and(parts).to_string();
    let plan = compile_filter(entry, &text, Default::default());
    let plan = plan.map_err(|error| Failure::invalid(error.message))?;
    Ok(Some(plan))
}

/// `{field: [values...], ...}`.
fn by_field(entry: &CollectionEntry, map: &Map<String, Value>) -> Result<Node, Failure> {
    if map.is_empty() {
        return Err(Failure::invalid("filter is empty"));
    }
    let parts = map.iter().map(|(name, values)| {
        let values = match values {
            Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        must(entry, name, values)
    });
    parts.collect::<Result<_, _>>().map(and)
}

/// A list of operators, all of which must match.
fn conditions(entry: &CollectionEntry, list: &Value) -> Result<Node, Failure> {
    subtrees(entry, "filter_conds", Some(list)).map(and)
}

fn subtrees(
    entry: &CollectionEntry,
    what: &str,
    list: Option<&Value>,
) -> Result<Vec<Node>, Failure> {
    let trees = list.and_then(Value::as_array);
    let trees = trees.filter(|trees| !trees.is_empty());
    let trees = trees.ok_or_else(|| Failure::invalid(format!("{what} is no list of operators")))?;
    trees.iter().map(|tree| operator(entry, tree)).collect()
}

/// One operator and what is below it.
fn operator(entry: &CollectionEntry, tree: &Value) -> Result<Node, Failure> {
    let tree = tree
        .as_object()
        .ok_or_else(|| Failure::invalid("an operator is no object"))?;
    let op = tree.get("op").and_then(Value::as_str);
    let op = op.ok_or_else(|| Failure::invalid("an operator has no op"))?;
    match op {
        "must" | "must_not" => {
            only(op, tree, &["op", "field", "conds"])?;
            let name = field_name(op, tree)?;
            let values = tree.get("conds").and_then(Value::as_array);
            let values = values.ok_or_else(|| Failure::invalid(format!("{op} has no conds")))?;
            let found = must(entry, name, values)?;
            Ok(match op {
                "must" => found,
                _ => or(vec![node(Kind::Not(Box::new(found))), is_null(name)]),
            })
        }
        "range" | "range_out" if tree.get("field").is_some_and(Value::is_array) => {
            only(op, tree, &["op", "field", "center", "radius"])?;
            circle(entry, op, tree)
        }
        "range" | "range_out" => {
            only(op, tree, &["op", "field", "gt", "gte", "lt", "lte"])?;
            range(entry, op, tree)
        }
        "and" | "or" => {
            only(op, tree, &["op", "conds"])?;
            let below = subtrees(entry, &format!("conds of {op}"), tree.get("conds"))?;
            Ok(if op == "and" { and(below) } else { or(below) })
        }
        other => Err(Failure::invalid(format!("op {other} is not known"))),
    }
}

fn only(op: &str, tree: &Map<String, Value>, known: &[&str]) -> Result<(), Failure> {
    match tree.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Failure::invalid(format!("{key} of {op} is not known"))),
    }
}

fn field_name<'a>(op: &str, tree: &'a Map<String, Value>) -> Result<&'a str, Failure> {
    let name = tree.get("field").and_then(Value::as_str);
    name.ok_or_else(|| Failure::invalid(format!("{op} has no field")))
}

fn field<'a>(entry: &'a CollectionEntry, name: &str) -> Result<&'a FieldSchema, Failure> {
    let mut fields = entry.schema().fields.iter();
    let found = fields.find(|field| field.name == name && !field.is_dynamic);
    found.ok_or_else(|| Failure::invalid(format!("field {name} is not in the collection")))
}

/// The field has one of the values; a list field has one of them as an element.
fn must(entry: &CollectionEntry, name: &str, values: &[Value]) -> Result<Node, Failure> {
    let schema = field(entry, name)?;
    let kind = FieldType::of(entry, schema);
    if values.is_empty() {
        return Err(Failure::invalid(format!(
            "field {name} has no values to match"
        )));
    }
    let wrong = |value: &Value| {
        let text = format!(
            "value {value} does not fit field {name} of type {}",
            kind.name(schema)
        );
        Failure::invalid(text)
    };
    let integers = || {
        values
            .iter()
            .map(|value| value.as_i64().map(int).ok_or_else(|| wrong(value)))
    };
    let texts = || {
        let text = |value: &Value| value.as_str().map(|text| node(Kind::Str(text.to_owned())));
        values
            .iter()
            .map(move |value| text(value).ok_or_else(|| wrong(value)))
    };
    let list = |items: Vec<Node>| Box::new(node(Kind::List(items)));
    let is_in = |items| {
        node(Kind::In {
            negated: false,
            needle: Box::new(named(name)),
            list: list(items),
        })
    };
    let contains = |items| {
        node(Kind::Contains {
            mode: ContainsMode::Any,
            operand: Box::new(named(name)),
            wanted: list(items),
        })
    };
    match kind {
        FieldType::Int64 => Ok(is_in(integers().collect::<Result<_, _>>()?)),
        FieldType::String => Ok(is_in(texts().collect::<Result<_, _>>()?)),
        FieldType::ListInt64 => Ok(contains(integers().collect::<Result<_, _>>()?)),
        FieldType::ListString => Ok(contains(texts().collect::<Result<_, _>>()?)),
        FieldType::Bool => {
            let equals = |value: &Value| {
                let value = value.as_bool().ok_or_else(|| wrong(value))?;
                Ok(compare(named(name), CompareOp::Eq, node(Kind::Bool(value))))
            };
            values.iter().map(equals).collect::<Result<_, _>>().map(or)
        }
        FieldType::Other if schema.data_type.is_integer() => {
            Ok(is_in(integers().collect::<Result<_, _>>()?))
        }
        FieldType::Float32 | FieldType::Text | FieldType::Vector | FieldType::Other => {
            let kind = kind.name(schema);
            let text = format!("field {name} of type {kind} cannot be matched by value");
            Err(Failure::invalid(text))
        }
    }
}

/// A field that has numbers.
fn numeric(entry: &CollectionEntry, name: &str) -> Result<Node, Failure> {
    let schema = field(entry, name)?;
    if schema.data_type.is_integer() || schema.data_type.is_floating() {
        return Ok(named(name));
    }
    let kind = FieldType::of(entry, schema).name(schema);
    Err(Failure::invalid(format!(
        "field {name} of type {kind} has no ranges"
    )))
}

/// Within all bounds, or outside of them: above the lower or below the upper one.
fn range(entry: &CollectionEntry, op: &str, tree: &Map<String, Value>) -> Result<Node, Failure> {
    let name = field_name(op, tree)?;
    let operand = numeric(entry, name)?;
    let mut parts = Vec::new();
    for (key, compared) in BOUNDS {
        if let Some(bound) = tree.get(key) {
            let bound = number(bound);
            let bound =
                bound.ok_or_else(|| Failure::invalid(format!("{key} of {op} is no number")))?;
            parts.push(compare(operand.clone(), compared, bound));
        }
    }
    match (parts.is_empty(), op) {
        (true, _) => Err(Failure::invalid(format!("{op} has no bound"))),
        (false, "range") => Ok(and(parts)),
        (false, _) => Ok(or(parts)),
    }
}

/// Within a distance of a point of the plane, or beyond it.
fn circle(entry: &CollectionEntry, op: &str, tree: &Map<String, Value>) -> Result<Node, Failure> {
    let two = |key: &str| {
        let pair = tree.get(key).and_then(Value::as_array);
        let pair = pair.filter(|pair| pair.len() == 2);
        pair.ok_or_else(|| Failure::invalid(format!("{key} of {op} is no pair")))
    };
    let mut squares = Vec::with_capacity(2);
    for (name, center) in two("field")?.iter().zip(two("center")?) {
        let name = name.as_str();
        let name = name.ok_or_else(|| Failure::invalid(format!("field of {op} is no string")))?;
        let center = center.as_f64();
        let center =
            center.ok_or_else(|| Failure::invalid(format!("center of {op} is no number")))?;
        let offset = arith(ArithOp::Sub, numeric(entry, name)?, float(center));
        squares.push(arith(ArithOp::Mul, offset.clone(), offset));
    }
    let radius = tree.get("radius").and_then(Value::as_f64);
    let radius = radius.filter(|radius| *radius >= 0.0);
    let radius = radius.ok_or_else(|| Failure::invalid(format!("radius of {op} is no length")))?;
    let limit = float(radius * radius);
    let second = squares.pop();
    let (Some(first), Some(second)) = (squares.pop(), second) else {
        return Err(Failure::invalid(format!("field of {op} is no pair")));
    };
    let inside = if op == "range" {
        CompareOp::Le
    } else {
        CompareOp::Gt
    };
    Ok(compare(arith(ArithOp::Add, first, second), inside, limit))
}

fn number(value: &Value) -> Option<Node> {
    match value.as_i64() {
        Some(value) => Some(int(value)),
        None => value.as_f64().map(float),
    }
}

fn node(kind: Kind) -> Node {
    Node::new(0, kind)
}

fn named(name: &str) -> Node {
    node(Kind::Name {
        name: name.to_owned(),
        path: Vec::new(),
    })
}

fn int(value: i64) -> Node {
    match value {
        i64::MIN | 0.. => node(Kind::Int(value)),
        _ => node(Kind::Negate(Box::new(node(Kind::Int(-value))))),
    }
}

fn float(value: f64) -> Node {
    let magnitude = node(Kind::Float(value.abs()));
    if value.is_sign_negative() {
        return node(Kind::Negate(Box::new(magnitude)));
    }
    magnitude
}

fn arith(op: ArithOp, left: Node, right: Node) -> Node {
    node(Kind::Arith(op, Box::new(left), Box::new(right)))
}

fn compare(left: Node, op: CompareOp, right: Node) -> Node {
    node(Kind::Compare(Box::new(left), vec![(op, right)]))
}

fn is_null(name: &str) -> Node {
    node(Kind::IsNull {
        negated: false,
        operand: Box::new(named(name)),
    })
}

fn and(parts: Vec<Node>) -> Node {
    joined(parts, Kind::And)
}

fn or(parts: Vec<Node>) -> Node {
    joined(parts, Kind::Or)
}

fn joined(mut parts: Vec<Node>, join: fn(Vec<Node>) -> Kind) -> Node {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    node(join(parts))
}

/// A key as it stands in a filter; `None` for a value that is no key.
pub(super) fn key(value: &Value) -> Option<Node> {
    match value {
        Value::String(text) => Some(node(Kind::Str(text.clone()))),
        value => value.as_i64().map(int),
    }
}

/// The text of "the field has one of these keys".
pub(super) fn key_in(name: &str, keys: Vec<Node>) -> String {
    let filter = Kind::In {
        negated: false,
        needle: Box::new(named(name)),
        list: Box::new(node(Kind::List(keys))),
    };
    node(filter).to_string()
}
