//! Random syntax trees, most of which fit the schema.

use proptest::prelude::*;
use redkite_expr::ast::{ArithOp, CompareOp, ContainsMode, Kind, Node};

fn node(kind: Kind) -> Node {
    Node::new(0, kind)
}

fn name(name: &str, path: &[&str]) -> Node {
    node(Kind::Name {
        name: name.to_owned(),
        path: path.iter().map(|key| (*key).to_owned()).collect(),
    })
}

fn fields(names: &'static [&'static str]) -> impl Strategy<Value = Node> {
    prop::sample::select(names).prop_map(|field| name(field, &[]))
}

pub(crate) fn json() -> impl Strategy<Value = Node> {
    prop_oneof![
        Just(name("meta", &["k"])),
        Just(name("meta", &["k", "k"])),
        Just(name("meta", &["list"])),
        Just(name("meta", &["list", "0"])),
        Just(name("njson", &["k"])),
        Just(name("njson", &["é\""])),
        Just(name("meta", &[])),
        Just(name("$meta", &["k"])),
        Just(name("k", &[])),
        Just(name("list", &["1"])),
    ]
}

fn number() -> impl Strategy<Value = Node> {
    let literal = prop_oneof![
        6 => (0i64..9).prop_map(Kind::Int),
        1 => prop::sample::select(&[127, 128, 32_768, i64::MAX, 1 << 53][..]).prop_map(Kind::Int),
        2 => (0i64..16).prop_map(|half| Kind::Float(half as f64 / 2.0)),
        1 => prop::sample::select(&[0.1, 1e300, 9_223_372_036_854_775_808.0][..]).prop_map(Kind::Float),
    ];
    let signed = (literal, any::<bool>()).prop_map(|(kind, negative)| {
        let literal = node(kind);
        if negative {
            node(Kind::Negate(Box::new(literal)))
        } else {
            literal
        }
    });
    prop_oneof![
        30 => signed,
        1 => Just(node(Kind::Int(i64::MIN))),
    ]
}

fn text() -> impl Strategy<Value = Node> {
    "[abé%\"_\\\\]{0,3}".prop_map(|text| node(Kind::Str(text)))
}

fn boolean() -> impl Strategy<Value = Node> {
    any::<bool>().prop_map(|value| node(Kind::Bool(value)))
}

fn ordering() -> impl Strategy<Value = CompareOp> {
    prop::sample::select(&[CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge][..])
}

fn equality() -> impl Strategy<Value = CompareOp> {
    prop::sample::select(&[CompareOp::Eq, CompareOp::Ne][..])
}

fn any_op() -> impl Strategy<Value = CompareOp> {
    prop_oneof![ordering(), equality()]
}

/// Numbers from fields, constants, JSON and arithmetic.
fn numeric() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        4 => fields(&["id", "i8", "i16", "i32", "n64", "f32", "f64", "nf"]),
        3 => number(),
        1 => json(),
    ];
    let op = prop::sample::select(
        &[
            ArithOp::Add,
            ArithOp::Sub,
            ArithOp::Mul,
            ArithOp::Div,
            ArithOp::Mod,
            ArithOp::Pow,
        ][..],
    );
    leaf.prop_recursive(3, 8, 2, move |inner| {
        prop_oneof![
            3 => (op.clone(), inner.clone(), inner.clone()).prop_map(|(op, left, right)| {
                node(Kind::Arith(op, Box::new(left), Box::new(right)))
            }),
            1 => inner.prop_map(|inner| node(Kind::Negate(Box::new(inner)))),
        ]
    })
}

fn compare(
    left: impl Strategy<Value = Node>,
    op: impl Strategy<Value = CompareOp>,
    right: impl Strategy<Value = Node>,
) -> impl Strategy<Value = Node> {
    (left, op, right, any::<bool>()).prop_map(|(left, op, right, swapped)| {
        let (left, right) = if swapped {
            (right, left)
        } else {
            (left, right)
        };
        node(Kind::Compare(Box::new(left), vec![(op, right)]))
    })
}

