//! The syntax tree, before any schema is known, and its way back to text.

use std::fmt;

/// One node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Byte offset of the node's operator or first character in the text.
    pub at: usize,
    /// Nodes on the longest way down, this one included; the parser limits it.
    pub height: usize,
    /// What it is.
    pub kind: Kind,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `true`.
    Bool(bool),
    /// `42`, never negative except for the smallest integer.
    Int(i64),
    /// `4.2`, never negative.
    Float(f64),
    /// `"text"`.
    Str(String),
    /// `{name}`.
    Template(String),
    /// `[1, 2]`.
    List(Vec<Node>),
    /// `name` or `name["key"][0]`; an index is kept as its decimal digits.
    Name {
        /// A field or a dynamic key.
        name: String,
        /// Keys and indexes below it.
        path: Vec<String>,
    },
    /// `-a`.
    Negate(Box<Node>),
    /// `a + b`.
    Arith(ArithOp, Box<Node>, Box<Node>),
    /// `a < b`, or a chain `a < b <= c`.
    Compare(Box<Node>, Vec<(CompareOp, Node)>),
    /// `a in b`.
    In {
        /// Whether it is `not in`.
        negated: bool,
        /// What is looked for.
        needle: Box<Node>,
        /// A list, or a template that stands for one.
        list: Box<Node>,
    },
    /// `a like "b%"`.
    Like {
        /// Whether it is `not like`.
        negated: bool,
        /// The text.
        operand: Box<Node>,
        /// A string, or a template that stands for one.
        pattern: Box<Node>,
    },
    /// `a is null`.
    IsNull {
        /// Whether it is `is not null`.
        negated: bool,
        /// A name.
        operand: Box<Node>,
    },
    /// `exists a["b"]`.
    Exists(Box<Node>),
    /// `json_contains(a, b)` and its kin.
    Contains {
        /// Which of them.
        mode: ContainsMode,
        /// The JSON array.
        operand: Box<Node>,
        /// What it should contain.
        wanted: Box<Node>,
    },
    /// `not a`.
    Not(Box<Node>),
    /// `a and b and c`.
    And(Vec<Node>),
    /// `a or b or c`.
    Or(Vec<Node>),
}

/// An arithmetic operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ArithOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`, which truncates between integers.
    Div,
    /// `%`, which has the sign of the left side.
    Mod,
    /// `**`
    Pow,
}

impl ArithOp {
    /// As it is written.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "**",
        }
    }
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum CompareOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl CompareOp {
    /// As it is written.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }

    /// The operator that says the same with the sides exchanged.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::Eq => Self::Eq,
            Self::Ne => Self::Ne,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
        }
    }

    /// Whether it is `==` or `!=`, which any two values of one kind allow.
    pub const fn is_equality(self) -> bool {
        matches!(self, Self::Eq | Self::Ne)
    }

    /// Whether the order found between left and right satisfies it; no order (a NaN) satisfies
    /// only `!=`.
    #[inline]
    pub fn accepts(self, order: Option<std::cmp::Ordering>) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self {
            Self::Eq => order == Some(Equal),
            Self::Ne => order != Some(Equal),
            Self::Lt => order == Some(Less),
            Self::Le => matches!(order, Some(Less | Equal)),
            Self::Gt => order == Some(Greater),
            Self::Ge => matches!(order, Some(Greater | Equal)),
        }
    }
}

/// Which of the functions over JSON arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainsMode {
    /// `json_contains`: the one value.
    One,
    /// `json_contains_all`: every value of the list.
    All,
    /// `json_contains_any`: at least one value of the list.
    Any,
}

impl ContainsMode {
    /// The function's name.
    pub const fn function(self) -> &'static str {
        match self {
            Self::One => "json_contains",
            Self::All => "json_contains_all",
            Self::Any => "json_contains_any",
        }
    }
}

impl Node {
    /// A node whose height follows from its children.
    pub fn new(at: usize, kind: Kind) -> Self {
        let height = 1 + kind.children_height();
        Self { at, height, kind }
    }
}

impl Kind {
    fn children_height(&self) -> usize {
        let tallest = |nodes: &[Node]| nodes.iter().map(|node| node.height).max().unwrap_or(0);
        match self {
            Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Str(_)
            | Self::Template(_)
            | Self::Name { .. } => 0,
            Self::List(nodes) | Self::And(nodes) | Self::Or(nodes) => tallest(nodes),
            Self::Negate(node) | Self::Exists(node) | Self::Not(node) => node.height,
            Self::IsNull { operand, .. } => operand.height,
            Self::Arith(_, left, right) => left.height.max(right.height),
            Self::Compare(first, rest) => rest
                .iter()
                .map(|(_, node)| node.height)
                .fold(first.height, usize::max),
            Self::In { needle, list, .. } => needle.height.max(list.height),
            Self::Like {
                operand, pattern, ..
            } => operand.height.max(pattern.height),
            Self::Contains {
                operand, wanted, ..
            } => operand.height.max(wanted.height),
        }
    }
}

impl fmt::Display for Node {
    /// Writes text that parses to the same tree, with parentheses around every operation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { "not " } else { "" };
        match &self.kind {
            Kind::Bool(value) => write!(f, "{value}"),
            Kind::Int(value) => write!(f, "{value}"),
            Kind::Float(value) => write!(f, "{value:?}"),
            Kind::Str(text) => write_quoted(f, text),
            Kind::Template(name) => write!(f, "{{{name}}}"),
            Kind::List(items) => {
                f.write_str("[")?;
                write_joined(f, items, ", ")?;
                f.write_str("]")
            }
            Kind::Name { name, path } => {
                f.write_str(name)?;
                for step in path {
                    f.write_str("[")?;
                    write_quoted(f, step)?;
                    f.write_str("]")?;
                }
                Ok(())
            }
            Kind::Negate(node) => write!(f, "(-{node})"),
            Kind::Arith(op, left, right) => write!(f, "({left} {} {right})", op.symbol()),
            Kind::Compare(first, rest) => {
                write!(f, "({first}")?;
                for (op, node) in rest {
                    write!(f, " {} {node}", op.symbol())?;
                }
                f.write_str(")")
            }
            Kind::In {
                negated,
                needle,
                list,
            } => write!(f, "({needle} {}in {list})", not(*negated)),
            Kind::Like {
                negated,
                operand,
                pattern,
            } => write!(f, "({operand} {}like {pattern})", not(*negated)),
            Kind::IsNull { negated, operand } => {
                write!(f, "({operand} is {}null)", not(*negated))
            }
            Kind::Exists(node) => write!(f, "(exists {node})"),
            Kind::Contains {
                mode,
                operand,
                wanted,
            } => write!(f, "{}({operand}, {wanted})", mode.function()),
            Kind::Not(node) => write!(f, "(not {node})"),
            Kind::And(nodes) => write_group(f, nodes, " and "),
            Kind::Or(nodes) => write_group(f, nodes, " or "),
        }
    }
}

fn write_group(f: &mut fmt::Formatter<'_>, nodes: &[Node], separator: &str) -> fmt::Result {
    f.write_str("(")?;
    write_joined(f, nodes, separator)?;
    f.write_str(")")
}

fn write_joined(f: &mut fmt::Formatter<'_>, nodes: &[Node], separator: &str) -> fmt::Result {
    for (index, node) in nodes.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{node}")?;
    }
    Ok(())
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}
