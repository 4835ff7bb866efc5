//! Every kind of error: its words, the bytes it points at, and how it is drawn.
#![cfg(feature = "arithmetic")]

use quorate_dag::{ErrorKind, Expression, ExpressionError, Limits, NodeError, Parameters, Value, ValueError};

const LIMITS: Limits = Limits { bytes: 40, nodes: 3, nesting: 2, digits: 5 };

fn error(text: &str) -> ExpressionError {
    let parameters = Parameters::new().with("a", 2.into()).with("größe", 9_999.into());
    let planned = Expression::parse_within(text, &LIMITS).and_then(|expression| {
        let value = std::sync::Arc::new(expression.plan()).evaluate(&parameters, &LIMITS)?;
        expression.evaluate_f64(|_| Some(f64::INFINITY)).map(|_| value)
    });
    planned.expect_err("it is wrong")
}

/// The name of its kind, what is said of it, and the bytes it points at.
fn check(text: &str, kind: &str, says: &str, at: &str) {
    let error = error(text);
    assert_eq!(error.kind.as_str(), kind, "{text}");
    assert_eq!(error.kind.to_string(), says, "{text}");
    assert_eq!(&text[error.span.clone()], at, "{text}");
    let span = &error.span;
    assert_eq!(error.to_string(), format!("{says} at bytes {}..{}", span.start, span.end));
    assert_eq!(error.render(text).lines().next(), Some(says));
}

/// What each kind of error is there for. A new kind does not compile until it is here.
fn example(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::EmptyExpression => " \u{3000}",
        ErrorKind::UnexpectedEnd => "größe + ",
        ErrorKind::UnclosedParenthesis => "größe * (1 + 2",
        ErrorKind::UnmatchedParenthesis => "größe + 1)",
        ErrorKind::ExpectedOperand { .. } => "größe + * 2",
        ErrorKind::ExpectedOperator { .. } => "größe 名2",
        ErrorKind::UnexpectedCharacter { .. } => "größe × 2",
        ErrorKind::MalformedNumber => "größe + 1.2.3",
        ErrorKind::ReservedCall { .. } => "größe + 名 (1, 2)",
        ErrorKind::TooLong { .. } => "größe + 1111 + 2222 + 3333 + 4444 + 5555 + 6",
        ErrorKind::TooManyNodes { .. } => "größe + 1 - 2 * 3 / 4",
        ErrorKind::TooDeep { .. } => "größe + ((( 1 )))",
        ErrorKind::TooManyDigits { .. } => "größe + 123456",
        ErrorKind::UnknownParameter { .. } => "größe + größte",
        ErrorKind::DivisionByZero => "größe / (a - 2)",
        ErrorKind::NotFinite => "größe + 1",
        ErrorKind::Overflow { .. } => "größe * größe",
        kind => panic!("{kind:?} has no example"),
    }
}

#[test]
fn every_kind_says_what_is_wrong_and_where() {
    const OPERAND: &str = "a number, a name or `(`";
    for (kind, says, at) in [
        (ErrorKind::EmptyExpression, format!("empty expression: expected {OPERAND}"), ""),
        (ErrorKind::UnexpectedEnd, format!("unexpected end: expected {OPERAND}"), ""),
        (ErrorKind::UnclosedParenthesis, "this `(` is never closed: expected `)`".into(), "("),
        (ErrorKind::UnmatchedParenthesis, "this `)` closes nothing".into(), ")"),
        (ErrorKind::ExpectedOperand { found: '*' }, format!("expected {OPERAND}, found `*`"), "*"),
        (
            ErrorKind::ExpectedOperator { found: '名' },
            "expected an operator, `)` or the end, found `名`".into(),
            "名2",
        ),
        (ErrorKind::UnexpectedCharacter { found: '×' }, "unexpected character '×'".into(), "×"),
        (
            ErrorKind::MalformedNumber,
            "malformed number: expected digits as in 12, 0.5, 1e-3 or 1_000".into(),
            "1.2.3",
        ),
        (
            ErrorKind::ReservedCall { name: "名".into() },
            "`名(` is reserved: there are no functions to call yet".into(),
            "名",
        ),
        (
            ErrorKind::TooLong { limit: 40 },
            "expression is over the limit of 40 bytes, exponents written out".into(),
            "",
        ),
        (ErrorKind::TooManyNodes { limit: 3 }, "expression has more than 3 operators".into(), "/"),
        (ErrorKind::TooDeep { limit: 2 }, "parentheses are nested deeper than 2".into(), "("),
        (ErrorKind::TooManyDigits { limit: 5 }, "number has more than 5 digits".into(), "123456"),
        (
            ErrorKind::UnknownParameter { name: "größte".into() },
            "unknown parameter `größte`".into(),
            "größte",
        ),
        (ErrorKind::DivisionByZero, "division by zero".into(), "/"),
        (ErrorKind::NotFinite, "this is not a finite number in 64-bit floating point".into(), "größe"),
        (ErrorKind::Overflow { limit: 5 }, "the result of this operation has more than 5 digits".into(), "*"),
    ] {
        let text = example(&kind);
        check(text, kind.as_str(), &says, at);
        assert_eq!(error(text).kind, kind);
    }
}

#[test]
fn the_first_operator_past_the_limit_is_named() {
    for (text, at) in [
        ("1+2*3-4/5", 7),
        ("1+(2*(3+4*5))", 9),
        ("-(1+2+3+4)", 7),
        ("1+2+3*-4", 6),
        ("1+2+3*---4", 8),
        ("-1+--2*3-4", 8),
    ] {
        let error = error(text);
        assert_eq!((error.kind.as_str(), error.span), ("too-many-nodes", at..at + 1), "{text}");
    }
}

