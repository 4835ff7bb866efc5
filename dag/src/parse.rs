//! Text to syntax tree, without recursion: one pass, an operator stack, and a flat postfix tree.
//!
//! ```text
//! expression := sum ;  sum := product (("+"|"-") product)* ;  product := unary (("*"|"/") unary)*
//! unary := ("-"|"+") unary | atom ;  atom := number | name | "(" expression ")"
//! ```

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{ErrorKind, ExpressionError};
use crate::expression::{Expression, Item, ItemKind, Name};
use crate::function::Function;
use crate::limits::Limits;
use crate::number::{self, Value};

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Expression, ExpressionError> {
    let bytes_max = limits.bytes.min(Limits::BYTES_MAX);
    if text.len() > bytes_max {
        let kind = ErrorKind::TooLong { limit: bytes_max };
        return Err(ExpressionError::new(kind, text.len()..text.len()));
    }
    Parser {
        text,
        bytes: text.as_bytes(),
        limits,
        at: 0,
        depth: 0,
        operators: 0,
        unwritten: 0,
        pending: Vec::new(),
        items: Vec::with_capacity(text.len() / 3),
        literals: Vec::new(),
        names: Vec::new(),
        numbers: HashMap::new(),
    }
    .run()
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    limits: &'a Limits,
    at: usize,
    depth: usize,
    operators: usize,
    /// Zeros that exponents stand for.
    unwritten: usize,
    /// Operators that wait for their right operand, and open parentheses. A parenthesis has at most
    /// one sum, one product and one sign above it, so that nesting bounds this too.
    pending: Vec<Pending>,
    items: Vec<Item>,
    literals: Vec<Value>,
    names: Vec<Name>,
    numbers: HashMap<&'a str, u32>,
}

#[derive(Clone, Copy)]
struct Pending {
    what: Waiting,
    at: u32,
    /// The left operand's item.
    left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Parenthesis,
    Binary(Function),
    Sign,
}

impl Waiting {
    fn binds(self) -> u8 {
        match self {
            Self::Parenthesis => 0,
            Self::Binary(function) if function.is_sum() => 1,
            Self::Binary(_) => 2,
            Self::Sign => 3,
        }
    }
}

