//! What memory a text can buy before it is refused, and what a node takes.
#![cfg(feature = "arithmetic")]

use std::sync::Arc;

use quorate_dag::{Costs, Expression, Graph, Limits, Parameters, PlanOptions, Run, Value};

const MEGABYTE: usize = 1 << 20;

/// Peak of memory while a text is refused, for each of its bytes.
fn peak_of(text: &str, kind: &str) -> u64 {
    let limits = Limits::default();
    let mut found = "";
    let info = allocation_counter::measure(|| {
        found = match Expression::parse_within(text, &limits) {
            Ok(_) => "ok",
            Err(error) => error.kind.as_str(),
        };
    });
    assert_eq!(found, kind, "{text:.20}");
    info.bytes_max / text.len() as u64
}

#[test]
fn nothing_is_allocated_for_a_text_that_is_too_long() {
    assert_eq!(peak_of(&"(".repeat(MEGABYTE + 1), "too-long"), 0);
    assert_eq!(peak_of(&"9".repeat(MEGABYTE + 1), "too-long"), 0);
}

#[test]
fn a_refused_text_has_taken_a_fixed_factor_of_its_length() {
    let all = |piece: &str| piece.repeat(MEGABYTE / piece.len());
    let names: String = (0..150_000).map(|number| format!("n{number:05}+")).collect();
    for (text, kind) in [
        (all("("), "too-deep"),
        (format!("{}{}", "(".repeat(100_000), " ".repeat(900_000)), "unexpected-end"),
        (format!("(1{}", " ".repeat(1_000_000)), "unclosed-parenthesis"),
        (format!("1{})", " ".repeat(1_000_000)), "unmatched-parenthesis"),
        (all("-"), "unexpected-end"),
        (all("-("), "too-deep"),
        (all("1+"), "unexpected-end"),
        (all("-a*"), "unexpected-end"),
        (all("9"), "too-many-digits"),
        (format!("0.{}", "3".repeat(1_000_000)), "too-many-digits"),
        (format!("1{}", "_0".repeat(500_000)), "too-many-digits"),
        (format!("1e{}", "9".repeat(1_000_000)), "too-many-digits"),
        (all("."), "malformed-number"),
        (format!("{}(1)", "n".repeat(1_000_000)), "reserved-call"),
        (format!("1 {}", "名".repeat(300_000)), "expected-operator"),
        (all("1e9999+"), "too-long"),
        (format!("{}%", all("0.5+")), "too-long"),
        (format!("{names}%"), "unexpected-character"),
        (format!("{}(", all("0.5+").trim_end_matches("0.5+")), "unexpected-end"),
    ] {
        if text.len() > MEGABYTE {
            assert_eq!(peak_of(&text, "too-long"), 0);
            continue;
        }
        let factor = peak_of(&text, kind);
        assert!(factor <= 40, "{factor} bytes for each of {text:.20}");
    }
}

#[test]
fn an_error_in_a_megabyte_is_drawn_in_a_line() {
    let text = format!("{}¿", "名+".repeat(200_000));
    let error = Expression::parse(&text).expect_err("it is wrong");
    let mut drawn = String::new();
    let info = allocation_counter::measure(|| drawn = error.render(&text));
    assert!(drawn.len() < 400 && info.bytes_max < 8192, "{info:?}");
}

#[test]
fn a_value_over_the_limit_is_refused_before_it_is_computed() {
    let limits = Limits::default();
    for text in ["1e999999999", "1e-999999999", "1/1e999999999"] {
        let info = allocation_counter::measure(|| {
            Value::parse(text, &limits).expect_err("too many digits");
        });
        assert!(info.bytes_max < 100, "{info:?}");
    }
    let bytes = vec![1; 1_000_000];
    let info = allocation_counter::measure(|| {
        Value::from_bytes(&bytes, &limits).expect_err("too many digits");
    });
    assert_eq!(info.bytes_max, 0);
}

#[test]
fn an_overflow_stops_what_would_grow() {
    // Ten squarings of a number of a thousand digits would have a million.
    let text = format!("{}{}", "9".repeat(1000), "*a".repeat(10));
    let a = Value::parse(&"9".repeat(5000), &Limits::default()).expect("within the limit");
    let expression = Expression::parse(&text).expect("an expression");
    let parameters = Parameters::new().with("a", a);
    let info = allocation_counter::measure(|| {
        let error = expression.evaluate(&parameters).expect_err("it overflows");
        assert_eq!(error.kind.as_str(), "overflow");
    });
    assert!(info.bytes_max < 200_000, "{info:?}");
}

/// What stays allocated when a thing has been made.
fn kept<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let mut made = None;
    let info = allocation_counter::measure(|| made = Some(make()));
    (made.expect("it was made"), usize::try_from(info.bytes_current).expect("it keeps what it made"))
}

#[test]
fn a_node_takes_at_most_48_bytes_before_values() {
    let terms: Vec<String> =
        (0..50_000).map(|term| format!("(a*{}-b)/n{}", term % 1000, term / 1000)).collect();
    let expression = Expression::parse(&terms.join("+")).expect("an expression");
    let apart = PlanOptions { share: false, ..PlanOptions::default() };
    for options in [PlanOptions::default(), apart] {
        let (plan, of_plan) = kept(|| expression.plan_with(&options));
        let graph: Arc<Graph> = Arc::clone(plan.graph());
        let (run, of_run) = kept(|| Run::<Value>::new(graph, &Costs::default()));
        let values = run.graph().len() * size_of::<Option<Value>>();
        let bytes = (of_plan + of_run - values) / plan.len();
        assert!(bytes <= 48, "{bytes} bytes a node");
    }
}
