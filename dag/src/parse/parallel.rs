//! One text read by several threads.
//!
//! The text is cut before operators, at places where a parser from the left would stand behind an
//! operand. Each part is read without what stands before it: where its items depend on that (which
//! operators wait there, which parentheses are open), the part writes down what it asks, and the
//! parts are joined from left to right by answering. What is said of an error is the sequential
//! parser's word: when anything at all is wrong, it reads the text again.

use std::ops::Range;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{Ask, BINDS_MOST, Before, Parser, index, parse};
use crate::error::ExpressionError;
use crate::expression::{Expression, Item, ItemKind};
use crate::limits::Limits;

/// As [`parse`], in about so many parts.
pub(crate) fn parse_in_parts(
    text: &str,
    limits: &Limits,
    parts: usize,
) -> Result<Expression, ExpressionError> {
    let bytes_max = limits.bytes.min(Limits::BYTES_MAX);
    let parts = if text.len() > bytes_max { Vec::new() } else { cut(text.as_bytes(), parts) };
    if parts.len() > 1
        && let Some(expression) = read(text, limits, parts)
    {
        return Ok(expression);
    }
    parse(text, limits)
}

fn read(text: &str, limits: &Limits, parts: Vec<Range<usize>>) -> Option<Expression> {
    let read = |part: Range<usize>| {
        let mut parser = Parser::part(text, limits, part);
        if parser.at == 0 {
            parser.operand().ok()?;
        } else {
            parser.before = Before { binds: BINDS_MOST, opens: true, asked: Vec::new() };
        }
        parser.run().ok()?;
        Some(parser)
    };
    let parsers: Vec<Option<Parser<'_>>> = parts.into_par_iter().with_max_len(1).map(read).collect();
    let mut parsers = parsers.into_iter();
    let mut whole = parsers.next()??;
    for parser in parsers {
        whole.join(parser?)?;
    }
    let bytes_max = limits.bytes.min(Limits::BYTES_MAX);
    if text.len() + whole.unwritten > bytes_max {
        return None;
    }
    whole.finish().ok()
}

/// About `parts` parts of equal length. Each but the first begins with a binary operator.
fn cut(bytes: &[u8], parts: usize) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let mut start = 0;
    for part in 1..parts {
        let from = (bytes.len() / parts * part).max(start + 1);
        match (from..bytes.len()).find(|at| is_behind_operand(bytes, *at)) {
            None => break,
            Some(end) => cuts.push(std::mem::replace(&mut start, end)..end),
        }
    }
    cuts.push(start..bytes.len());
    cuts
}

/// Whether a parser from the left that comes to `at` finds a binary operator there: the byte is an
/// operator, of no exponent, and what stands before it ends an operand. (An operand may also end in
/// other letters than ASCII's; no cut is made there.)
fn is_behind_operand(bytes: &[u8], at: usize) -> bool {
    if !matches!(bytes[at], b'+' | b'-' | b'*' | b'/') || matches!(bytes[at - 1], b'e' | b'E') {
        return false;
    }
    let before = bytes[..at].iter().rev().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b')'))
}

impl<'a> Parser<'a> {
    fn part(text: &'a str, limits: &'a Limits, part: Range<usize>) -> Self {
        // The first one takes the others in.
        let items = if part.start == 0 { text.len() } else { part.len() } / 2 + 1;
        Self {
            bytes: &text.as_bytes()[..part.end],
            at: part.start,
            ..Self::with_capacity(text, limits, items)
        }
    }

