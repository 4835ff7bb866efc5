//! The gateway's HTTP interface, from outside.

use quorate_tests::{BYZANTINE, NONE, Platform, eventually};
use reqwest::Method;
use serde_json::json;

/// An unknown id of the right form.
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

#[tokio::test]
async fn a_request_is_accepted_with_its_location_and_answered_there() {
    let platform = Platform::up(NONE).await;
    let accepted = platform.post("/v1/expressions", r#"{"expression": "((3+5)*(4/2))"}"#).await;
    assert_eq!(
        (accepted.status, accepted.json()["status"].as_str()),
        (202, Some("accepted")),
        "{accepted:?}"
    );
    let id = accepted.json()["id"].as_str().expect("has an id").to_owned();
    assert_eq!(accepted.header("location"), format!("/v1/expressions/{id}"));
    let done = eventually("the answer", || async {
        let answer = platform.get(accepted.header("location")).await.json();
        (answer["status"] != "accepted").then_some(answer)
    })
    .await;
    assert_eq!(
        (&done["id"], &done["status"], &done["result"], &done["nodes"]),
        (&json!(id), &json!("done"), &json!("16"), &json!(3))
    );
    assert!(done["elapsed_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{done}");
    platform.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_is_answered_at_once_with_parameters_and_digits() {
    let platform = Platform::up(NONE).await;
    let body = r#"{"expression": "a*(b+1)", "parameters": {"a": 2, "b": "1/3"}, "digits": 4}"#;
    let answer = platform.post("/v1/expressions?wait=30", body).await;
    assert_eq!((answer.status, answer.json()["result"].as_str()), (200, Some("2.6667")), "{answer:?}");
    // A JSON number is taken digit for digit: a tenth, not the nearest binary fraction.
    let answer = platform
        .post("/v1/expressions?wait=30", r#"{"expression": "a+b", "parameters": {"a": 0.1, "b": 0.2}}"#)
        .await;
    assert_eq!(answer.json()["result"], "0.3", "{answer:?}");
    platform.stop().await;
}

#[tokio::test]
async fn the_body_of_the_report_is_accepted() {
    let platform = Platform::up(NONE).await;
    for body in [r#""expression": ((3+5)*(4/2))"#, r#"{"expression": ((3+5)*(4/2))}"#] {
        let answer = platform.post("/v1/expressions?wait=30", body).await;
        assert_eq!(
            (answer.status, answer.json()["result"].as_str()),
            (200, Some("16")),
            "{body}: {answer:?}"
        );
    }
    platform.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_document() {
    let platform =
        Platform::up(&format!("{NONE}[limits]\nbody_bytes = 4096\nexpression_bytes = 2048\n")).await;
    let large = json!({ "expression": format!("1+{}2", " ".repeat(5000)) }).to_string();
    for (method, path, body, status, kind) in [
        (Method::POST, "/v1/expressions", "no JSON", 400, "malformed-body"),
        (Method::POST, "/v1/expressions", r#"{"expresion": "1"}"#, 400, "malformed-body"),
        (Method::POST, "/v1/expressions?wait=soon", r#"{"expression": "1+1"}"#, 400, "malformed-query"),
        (
            Method::POST,
            "/v1/expressions",
            r#"{"expression": "a", "parameters": {"a": "x"}}"#,
            422,
            "malformed-parameter",
        ),
        (Method::POST, "/v1/expressions", r#"{"expression": "a+1"}"#, 422, "unknown-parameter"),
        (Method::POST, "/v1/expressions", &large, 413, "body-too-large"),
        (Method::GET, &format!("/v1/expressions/{NOBODY}"), "", 404, "unknown-id"),
        (Method::GET, &format!("/v1/receipts/{NOBODY}"), "", 404, "unknown-id"),
        (Method::GET, "/v1/expressions/17", "", 404, "malformed-id"),
        (Method::GET, "/v1/nothing", "", 404, "not-found"),
        (Method::DELETE, "/v1/expressions", "", 405, "method-not-allowed"),
    ] {
        let answer = platform
            .try_send(method.clone(), path, &[("content-type", "application/json")], body)
            .await
            .expect("is answered");
        let what = format!("{method} {path} {body:.60}: {answer:?}");
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        let problem = answer.json();
        assert_eq!((&problem["kind"], &problem["status"]), (&json!(kind), &json!(status)), "{what}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{what}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn an_unknown_parameter_is_named_with_its_place() {
    let platform = Platform::up(NONE).await;
    let answer =
        platform.post("/v1/expressions", r#"{"expression": "2*rate", "parameters": {"r": 1}}"#).await;
    let problem = answer.json();
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("rate")), "{problem}");
    assert_eq!(problem["span"], json!([2, 6]));
    platform.stop().await;
}

#[tokio::test]
async fn a_failed_request_keeps_its_error() {
    let platform = Platform::up(BYZANTINE).await;
    let answer = platform.post("/v1/expressions?wait=30", r#"{"expression": "100/(5*5-25)"}"#).await;
    let problem = answer.json();
    assert_eq!((answer.status, &problem["kind"]), (422, &json!("division-by-zero")), "{answer:?}");
    assert_eq!(problem["span"], json!([3, 4]), "the span of that `/`");
    let id = problem["id"].as_str().expect("it was accepted, so it has an id");
    let record = platform.get(&format!("/v1/expressions/{id}")).await;
    assert_eq!((record.status, &record.json()["status"]), (200, &json!("failed")), "{record:?}");
    assert_eq!(record.json()["error"]["kind"], "division-by-zero");
    platform.stop().await;
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_the_same_request() {
    let platform = Platform::up(NONE).await;
    let key = [("idempotency-key", "order-17")];
    let body = r#"{"expression": "20+22"}"#;
    let first = platform.post_with("/v1/expressions?wait=30", &key, body).await;
    let again = platform.post_with("/v1/expressions?wait=30", &key, body).await;
    assert_eq!((first.status, again.status), (200, 200), "{again:?}");
    assert_eq!(
        (&first.json()["id"], &first.json()["result"]),
        (&again.json()["id"], &again.json()["result"])
    );
    let other = platform.post_with("/v1/expressions", &key, r#"{"expression": "20+23"}"#).await;
    assert_eq!((other.status, &other.json()["kind"]), (422, &json!("idempotency-key-reused")), "{other:?}");
    let unkeyed = platform.post("/v1/expressions?wait=30", body).await;
    assert_ne!(first.json()["id"], unkeyed.json()["id"]);
    platform.stop().await;
}

#[tokio::test]
async fn an_expired_request_is_gone_and_not_unknown() {
    let platform = Platform::up(&format!("{NONE}[timeouts]\nrequest = \"2s\"\nkeep = \"1s\"\n")).await;
    let answer = platform.post("/v1/expressions?wait=2", r#"{"expression": "1+1"}"#).await;
    let id = answer.json()["id"].as_str().expect("has an id").to_owned();
    let gone = eventually("expiry", || async {
        let answer = platform.get(&format!("/v1/expressions/{id}")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((gone.status, &gone.json()["kind"]), (410, &json!("expired")), "{gone:?}");
    platform.stop().await;
}

#[tokio::test]
async fn more_than_the_platform_takes_is_503_with_retry_after_and_nothing_is_accepted() {
    // Starting a set from zero takes so long that what is accepted meanwhile piles up.
    let platform = Platform::up(&format!("{BYZANTINE}[limits]\naccepted = 1\n")).await;
    let mut refused = None;
    for n in 0..200 {
        let body = json!({ "expression": format!("{n}+1") }).to_string();
        let answer = platform.post("/v1/expressions", &body).await;
        if answer.status == 503 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let refused = refused.expect("one of 200 at once is over a limit of 1");
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|s| s > 0), "{refused:?}");
    assert_eq!(refused.json()["kind"], "overloaded", "{refused:?}");
    assert!(refused.json().get("id").is_none(), "nothing was accepted: {refused:?}");
    platform.stop().await;
}

#[tokio::test]
async fn events_tell_acceptance_and_end() {
    let platform = Platform::up(NONE).await;
    for (expression, end) in [("1+2", "done"), ("1/(1-1)", "failed")] {
        let body = json!({ "expression": expression }).to_string();
        let accepted = platform.post("/v1/expressions", &body).await.json();
        let id = accepted["id"].as_str().expect("has an id");
        // The stream ends with the request.
        let events = platform.get(&format!("/v1/expressions/{id}/events")).await;
        assert!(events.header("content-type").starts_with("text/event-stream"), "{events:?}");
        let names: Vec<&str> =
            events.text.lines().filter_map(|line| line.strip_prefix("event:")).map(str::trim).collect();
        assert_eq!(names.last(), Some(&end), "{events:?}");
        assert!(names.iter().all(|name| ["accepted", end].contains(name)), "{events:?}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn health_metrics_and_the_interface_are_served() {
    let platform = Platform::up(NONE).await;
    assert_eq!(platform.get("/healthz").await.status, 200);
    assert_eq!(platform.get("/readyz").await.status, 200);
    assert_eq!(platform.result("1+1").await, "2");
    let metrics = platform.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    for name in ["quorate_expression_duration_seconds", "quorate_layer_depth"] {
        assert!(metrics.text.contains(name), "{name} is not in\n{}", metrics.text);
    }
    let openapi = platform.get("/openapi.json").await.json();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{openapi}");
    for path in
        ["/v1/expressions", "/v1/expressions/{id}", "/v1/expressions/{id}/events", "/v1/receipts/{id}"]
    {
        assert!(openapi["paths"].get(path).is_some(), "{path} is not in {openapi}");
    }
    let queues = platform.get("/v1/queues").await.json();
    assert!(
        queues.as_array().is_some_and(|queues| queues.iter().any(|q| q["queue"] == "inbound")),
        "{queues}"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_receipt_is_served_for_a_request_that_asked_for_one_and_only_for_it() {
    let platform = Platform::up(BYZANTINE).await;
    let with =
        platform.post("/v1/expressions?wait=30", r#"{"expression": "1+2", "receipt": true}"#).await.json();
    let receipt = platform.get(&format!("/v1/receipts/{}", with["id"].as_str().expect("has an id"))).await;
    assert_eq!((receipt.status, &receipt.json()["expression"]), (200, &json!("1+2")), "{receipt:?}");
    let without = platform.post("/v1/expressions?wait=30", r#"{"expression": "1+2"}"#).await.json();
    let receipt = platform.get(&format!("/v1/receipts/{}", without["id"].as_str().expect("has an id"))).await;
    assert_eq!((receipt.status, &receipt.json()["kind"]), (404, &json!("no-receipt")), "{receipt:?}");
    platform.stop().await;
}
