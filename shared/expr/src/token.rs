//! Text to tokens, one at a time.

use crate::error::{Flaw, flaw};

/// One token. Keywords come as [`Token::Word`]: what a word means depends on where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name or keyword.
    Word(&'a str),
    /// An integer without its sign.
    Int(u64),
    /// A floating-point number without its sign.
    Float(f64),
    /// A string, escapes resolved.
    Str(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// As an error message names it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("'{word}'"),
            Self::Int(number) => format!("'{number}'"),
            Self::Float(number) => format!("'{number:?}'"),
            Self::Str(_) => "a string".to_owned(),
            Self::Symbol(symbol) => format!("'{symbol}'"),
            Self::End => "the end of the expression".to_owned(),
        }
    }
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 22] = [
    "**", "==", "!=", "<=", ">=", "&&", "||", "(", ")", "[", "]", "{", "}", ",", "<", ">", "!",
    "+", "-", "*", "/", "%",
];

/// Reads tokens from a text; a clone looks ahead without moving.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token and where it begins.
    pub(crate) fn next(&mut self) -> Result<(usize, Token<'a>), Flaw> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        let start = self.at;
        let Some(first) = self.peek() else {
            return Ok((start, Token::End));
        };
        let token = match first {
            '"' | '\'' => self.string(first)?,
            '0'..='9' => self.number()?,
            '.' if self.text[start + 1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.number()?
            }
            _ if is_word_start(first) => Token::Word(self.take_while(is_word_part)),
            _ => self.symbol(first)?,
        };
        Ok((start, token))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn symbol(&mut self, first: char) -> Result<Token<'a>, Flaw> {
        let rest = &self.text[self.at..];
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            self.at += symbol.len();
            return Ok(Token::Symbol(symbol));
        }
        let problem = match first {
            '=' => "expected '==', found '='".to_owned(),
            '&' | '|' | '^' | '~' => format!("bitwise operator '{first}' is not supported"),
            _ => format!("unexpected character {first:?}"),
        };
        Err(flaw(self.at, problem))
    }

    fn number(&mut self) -> Result<Token<'a>, Flaw> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let base = match (bytes.get(start), bytes.get(start + 1)) {
            (Some(b'0'), Some(b'x' | b'X')) => Some((16, 2)),
            (Some(b'0'), Some(b'b' | b'B')) => Some((2, 2)),
            (Some(b'0'), Some(b'o' | b'O')) => Some((8, 2)),
            _ => None,
        };
        if let Some((radix, prefix)) = base {
            let digits = &self.take_while(|c| c.is_ascii_alphanumeric())[prefix..];
            return integer(start, digits, radix);
        }
        let mut end = start;
        let digits_from = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        end = digits_from(end);
        let mut floating = false;
        if bytes.get(end) == Some(&b'.') {
            floating = true;
            end = digits_from(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent_end = digits_from(end + 1 + sign);
            if exponent_end > end + 1 + sign {
                floating = true;
                end = exponent_end;
            }
        }
        self.at = end;
        if let Some(next) = self.peek()
            && is_word_part(next)
        {
            return Err(flaw(end, format!("unexpected {next:?} after a number")));
        }
        let text = &self.text[start..end];
        if floating {
            return match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Token::Float(number)),
                Ok(_) | Err(_) => Err(flaw(start, format!("number {text} is out of range"))),
            };
        }
        // A leading zero makes it octal, as in C and in Milvus.
        match text.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => integer(start, octal, 8),
            _ => integer(start, text, 10),
        }
    }

    fn string(&mut self, quote: char) -> Result<Token<'a>, Flaw> {
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            value.push_str(self.take_while(|c| c != quote && c != '\\'));
            match self.peek() {
                None => return Err(flaw(start, "string is not closed")),
                Some('\\') => self.escape(&mut value)?,
                Some(_) => {
                    self.at += 1;
                    return Ok(Token::Str(value));
                }
            }
        }
    }

    /// Resolves the escape at the cursor. `\%` and `\_` stay as they are: `like` reads them.
    fn escape(&mut self, value: &mut String) -> Result<(), Flaw> {
        let start = self.at;
        self.at += 1;
        let Some(code) = self.peek() else {
            return Err(flaw(start, "string is not closed"));
        };
        self.at += code.len_utf8();
        match code {
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            'v' => value.push('\u{b}'),
            '\\' | '"' | '\'' | '?' | '/' => value.push(code),
            '%' | '_' => {
                value.push('\\');
                value.push(code);
            }
            'x' => value.push(self.escaped_char(start, 2, 16)?),
            'u' => value.push(self.escaped_char(start, 4, 16)?),
            'U' => value.push(self.escaped_char(start, 8, 16)?),
            '0'..='7' => {
                self.at -= 1;
                value.push(self.escaped_char(start, 3, 8)?);
            }
            other => {
                return Err(flaw(
                    start,
                    format!("unknown escape '\\{other}' in a string"),
                ));
            }
        }
        Ok(())
    }

    fn escaped_char(&mut self, start: usize, digits: usize, radix: u32) -> Result<char, Flaw> {
        let character = self
            .text
            .get(self.at..self.at + digits)
            .filter(|text| text.chars().all(|c| c.is_digit(radix)))
            .and_then(|text| u32::from_str_radix(text, radix).ok())
            .and_then(char::from_u32);
        self.at += digits;
        character.ok_or_else(|| {
            let problem = format!("expected {digits} digits of a character in a string's escape");
            flaw(start, problem)
        })
    }
}

