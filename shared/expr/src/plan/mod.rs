//! The checked filter: what to look for in which field, ready to be evaluated and to be sent.

mod build;
mod leaf;
mod like;
mod number;
mod wire;

use std::collections::BTreeSet;

use redkite_types::{FieldId, PrimaryKey, PrimaryKeys, Value};

pub(crate) use self::{
    leaf::{
        Constant, JsonPath, JsonSet, Leaf, Operand, Scalar, Step, has_float, sort_floats, sort_set,
    },
    like::Like,
    number::Number,
};

/// A filter whose fields and types were checked against one collection's schema.
///
/// Cheap to evaluate again and again: lists are sorted, constants have their field's type, and
/// conditions that are cheap come before those that are not.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    predicate: Predicate,
    primary_key: Option<FieldId>,
}

/// A condition on a row; true, false or unknown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Predicate {
    Const(bool),
    Leaf(Leaf),
    Not(Box<Predicate>),
    /// At least two, none of them an `And`.
    And(Vec<Predicate>),
    /// At least two, none of them an `Or`.
    Or(Vec<Predicate>),
}

impl Plan {
    /// The filter that every row passes.
    pub const fn all() -> Self {
        Self {
            predicate: Predicate::Const(true),
            primary_key: None,
        }
    }

    pub(crate) fn new(predicate: Predicate, primary_key: Option<FieldId>) -> Self {
        Self {
            predicate,
            primary_key,
        }
    }

    pub(crate) fn predicate(&self) -> &Predicate {
        &self.predicate
    }

    /// Whether every row passes, whatever it holds.
    pub fn is_all(&self) -> bool {
        self.predicate == Predicate::Const(true)
    }

    /// Whether no row passes, whatever it holds.
    pub fn is_none(&self) -> bool {
        self.predicate == Predicate::Const(false)
    }

    /// The fields whose columns the evaluation reads.
    pub fn fields(&self) -> BTreeSet<FieldId> {
        let mut fields = BTreeSet::new();
        self.predicate
            .visit_leaves(&mut |leaf| leaf.add_fields(&mut fields));
        fields
    }

    /// The primary keys asked for, ascending and without doubles, when the whole filter says no
    /// more than `pk == a` or `pk in [a, b]`.
    pub fn primary_key_in(&self) -> Option<PrimaryKeys> {
        let Predicate::Leaf(leaf) = &self.predicate else {
            return None;
        };
        let key = self.primary_key?;
        match leaf {
            Leaf::IntRange { field, low, high } if *field == key => {
                single(*low, *high).map(PrimaryKeys::Int)
            }
            Leaf::IntIn { field, values } if *field == key => {
                Some(PrimaryKeys::Int(values.clone()))
            }
            Leaf::StrIn { field, values } if *field == key => {
                Some(PrimaryKeys::Str(values.clone()))
            }
            _ => None,
        }
    }

    /// The values that a partition key of type Int64 or VarChar can have in a row that passes,
    /// ascending; `None` when the filter does not limit it to listed values.
    pub fn partition_key_values(&self, field: FieldId) -> Option<Vec<Value>> {
        let values = self.predicate.implied_values(field)?;
        let value = |key| match key {
            PrimaryKey::Int(number) => Value::Int(number),
            PrimaryKey::Str(text) => Value::Str(text),
        };
        Some(values.into_iter().map(value).collect())
    }
}

impl Predicate {
    fn visit_leaves(&self, visit: &mut impl FnMut(&Leaf)) {
        match self {
            Self::Const(_) => {}
            Self::Leaf(leaf) => visit(leaf),
            Self::Not(child) => child.visit_leaves(visit),
            Self::And(children) | Self::Or(children) => {
                for child in children {
                    child.visit_leaves(visit);
                }
            }
        }
    }

    fn implied_values(&self, wanted: FieldId) -> Option<BTreeSet<PrimaryKey>> {
        match self {
            Self::Const(true) | Self::Not(_) => None,
            Self::Const(false) => Some(BTreeSet::new()),
            Self::Leaf(Leaf::IntRange { field, low, high }) if *field == wanted => {
                let values = single(*low, *high)?;
                Some(values.into_iter().map(PrimaryKey::Int).collect())
            }
            Self::Leaf(Leaf::IntIn { field, values }) if *field == wanted => {
                Some(values.iter().copied().map(PrimaryKey::Int).collect())
            }
            Self::Leaf(Leaf::StrIn { field, values }) if *field == wanted => {
                Some(values.iter().cloned().map(PrimaryKey::Str).collect())
            }
            Self::Leaf(_) => None,
            Self::And(children) => children
                .iter()
                .filter_map(|child| child.implied_values(wanted))
                .reduce(|a, b| &a & &b),
            Self::Or(children) => {
                let mut all = BTreeSet::new();
                for child in children {
                    all.extend(child.implied_values(wanted)?);
                }
                Some(all)
            }
        }
    }
}

/// The values of a range that holds one value or none.
fn single(low: i64, high: i64) -> Option<Vec<i64>> {
    match low.cmp(&high) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => Some(vec![low]),
        std::cmp::Ordering::Greater => Some(Vec::new()),
    }
}
