//! What is wrong with an expression, and where.

use std::fmt::Write as _;
use std::ops::Range;

/// An expression that cannot be read, planned or computed: what is wrong, and the bytes at fault.
///
/// ```
/// use quorate_dag::Expression;
///
/// let text = "1 + 2)";
/// let error = Expression::parse(text).unwrap_err();
/// assert_eq!(error.kind.as_str(), "unmatched-parenthesis");
/// assert_eq!(error.span, 5..6);
/// assert_eq!(error.render(text), "\
/// this `)` closes nothing
///   1 + 2)
///        ^");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at bytes {}..{}", span.start, span.end)]
pub struct ExpressionError {
    /// What is wrong.
    #[source]
    pub kind: ErrorKind,
    /// The bytes of the text at fault; empty at its end when something is missing there.
    pub span: Range<usize>,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing but white space.
    #[error("empty expression: expected a number, a name or `(`")]
    EmptyExpression,
    /// The text ends where an operand must follow.
    #[error("unexpected end: expected a number, a name or `(`")]
    UnexpectedEnd,
    /// A `(` without its `)`.
    #[error("this `(` is never closed: expected `)`")]
    UnclosedParenthesis,
    /// A `)` without its `(`.
    #[error("this `)` closes nothing")]
    UnmatchedParenthesis,
    /// An operator or `)` where an operand must stand.
    #[error("expected a number, a name or `(`, found `{found}`")]
    ExpectedOperand {
        /// What stands there.
        found: char,
    },
    /// Two operands with nothing between them, as in `2 3` or `2(3)`.
    #[error("expected an operator, `)` or the end, found `{found}`")]
    ExpectedOperator {
        /// The first character of what stands there.
        found: char,
    },
    /// A character that no expression contains.
    #[error("unexpected character {found:?}")]
    UnexpectedCharacter {
        /// The character.
        found: char,
    },
    /// `1.2.3`, `1__0`, `2e`, a lone point.
    #[error("malformed number: expected digits as in 12, 0.5, 1e-3 or 1_000")]
    MalformedNumber,
    /// `name(`: kept for functions to come.
    #[error("`{name}(` is reserved: there are no functions to call yet")]
    ReservedCall {
        /// The name.
        name: String,
    },
    /// More text than [`Limits::bytes`](crate::Limits::bytes).
    #[error("expression is over the limit of {limit} bytes, exponents written out")]
    TooLong {
        /// The limit in force.
        limit: usize,
    },
    /// More operators than [`Limits::nodes`](crate::Limits::nodes).
    #[error("expression has more than {limit} operators")]
    TooManyNodes {
        /// The limit in force.
        limit: usize,
    },
    /// More open parentheses than [`Limits::nesting`](crate::Limits::nesting).
    #[error("parentheses are nested deeper than {limit}")]
    TooDeep {
        /// The limit in force.
        limit: usize,
    },
    /// A literal with more digits than [`Limits::digits`](crate::Limits::digits).
    #[error("number has more than {limit} digits")]
    TooManyDigits {
        /// The limit in force.
        limit: usize,
    },
    /// A name that no parameter has.
    #[error("unknown parameter `{name}`")]
    UnknownParameter {
        /// The name.
        name: String,
    },
    /// The divisor is zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A number or a result that is infinite or none at all, in floating point.
    #[error("this is not a finite number in 64-bit floating point")]
    NotFinite,
    /// A computed value with more digits than [`Limits::digits`](crate::Limits::digits).
    #[error("the result of this operation has more than {limit} digits")]
    Overflow {
        /// The limit in force.
        limit: usize,
    },
}

