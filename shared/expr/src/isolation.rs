//! Whether a filter says exactly one value of the partition key.
//!
//! # Source
//! Milvus's check of searches in collections with `partitionkey.isolation`
//! (`internal/util/exprutil/expr_checker.go`), with its texts: the key is compared by `==` with one value, in a
//! condition that every row must meet.

use crate::{
    ast::{CompareOp, Kind, Node},
    parse::parse,
};

const NOT_FOUND: &str = "partition key not found in expr or the expr is invalid when validating partition key \
     isolation";

/// Checks a filter that is known to be right in itself; `key` is the partition key's name.
///
/// # Errors
/// Milvus's text of what does not go with isolation.
pub fn check_isolation(text: &str, key: &str) -> Result<(), String> {
    // A filter that does not parse was refused before.
    let tree = parse(text).ok().flatten();
    let found = tree.map_or(Ok(false), |node| names_one_key(&node, key))?;
    match found {
        true => Ok(()),
        false => Err(NOT_FOUND.to_owned()),
    }
}

/// Whether a condition holds only for rows with one value of the key.
fn names_one_key(node: &Node, key: &str) -> Result<bool, String> {
    let is_key = |node: &Node| match &node.kind {
        Kind::Name { name, path } => name == key && path.is_empty(),
        _ => false,
    };
    let unsupported = |what: &str| Err(format!("partition key isolation does not support {what}"));
    match &node.kind {
        Kind::And(nodes) => {
            let mut found = false;
            for node in nodes {
                found |= names_one_key(node, key)?;
            }
            Ok(found)
        }
        Kind::Or(nodes) => {
            for node in nodes {
                if names_one_key(node, key)? {
                    return unsupported("OR");
                }
            }
            Ok(false)
        }
        Kind::Not(node) => match names_one_key(node, key)? {
            true => unsupported("NOT"),
            false => Ok(false),
        },
        Kind::In { needle, .. } if is_key(needle) => unsupported("IN"),
        Kind::Like { operand, .. } if is_key(operand) => unsupported("PrefixMatch"),
        Kind::Compare(first, rest) => match rest.as_slice() {
            [(op, second)] => {
                let op = match (is_key(first), is_key(second)) {
                    (true, false) => *op,
                    (false, true) => op.mirrored(),
                    // Two fields that are compared say no value.
                    (false, false) | (true, true) => return Ok(false),
                };
                match op {
                    CompareOp::Eq => Ok(true),
                    other => unsupported(name_of(other)),
                }
            }
            chain if is_key(first) || chain.iter().any(|(_, node)| is_key(node)) => {
                unsupported("BinaryRange")
            }
            _ => Ok(false),
        },
        _ => Ok(false),
    }
}

/// As Milvus's plans call it.
const fn name_of(op: CompareOp) -> &'static str {
    match op {
        CompareOp::Eq => "Equal",
        CompareOp::Ne => "NotEqual",
        CompareOp::Lt => "LessThan",
        CompareOp::Le => "LessEqual",
        CompareOp::Gt => "GreaterThan",
        CompareOp::Ge => "GreaterEqual",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_the_key_must_be_said() {
        let none = NOT_FOUND;
        for (filter, wrong) in [
            ("key == 1", None),
            ("1 == key", None),
            ("key == {one}", None),
            ("other > 10 and (key == 1 and third < 2)", None),
            ("key == 1 and (other > 10 or third < 2)", None),
            ("", Some(none)),
            ("other > 10", Some(none)),
            ("key + 1 == 2", Some(none)),
            ("key == 1 or other > 10", Some("OR")),
            ("other > 10 and (third < 2 or key == 1)", Some("OR")),
            ("not (key == 1)", Some("NOT")),
            ("key in [1]", Some("IN")),
            ("key not in [1, 2]", Some("IN")),
            ("key != 1", Some("NotEqual")),
            ("key > 1", Some("GreaterThan")),
            ("1 >= key", Some("LessEqual")),
            ("1 < key < 5", Some("BinaryRange")),
            ("key like 'a%'", Some("PrefixMatch")),
        ] {
            let found = check_isolation(filter, "key");
            match wrong {
                None => found.unwrap_or_else(|error| panic!("{filter}: {error}")),
                Some(what) => assert!(found.unwrap_err().ends_with(what), "{filter}"),
            }
        }
    }
}
