//! Text to syntax tree, without recursion: one pass, an operator stack, and a flat postfix tree.
//!
//! ```text
//! expression := sum ;  sum := product (("+"|"-") product)* ;  product := unary (("*"|"/") unary)*
//! unary := ("-"|"+") unary | atom ;  atom := number | name | "(" expression ")"
//! ```

#[cfg(feature = "parallel")]
mod parallel;

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{ErrorKind, ExpressionError};
use crate::expression::{Expression, Item, ItemKind, Name};
use crate::function::Function;
use crate::limits::Limits;
use crate::number::{self, Value};

#[cfg(feature = "parallel")]
pub(crate) use parallel::parse_in_parts;

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Expression, ExpressionError> {
    let bytes_max = limits.bytes.min(Limits::BYTES_MAX);
    if text.len() > bytes_max {
        let kind = ErrorKind::TooLong { limit: bytes_max };
        return Err(ExpressionError::new(kind, text.len()..text.len()));
    }
    let mut parser = Parser::new(text, limits);
    parser.operand()?;
    parser.run()?;
    parser.finish()
}

/// Reads the text from left to right, or one part of it.
struct Parser<'a> {
    text: &'a str,
    /// The text up to where this parser ends.
    bytes: &'a [u8],
    limits: &'a Limits,
    at: usize,
    /// Parentheses open, less those closed that were opened before the part.
    depth: isize,
    deepest: isize,
    /// Binary operators and signs, pairs of which cancel.
    operators: usize,
    /// Zeros that exponents stand for.
    unwritten: usize,
    /// Operators that wait for their right operand, and open parentheses. A parenthesis has at most
    /// one sum, one product and one sign above it, so that nesting bounds this too.
    pending: Vec<Pending>,
    items: Vec<Item>,
    literals: Vec<Value>,
    names: Names<'a>,
    before: Before,
}

#[derive(Clone, Copy)]
struct Pending {
    what: Waiting,
    at: u32,
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
            Self::Sign => BINDS_MOST,
        }
    }
}

const BINDS_MOST: u8 = 3;