impl ErrorKind {
    /// A stable name for programs, such as `division-by-zero`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::EmptyExpression => "empty-expression",
            Self::UnexpectedEnd => "unexpected-end",
            Self::UnclosedParenthesis => "unclosed-parenthesis",
            Self::UnmatchedParenthesis => "unmatched-parenthesis",
            Self::ExpectedOperand { .. } => "expected-operand",
            Self::ExpectedOperator { .. } => "expected-operator",
            Self::UnexpectedCharacter { .. } => "unexpected-character",
            Self::MalformedNumber => "malformed-number",
            Self::ReservedCall { .. } => "reserved-call",
            Self::TooLong { .. } => "too-long",
            Self::TooManyNodes { .. } => "too-many-nodes",
            Self::TooDeep { .. } => "too-deep",
            Self::TooManyDigits { .. } => "too-many-digits",
            Self::UnknownParameter { .. } => "unknown-parameter",
            Self::DivisionByZero => "division-by-zero",
            Self::NotFinite => "not-finite",
            Self::Overflow { .. } => "overflow",
        }
    }

    /// Whether the text itself is past a limit, so that a smaller one might pass: HTTP's 413.
    pub const fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::TooLong { .. }
                | Self::TooManyNodes { .. }
                | Self::TooDeep { .. }
                | Self::TooManyDigits { .. }
        )
    }
}

/// Columns of source that a rendering shows.
const WINDOW: usize = 72;

impl ExpressionError {
    pub(crate) fn new(kind: ErrorKind, span: Range<usize>) -> Self {
        Self { kind, span }
    }

    /// Three lines: what is wrong, the line of the text, and carets below the fault. A long line is
    /// cut to a window about the fault; control characters are shown as `·`, tabs as a blank.
    ///
    /// `text` is what was parsed; with another text the carets point nowhere useful, but safely.
    pub fn render(&self, text: &str) -> String {
        let mut out = format!("{}\n  ", self.kind);
        Excerpt::of(text, &self.span).write(&mut out);
        out
    }
}

/// One line of the text, as columns of a terminal.
struct Excerpt<'a> {
    before: &'a str,
    fault: &'a str,
    after: &'a str,
}

impl<'a> Excerpt<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        // What is missing at the end is missing from the last line that has one, as of a file.
        let lines = text.trim_end_matches(['\n', '\r']).len();
        let start = if span.start == text.len() { lines } else { floor(text, span.start) };
        let end = floor(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let line_end = start + line.len();
        Self {
            before: &text[line_start..start],
            fault: &text[start..end.min(line_end)],
            after: &text[end.min(line_end)..line_end],
        }
    }

    fn write(&self, out: &mut String) {
        // The fault may take half of the window; what stands before it a third; the rest is after.
        let fault = take(self.fault.chars(), WINDOW / 2);
        let before = take(self.before.chars().rev(), WINDOW / 3);
        let shown = width(&fault) + width(&before);
        let after = take(self.after.chars(), WINDOW.saturating_sub(shown));
        let cut_before = before.len() < self.before.chars().count();
        let cut_fault = fault.len() < self.fault.chars().count();
        let cut_after = after.len() < self.after.chars().count();

        let mut indent = 2;
        if cut_before {
            out.push('…');
            indent += 1;
        }
        out.extend(before.iter().rev().map(|c| visible(*c)));
        out.extend(fault.iter().map(|c| visible(*c)));
        if cut_fault {
            out.push('…');
        } else {
            out.extend(after.iter().map(|c| visible(*c)));
            if cut_after {
                out.push('…');
            }
        }
        indent += width(&before);
        let carets = (width(&fault) + usize::from(cut_fault)).max(1);
        write!(out, "\n{:indent$}{:^<carets$}", "", "").expect("writing to a String");
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// As many characters as fit in `columns`.
fn take(chars: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += columns_of(*c);
            used <= columns
        })
        // Marks of no width must not make the window unbounded.
        .take(columns * 4)
        .collect()
}

fn width(chars: &[char]) -> usize {
    chars.iter().map(|c| columns_of(*c)).sum()
}

fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        // Also the characters that would turn the direction of the line.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '·',
        c if c.is_control() => '·',
        c => c,
    }
}

/// Columns of a terminal: 2 for wide East Asian characters and pictographs, 0 for combining marks
/// (the main blocks of Unicode Standard Annex 11).
fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20f0 | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