fn list(item: impl Strategy<Value = Node>) -> impl Strategy<Value = Node> {
    prop::collection::vec(item, 0..12).prop_map(|items| node(Kind::List(items)))
}

fn json_constant() -> impl Strategy<Value = Node> {
    let scalar = || prop_oneof![number(), text(), boolean()];
    prop_oneof![4 => scalar(), 1 => list(scalar())]
}

fn member(
    needle: impl Strategy<Value = Node>,
    item: impl Strategy<Value = Node>,
) -> impl Strategy<Value = Node> {
    (any::<bool>(), needle, list(item)).prop_map(|(negated, needle, list)| {
        node(Kind::In {
            negated,
            needle: Box::new(needle),
            list: Box::new(list),
        })
    })
}

fn contains() -> impl Strategy<Value = Node> {
    let make = |(mode, operand, wanted)| {
        node(Kind::Contains {
            mode,
            operand: Box::new(operand),
            wanted: Box::new(wanted),
        })
    };
    let many = prop::sample::select(&[ContainsMode::All, ContainsMode::Any][..]);
    prop_oneof![
        (Just(ContainsMode::One), json(), json_constant()).prop_map(make),
        (many, json(), list(json_constant())).prop_map(make),
    ]
}

fn leaf() -> impl Strategy<Value = Node> {
    let texts = || fields(&["text", "ntext"]);
    let chain = (number(), numeric(), number(), any::<bool>()).prop_map(|(a, b, c, falling)| {
        let (first, second) = if falling {
            (CompareOp::Gt, CompareOp::Ge)
        } else {
            (CompareOp::Le, CompareOp::Lt)
        };
        node(Kind::Compare(Box::new(a), vec![(first, b), (second, c)]))
    });
    let like = (any::<bool>(), prop_oneof![texts(), json()], text()).prop_map(
        |(negated, operand, pattern)| {
            node(Kind::Like {
                negated,
                operand: Box::new(operand),
                pattern: Box::new(pattern),
            })
        },
    );
    let null = (
        any::<bool>(),
        prop_oneof![fields(&["n64", "ntext", "njson", "id"]), json()],
    )
        .prop_map(|(negated, operand)| {
            node(Kind::IsNull {
                negated,
                operand: Box::new(operand),
            })
        });
    let ints = || fields(&["id", "i8", "i32", "n64"]);
    prop_oneof![
        4 => compare(fields(&["id", "i8", "i16", "i32", "n64", "f32", "f64", "nf"]), any_op(), number()),
        3 => compare(numeric(), any_op(), numeric()),
        1 => chain,
        2 => compare(texts(), any_op(), prop_oneof![text(), texts(), json()]),
        1 => compare(fields(&["flag"]), equality(), prop_oneof![boolean(), json()]),
        3 => compare(json(), any_op(), prop_oneof![json_constant(), json()]),
        1 => fields(&["flag"]),
        1 => boolean(),
        2 => member(ints(), number()),
        1 => member(fields(&["f32", "f64", "nf"]), number()),
        1 => member(texts(), text()),
        1 => member(fields(&["flag"]), boolean()),
        1 => member(json(), json_constant()),
        1 => like,
        2 => null,
        1 => json().prop_map(|operand| node(Kind::Exists(Box::new(operand)))),
        1 => contains(),
    ]
}

/// Whole filters.
pub(crate) fn filters() -> impl Strategy<Value = Node> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 2..5).prop_map(|nodes| node(Kind::And(nodes))),
            2 => prop::collection::vec(inner.clone(), 2..5).prop_map(|nodes| node(Kind::Or(nodes))),
            2 => inner.clone().prop_map(|inner| node(Kind::Not(Box::new(inner)))),
            1 => compare(inner, equality(), boolean()),
        ]
    })
}