    /// Goes on as if it had read the part that follows; `None` when it could not have.
    fn join(&mut self, part: Self) -> Option<()> {
        let limit = isize::try_from(self.limits.nesting).unwrap_or(isize::MAX);
        if self.depth + part.deepest > limit {
            return None;
        }
        let literals = index(self.literals.len());
        let names: Vec<u32> = part.names.seen.iter().map(|(name, at)| self.names.number(name, *at)).collect();
        let is_same = names.is_empty() && part.literals.is_empty();
        let moved = |item: &Item| match item.kind() {
            ItemKind::Literal(number) => Item::new(ItemKind::Literal(literals + number), item.at),
            ItemKind::Parameter(number) => Item::new(ItemKind::Parameter(names[number as usize]), item.at),
            _ => *item,
        };
        let mut taken = 0;
        let mut take = |items: &mut Vec<Item>, end: usize| {
            let from = &part.items[std::mem::replace(&mut taken, end)..end];
            if is_same {
                items.extend_from_slice(from);
            } else {
                items.extend(from.iter().map(moved));
            }
        };
        self.operators += part.operators;
        for (before, ask) in &part.before.asked {
            take(&mut self.items, *before);
            match ask {
                Ask::Reduce(binds) => self.reduce(*binds).ok()?,
                Ask::Close => {
                    self.reduce(1).ok()?;
                    self.pending.pop()?;
                }
            }
        }
        take(&mut self.items, part.items.len());
        self.pending.extend_from_slice(&part.pending);
        self.literals.extend(part.literals);
        self.unwritten += part.unwritten;
        self.depth += part.depth;
        (self.operators <= self.limits.nodes).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_within(text: &str, limits: &Limits, parts: usize) {
        match (parse_in_parts(text, limits, parts), parse(text, limits)) {
            (Ok(parallel), Ok(sequential)) => {
                assert_eq!(parallel.items, sequential.items, "{text} in {parts}");
                assert_eq!(parallel.literals, sequential.literals, "{text} in {parts}");
                assert_eq!(parallel.names, sequential.names, "{text} in {parts}");
                assert_eq!(parallel.bytes, sequential.bytes);
            }
            (parallel, sequential) => {
                assert_eq!(parallel.map(drop), sequential.map(drop), "{text} in {parts}");
            }
        }
    }

    /// Whether the parts were joined, and what is wrong was not left to the sequential parser.
    fn is_joined(text: &str, limits: &Limits, parts: usize) -> bool {
        let parts = cut(text.as_bytes(), parts);
        parts.len() > 1 && read(text, limits, parts).is_some()
    }

    const TIGHT: Limits = Limits { bytes: 200, nodes: 12, nesting: 4, digits: 12 };

    #[test]
    fn cuts_cover_the_text_and_begin_with_operators() {
        let cuts = |text: &str, parts| {
            let parts = cut(text.as_bytes(), parts).into_iter();
            parts.map(|part| text[part].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cuts("1+2*3-4", 2), ["1+2", "*3-4"]);
        assert_eq!(cuts("1+2*3-4", 99), ["1", "+2", "*3", "-4"]);
        assert_eq!(cuts("1+2", 1), ["1+2"]);
        assert_eq!(cuts("((((1))))", 4), ["((((1))))"]);
        assert_eq!(cuts("2e-3 - -4", 9), ["2e-3 ", "- -4"]);
        assert_eq!(cuts("(a) / .5 + x_", 9), ["(a) ", "/ .5 ", "+ x_"]);
        assert_eq!(cuts("名+1", 9), ["名+1"]);
        assert_eq!(cuts("", 3), [""]);
    }

    #[test]
    fn parts_are_joined_whatever_was_open_before_them() {
        for text in [
            "1+2*3-4/5+6",
            "((1+2)*(3-4))/((5*6)-(7/8))",
            "a*(b+c*(d-e/(f+1)+2)*3)-4",
            "-(1*-2+-(3/4*-5))*6",
            "-a*-b+-c/-(d)",
            "1+2*(3+4*(5+6*(7+8*(9+10))))",
            "((((1+2)*3)+4)*5)+6",
            "0.5*a+1e3*b+a*99999999999999999999+0.25",
        ] {
            for parts in 2..=text.len() {
                check_within(text, &Limits::default(), parts);
                assert!(is_joined(text, &Limits::default(), parts), "{text} in {parts}");
            }
        }
    }

    #[test]
    fn limits_hold_across_parts() {
        for (text, fits) in [
            ("((((1))))+((((1))))", true),
            ("((((1))))+(((((1)))))", false),
            ("(((1+(2)*(3))))", true),
            ("(((1+(2)*((3)))))", false),
            ("(1+(2+(3+(4+5))))", true),
            ("(1+(2+(3+(4+(5)))))", false),
            ("1+2+3+4+5+6+7+8+9+1+2+3+4", true),
            ("1+2+3+4+5+6+7+8+9+1+2+3+4+5", false),
            ("1e9+1e9+1e9+1e9+1e9+1e9+1e9+1e9+1e9", true),
            ("1e9*1e9*1e9*1e9*1e9*1e9*1e9*1e9*1e9*1e9*1e9*1e9", true),
        ] {
            for parts in 2..=text.len() {
                check_within(text, &TIGHT, parts);
                assert_eq!(is_joined(text, &TIGHT, parts), fits, "{text} in {parts}");
            }
        }
        // 39 bytes and 90 zeros.
        let text = "1e9+1e9+1e9+1e9+1e9+1e9+1e9+1e9+1e9+1e9";
        for (bytes, fits) in [(128, false), (129, true)] {
            let zeros = Limits { bytes, ..TIGHT };
            assert_eq!(is_joined(text, &zeros, 5), fits);
            check_within(text, &zeros, 5);
        }
    }

    #[test]
    fn a_mistake_in_any_part_is_the_one_the_sequential_parser_finds() {
        for text in [
            "1+2)*3+4",
            "1+(2*3+4",
            "1+2*%+4-5",
            "1+2 3*4-5",
            "1+2*3+",
            "f(1)+2*3",
            "1..2+3*4",
            "1+2*3)+(4",
            "(1+2*3+4",
            "1e+2*3",
            "2e-*3+4",
            "e -3+4",
            "1+*2-3",
            "1+2*()-4",
            "+*1-2",
            "1+1e99*2-3",
        ] {
            for parts in 2..=text.len() {
                check_within(text, &TIGHT, parts);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_in_any_parts_is_what_it_is_as_a_whole(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "(", ")", "(", ")", "+", "-", "*", "/", "+", "*", " ", "1", "2.5", "1e3", "2e", "-3", "a", "größe",
                "e", "_", "99999999999", "0", "1", "b1", ".5", "%", "(1+2)", "(a*3)", "-(b)", "+4", "*c", "/7",
                "d", "x", "y", "z", "w", "v", "u",
            ]), 0..40),
            parts in 1usize..9,
        ) {
            let text = tokens.concat();
            check_within(&text, &Limits::default(), parts);
            check_within(&text, &TIGHT, parts);
        }

        #[test]
        fn a_right_text_is_joined(
            operators in prop::collection::vec(prop::sample::select(vec![
                "+", "-", "*", "/", "+(", "*(-", "-((", ")*", ")+", ")/", "))-",
            ]), 1..60),
            parts in 2usize..9,
        ) {
            let mut text = String::new();
            let mut open = 0usize;
            for operator in operators {
                let closes = operator.matches(')').count();
                if closes > open {
                    continue;
                }
                open = open + operator.matches('(').count() - closes;
                text.push_str(["1", "a", "0.5", "n9", "12345678901"][text.len() % 5]);
                text.push_str(operator);
            }
            text.push('7');
            text.push_str(&")".repeat(open));
            check_within(&text, &Limits::default(), parts);
            let cuts = cut(text.as_bytes(), parts).len();
            prop_assert!(cuts == 1 || is_joined(&text, &Limits::default(), parts), "{}", text);
        }
    }
}
