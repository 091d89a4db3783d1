//! `common.KeyValuePair`: how Milvus's clients send nearly every option.
//!
//! A key that is there twice counts with its last value.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use redkite_types::{Error, Result};

use crate::milvus::common::KeyValuePair;

/// The value of a key.
pub fn get<'a>(pairs: &'a [KeyValuePair], key: &str) -> Option<&'a str> {
    pairs
        .iter()
        .rev()
        .find(|pair| pair.key == key)
        .map(|pair| pair.value.as_str())
}

/// The value of a key, parsed.
///
/// # Errors
/// Code 1100 naming key and value when it does not parse; never worth a retry.
pub fn parse<T: FromStr>(pairs: &[KeyValuePair], key: &str) -> Result<Option<T>> {
    get(pairs, key)
        .map(|text| parse_value(key, text))
        .transpose()
}

/// The value of a switch; clients write Python's `True` as well as `true`, and `1`.
///
/// # Errors
/// Code 1100 naming key and value when it is neither; never worth a retry.
pub fn flag(pairs: &[KeyValuePair], key: &str) -> Result<Option<bool>> {
    get(pairs, key)
        .map(|text| match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(invalid_value(key, text)),
        })
        .transpose()
}

/// All pairs as a map.
pub fn into_map(pairs: Vec<KeyValuePair>) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect()
}

/// One pair.
pub fn pair(key: impl Into<String>, value: impl Display) -> KeyValuePair {
    KeyValuePair {
        key: key.into(),
        value: value.to_string(),
    }
}

/// Pairs in the order given; a map gives them sorted, so that equal options are equal messages.
pub fn from_iter<K: Into<String>, V: Display>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> Vec<KeyValuePair> {
    entries
        .into_iter()
        .map(|(key, value)| pair(key, value))
        .collect()
}

fn parse_value<T: FromStr>(key: &str, text: &str) -> Result<T> {
    text.trim().parse().map_err(|_| invalid_value(key, text))
}

fn invalid_value(key: &str, text: &str) -> Error {
    Error::invalid_parameter(format!("value {text} of {key} is invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_everywhere() {
        let pairs = vec![pair("a", 1), pair("b", "x"), pair("a", 2)];
        assert_eq!(get(&pairs, "a"), Some("2"));
        assert_eq!(parse::<i64>(&pairs, "a").unwrap(), Some(2));
        assert_eq!(into_map(pairs)["a"], "2");
    }

    #[test]
    fn an_absent_key_is_no_error_and_a_bad_value_names_itself() {
        let pairs = vec![pair("dim", "x8")];
        assert_eq!(parse::<i64>(&pairs, "topk").unwrap(), None);
        assert_eq!(flag(&pairs, "topk").unwrap(), None);
        let error = parse::<i64>(&pairs, "dim").unwrap_err();
        assert_eq!(error.code.number(), 1100);
        assert!(error.message.contains("dim") && error.message.contains("x8"));
        assert!(flag(&pairs, "dim").is_err());
    }

    #[test]
    fn switches_are_read_in_every_spelling() {
        for (text, want) in [
            ("True", true),
            ("true", true),
            ("1", true),
            ("False", false),
        ] {
            assert_eq!(flag(&[pair("k", text)], "k").unwrap(), Some(want));
        }
    }

    #[test]
    fn a_map_comes_back() {
        let pairs = from_iter([("b", "2"), ("a", "1")]);
        assert_eq!(pairs[0].key, "b");
        let map = into_map(pairs);
        assert_eq!(into_map(from_iter(map.clone())), map);
    }
}
