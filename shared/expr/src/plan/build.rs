//! Joins conditions: flat, constants folded, conditions on one field merged, cheap ones first.
//!
//! Everything here keeps the three-valued answer of each row.

use std::collections::HashMap;

use redkite_types::FieldId;

use super::{Leaf, Predicate, leaf::sort_set};

impl Predicate {
    /// The condition that all of `terms` hold.
    pub(crate) fn and(terms: Vec<Self>) -> Self {
        let mut kept = Vec::with_capacity(terms.len());
        let mut ranges = HashMap::new();
        for term in terms {
            match term {
                Self::Const(true) => {}
                Self::Const(false) => return Self::Const(false),
                Self::And(inner) => {
                    for term in inner {
                        push_narrowed(&mut kept, &mut ranges, term);
                    }
                }
                other => push_narrowed(&mut kept, &mut ranges, other),
            }
        }
        join(kept, true, Self::And)
    }

    /// The condition that at least one of `terms` holds.
    pub(crate) fn or(terms: Vec<Self>) -> Self {
        let mut kept = Vec::with_capacity(terms.len());
        let mut points = Points::default();
        for term in terms {
            match term {
                Self::Const(false) => {}
                Self::Const(true) => return Self::Const(true),
                Self::Or(inner) => {
                    for term in inner {
                        kept.extend(points.absorb(term));
                    }
                }
                other => kept.extend(points.absorb(other)),
            }
        }
        kept.extend(points.into_terms());
        join(kept, false, Self::Or)
    }

    /// The condition that `term` is false.
    pub(crate) fn not(term: Self) -> Self {
        match term {
            Self::Const(value) => Self::Const(!value),
            Self::Not(inner) => *inner,
            Self::Leaf(Leaf::Bool { field, value }) => Self::Leaf(Leaf::Bool {
                field,
                value: !value,
            }),
            other => Self::Not(Box::new(other)),
        }
    }

    fn cost(&self) -> u32 {
        match self {
            Self::Const(_) => 0,
            Self::Leaf(leaf) => leaf.cost(),
            Self::Not(child) => child.cost(),
            Self::And(children) | Self::Or(children) => {
                children.iter().map(Self::cost).fold(0, u32::saturating_add)
            }
        }
    }
}

fn join(
    mut terms: Vec<Predicate>,
    empty: bool,
    many: fn(Vec<Predicate>) -> Predicate,
) -> Predicate {
    match terms.len() {
        0 => Predicate::Const(empty),
        1 => terms.swap_remove(0),
        _ => {
            terms.sort_by_cached_key(Predicate::cost);
            many(terms)
        }
    }
}

/// Adds a term to a conjunction; a range narrows the range of the same field that is there.
fn push_narrowed(kept: &mut Vec<Predicate>, ranges: &mut HashMap<FieldId, usize>, term: Predicate) {
    if let Predicate::Leaf(Leaf::IntRange { field, low, high }) = &term {
        let known = ranges.get(field).and_then(|&place| kept.get_mut(place));
        if let Some(Predicate::Leaf(Leaf::IntRange {
            low: known_low,
            high: known_high,
            ..
        })) = known
        {
            *known_low = (*known_low).max(*low);
            *known_high = (*known_high).min(*high);
            return;
        }
        ranges.insert(*field, kept.len());
    }
    kept.push(term);
}

/// The equalities of a disjunction, gathered by field into lists.
#[derive(Default)]
struct Points {
    ints: HashMap<FieldId, Vec<i64>>,
    texts: HashMap<FieldId, Vec<String>>,
    order: Vec<FieldId>,
}

impl Points {
    /// Takes the term if it is an equality, gives it back if not.
    fn absorb(&mut self, term: Predicate) -> Option<Predicate> {
        let field = match term {
            Predicate::Leaf(Leaf::IntRange { field, low, high }) if low == high => {
                self.ints.entry(field).or_default().push(low);
                field
            }
            Predicate::Leaf(Leaf::IntIn { field, values }) => {
                self.ints.entry(field).or_default().extend(values);
                field
            }
            Predicate::Leaf(Leaf::StrIn { field, values }) => {
                self.texts.entry(field).or_default().extend(values);
                field
            }
            other => return Some(other),
        };
        self.order.push(field);
        None
    }

    fn into_terms(mut self) -> Vec<Predicate> {
        let mut terms = Vec::new();
        for field in self.order {
            if let Some(mut values) = self.ints.remove(&field) {
                sort_set(&mut values);
                terms.push(Predicate::Leaf(Leaf::IntIn { field, values }));
            }
            if let Some(mut values) = self.texts.remove(&field) {
                sort_set(&mut values);
                terms.push(Predicate::Leaf(Leaf::StrIn { field, values }));
            }
        }
        terms
    }
}
