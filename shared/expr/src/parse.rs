//! Tokens to syntax tree, by precedence climbing.
//!
//! From loosest to tightest: `or` · `and` · `not` · comparisons, `in`, `like`, `is null` ·
//! `+ -` · `* / %` · unary `-` · `**`. All binary operators group from the left.

use crate::{
    ast::{ArithOp, CompareOp, ContainsMode, Kind, Node},
    error::{Flaw, Result, flaw},
    token::{Lexer, Token},
};

/// Deepest nesting of a filter; every later stage recurses at most this deep.
pub const MAX_DEPTH: usize = 500;

/// Longest text of a filter, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const ADD: u8 = 5;
const MULTIPLY: u8 = 6;
const UNARY: u8 = 7;
const POWER: u8 = 8;

/// Parses a filter; `None` for one without any token, which matches every row.
///
/// # Errors
/// [`crate::Error::Invalid`] with the position and what was expected.
pub fn parse(text: &str) -> Result<Option<Node>> {
    parse_tree(text).map_err(|mistake| mistake.in_text(text))
}

pub(crate) fn parse_tree(text: &str) -> Result<Option<Node>, Flaw> {
    if text.len() > MAX_BYTES {
        let problem = format!("{} bytes are more than the limit {MAX_BYTES}", text.len());
        return Err(flaw(0, problem));
    }
    let mut lexer = Lexer::new(text);
    let (at, token) = lexer.next()?;
    let mut parser = Parser {
        lexer,
        at,
        token,
        depth: 0,
    };
    if parser.token == Token::End {
        return Ok(None);
    }
    let node = parser.expression(OR)?;
    match parser.token {
        Token::End => Ok(Some(node)),
        _ => Err(parser.unexpected("an operator or the end")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Where `token` begins.
    at: usize,
    token: Token<'a>,
    depth: usize,
}

/// An operator that stands after its left side.
#[derive(Clone, Copy, PartialEq)]
enum Infix {
    Or,
    And,
    Compare(CompareOp),
    In,
    Like,
    /// `not in` or `not like`.
    Not,
    Is,
    Arith(ArithOp),
}

impl Infix {
    fn level(self) -> u8 {
        match self {
            Self::Or => OR,
            Self::And => AND,
            Self::Compare(_) | Self::In | Self::Like | Self::Not | Self::Is => COMPARE,
            Self::Arith(ArithOp::Add | ArithOp::Sub) => ADD,
            Self::Arith(ArithOp::Mul | ArithOp::Div | ArithOp::Mod) => MULTIPLY,
            Self::Arith(ArithOp::Pow) => POWER,
        }
    }
}

impl<'a> Parser<'a> {
    fn unexpected(&self, expected: &str) -> Flaw {
        let problem = format!("expected {expected}, found {}", self.token.describe());
        flaw(self.at, problem)
    }

    fn advance(&mut self) -> Result<Token<'a>, Flaw> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn is_word(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn is_symbol(&self, wanted: &str) -> bool {
        matches!(self.token, Token::Symbol(symbol) if symbol == wanted)
    }

    fn expect_symbol(&mut self, wanted: &str) -> Result<(), Flaw> {
        if !self.is_symbol(wanted) {
            return Err(self.unexpected(&format!("'{wanted}'")));
        }
        self.advance().map(drop)
    }

    /// The token after the current one; the end if it is a mistake, which is then met later.
    fn following(&self) -> Token<'a> {
        let mut ahead = self.lexer.clone();
        ahead.next().map_or(Token::End, |(_, token)| token)
    }

    fn infix(&self) -> Option<Infix> {
        let found = match &self.token {
            Token::Symbol(symbol) => match *symbol {
                "||" => Infix::Or,
                "&&" => Infix::And,
                "==" => Infix::Compare(CompareOp::Eq),
                "!=" => Infix::Compare(CompareOp::Ne),
                "<" => Infix::Compare(CompareOp::Lt),
                "<=" => Infix::Compare(CompareOp::Le),
                ">" => Infix::Compare(CompareOp::Gt),
                ">=" => Infix::Compare(CompareOp::Ge),
                "+" => Infix::Arith(ArithOp::Add),
                "-" => Infix::Arith(ArithOp::Sub),
                "*" => Infix::Arith(ArithOp::Mul),
                "/" => Infix::Arith(ArithOp::Div),
                "%" => Infix::Arith(ArithOp::Mod),
                "**" => Infix::Arith(ArithOp::Pow),
                _ => return None,
            },
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "or" => Infix::Or,
                "and" => Infix::And,
                "in" => Infix::In,
                "like" => Infix::Like,
                "not" => Infix::Not,
                "is" => Infix::Is,
                _ => return None,
            },
            Token::Int(_) | Token::Float(_) | Token::Str(_) | Token::End => return None,
        };
        Some(found)
    }

    fn expression(&mut self, loosest: u8) -> Result<Node, Flaw> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(self.at));
        }
        let mut left = self.prefix()?;
        while let Some(infix) = self.infix().filter(|infix| infix.level() >= loosest) {
            left = self.operation(left, infix)?;
            if left.height > MAX_DEPTH {
                return Err(too_deep(left.at));
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn prefix(&mut self) -> Result<Node, Flaw> {
        let at = self.at;
        if self.is_symbol("!") || self.is_word("not") {
            self.advance()?;
            let operand = self.expression(NOT)?;
            return Ok(Node::new(at, Kind::Not(Box::new(operand))));
        }
        if self.is_symbol("-") {
            self.advance()?;
            return self.negation(at);
        }
        if self.is_symbol("+") {
            self.advance()?;
            return self.expression(UNARY);
        }
        if self.is_word("exists") && matches!(self.following(), Token::Word(_)) {
            self.advance()?;
            let operand = self.expression(UNARY)?;
            return Ok(Node::new(at, Kind::Exists(Box::new(operand))));
        }
        self.primary()
    }

    fn negation(&mut self, at: usize) -> Result<Node, Flaw> {
        // The smallest integer has no positive twin, so its sign belongs to the literal.
        if self.token == Token::Int(i64::MIN.unsigned_abs()) {
            self.advance()?;
            return Ok(Node::new(at, Kind::Int(i64::MIN)));
        }
        let operand = self.expression(UNARY)?;
        Ok(Node::new(at, Kind::Negate(Box::new(operand))))
    }

    fn operation(&mut self, left: Node, infix: Infix) -> Result<Node, Flaw> {
        let at = self.at;
        match infix {
            Infix::Or => Ok(Node::new(at, Kind::Or(self.terms(left, infix)?))),
            Infix::And => Ok(Node::new(at, Kind::And(self.terms(left, infix)?))),
            Infix::Compare(op) => self.comparison(at, left, op),
            Infix::Arith(op) => {
                self.advance()?;
                let right = self.expression(infix.level() + 1)?;
                let kind = Kind::Arith(op, Box::new(left), Box::new(right));
                Ok(Node::new(at, kind))
            }
            Infix::In | Infix::Like | Infix::Not => self.membership(at, left),
            Infix::Is => self.null_test(at, left),
        }
    }

    /// All terms of `a and b and c`, in one flat list: a filter may have thousands.
    fn terms(&mut self, first: Node, infix: Infix) -> Result<Vec<Node>, Flaw> {
        let mut terms = vec![first];
        while self.infix() == Some(infix) {
            self.advance()?;
            terms.push(self.expression(infix.level() + 1)?);
        }
        Ok(terms)
    }

    fn comparison(&mut self, at: usize, first: Node, op: CompareOp) -> Result<Node, Flaw> {
        let mut rest = Vec::new();
        let mut next = Some(op);
        while let Some(found) = next {
            if !rest.is_empty() && !same_direction(op, found) {
                let problem = format!(
                    "'{}' cannot be chained after '{}'",
                    found.symbol(),
                    op.symbol()
                );
                return Err(flaw(self.at, problem));
            }
            self.advance()?;
            rest.push((found, self.expression(COMPARE + 1)?));
            next = match self.infix() {
                Some(Infix::Compare(op)) => Some(op),
                _ => None,
            };
        }
        Ok(Node::new(at, Kind::Compare(Box::new(first), rest)))
    }

    fn membership(&mut self, at: usize, left: Node) -> Result<Node, Flaw> {
        let negated = self.is_word("not");
        if negated {
            self.advance()?;
        }
        let like = self.is_word("like");
        if !like && !self.is_word("in") {
            return Err(self.unexpected("'in' or 'like' after 'not'"));
        }
        self.advance()?;
        let right = Box::new(self.expression(COMPARE + 1)?);
        let left = Box::new(left);
        let kind = if like {
            Kind::Like {
                negated,
                operand: left,
                pattern: right,
            }
        } else {
            Kind::In {
                negated,
                needle: left,
                list: right,
            }
        };
        Ok(Node::new(at, kind))
    }

    fn null_test(&mut self, at: usize, left: Node) -> Result<Node, Flaw> {
        self.advance()?;
        let negated = self.is_word("not");
        if negated {
            self.advance()?;
        }
        if !self.is_word("null") {
            return Err(self.unexpected("'null' or 'not null' after 'is'"));
        }
        self.advance()?;
        let operand = Box::new(left);
        Ok(Node::new(at, Kind::IsNull { negated, operand }))
    }

    fn primary(&mut self) -> Result<Node, Flaw> {
        let at = self.at;
        match &self.token {
            Token::Symbol("(") => {
                self.advance()?;
                let node = self.expression(OR)?;
                self.expect_symbol(")")?;
                Ok(node)
            }
            Token::Symbol("[") => self.list(),
            Token::Symbol("{") => self.template(),
            Token::Word(word) => {
                let word = *word;
                self.word(word)
            }
            Token::Symbol(_) | Token::End => Err(self.unexpected("a value")),
            Token::Int(_) | Token::Float(_) | Token::Str(_) => {
                let kind = match self.advance()? {
                    Token::Int(number) => i64::try_from(number)
                        .map(Kind::Int)
                        .map_err(|_| flaw(at, "integer is out of the range of Int64"))?,
                    Token::Float(number) => Kind::Float(number),
                    Token::Str(text) => Kind::Str(text),
                    Token::Word(_) | Token::Symbol(_) | Token::End => {
                        return Err(self.unexpected("a value"));
                    }
                };
                Ok(Node::new(at, kind))
            }
        }
    }

    fn list(&mut self) -> Result<Node, Flaw> {
        let at = self.at;
        self.advance()?;
        let mut items = Vec::new();
        while !self.is_symbol("]") {
            items.push(self.expression(OR)?);
            if !self.is_symbol("]") {
                if !self.is_symbol(",") {
                    return Err(self.unexpected("',' or ']'"));
                }
                self.advance()?;
            }
        }
        self.advance()?;
        Ok(Node::new(at, Kind::List(items)))
    }

    fn template(&mut self) -> Result<Node, Flaw> {
        let at = self.at;
        self.advance()?;
        let Token::Word(name) = self.token else {
            return Err(self.unexpected("the name of a template variable"));
        };
        self.advance()?;
        self.expect_symbol("}")?;
        Ok(Node::new(at, Kind::Template(name.to_owned())))
    }

    fn word(&mut self, word: &str) -> Result<Node, Flaw> {
        let at = self.at;
        if matches!(self.following(), Token::Symbol("(")) && !is_reserved(word) {
            return self.call(word);
        }
        if is_reserved(word) {
            return Err(self.unexpected("a value"));
        }
        self.advance()?;
        if word.eq_ignore_ascii_case("true") {
            return Ok(Node::new(at, Kind::Bool(true)));
        }
        if word.eq_ignore_ascii_case("false") {
            return Ok(Node::new(at, Kind::Bool(false)));
        }
        let name = word.to_owned();
        let path = self.path()?;
        Ok(Node::new(at, Kind::Name { name, path }))
    }

    fn path(&mut self) -> Result<Vec<String>, Flaw> {
        let mut path = Vec::new();
        while self.is_symbol("[") {
            self.advance()?;
            match &self.token {
                Token::Str(key) => path.push(key.clone()),
                Token::Int(index) => path.push(index.to_string()),
                _ => return Err(self.unexpected("a quoted key or an index")),
            }
            self.advance()?;
            self.expect_symbol("]")?;
        }
        Ok(path)
    }

    fn call(&mut self, function: &str) -> Result<Node, Flaw> {
        let at = self.at;
        let mode = match function.to_ascii_lowercase().as_str() {
            "json_contains" | "array_contains" => ContainsMode::One,
            "json_contains_all" | "array_contains_all" => ContainsMode::All,
            "json_contains_any" | "array_contains_any" => ContainsMode::Any,
            _ => return Err(flaw(at, format!("function {function} is not supported"))),
        };
        self.advance()?;
        self.expect_symbol("(")?;
        let operand = Box::new(self.expression(OR)?);
        self.expect_symbol(",")?;
        let wanted = Box::new(self.expression(OR)?);
        self.expect_symbol(")")?;
        let kind = Kind::Contains {
            mode,
            operand,
            wanted,
        };
        Ok(Node::new(at, kind))
    }
}

fn too_deep(at: usize) -> Flaw {
    flaw(
        at,
        format!("expression is nested deeper than {MAX_DEPTH} levels"),
    )
}

fn same_direction(first: CompareOp, next: CompareOp) -> bool {
    let rising = |op| matches!(op, CompareOp::Lt | CompareOp::Le);
    let falling = |op| matches!(op, CompareOp::Gt | CompareOp::Ge);
    rising(first) && rising(next) || falling(first) && falling(next)
}

/// Words that can be no name anywhere. `is`, `null` and `exists` can, where no operator fits.
fn is_reserved(word: &str) -> bool {
    ["and", "or", "not", "in", "like"]
        .iter()
        .any(|keyword| word.eq_ignore_ascii_case(keyword))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        parse(text).unwrap().unwrap().to_string()
    }

    #[test]
    fn precedence_is_that_of_the_manual() {
        for (text, want) in [
            (
                "a == 1 or b == 2 and c == 3",
                "((a == 1) or ((b == 2) and (c == 3)))",
            ),
            ("not a == 1 && b", "((not (a == 1)) and b)"),
            (
                "a + 2 * 3 ** 2 - -1 > 0",
                "(((a + (2 * (3 ** 2))) - (-1)) > 0)",
            ),
            ("1 < a <= 5", "(1 < a <= 5)"),
            (
                "a NOT IN [1, 'x',] AND b Is Not Null",
                "((a not in [1, \"x\"]) and (b is not null))",
            ),
            (
                "m[\"a\"]['b'][0] like 'x%'",
                "(m[\"a\"][\"b\"][\"0\"] like \"x%\")",
            ),
            (
                "a in {ids} || !exists $meta['k']",
                "((a in {ids}) or (not (exists $meta[\"k\"])))",
            ),
            ("JSON_CONTAINS_ANY(m, [1])", "json_contains_any(m, [1])"),
            (
                "exists > 1 and is is null",
                "((exists > 1) and (is is null))",
            ),
            ("2 ** 3 ** 2 == 64", "(((2 ** 3) ** 2) == 64)"),
            ("a == -9223372036854775808", "(a == -9223372036854775808)"),
        ] {
            assert_eq!(shape(text), want, "{text}");
            assert_eq!(shape(want), want, "{text}");
        }
        assert_eq!(parse(" \n\t").unwrap(), None);
    }

    #[test]
    fn mistakes_say_what_was_expected_and_where() {
        for (text, problem, position) in [
            (
                "a >",
                "expected a value, found the end of the expression",
                3,
            ),
            ("a > 1 b", "expected an operator or the end, found 'b'", 6),
            ("(a > 1", "expected ')', found the end of the expression", 6),
            (
                "'é' == a b",
                "expected an operator or the end, found 'b'",
                9,
            ),
            ("a in [1 2]", "expected ',' or ']', found '2'", 8),
            (
                "a is 3",
                "expected 'null' or 'not null' after 'is', found '3'",
                5,
            ),
            (
                "a not b",
                "expected 'in' or 'like' after 'not', found 'b'",
                6,
            ),
            ("f(a)", "function f is not supported", 0),
            ("1 < a > 3", "'>' cannot be chained after '<'", 6),
            ("and", "expected a value, found 'and'", 0),
            (
                "a == 9223372036854775808",
                "integer is out of the range of Int64",
                5,
            ),
            (
                "m[a] == 1",
                "expected a quoted key or an index, found 'a'",
                2,
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            let want = format!(
                "failed to create query plan: cannot parse expression: {text}, error: {problem} at position {position}"
            );
            assert_eq!(message, want);
        }
    }

    #[test]
    fn deep_and_long_filters_neither_overflow_nor_hang() {
        // A small stack stands for a busy worker's.
        let check = || {
            let nested = |depth: usize| format!("{}a > 1{}", "(".repeat(depth), ")".repeat(depth));
            assert!(parse(&nested(MAX_DEPTH - 2)).is_ok());
            for text in [
                nested(100_000),
                "not ".repeat(100_000) + "a",
                "-".repeat(100_000) + "1",
                "[".repeat(100_000),
                "a".to_owned() + &" + 1".repeat(100_000) + " > 1",
            ] {
                let message = parse(&text).unwrap_err().to_string();
                assert!(message.contains("nested deeper"), "{message:.200}");
            }
            let terms = "a > 1".to_owned() + &" and a > 1".repeat(10_000);
            assert!(parse(&terms).is_ok());
        };
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(check);
        thread.unwrap().join().unwrap();
    }
}