impl Parser<'_> {
    fn run(mut self) -> Result<Expression, ExpressionError> {
        loop {
            self.operand()?;
            if !self.operator()? {
                break;
            }
        }
        Ok(Expression {
            items: self.items,
            literals: self.literals,
            names: self.names,
            bytes: self.text.len(),
        })
    }

    /// Signs and parentheses up to an atom, and the atom.
    fn operand(&mut self) -> Result<(), ExpressionError> {
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.missing_operand());
            };
            match byte {
                b'0'..=b'9' | b'.' => return self.number(),
                b'(' => {
                    self.depth += 1;
                    if self.depth > self.limits.nesting {
                        let limit = self.limits.nesting;
                        return Err(self.here(ErrorKind::TooDeep { limit }, 1));
                    }
                    self.push_pending(Waiting::Parenthesis, 0);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'+' => self.at += 1,
                b'-' => {
                    // Two signs cancel, so that a chain of them is at most one operation.
                    if self.pending.last().is_some_and(|top| top.what == Waiting::Sign) {
                        self.pending.pop();
                    } else {
                        self.push_pending(Waiting::Sign, 0);
                    }
                    self.at += 1;
                }
                b'*' | b'/' | b')' => {
                    return Err(self.here(ErrorKind::ExpectedOperand { found: byte.into() }, 1));
                }
                _ => {
                    let found = self.next_char();
                    if found.is_whitespace() {
                        self.at += found.len_utf8();
                    } else if found == '_' || found.is_alphabetic() {
                        return self.name();
                    } else {
                        let kind = ErrorKind::UnexpectedCharacter { found };
                        return Err(self.here(kind, found.len_utf8()));
                    }
                }
            }
        }
    }

    /// Closing parentheses up to a binary operator: true; false at the end.
    fn operator(&mut self) -> Result<bool, ExpressionError> {
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                self.reduce(1)?;
                return match self.pending.last() {
                    None => Ok(false),
                    Some(open) => {
                        let at = open.at as usize;
                        Err(ExpressionError::new(ErrorKind::UnclosedParenthesis, at..at + 1))
                    }
                };
            };
            let function = match byte {
                b'+' => Function::Add,
                b'-' => Function::Sub,
                b'*' => Function::Mul,
                b'/' => Function::Div,
                b')' => {
                    self.reduce(1)?;
                    if self.pending.pop().is_none() {
                        return Err(self.here(ErrorKind::UnmatchedParenthesis, 1));
                    }
                    self.depth -= 1;
                    self.at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\n' | b'\r' => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    let found = self.next_char();
                    if found.is_whitespace() {
                        self.at += found.len_utf8();
                        continue;
                    }
                    return Err(self.not_an_operator(found));
                }
            };
            let waiting = Waiting::Binary(function);
            self.reduce(waiting.binds())?;
            let left = self.last_item();
            self.push_pending(waiting, left);
            self.at += 1;
            return Ok(true);
        }
    }

    /// Gives every pending operator that binds at least as tightly its right operand: the item last
    /// written.
    #[inline]
    fn reduce(&mut self, binds: u8) -> Result<(), ExpressionError> {
        while let Some(&top) = self.pending.last() {
            if top.what.binds() < binds {
                break;
            }
            self.pending.pop();
            let kind = match top.what {
                Waiting::Binary(function) => ItemKind::Binary(function, top.left),
                Waiting::Sign => ItemKind::Negate,
                Waiting::Parenthesis => unreachable!("a parenthesis binds less than any operator"),
            };
            self.operators += 1;
            if self.operators > self.limits.nodes {
                let at = top.at as usize;
                let limit = self.limits.nodes;
                let kind = ErrorKind::TooManyNodes { limit };
                return Err(ExpressionError::new(kind, at..at + 1));
            }
            self.items.push(Item { kind, at: top.at });
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), ExpressionError> {
        // Nine digits fit a u32; nearly every number is such a one.
        let most = self.limits.digits.min(9);
        let mut value = 0u32;
        let mut len = 0;
        while len < most {
            match self.bytes.get(self.at + len) {
                Some(byte @ b'0'..=b'9') => value = value * 10 + u32::from(byte - b'0'),
                _ => break,
            }
            len += 1;
        }
        let next = self.bytes.get(self.at + len);
        if len == 0 || matches!(next, Some(b'0'..=b'9' | b'.' | b'_' | b'e' | b'E')) {
            return self.long_number();
        }
        self.push_item(ItemKind::Small(value), len);
        Ok(())
    }

    #[cold]
    fn long_number(&mut self) -> Result<(), ExpressionError> {
        let literal = match number::scan(&self.bytes[self.at..]) {
            Ok(literal) => literal,
            Err(len) => return Err(self.here(ErrorKind::MalformedNumber, len.max(1))),
        };
        let (len, limits) = (literal.len, self.limits);
        // An exponent over the digit limit is said to be that, whatever it adds to the length.
        let limit = limits.digits;
        let too_many = ErrorKind::TooManyDigits { limit };
        if literal.unwritten() > limits.written_digits() {
            return Err(self.here(too_many, len));
        }
        self.unwritten += literal.unwritten();
        let bytes_max = limits.bytes.min(Limits::BYTES_MAX);
        if self.text.len() + self.unwritten > bytes_max {
            return Err(self.here(ErrorKind::TooLong { limit: bytes_max }, len));
        }
        let Some(value) = literal.value(limits) else {
            return Err(self.here(too_many, len));
        };
        let index = index(self.literals.len());
        self.literals.push(value);
        self.push_item(ItemKind::Literal(index), len);
        Ok(())
    }

    fn name(&mut self) -> Result<(), ExpressionError> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let name = &rest[..len];
        if rest[len..].trim_start().starts_with('(') {
            let kind = ErrorKind::ReservedCall { name: name.into() };
            return Err(self.here(kind, len));
        }
        let next = index(self.names.len());
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(Name { name: name.into(), at: index(self.at) });
        }
        self.push_item(ItemKind::Parameter(number), len);
        Ok(())
    }

    #[inline]
    fn push_item(&mut self, kind: ItemKind, len: usize) {
        self.items.push(Item { kind, at: index(self.at) });
        self.at += len;
    }

    fn push_pending(&mut self, what: Waiting, left: u32) {
        self.pending.push(Pending { what, at: index(self.at), left });
    }

    fn last_item(&self) -> u32 {
        index(self.items.len() - 1)
    }

    fn next_char(&self) -> char {
        self.text[self.at..].chars().next().expect("a byte of it was seen")
    }

    fn here(&self, kind: ErrorKind, len: usize) -> ExpressionError {
        let end = (self.at + len).min(self.text.len());
        ExpressionError::new(kind, self.at..end)
    }

    fn missing_operand(&self) -> ExpressionError {
        let is_empty = self.items.is_empty() && self.pending.is_empty();
        let kind = if is_empty && self.text.trim().is_empty() {
            ErrorKind::EmptyExpression
        } else {
            ErrorKind::UnexpectedEnd
        };
        self.here(kind, 0)
    }

    /// What follows an operand and is no operator: another operand, or nothing we know.
    fn not_an_operator(&self, found: char) -> ExpressionError {
        let starts_operand = found == '(' || found == '_' || found == '.' || found.is_alphanumeric();
        let rest = &self.text[self.at..];
        let span: Range<usize> = if starts_operand && found != '(' {
            let len = rest.find(|c: char| c != '_' && c != '.' && !c.is_alphanumeric()).unwrap_or(rest.len());
            self.at..self.at + len
        } else {
            self.at..self.at + found.len_utf8()
        };
        let kind = if starts_operand {
            ErrorKind::ExpectedOperator { found }
        } else {
            ErrorKind::UnexpectedCharacter { found }
        };
        ExpressionError::new(kind, span)
    }
}

