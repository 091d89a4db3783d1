//! A plan as bytes: a version byte, then the tree in postfix order.
//!
//! Postfix keeps the decoder free of recursion, so that broken bytes cannot exhaust its stack.

use redkite_types::FieldId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use super::{Leaf, Plan, Predicate};
use crate::{
    error::{Error, Result},
    parse::MAX_DEPTH,
};

const VERSION: u8 = 1;

/// Deepest tree that is decoded: a `not` may stand above every level of the text.
const MAX_HEIGHT: usize = 2 * MAX_DEPTH;

/// One node; a joining one takes what it joins from before it.
#[derive(Serialize, Deserialize)]
enum WireNode<L> {
    Const(bool),
    Leaf(L),
    Not,
    And(u32),
    Or(u32),
}

#[derive(Deserialize)]
#[serde(rename = "Plan")]
struct Wire {
    primary_key: Option<FieldId>,
    nodes: Vec<WireNode<Leaf>>,
}

impl Plan {
    /// The plan as bytes for another process of any version that knows this format.
    ///
    /// # Errors
    /// [`Error::Corrupt`] never in practice: every plan can be encoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_extend(self, vec![VERSION]).map_err(|error| Error::corrupt(error.to_string()))
    }

    /// The plan that [`Plan::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((version, body)) = bytes.split_first() else {
            return Err(Error::corrupt("there are no bytes"));
        };
        if *version != VERSION {
            return Err(Error::corrupt(format!("version {version} is not known")));
        }
        let (plan, rest) =
            postcard::take_from_bytes(body).map_err(|error| Error::corrupt(error.to_string()))?;
        if rest.is_empty() {
            return Ok(plan);
        }
        Err(Error::corrupt(format!("{} bytes too many", rest.len())))
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut nodes = Vec::new();
        flatten(&self.predicate, &mut nodes);
        let mut plan = serializer.serialize_struct("Plan", 2)?;
        plan.serialize_field("primary_key", &self.primary_key)?;
        plan.serialize_field("nodes", &nodes)?;
        plan.end()
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let predicate = rebuild(wire.nodes).ok_or_else(|| de::Error::custom("malformed tree"))?;
        Ok(Self::new(predicate, wire.primary_key))
    }
}

fn flatten<'a>(predicate: &'a Predicate, nodes: &mut Vec<WireNode<&'a Leaf>>) {
    match predicate {
        Predicate::Const(value) => nodes.push(WireNode::Const(*value)),
        Predicate::Leaf(leaf) => nodes.push(WireNode::Leaf(leaf)),
        Predicate::Not(child) => {
            flatten(child, nodes);
            nodes.push(WireNode::Not);
        }
        Predicate::And(children) | Predicate::Or(children) => {
            for child in children {
                flatten(child, nodes);
            }
            // The text's length limit keeps the count far below the type's.
            let count = children.len() as u32;
            nodes.push(match predicate {
                Predicate::And(_) => WireNode::And(count),
                _ => WireNode::Or(count),
            });
        }
    }
}

/// The tree, if every node finds its children, one is left, and it is not too deep.
fn rebuild(nodes: Vec<WireNode<Leaf>>) -> Option<Predicate> {
    let mut stack: Vec<(Predicate, usize)> = Vec::new();
    for node in nodes {
        let (predicate, height) = match node {
            WireNode::Const(value) => (Predicate::Const(value), 1),
            WireNode::Leaf(leaf) if leaf.is_well_formed() => (Predicate::Leaf(leaf), 1),
            WireNode::Leaf(_) => return None,
            WireNode::Not => {
                let (child, height) = stack.pop()?;
                (Predicate::Not(Box::new(child)), height + 1)
            }
            WireNode::And(count) => {
                let (children, height) = take_children(&mut stack, count)?;
                (Predicate::And(children), height + 1)
            }
            WireNode::Or(count) => {
                let (children, height) = take_children(&mut stack, count)?;
                (Predicate::Or(children), height + 1)
            }
        };
        if height > MAX_HEIGHT {
            return None;
        }
        stack.push((predicate, height));
    }
    let (root, _) = stack.pop()?;
    stack.is_empty().then_some(root)
}

fn take_children(
    stack: &mut Vec<(Predicate, usize)>,
    count: u32,
) -> Option<(Vec<Predicate>, usize)> {
    let first = stack.len().checked_sub(usize::try_from(count).ok()?)?;
    let (children, heights): (Vec<_>, Vec<_>) = stack.drain(first..).unzip();
    Some((children, heights.into_iter().max().unwrap_or(0)))
}
