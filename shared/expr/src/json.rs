//! Reads single values out of JSON text without building the document.
//!
//! Columns hold documents that were checked at insert; on broken text a value is simply not found,
//! and nothing here recurses, so that no document can exhaust the stack. Of two equal keys the
//! first counts.

use std::borrow::Cow;

use crate::plan::Number;

/// A JSON value that is not null.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// The text from its bracket on.
    Array(&'a [u8]),
    Object,
}

/// The value below the keys; `None` if there is none or it is null.
pub(crate) fn value_at<'a>(document: &'a [u8], keys: &[String]) -> Option<Cell<'a>> {
    let mut cursor = Cursor {
        bytes: document,
        at: 0,
    };
    cursor.skip_space();
    for key in keys {
        match cursor.peek()? {
            b'{' => cursor.enter_member(key)?,
            b'[' => cursor.enter_element(key)?,
            _ => return None,
        }
    }
    cursor.cell()
}

/// The elements of an array, `None` for null; ends early where the text is broken.
pub(crate) fn elements(array: &[u8]) -> impl Iterator<Item = Option<Cell<'_>>> {
    let mut cursor = Cursor {
        bytes: array,
        at: 0,
    };
    let mut before = b'[';
    std::iter::from_fn(move || {
        cursor.expect(before)?;
        before = b',';
        cursor.skip_space();
        if cursor.peek()? == b']' {
            return None;
        }
        let mut ahead = Cursor {
            bytes: cursor.bytes,
            at: cursor.at,
        };
        cursor.skip_value()?;
        cursor.skip_space();
        Some(ahead.cell())
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The inside of a string as it stands in the text.
struct RawText<'a> {
    bytes: &'a [u8],
    escaped: bool,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        if self.peek()? != wanted {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// From an object's bracket to the value of a key.
    fn enter_member(&mut self, key: &str) -> Option<()> {
        self.expect(b'{')?;
        loop {
            self.skip_space();
            let found = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            if found.equals(key) {
                return Some(());
            }
            self.skip_value()?;
            self.skip_space();
            self.expect(b',')?;
        }
    }

    /// From an array's bracket to the element with an index.
    fn enter_element(&mut self, index: &str) -> Option<()> {
        let canonical = index == "0" || !index.starts_with(['0', '+']);
        let index: usize = index.parse().ok().filter(|_| canonical)?;
        self.expect(b'[')?;
        self.skip_space();
        for _ in 0..index {
            self.skip_value()?;
            self.skip_space();
            self.expect(b',')?;
            self.skip_space();
        }
        (self.peek()? != b']').then_some(())
    }

    fn string(&mut self) -> Option<RawText<'a>> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek()? {
                b'"' => {
                    let bytes = &self.bytes[start..self.at];
                    self.at += 1;
                    return Some(RawText { bytes, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' => self.skip_nested(),
            _ => (!self.plain().is_empty()).then_some(()),
        }
    }

    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// A literal or number: everything up to the next delimiter.
    fn plain(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let is_end = |byte: &u8| {
            matches!(
                byte,
                b',' | b']' | b'}' | b':' | b'"' | b' ' | b'\t' | b'\n' | b'\r'
            )
        };
        let length = rest.iter().position(is_end).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn cell(&mut self) -> Option<Cell<'a>> {
        match self.peek()? {
            b'"' => self.string()?.decode().map(Cell::Text),
            b'{' => Some(Cell::Object),
            b'[' => Some(Cell::Array(&self.bytes[self.at..])),
            _ => match self.plain() {
                b"true" => Some(Cell::Bool(true)),
                b"false" => Some(Cell::Bool(false)),
                text => number(text).map(Cell::Number),
            },
        }
    }
}

fn number(text: &[u8]) -> Option<Number> {
    // Rust also reads "inf", "nan" and a leading plus, which JSON does not have.
    if !matches!(text.first(), Some(b'-' | b'0'..=b'9')) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(number) = text.parse() {
        return Some(Number::Int(number));
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Number::Float(number))
}

impl<'a> RawText<'a> {
    fn equals(&self, wanted: &str) -> bool {
        if self.escaped {
            self.decode().is_some_and(|text| text == wanted)
        } else {
            self.bytes == wanted.as_bytes()
        }
    }

    fn decode(&self) -> Option<Cow<'a, str>> {
        let text = std::str::from_utf8(self.bytes).ok()?;
        if !self.escaped {
            return Some(Cow::Borrowed(text));
        }
        let mut decoded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\\') {
            decoded.push_str(before);
            rest = push_escape(&mut decoded, after)?;
        }
        decoded.push_str(rest);
        Some(Cow::Owned(decoded))
    }
}

/// Resolves the escape whose backslash was just read; gives what follows it.
fn push_escape<'a>(decoded: &mut String, escape: &'a str) -> Option<&'a str> {
    let mut characters = escape.chars();
    let character = match characters.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let (high, rest) = hex4(characters.as_str())?;
            let (code, rest) = match high {
                0xd800..=0xdbff => {
                    let (low, rest) = hex4(rest.strip_prefix("\\u")?)?;
                    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    (0x10000 + ((high - 0xd800) << 10) + low, rest)
                }
                _ => (high, rest),
            };
            decoded.push(char::from_u32(code)?);
            return Some(rest);
        }
        other => other,
    };
    decoded.push(character);
    Some(characters.as_str())
}