/// Positions and counts are below 2^30, the most text there may be.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "parse refuses more than 2^30 bytes before anything is counted"
)]
fn index(value: usize) -> u32 {
    debug_assert!(value <= Limits::BYTES_MAX);
    value as u32
}

/// The expression of a body of the form `"expression": ((3+5)*(4/2))`: a string, a colon, and the
/// expression bare. `None` when the body has another form.
///
/// What is given back is a part of `body`, so that spans can be moved to it.
///
/// ```
/// use quorate_dag::expression_field;
///
/// assert_eq!(expression_field(r#""expression": ((3+5)*(4/2))"#), Some("((3+5)*(4/2))"));
/// assert_eq!(expression_field(r#"{"expression": "1+2"}"#), None); // JSON: parse it as such
/// ```
pub fn expression_field(body: &str) -> Option<&str> {
    let rest = body.trim().strip_prefix("\"expression\"")?;
    Some(rest.trim_start().strip_prefix(':')?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expression as it is displayed, or its error as `kind start..end`.
    fn check(text: &str, expect: &str) {
        let found = match Expression::parse(text) {
            Ok(expression) => expression.to_string(),
            Err(error) => {
                let span = &error.span;
                format!("{} {}..{}", error.kind.as_str(), span.start, span.end)
            }
        };
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn the_grammar_is_the_usual_one() {
        check("1+2*3-4/5", "1 + 2 * 3 - 4 / 5");
        check("(1+2)*3", "(1 + 2) * 3");
        check("1-(2-3)", "1 - (2 - 3)");
        check("1-(2*3)", "1 - 2 * 3");
        check("8/(4/2)", "8 / (4 / 2)");
        check("((3+5)*(4/2))", "(3 + 5) * (4 / 2)");
        check(" 1\t+\n2\u{a0}+\u{3000}3 ", "1 + 2 + 3");
    }

    #[test]
    fn signs_chain_and_bind_tighter_than_products() {
        check("--2", "2");
        check("2+-4", "2 + -4");
        check("+3", "3");
        check("- + - - 3", "-3");
        check("-a*b", "-a * b");
        check("-(a*b)", "-(a * b)");
        check("a*-b", "a * -b");
        check("-(-a)", "-(-a)");
        check("-(a)", "-a");
    }

    #[test]
    fn every_form_of_number_is_taken_exactly() {
        check("12", "12");
        check("0.5", "0.5");
        check(".5", "0.5");
        check("5.", "5");
        check("007", "7");
        check("1e-3", "0.001");
        check("1E+3", "1000");
        check("1_000", "1000");
        check("1_0.0_1e1_0", "100100000000");
        check("0e999999999999999999999", "0");
        check("4294967296", "4294967296");
        check("123456789012345678901234567890", "123456789012345678901234567890");
        check("0.1", "0.1");
    }

    #[test]
    fn numbers_that_are_none_are_named_whole() {
        check(".", "malformed-number 0..1");
        check("1+.", "malformed-number 2..3");
        check("1.2.3+4", "malformed-number 0..5");
        check("1__0", "malformed-number 0..4");
        check("1_", "malformed-number 0..2");
        check("2e", "malformed-number 0..2");
        check("2e+", "malformed-number 0..3");
        check("1e10001", "too-many-digits 0..7");
        check("1e-99999999999999999999", "too-many-digits 0..23");
        check("1e", "malformed-number 0..2");
    }

    #[test]
    fn names_are_letters_of_any_script_digits_and_underscores() {
        check("größe * _x1 + 名", "größe * _x1 + 名");
        check("f(1)", "reserved-call 0..1");
        check("1 + größe (1)", "reserved-call 4..11");
        check("1a", "expected-operator 1..2");
        check("1_a", "malformed-number 0..2");
    }

    #[test]
    fn errors_say_where_and_what() {
        check("", "empty-expression 0..0");
        check(" \n ", "empty-expression 3..3");
        check("()", "expected-operand 1..2");
        check("1+", "unexpected-end 2..2");
        check("-", "unexpected-end 1..1");
        check("(", "unexpected-end 1..1");
        check("(1", "unclosed-parenthesis 0..1");
        check("((1)", "unclosed-parenthesis 0..1");
        check("(1+(2)", "unclosed-parenthesis 0..1");
        check("1)", "unmatched-parenthesis 1..2");
        check("2(3)", "expected-operator 1..2");
        check("2 34.5", "expected-operator 2..6");
        check("(1)(2)", "expected-operator 3..4");
        check("a b", "expected-operator 2..3");
        check("1*/2", "expected-operand 2..3");
        check("*1", "expected-operand 0..1");
        check("1 % 2", "unexpected-character 2..3");
        check("名 + ¿", "unexpected-character 6..8");
        check("1 + \u{0}", "unexpected-character 4..5");
    }

    fn check_within(text: &str, limits: Limits, expect: &str) {
        let found = Expression::parse_within(text, &limits).map(|_| ());
        let found = found.map_or_else(|error| error.kind.as_str(), |()| "ok");
        assert_eq!(found, expect, "{text:.40}");
    }

    #[test]
    fn every_limit_is_exact() {
        let limits = Limits { bytes: 11, nodes: 2, nesting: 3, digits: 4 };
        check_within("1+2+3", limits, "ok");
        check_within("1+2+3+4", limits, "too-many-nodes");
        check_within("1+2*-3", limits, "too-many-nodes");
        check_within("(((1)))", limits, "ok");
        check_within("((((1))))", limits, "too-deep");
        check_within("(((1)))+(1)", limits, "ok");
        check_within("9999", limits, "ok");
        check_within("10000", limits, "too-many-digits");
        check_within("0.001", limits, "ok");
        check_within("0.0001", limits, "too-many-digits");
        check_within("00000009999", limits, "ok");
        check_within("1          ", limits, "ok");
        check_within("1           ", limits, "too-long");
    }

    #[test]
    fn exponents_count_as_the_zeros_they_stand_for() {
        let limits = Limits { bytes: 1000, ..Limits::default() };
        check_within("1e400+1e400", limits, "ok");
        check_within("1e400+1e400+1e400", limits, "too-long");
    }

    #[test]
    fn a_line_is_drawn_with_a_caret() {
        let draw = |text: &str| Expression::parse(text).expect_err("it is wrong").render(text);
        assert!(draw("größe + 名 * ¿").ends_with("\n  größe + 名 * ¿\n               ^"));
        assert!(draw("1 +\n2 + %\n+ 3").ends_with("\n  2 + %\n      ^"));
        assert!(draw("1 +").ends_with("\n  1 +\n     ^"));
        assert!(draw("2 34.5").ends_with("\n  2 34.5\n    ^^^^"));
        let long = format!("{}%{}", "1+".repeat(500), "+1".repeat(500));
        let drawn = draw(&long);
        let [_, line, caret] = drawn.lines().collect::<Vec<_>>()[..] else {
            panic!("three lines");
        };
        assert!(line.starts_with("  …") && line.ends_with('…') && line.chars().count() < 80);
        assert_eq!(line.chars().position(|c| c == '%'), caret.find('^'));
    }

    #[test]
    fn the_bare_body_is_recognised() {
        assert_eq!(expression_field(" \"expression\" :\n(1+2) \n"), Some("(1+2)"));
        assert_eq!(expression_field("\"expression\" (1+2)"), None);
        assert_eq!(expression_field("(1+2)"), None);
    }
}