/// What a part asks of the text before it, which it has not seen.
#[derive(Default)]
struct Before {
    /// Nothing that waits there, up to the innermost parenthesis, binds tighter than this; 0 when
    /// nothing waits, as at the start of the text.
    binds: u8,
    /// Whether parentheses can have been opened there.
    opens: bool,
    /// In order, each with the number of items that stand before it.
    asked: Vec<(usize, Ask)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// What waits and binds at least as tightly has its right operand.
    Reduce(u8),
    /// A parenthesis is closed.
    Close,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, limits: &'a Limits) -> Self {
        // `(1+2)*3` has an item for each byte but its parentheses. Memory that is never written to
        // is never taken.
        Self::with_capacity(text, limits, text.len() / 2 + 1)
    }

    fn with_capacity(text: &'a str, limits: &'a Limits, items: usize) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            limits,
            at: 0,
            depth: 0,
            deepest: 0,
            operators: 0,
            unwritten: 0,
            pending: Vec::new(),
            items: Vec::with_capacity(items),
            literals: Vec::new(),
            names: Names::default(),
            before: Before::default(),
        }
    }

    /// From behind an operand up to the end.
    fn run(&mut self) -> Result<(), ExpressionError> {
        while self.operator()? {
            self.operand()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Expression, ExpressionError> {
        self.reduce(1)?;
        if let Some(open) = self.pending.last() {
            let at = open.at as usize;
            return Err(ExpressionError::new(ErrorKind::UnclosedParenthesis, at..at + 1));
        }
        Ok(Expression {
            items: self.items,
            literals: self.literals,
            names: self.names.into_names(),
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
                    if self.depth > self.deepest {
                        self.deepest = self.depth;
                        if self.depth.unsigned_abs() > self.limits.nesting {
                            let limit = self.limits.nesting;
                            return Err(self.here(ErrorKind::TooDeep { limit }, 1));
                        }
                    }
                    self.push_pending(Waiting::Parenthesis);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'+' => self.at += 1,
                b'-' => {
                    // Two signs cancel, so that a chain of them is at most one operation.
                    if self.pending.last().is_some_and(|top| top.what == Waiting::Sign) {
                        self.pending.pop();
                        self.operators -= 1;
                    } else {
                        self.push_pending(Waiting::Sign);
                        self.operators += 1;
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
                return Ok(false);
            };
            let function = match byte {
                b'+' => Function::Add,
                b'-' => Function::Sub,
                b'*' => Function::Mul,
                b'/' => Function::Div,
                b')' => {
                    self.reduce(1)?;
                    if self.pending.pop().is_none() {
                        self.close_before()?;
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
            if waiting.binds() <= self.before.binds && self.pending.is_empty() {
                self.before.asked.push((self.items.len(), Ask::Reduce(waiting.binds())));
                self.before.binds = waiting.binds() - 1;
            }
            self.operators += 1;
            if self.operators > self.limits.nodes {
                return Err(self.too_many_nodes(self.at));
            }
            self.push_pending(waiting);
            self.at += 1;
            return Ok(true);
        }
    }

    /// A parenthesis that this parser has not seen opened.
    #[cold]
    fn close_before(&mut self) -> Result<(), ExpressionError> {
        if !self.before.opens {
            return Err(self.here(ErrorKind::UnmatchedParenthesis, 1));
        }
        self.before.asked.push((self.items.len(), Ask::Close));
        self.before.binds = BINDS_MOST;
        Ok(())
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
                Waiting::Binary(function) => ItemKind::Binary(function),
                // Only here is it known that no other sign cancels it.
                Waiting::Sign if self.operators > self.limits.nodes => {
                    return Err(self.too_many_nodes(top.at as usize));
                }
                Waiting::Sign => ItemKind::Negate,
                Waiting::Parenthesis => unreachable!("a parenthesis binds less than any operator"),
            };
            self.items.push(Item::new(kind, top.at));
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
            Err(len) => return Err(self.here(ErrorKind::MalformedNumber, len)),
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
        let number = self.names.number(name, index(self.at));
        self.push_item(ItemKind::Parameter(number), len);
        Ok(())
    }

    #[inline]
    fn push_item(&mut self, kind: ItemKind, len: usize) {
        self.items.push(Item::new(kind, index(self.at)));
        self.at += len;
    }

    #[inline]
    fn push_pending(&mut self, what: Waiting) {
        self.pending.push(Pending { what, at: index(self.at) });
    }

    fn next_char(&self) -> char {
        self.text[self.at..].chars().next().expect("a byte of it was seen")
    }

    fn here(&self, kind: ErrorKind, len: usize) -> ExpressionError {
        let end = (self.at + len).min(self.text.len());
        ExpressionError::new(kind, self.at..end)
    }

    #[cold]
    fn too_many_nodes(&self, at: usize) -> ExpressionError {
        let limit = self.limits.nodes;
        ExpressionError::new(ErrorKind::TooManyNodes { limit }, at..at + 1)
    }

    fn missing_operand(&self) -> ExpressionError {
        let kind =
            if self.text.trim().is_empty() { ErrorKind::EmptyExpression } else { ErrorKind::UnexpectedEnd };
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

/// The names seen so far, by number, each with the byte of its first use.
#[derive(Default)]
struct Names<'a> {
    seen: Vec<(&'a str, u32)>,
    /// Made when there are more than [`Names::FEW`].
    numbers: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    /// So many are looked through sooner than a name is hashed.
    const FEW: usize = 8;

    /// The number of a name that stands at byte `at`, and is new unless it was seen.
    fn number(&mut self, name: &'a str, at: u32) -> u32 {
        let next = index(self.seen.len());
        let number = if self.seen.len() < Self::FEW {
            self.seen.iter().position(|seen| seen.0 == name).map_or(next, index)
        } else {
            if self.numbers.is_empty() {
                self.numbers = self.seen.iter().map(|seen| seen.0).zip(0..).collect();
            }
            *self.numbers.entry(name).or_insert(next)
        };
        if number == next {
            self.seen.push((name, at));
        }
        number
    }

    fn into_names(self) -> Vec<Name> {
        self.seen.into_iter().map(|(name, at)| Name { name: name.into(), at }).collect()
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
mod tests;
