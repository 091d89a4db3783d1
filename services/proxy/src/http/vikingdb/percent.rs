//! Percent-encoding of paths and queries (RFC 3986, section 2.1).

use std::borrow::Cow;

/// The bytes of an encoded text; what is no escape stays as it is. In queries `+` is a space, in paths it is not.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    let is_escaped = |byte: &u8| *byte == b'%' || plus_is_space && *byte == b'+';
    if !bytes.iter().any(is_escaped) {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten();
        let value = escaped.and_then(|pair| hex::decode(pair).ok());
        if let Some(value) = value {
            decoded.extend(value);
            at += 3;
            continue;
        }
        decoded.push(if plus_is_space && bytes[at] == b'+' {
            b' '
        } else {
            bytes[at]
        });
        at += 1;
    }
    Cow::Owned(decoded)
}

/// Encodes all but letters, digits, `-_.~` and what is plain besides.
pub(super) fn encode(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if plain || also_plain.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
