//! `quorate eval`: answers, parameters, forms of output, and everything that can be wrong.

use quorate_tests::{BYZANTINE, Data, NONE, Platform};
use serde_json::Value;

const EXAMPLE: &str = "((3+5)*(4/2))";

/// A configuration in which every limit on an expression is near.
const NARROW: &str = r#"
    [functions.default]
    replication = "none"
    [limits]
    expression_bytes = 200
    nodes = 20
    nesting = 10
    digits = 12
"#;

#[tokio::test]
async fn eval_on_a_machine_that_never_ran_it_prints_16_and_leaves_nothing() {
    let data = Data::empty();
    assert_eq!(data.answer(&["eval", EXAMPLE]).await, "16");
    data.deserted(std::time::Duration::from_secs(5)).await;
}

#[tokio::test]
async fn eval_with_identities_prints_16_and_leaves_nothing() {
    let data = Data::new();
    let output = data.run(&["eval", EXAMPLE]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "16\n"), "{output:?}");
    data.deserted(std::time::Duration::from_secs(5)).await;
}

#[tokio::test]
async fn eval_without_replication_prints_16() {
    let data = Data::empty();
    assert_eq!(data.answer(&["eval", EXAMPLE, "--none"]).await, "16");
}

#[tokio::test]
async fn eval_uses_the_platform_that_runs_on_its_data() {
    let platform = Platform::up(BYZANTINE).await;
    assert_eq!(platform.data.answer(&["eval", EXAMPLE]).await, "16");
    let pods = platform.status().await.iter().filter(|s| s.daemon == "worker").count();
    assert_eq!(pods, 3, "add, mul and div were started there, and sub was not");
    assert_eq!(platform.data.answer(&["eval", EXAMPLE, "--url", &platform.url]).await, "16");
    platform.stop().await;
}