fn integer<'a>(start: usize, digits: &str, radix: u32) -> Result<Token<'a>, Flaw> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(flaw(
            start,
            format!("'{digits}' is no number of base {radix}"),
        ));
    }
    u64::from_str_radix(digits, radix)
        .map(Token::Int)
        .map_err(|_| flaw(start, "integer is out of the range of Int64"))
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == '$'
}

fn is_word_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        loop {
            match lexer.next().unwrap().1 {
                Token::End => return found,
                token => found.push(token),
            }
        }
    }

    #[test]
    fn numbers_of_every_base_are_read() {
        let want = [
            Token::Int(0),
            Token::Int(10),
            Token::Int(255),
            Token::Int(5),
            Token::Int(8),
            Token::Float(0.5),
            Token::Float(1.0),
            Token::Float(1200.0),
            Token::Int(9_223_372_036_854_775_808),
        ];
        assert_eq!(
            tokens("0 10 0xFF 0b101 010 .5 1. 1.2e3 9223372036854775808"),
            want
        );
    }

    #[test]
    fn escapes_of_strings_are_resolved_and_those_of_like_are_kept() {
        let want = ["it's", "a\"b\n", "\u{e9}A", "100\\%"];
        let want: Vec<Token<'_>> = want.iter().map(|s| Token::Str((*s).to_owned())).collect();
        assert_eq!(tokens(r#""it's" 'a\"b\n' "\u00e9\x41" "100\%""#), want);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, at, problem) in [
            ("a = 1", 2, "expected '==', found '='"),
            ("'abc", 0, "string is not closed"),
            ("1x", 1, "unexpected 'x' after a number"),
            ("a & 1", 2, "bitwise operator '&' is not supported"),
            (r#" "\q" "#, 2, "unknown escape"),
            ("99999999999999999999", 0, "out of the range of Int64"),
            ("089", 0, "no number of base 8"),
            ("é", 0, "unexpected character 'é'"),
            ("'\\u00", 1, "expected 4 digits"),
        ] {
            let mut lexer = Lexer::new(text);
            let mistake = loop {
                match lexer.next() {
                    Ok((_, Token::End)) => panic!("{text} was accepted"),
                    Ok(_) => {}
                    Err(mistake) => break mistake,
                }
            };
            assert_eq!(mistake.at, at, "{text}: {}", mistake.problem);
            assert!(
                mistake.problem.contains(problem),
                "{text}: {}",
                mistake.problem
            );
        }
    }
}
