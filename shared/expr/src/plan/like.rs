//! `like` patterns: `%` stands for any text, `_` for one character, `\` takes the meaning off.

use serde::{Deserialize, Serialize};

/// A compiled pattern.
///
/// The order of the variants is part of the encoded form: append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Like {
    /// No wildcard.
    Exact(String),
    /// `text%`
    Prefix(String),
    /// `%text`
    Suffix(String),
    /// `%text%`
    Infix(String),
    /// The stretches between the `%`, in order; the first stands at the start of the text and the
    /// last at its end. At least one.
    General(Vec<Vec<Piece>>),
}

/// A part of a stretch without `%`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// This text.
    Text(String),
    /// Any one character.
    AnyChar,
}

impl Like {
    pub(crate) fn new(pattern: &str) -> Self {
        let mut stretches = vec![Vec::new()];
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            // There is always a last stretch: the list starts with one and only grows.
            let Some(stretch) = stretches.last_mut() else {
                break;
            };
            match character {
                '%' => stretches.push(Vec::new()),
                '_' => stretch.push(Piece::AnyChar),
                '\\' => push_char(stretch, characters.next().unwrap_or('\\')),
                other => push_char(stretch, other),
            }
        }
        Self::simplest(stretches)
    }

    fn simplest(stretches: Vec<Vec<Piece>>) -> Self {
        let texts: Option<Vec<&str>> = stretches.iter().map(|s| plain_text(s)).collect();
        match texts.as_deref() {
            Some([text]) => Self::Exact((*text).to_owned()),
            Some([prefix, ""]) => Self::Prefix((*prefix).to_owned()),
            Some(["", suffix]) => Self::Suffix((*suffix).to_owned()),
            Some(["", infix, ""]) => Self::Infix((*infix).to_owned()),
            _ => Self::General(stretches),
        }
    }

    /// Whether the whole text fits the pattern.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Infix(infix) => text.contains(infix),
            Self::General(stretches) => matches_stretches(stretches, text),
        }
    }
}

fn push_char(stretch: &mut Vec<Piece>, character: char) {
    if let Some(Piece::Text(text)) = stretch.last_mut() {
        text.push(character);
    } else {
        stretch.push(Piece::Text(character.to_string()));
    }
}

fn plain_text(stretch: &[Piece]) -> Option<&str> {
    match stretch {
        [] => Some(""),
        [Piece::Text(text)] => Some(text),
        _ => None,
    }
}

fn matches_stretches(stretches: &[Vec<Piece>], text: &str) -> bool {
    let Some((first, others)) = stretches.split_first() else {
        return false;
    };
    let Some(mut rest) = after_match(first, text) else {
        return false;
    };
    let Some((last, middle)) = others.split_last() else {
        return rest.is_empty();
    };
    // The earliest place for each stretch leaves the most text to those that follow.
    for stretch in middle {
        let found = starts(rest).find_map(|start| after_match(stretch, &rest[start..]));
        let Some(after) = found else {
            return false;
        };
        rest = after;
    }
    ends_with(last, rest)
}

/// Every place where a character starts, and the end.
fn starts(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.char_indices()
        .map(|(offset, _)| offset)
        .chain(std::iter::once(text.len()))
}

/// What follows the stretch, if the text starts with it.
fn after_match<'a>(stretch: &[Piece], text: &'a str) -> Option<&'a str> {
    let mut rest = text;
    for piece in stretch {
        rest = match piece {
            Piece::Text(wanted) => rest.strip_prefix(wanted.as_str())?,
            Piece::AnyChar => {
                let mut characters = rest.chars();
                characters.next()?;
                characters.as_str()
            }
        };
    }
    Some(rest)
}

/// Whether the text ends with the stretch, which has one length in characters for every match.
fn ends_with(stretch: &[Piece], text: &str) -> bool {
    let mut rest = text;
    for piece in stretch.iter().rev() {
        let shorter = match piece {
            Piece::Text(wanted) => rest.strip_suffix(wanted.as_str()),
            Piece::AnyChar => {
                let mut characters = rest.chars();
                characters.next_back().map(|_| characters.as_str())
            }
        };
        let Some(shorter) = shorter else {
            return false;
        };
        rest = shorter;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, character by character.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['%', rest @ ..], _) => {
                naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..]))
            }
            (['\\', literal, rest @ ..], [c, others @ ..]) => c == literal && naive(rest, others),
            (['_', rest @ ..], [_, others @ ..]) => naive(rest, others),
            ([p, rest @ ..], [c, others @ ..]) if *p != '\\' => p == c && naive(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn compiled_patterns_agree_with_the_definition(
            pattern in "([abé%_]|\\\\[%_a]){0,8}",
            text in "[abé%_]{0,8}",
        ) {
            let characters = |s: &str| s.chars().collect::<Vec<char>>();
            let want = naive(&characters(&pattern), &characters(&text));
            prop_assert_eq!(Like::new(&pattern).matches(&text), want);
        }
    }

    #[test]
    fn simple_patterns_take_the_simple_forms() {
        assert_eq!(Like::new("ab"), Like::Exact("ab".into()));
        assert_eq!(Like::new("ab%"), Like::Prefix("ab".into()));
        assert_eq!(Like::new("%ab"), Like::Suffix("ab".into()));
        assert_eq!(Like::new("%ab%"), Like::Infix("ab".into()));
        assert_eq!(Like::new(r"a\%b%"), Like::Prefix("a%b".into()));
        assert!(Like::new("%").matches(""));
        assert!(Like::new("%%").matches("x"));
        assert!(!Like::new("_%_").matches("é"));
    }
}
