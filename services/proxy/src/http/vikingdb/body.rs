//! Fields of a JSON body.

use serde_json::{Map, Value};

use super::{answer::Failure, percent};

/// The body's JSON object.
#[derive(Clone, Debug)]
pub struct Body(Map<String, Value>);

impl Body {
    /// Reads a body; an empty one is an empty object. Fields that only the query string has are
    /// texts.
    ///
    /// # Errors
    /// 400/1000003 when it is no JSON object.
    pub fn read(bytes: &[u8], query: &str) -> Result<Self, Failure> {
        let mut fields = match bytes {
            [] => Map::new(),
            bytes => match serde_json::from_slice(bytes) {
                Ok(Value::Object(fields)) => fields,
                Ok(_) => return Err(Failure::invalid("the body is no JSON object")),
                Err(error) => {
                    return Err(Failure::invalid(format!("the body is no JSON: {error}")));
                }
            },
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key)?, decoded(value)?);
            fields.entry(key).or_insert(Value::String(value));
        }
        Ok(Self(fields))
    }

    /// The whole object.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A field's value, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// 400/1000003.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        self.text_or(name, "").and_then(|text| match text {
            "" => Err(Failure::invalid(format!("{name} is missing"))),
            text => Ok(text),
        })
    }

    /// A text that may be missing.
    ///
    /// # Errors
    /// 400/1000003 for a value of another type.
    pub fn text_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, Failure> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Failure::invalid(format!("{name} is no string"))),
        }
    }

    /// A flag that may be missing.
    ///
    /// # Errors
    /// 400/1000003 for a value of another type.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(Failure::invalid(format!("{name} is no boolean"))),
        }
    }

    /// A list that must be there; a single value stands for a list of one.
    ///
    /// # Errors
    /// 400/1000003.
    pub fn list(&self, name: &str) -> Result<Vec<Value>, Failure> {
        match self.get(name) {
            None => Err(Failure::invalid(format!("{name} is missing"))),
            Some(Value::Array(values)) => Ok(values.clone()),
            Some(value) => Ok(vec![value.clone()]),
        }
    }

    /// Refuses fields that nothing acts on.
    ///
    /// # Errors
    /// 400/1000003 with the first such field.
    pub fn only(&self, known: &[&str]) -> Result<(), Failure> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Failure::invalid(format!("{key} is not known"))),
        }
    }
}

/// A part of a query string.
fn decoded(text: &str) -> Result<String, Failure> {
    let bytes = percent::decode(text, true).into_owned();
    String::from_utf8(bytes).map_err(|_| Failure::invalid(format!("{text} is no UTF-8")))
}