#[test]
fn a_caret_stands_below_what_is_wrong() {
    for (text, line) in [
        ("größe 名2", "        ^^^"), // two columns for a wide character
        ("größe + 名 (1, 2)", "          ^^"),
        ("größe × 2", "        ^"),
        ("größe * (1 + 2", "          ^"),
        ("größe + 1)", "           ^"),
        ("größe / (a - 2)", "        ^"),
        ("größe + ", "          ^"),
    ] {
        let drawn = error(text).render(text);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[1..], [&format!("  {text}"), line], "{text}");
    }
}

/// The second and the third line that are drawn.
fn drawn(text: &str) -> (String, String) {
    let error = Expression::parse(text).expect_err("it is wrong");
    let drawn = error.render(text);
    let [_, line, caret] = drawn.lines().collect::<Vec<_>>()[..] else {
        panic!("three lines: {drawn}");
    };
    (line.to_owned(), caret.to_owned())
}

#[test]
fn what_has_no_width_of_its_own_is_drawn_so_that_the_caret_fits() {
    for (text, line, caret) in [
        ("a\t+\t%", "  a + %", "      ^"),
        ("1 +\r\n2 + %\r\n+ 3\r\n", "  2 + %", "      ^"),
        // A file ends with its last line, not after it.
        ("1 +\n", "  1 +", "     ^"),
        ("1 +\n2 *\r\n\n", "  2 *", "     ^"),
        ("\n", "  ", "  ^"),
        // No terminal is told anything.
        ("1 + \u{1b}[31m", "  1 + ·[31m", "      ^"),
        // Nor is the direction of the line turned.
        ("\u{202e}1 + 2", "  ·1 + 2", "  ^"),
        ("1 + \u{2066}", "  1 + ·", "      ^"),
        // A mark stands above the letter before it.
        ("é + e\u{301} + 1", "  é + e\u{301} + 1", "       ^"),
        ("１ + 1", "  １ + 1", "  ^^"),
    ] {
        assert_eq!(drawn(text), (line.to_owned(), caret.to_owned()), "{text:?}");
    }
    // Marks beyond number do not make a line of them.
    let (line, _) = drawn(&format!("1 + a{} ¿", "\u{301}".repeat(100_000)));
    assert!(line.len() < 1000);
}

#[test]
fn another_text_than_was_parsed_is_drawn_somehow() {
    let error = Expression::parse("1 + 2 +\n größe größte").expect_err("it is wrong");
    for text in ["", "ö", "größe", "\n\n\n", "1\n23456789\n01234567890", "名名名名名名名名名名"]
    {
        assert_eq!(error.render(text).lines().count(), 3, "{text:?}");
    }
    // What is at fault ends with its line.
    let error = Expression::parse("1 + 2 34567").expect_err("it is wrong");
    assert!(error.render("1 + 2 3\n45678").ends_with("\n  1 + 2 3\n        ^"));
}

#[test]
fn a_call_is_refused_whatever_its_operands() {
    for text in ["add()", "add(1)", "add(1, 2)", "add(1,2,3)", "add ( 1", "add(", "1*add(1)"] {
        let error = error(text);
        assert_eq!(error.kind, ErrorKind::ReservedCall { name: "add".into() }, "{text}");
        assert_eq!(&text[error.span], "add");
    }
}

#[test]
fn the_limits_on_size_are_told_from_mistakes() {
    for (text, is_too_large) in [
        ("größe + 1111 + 2222 + 3333 + 4444 + 5555 + 6", true),
        ("1+2+3+4+5", true),
        ("(((1)))", true),
        ("123456", true),
        ("1+", false),
        ("1/0", false),
        ("größe * größe", false),
        ("b", false),
    ] {
        assert_eq!(error(text).kind.is_too_large(), is_too_large, "{text}");
    }
}

#[test]
fn a_value_that_cannot_be_read_says_why_and_where() {
    for (text, kind, says, span) in [
        (
            "1.5é",
            "malformed-number",
            "malformed number at bytes 3..5: expected digits as in 12, 0.5, 1e-3, 1_000 or 1/3",
            3..5,
        ),
        ("1/123456", "too-many-digits", "number at bytes 2..8 has more than 5 digits", 2..8),
        (" 1 / -0 ", "division-by-zero", "division by zero at bytes 3..4", 3..4),
    ] {
        let error: ValueError = Value::parse(text, &LIMITS).expect_err("it is wrong");
        assert_eq!((error.as_str(), error.to_string().as_str(), error.span()), (kind, says, span), "{text}");
    }
}

#[test]
fn what_fails_at_a_node_is_said_in_the_same_words() {
    assert_eq!(NodeError::DivisionByZero.to_string(), "division by zero");
    assert_eq!(NodeError::Overflow { limit: 5 }.to_string(), "the result has more than 5 digits");
    for error in [NodeError::DivisionByZero, NodeError::Overflow { limit: 5 }] {
        assert_eq!(ErrorKind::from(error).as_str(), error.as_str());
    }
}

#[test]
fn of_several_failures_the_leftmost_is_reported() {
    for (text, at) in
        [("1/0*(a/0)", 1), ("a/(2/0)", 4), ("(a*99999)/0", 2), ("1/(a-2)/0", 1), ("99999*a-1/0", 5)]
    {
        assert_eq!(error(text).span, at..at + 1, "{text}");
    }
}