fn hex4(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    Some((code, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e6..1e6f64).prop_map(Value::from),
            "[a\"\\\\\n\u{1}é𝄞/,:{}\\[\\]]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[ab\"\\\\é]{0,2}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn same(cell: Option<Cell<'_>>, value: Option<&Value>) -> bool {
        match (cell, value) {
            (None, None | Some(Value::Null)) => true,
            (Some(Cell::Bool(a)), Some(Value::Bool(b))) => a == *b,
            (Some(Cell::Number(a)), Some(Value::Number(b))) => match a {
                Number::Int(a) => b.as_i64() == Some(a),
                Number::Float(a) => b.as_f64() == Some(a),
            },
            (Some(Cell::Text(a)), Some(Value::String(b))) => a == *b,
            (Some(Cell::Object), Some(Value::Object(_))) => true,
            (Some(Cell::Array(text)), Some(Value::Array(values))) => {
                let cells: Vec<_> = elements(text).collect();
                cells.len() == values.len()
                    && cells.into_iter().zip(values).all(|(c, v)| same(c, Some(v)))
            }
            _ => false,
        }
    }

    fn paths(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        found.push(path.clone());
        let mut visit = |key: String, child: &Value| {
            path.push(key);
            paths(child, path, found);
            path.pop();
        };
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    visit(index.to_string(), item);
                }
                visit(items.len().to_string(), &Value::Null);
            }
            Value::Object(members) => {
                for (key, child) in members {
                    visit(key.clone(), child);
                }
                visit("missing".to_owned(), &Value::Null);
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn every_place_of_a_document_is_found(document in documents(), pretty in any::<bool>()) {
            let text = if pretty {
                serde_json::to_string_pretty(&document).unwrap()
            } else {
                document.to_string()
            };
            let mut all = Vec::new();
            paths(&document, &mut Vec::new(), &mut all);
            for path in all {
                let pointer = path.iter().fold(String::new(), |pointer, key| {
                    pointer + "/" + &key.replace('~', "~0").replace('/', "~1")
                });
                let want = document.pointer(&pointer);
                prop_assert!(same(value_at(text.as_bytes(), &path), want), "{} {:?}", text, path);
            }
        }

        #[test]
        fn broken_text_is_survived(
            bytes in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\ue1a-. 0"[..]), 0..40),
            keys in prop::collection::vec("[ae01]{0,1}", 0..4),
        ) {
            if let Some(Cell::Array(text)) = value_at(&bytes, &keys) {
                elements(text).for_each(drop);
            }
        }
    }

    #[test]
    fn escapes_and_surrogate_pairs_are_resolved() {
        let document =
            r#"{"k\u0065y": "\ud834\udd1e\n\/", "big": 18446744073709551615, "bad": "\ud834"}"#;
        let at = |key: &str| value_at(document.as_bytes(), &[key.to_owned()]);
        assert_eq!(at("key"), Some(Cell::Text("𝄞\n/".into())));
        assert_eq!(
            at("big"),
            Some(Cell::Number(Number::Float(18_446_744_073_709_551_615.0)))
        );
        assert_eq!(at("bad"), None);
        assert_eq!(value_at(b"", &[]), None);
    }
}
