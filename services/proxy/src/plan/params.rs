//! The key-value pairs that clients send beside the message.
//!
//! Every pair is either read or refused: a client that asks for something never gets an answer that
//! ignores it.

use std::str::FromStr;

use redkite_proto::milvus::common::KeyValuePair;
use redkite_types::{Error, ErrorCode, Result};

/// The pairs of one request, taken out one by one.
pub struct Params {
    pairs: Vec<KeyValuePair>,
}

impl Params {
    /// Starts with all pairs.
    pub fn new(pairs: Vec<KeyValuePair>) -> Self {
        Self { pairs }
    }

    /// Takes a pair out; an empty value counts as absent.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let position = self.pairs.iter().position(|pair| pair.key == key)?;
        Some(self.pairs.swap_remove(position).value).filter(|value| !value.is_empty())
    }

    /// Takes a number out.
    ///
    /// # Errors
    /// Code 1100 that names key and value.
    pub fn take_number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        text.trim().parse().map(Some).map_err(|_| {
            Error::invalid_parameter(format!("{key} [{text}] is invalid, it should be a number"))
        })
    }

    /// Takes a flag out, in Python's or JSON's spelling.
    ///
    /// # Errors
    /// Code 1100 that names key and value.
    pub fn take_flag(&mut self, key: &str) -> Result<bool> {
        let Some(text) = self.take(key) else {
            return Ok(false);
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Error::invalid_parameter(format!(
                "{key} [{text}] is invalid, it should be true or false"
            ))),
        }
    }

    /// Takes out what changes nothing here, whatever it says.
    pub fn drop_keys(&mut self, keys: &[&str]) {
        self.pairs.retain(|pair| !keys.contains(&pair.key.as_str()));
    }

    /// Ends the reading: whatever is left asks for something that is not served.
    ///
    /// # Errors
    /// Code 3000 that names the first key that is left with a value other than a plain "no".
    pub fn finish(self) -> Result<()> {
        let says_no = |value: &str| matches!(value, "" | "False" | "false" | "None");
        match self.pairs.into_iter().find(|pair| !says_no(&pair.value)) {
            None => Ok(()),
            Some(pair) => Err(Error::input(
                ErrorCode::UnsupportedOperation,
                format!(
                    "unsupported operation: parameter {}={} is not served",
                    pair.key, pair.value
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;

    use super::*;

    #[test]
    fn everything_is_read_or_refused() {
        let pairs = [
            ("topk", "10"),
            ("flag", "True"),
            ("off", "False"),
            ("rest", "x"),
        ];
        let mut params = Params::new(kv::from_iter(pairs));
        assert_eq!(params.take_number::<i64>("topk").unwrap(), Some(10));
        assert!(params.take_flag("flag").unwrap());
        assert_eq!(params.take("absent"), None);
        let error = params.finish().unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedOperation);
        assert!(error.message.contains("rest=x"), "{error}");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let mut params = Params::new(kv::from_iter([("limit", "ten"), ("flag", "maybe")]));
        assert!(params.take_number::<i64>("limit").is_err());
        assert!(params.take_flag("flag").is_err());
    }
}
