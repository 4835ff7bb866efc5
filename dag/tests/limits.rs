//! Texts as large, as deep and as wrong as they may come.
#![cfg(feature = "arithmetic")]

use std::sync::Arc;

use quorate_dag::{
    Costs, Evaluation, Expression, Function, Limits, NodeError, Parameters, PlanOptions, Value, apply,
};

fn evaluate(text: &str) -> Result<Value, &'static str> {
    let expression = Expression::parse(text).map_err(|error| error.kind.as_str())?;
    let parameters = Parameters::new().with("a", 1.into());
    expression.evaluate(&parameters).map_err(|error| error.kind.as_str())
}

fn kind(text: &str) -> &'static str {
    Expression::parse(text).expect_err("it is wrong").kind.as_str()
}

#[test]
fn parentheses_nest_a_hundred_thousand_deep() {
    let deep = format!("{}7{}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(evaluate(&deep), Ok(7.into()));
    assert_eq!(kind(&format!("({deep})")), "too-deep");
    assert_eq!(kind(&"(".repeat(100_000)), "unexpected-end");
}

#[test]
fn parentheses_that_do_not_match_are_found_a_megabyte_away() {
    let far = format!("größe + (1{}", " + (2)".repeat(160_000));
    let error = Expression::parse(&far).expect_err("it is never closed");
    assert_eq!((error.kind.as_str(), error.span.clone()), ("unclosed-parenthesis", 10..11));
    assert!(error.render(&far).ends_with("\n          ^"), "{}", error.render(&far));

    let far = format!("{}1)", "(名) - ".repeat(100_000));
    let error = Expression::parse(&far).expect_err("it closes nothing");
    assert_eq!((error.kind.as_str(), error.span), ("unmatched-parenthesis", far.len() - 1..far.len()));

    let inner = format!("{}{}", "(".repeat(270_000), "1").replace("(((", "(1+(2)*");
    assert_eq!(kind(&format!("{inner}{}", ")".repeat(89_999))), "unclosed-parenthesis");
    assert_eq!(kind(&format!("{inner}{}", ")".repeat(90_001))), "unmatched-parenthesis");
}

#[test]
fn operations_nest_a_hundred_thousand_deep() {
    // Alternating, so that no chain can be balanced.
    let deep = format!("{}1{}", "1+(2*(".repeat(50_000), "))".repeat(50_000));
    let expression = Expression::parse(&deep).expect("within the limits");
    let plan = Arc::new(expression.plan());
    assert_eq!(plan.depth(), 100_000);
    assert_eq!(plan.critical_path(&Default::default()).len(), 100_000);
    assert!(plan.to_string().lines().count() >= 100_000);
    assert!(expression.to_string().len() > 300_000);
    // The value would have 2^50000, more than 10,000 digits: said, not computed for ever.
    let error = plan.evaluate(&Parameters::new(), &Limits::default()).expect_err("too large");
    assert_eq!(error.kind.as_str(), "overflow");
}

#[test]
fn a_megabyte_of_signs_is_one_number() {
    assert_eq!(evaluate(&format!("{}1", "-".repeat(1_000_001 - 2))), Ok((-1).into()));
    assert_eq!(evaluate(&format!("{}a", "+-".repeat(500_000))), Ok(1.into()));
}

#[test]
fn a_megabyte_of_terms_is_a_balanced_sum() {
    let terms = 500_000;
    let text = format!("a{}", "+a".repeat(terms - 1));
    let expression = Expression::parse(&text).expect("within the limits");
    assert_eq!(expression.evaluate(&Parameters::new().with("a", 2.into())), Ok(1_000_000.into()));
    let plan = expression.plan();
    // All pairs of a wave are the same sum, but for an odd one out.
    assert_eq!(plan.depth(), 19);
    assert!(plan.len() < 40);
    let apart = PlanOptions { share: false, ..PlanOptions::default() };
    let plan = expression.plan_with(&apart);
    assert_eq!((plan.len(), plan.depth()), (terms - 1, 19));
}

#[test]
fn a_byte_over_the_limit_is_refused_before_it_is_read() {
    assert_eq!(kind(&"(".repeat((1 << 20) + 1)), "too-long");
    assert_eq!(kind(&"1+".repeat(1 << 19)), "unexpected-end");
}

#[test]
fn a_number_of_a_million_digits_is_refused() {
    assert_eq!(kind(&"9".repeat(1_000_000)), "too-many-digits");
    assert_eq!(kind(&format!("0.{}", "3".repeat(1_000_000))), "too-many-digits");
    assert_eq!(evaluate(&format!("{}7", "0".repeat(1_000_000))), Ok(7.into()));
    let most = "9".repeat(10_000);
    assert_eq!(evaluate(&most).map(|value| value.to_string()), Ok(most.clone()));
    assert_eq!(evaluate(&format!("{most}+1")), Err("overflow"));
}

#[test]
fn eighty_thousand_failures_are_one_error() {
    let quotients: Vec<String> = (1..=80_000).map(|number| format!("{number}/0")).collect();
    let text = quotients.join("+");
    let expression = Expression::parse(&text).expect("within the limits");
    let error = expression.evaluate(&Parameters::new()).expect_err("it divides by zero");
    assert_eq!((error.kind.as_str(), error.span), ("division-by-zero", 1..2));
    // Failing from the right to the left, so that each failure is the leftmost so far.
    let plan = Arc::new(expression.plan());
    let mut evaluation =
        Evaluation::new(plan, &Parameters::new(), &Costs::default()).expect("there are no parameters");
    let mut nodes = Vec::new();
    evaluation.take(usize::MAX, &mut nodes);
    assert_eq!(nodes.len(), 80_000);
    for node in nodes.into_iter().rev() {
        evaluation.fail(node, NodeError::DivisionByZero).expect("it was started");
    }
    let error = evaluation.outcome().expect("nothing is left").expect_err("it divides by zero");
    assert_eq!(error.span, 1..2);
}

#[test]
fn exponents_buy_no_memory() {
    assert_eq!(kind(&vec!["1e9999"; 100_000].join("+")), "too-long");
    assert_eq!(kind("1e999999999"), "too-many-digits");
}

#[test]
fn the_longest_terminating_decimal_prints_and_reads_again() {
    let limits = Limits::default();
    // 1/2^33219: the denominator has just 10,000 digits, the decimal 33,219 places.
    let half: Value = "0.5".parse().expect("a half");
    let multiply = |left: &Value, right: &Value| apply(Function::Mul, left, right, &limits);
    let mut value = half.clone();
    while let Ok(square) = multiply(&value, &value) {
        value = square;
    }
    while let Ok(less) = multiply(&value, &half) {
        value = less;
    }
    let printed = value.to_string();
    assert_eq!(printed.len(), 2 + 33_219);
    assert_eq!(Value::parse(&printed, &limits), Ok(value));
}

#[test]
fn wide_characters_before_an_error_move_its_caret() {
    let text = format!("{} + %", "名".repeat(30_000));
    let error = Expression::parse(&text).expect_err("it is wrong");
    assert_eq!(error.span, text.len() - 1..text.len());
    let drawn = error.render(&text);
    assert!(drawn.len() < 400, "{drawn}");
}
