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
    // However many there are, each is the one it was.
    let many = "a + b + c + d + e + f + g + h + i + j - a * b / g / h - i - j - a";
    check(many, many);
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
    check(" + ", "unexpected-end 3..3");
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
fn zeros_that_say_nothing_are_free_up_to_64_places() {
    let limits = Limits { digits: 3, ..Limits::default() };
    let zeros = |count| "0".repeat(count);
    check_within(&format!("0.5{}", zeros(63)), limits, "ok");
    check_within(&format!("0.5{}", zeros(64)), limits, "too-many-digits");
    check_within(&format!("1{}e-64", zeros(63)), limits, "ok");
    check_within(&format!("1{}e-64", zeros(64)), limits, "too-many-digits");
    check_within(&format!(".1{}e-1", zeros(63)), limits, "too-many-digits");
    check_within(&format!("{}5", zeros(1000)), limits, "ok");
}

#[test]
fn exponents_count_as_the_zeros_they_stand_for() {
    let limits = Limits { bytes: 1000, ..Limits::default() };
    check_within("1e400+1e400", limits, "ok");
    check_within("1e400+1e400+1e400", limits, "too-long");
    // Five bytes and 400 zeros.
    check_within("1e400", Limits { bytes: 405, ..limits }, "ok");
    check_within("1e400", Limits { bytes: 404, ..limits }, "too-long");
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