#[tokio::test]
async fn eval_takes_parameters_and_every_form_of_number() {
    let platform = Platform::up(NONE).await;
    for (arguments, expected) in [
        (&["a*(b+1)", "-p", "a=2", "-p", "b=1/3"][..], "8/3"),
        (&["a*a", "-p", "a=-0.5"], "0.25"),
        (&["1/3+1/3+1/3"], "1"),
        (&["0.1+0.2"], "0.3"),
        (&["--", "-3+-4"], "-7"),
        (&["1_000*1e-3"], "1"),
        (
            &["12345678901234567890123*98765432109876543210987"],
            "1219326311370217952261797134336296860222381401",
        ),
        (&["2/3", "--digits", "5"], "0.66667"),
        (&["7"], "7"),
        (&["α+β", "-p", "α=1", "-p", "β=2"], "3"),
    ] {
        let mut all = vec!["eval"];
        all.extend_from_slice(arguments);
        assert_eq!(platform.data.answer(&all).await, expected, "{arguments:?}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn eval_as_json_says_what_the_gateway_says() {
    let platform = Platform::up(NONE).await;
    let answer: Value =
        serde_json::from_str(&platform.data.answer(&["eval", EXAMPLE, "--json"]).await).expect("is JSON");
    assert_eq!(answer["result"], "16");
    assert_eq!(answer["status"], "done");
    assert_eq!(answer["nodes"], 3);
    let id = answer["id"].as_str().expect("has an id");
    assert_eq!(platform.get(&format!("/v1/expressions/{id}")).await.json()["result"], "16");
    platform.stop().await;
}

#[tokio::test]
async fn eval_with_explain_says_on_standard_error_where_each_node_ran() {
    let platform = Platform::up(NONE).await;
    let output = platform.data.run(&["eval", EXAMPLE, "--explain"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "16\n"), "{output:?}");
    for set in ["add-0", "mul-0", "div-0"] {
        assert!(output.stderr.contains(set), "{set}: {}", output.stderr);
    }
    assert!(output.stderr.contains("PREDICTED START"), "{}", output.stderr);
    platform.stop().await;
}

/// An expression, the kind of its error, the column of the first caret and how many there are.
const ERRORS: &[(&str, &str, usize, usize)] = &[
    ("1+", "unexpected-end", 2, 1),
    ("(1+2", "unclosed-parenthesis", 0, 1),
    ("1 + 2)", "unmatched-parenthesis", 5, 1),
    ("3*/2", "expected-operand", 2, 1),
    ("2 3", "expected-operator", 2, 1),
    ("2(3)", "expected-operator", 1, 1),
    ("2$3", "unexpected-character", 1, 1),
    ("1.2.3", "malformed-number", 0, 5),
    ("sqrt(2)", "reserved-call", 0, 4),
    ("rate+1", "unknown-parameter", 0, 4),
    ("1+6/(2-2)", "division-by-zero", 3, 1),
    ("99999999*99999999", "overflow", 8, 1),
];

#[tokio::test]
async fn an_error_of_an_expression_is_exit_code_1_with_kind_and_caret() {
    let platform = Platform::up(NARROW).await;
    for &(expression, kind, column, width) in ERRORS {
        let output = platform.data.run(&["eval", expression]).await;
        assert_eq!(output.code, Some(1), "{expression}: {output:?}");
        assert_eq!(output.stdout, "", "{expression}: answers only on standard output");
        assert!(output.stderr.contains(kind), "{expression}: {kind} is not in\n{}", output.stderr);
        let lines: Vec<&str> = output.stderr.lines().collect();
        let at = lines.iter().position(|line| line.trim_end().ends_with(expression));
        let at = at.unwrap_or_else(|| panic!("{expression} is not shown:\n{}", output.stderr));
        let shown = lines[at].find(expression).expect("was just found");
        let carets = lines.get(at + 1).copied().unwrap_or_default();
        assert_eq!(carets.find('^'), Some(shown + column), "{expression}:\n{}", output.stderr);
        assert_eq!(carets.matches('^').count(), width, "{expression}:\n{}", output.stderr);
    }
    platform.stop().await;
}

#[tokio::test]
async fn an_error_of_an_expression_is_422_with_kind_and_span() {
    let platform = Platform::up(NARROW).await;
    for &(expression, kind, column, width) in ERRORS {
        let body = serde_json::json!({ "expression": expression }).to_string();
        let answer = platform.post("/v1/expressions?wait=30", &body).await;
        let problem = answer.json();
        assert_eq!(answer.status, 422, "{expression}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["kind"], kind, "{expression}");
        assert_eq!(problem["status"], 422);
        // What is missing at the end is missing after the last byte; a caret still has a width.
        let end = if kind == "unexpected-end" { column } else { column + width };
        assert_eq!(problem["span"], serde_json::json!([column, end]), "{expression}: {problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string());
    }
    platform.stop().await;
}

#[tokio::test]
async fn an_empty_expression_says_what_was_expected() {
    let platform = Platform::up(NONE).await;
    let output = platform.data.run(&["eval", ""]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("expected a number, a name or `(`"), "{output:?}");
    platform.stop().await;
}

#[tokio::test]
async fn an_expression_over_a_limit_is_413_and_exit_code_1() {
    let platform = Platform::up(NARROW).await;
    let long = format!("1{}+2", " ".repeat(300));
    let wide = vec!["1"; 30].join("+");
    let deep = format!("{}1{}", "(".repeat(30), ")".repeat(30));
    for (expression, kind) in [(long, "too-long"), (wide, "too-many-nodes"), (deep, "too-deep")] {
        let body = serde_json::json!({ "expression": expression }).to_string();
        let answer = platform.post("/v1/expressions", &body).await;
        assert_eq!(answer.status, 413, "{kind}: {answer:?}");
        assert_eq!(answer.json()["kind"], kind);
        let output = platform.data.run(&["eval", &expression]).await;
        assert_eq!(output.code, Some(1), "{kind}: {output:?}");
        assert!(output.stderr.contains(kind), "{kind}: {output:?}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn the_division_that_comes_first_in_the_source_is_blamed() {
    let platform = Platform::up(BYZANTINE).await;
    for _ in 0..3 {
        let answer = platform.post("/v1/expressions?wait=30", r#"{"expression": "1/(3-3)+2/(1-1)"}"#).await;
        assert_eq!((answer.status, &answer.json()["span"]), (422, &serde_json::json!([1, 2])), "{answer:?}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn a_sum_of_many_terms_is_computed_whole() {
    let platform = Platform::up(NONE).await;
    let terms: Vec<String> = (1..=1024).map(|n| n.to_string()).collect();
    assert_eq!(platform.result(&terms.join("+")).await, "524800");
    platform.stop().await;
}
