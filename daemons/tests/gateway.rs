//! The gateway from outside: real HTTP over a real engine, with a stand-in for the scheduler that
//! computes by itself when it is told to.

#[path = "gateway/flaky.rs"]
mod flaky;
#[path = "gateway/tokens.rs"]
mod tokens;

use bytes::Bytes;
use flaky::Flaky;
use hyper::{Method, StatusCode};
use quorate::{
    api::{Answer, Problem, QueueStatus, Status, Submission},
    client::{Client, ClientError},
    config::{Config, Durability, Replication},
    engine::{Conclusion, Engine},
    gateway,
    queue::{Message, QueueName},
    records::{Failure, Lookup, Outcome, Request},
    sqlite::SqliteEngine,
    wires::Wires,
};
use quorate_dag::{Expression, Limits, Parameters, Value};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use uuid::Uuid;

/// Long enough that only a failed test reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway on a free port over an engine in a folder of its own.
struct Bench {
    address: SocketAddr,
    engine: Arc<SqliteEngine>,
    end: watch::Sender<bool>,
    gateway: JoinHandle<()>,
    scheduler: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
    config: Config,
}

impl Bench {
    /// With a scheduler that answers everything at once.
    async fn new() -> Self {
        let mut bench = Self::idle(|_| {}).await;
        bench.schedule();
        bench
    }

    /// Without a scheduler: what is accepted stays so.
    async fn idle(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config { durability: Durability::Process, ..Config::default() };
        change(&mut config);
        let engine = open(folder.path());
        let (address, end, gateway) = start(&config, engine.clone(), "127.0.0.1:0").await;
        Self { address, engine, end, gateway, scheduler: None, folder, config }
    }

    fn schedule(&mut self) {
        self.scheduler = Some(tokio::spawn(schedule(self.engine.clone())));
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.address)).expect("an address")
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        self.send_with(method, path, &[], body).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: &str,
    ) -> (StatusCode, String) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let (status, body) =
            self.client().send(method, path, headers, body, PATIENCE).await.expect("an answer");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// Sends bytes as they are and reads what comes until the end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn calculate(&self, expression: &str) -> Result<Answer, ClientError> {
        let submission = Submission { expression: expression.into(), ..Submission::default() };
        self.client().calculate(&submission, true, PATIENCE).await
    }

    async fn stop(mut self) -> (tempfile::TempDir, SocketAddr, Config) {
        self.end.send_replace(true);
        tokio::time::timeout(PATIENCE, &mut self.gateway).await.expect("ends").expect("does not panic");
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.abort();
            let _ = scheduler.await;
        }
        (self.folder, self.address, self.config)
    }
}

fn open(folder: &Path) -> Arc<SqliteEngine> {
    SqliteEngine::open(&folder.join("quorate.db"), Durability::Process).expect("opens")
}

async fn start(
    config: &Config,
    engine: Arc<dyn Engine>,
    address: &str,
) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (end, shutdown) = watch::channel(false);
    let config = Arc::new(config.clone());
    let gateway = tokio::spawn(async move {
        gateway::run(config, engine, Wires::plain(), listener, shutdown).await.expect("starts");
    });
    (address, end, gateway)
}

/// Takes requests from inbound and concludes them.
async fn schedule(engine: Arc<SqliteEngine>) {
    let inbound = engine.queue(&QueueName::inbound()).await.expect("a queue");
    loop {
        let messages =
            inbound.receive(10, Duration::from_secs(5), Duration::from_secs(5)).await.expect("receives");
        for message in messages {
            conclude(&*engine, &message).await;
        }
    }
}

#[derive(serde::Deserialize)]
struct Inbound {
    id: Uuid,
    reply_to: String,
}

async fn conclude(engine: &dyn Engine, message: &Message) {
    let Inbound { id, reply_to } = serde_json::from_slice(&message.body).expect("as the gateway wrote it");
    let Lookup::Found(record) = engine.records().get(id).await.expect("reads") else {
        panic!("no record {id}")
    };
    let inbound = engine.queue(&QueueName::inbound()).await.expect("a queue");
    let outbound = engine.queue(&QueueName::named(&reply_to)).await.expect("a queue");
    let receipt = record.request.receipt.then(|| Bytes::from_static(b"{\"a\": \"receipt\"}"));
    let end = Conclusion {
        id,
        outcome: outcome(&record.request),
        receipt,
        outbound: &*outbound,
        announcement: serde_json::to_vec(&serde_json::json!({ "id": id })).expect("plain").into(),
        inbound: &*inbound,
        handle: &message.handle,
    };
    engine.conclude(end).await.expect("concludes");
}

fn outcome(request: &Request) -> Outcome {
    let limits = Limits::default();
    let parameters: Parameters = request
        .parameters
        .iter()
        .map(|(name, text)| (name.clone(), Value::parse(text, &limits).expect("the gateway checked it")))
        .collect();
    let parsed = Expression::parse(&request.expression).expect("the gateway checked it");
    let result = parsed.evaluate(&parameters).map_err(|error| Failure {
        kind: error.kind.as_str().into(),
        detail: error.kind.to_string(),
        span: Some([error.span.start, error.span.end]),
    });
    let result = match (result, request.expression.as_str()) {
        (_, "0+0") => {
            Err(Failure { kind: "deadline".into(), detail: "not answered in 60s".into(), span: None })
        }
        (result, _) => result.map(|value| match request.digits {
            Some(digits) => value.to_decimal(digits as usize),
            None => value.to_string(),
        }),
    };
    let nodes = u32::try_from(parsed.plan().len()).expect("small");
    Outcome { result, nodes, elapsed_ms: 1.5, timeline: Vec::new() }
}

fn problem(text: &str) -> Problem {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn answer(text: &str) -> Answer {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn an_expression_that_is_waited_for_is_answered_with_its_result() {
    let bench = Bench::new().await;
    let answer = bench.calculate("((3+5)*(4/2))").await.expect("an answer");
    assert_eq!((answer.status, answer.result.as_deref(), answer.nodes), (Status::Done, Some("16"), Some(3)));
}

#[tokio::test]
async fn numbers_of_json_are_taken_digit_for_digit() {
    let bench = Bench::new().await;
    for (parameters, result) in [
        (r#"{"a": 0.1, "b": "0.2"}"#, "0.3"),
        (r#"{"a": 100000000000000000000000000001, "b": -1}"#, "100000000000000000000000000000"),
        (
            r#"{"a": 1e-30, "b": "1/3", "unused": 7}"#,
            "1000000000000000000000000000003/3000000000000000000000000000000",
        ),
    ] {
        let body = format!(r#"{{"expression": "a+b", "parameters": {parameters}}}"#);
        let (status, text) = bench.send(Method::POST, "/v1/expressions?wait=10", &body).await;
        assert_eq!((status, answer(&text).result.as_deref()), (StatusCode::OK, Some(result)), "{text}");
    }
}

#[tokio::test]
async fn bodies_of_the_report_are_accepted() {
    let bench = Bench::new().await;
    for body in [
        r#""expression": ((3+5)*(4/2))"#,
        r#"{"expression": ((3+5)*(4/2))}"#,
        " {\n \"expression\" : ((3+5)*(4/2))\n}\n",
        r#"{"expression": "((3+5)*(4/2))"}"#,
    ] {
        let (status, text) = bench.send(Method::POST, "/v1/expressions?wait=10", body).await;
        assert_eq!((status, answer(&text).result.as_deref()), (StatusCode::OK, Some("16")), "{body}: {text}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_with_kind_and_span_and_accepts_nothing() {
    let bench = Bench::idle(|config| {
        config.limits.body_bytes = 4096;
        config.limits.expression_bytes = 1000;
        config.limits.nesting = 50;
        config.limits.nodes = 100;
        config.limits.digits = 20;
    })
    .await;
    let expression = |text: &str| serde_json::json!({ "expression": text }).to_string();
    let deep = format!("{}1{}", "(".repeat(51), ")".repeat(51));
    for (body, status, kind, span) in [
        (expression("1+"), 422, "unexpected-end", Some([2, 2])),
        (expression("2(3)"), 422, "expected-operator", Some([1, 2])),
        (expression(""), 422, "empty-expression", Some([0, 0])),
        (expression("x+1"), 422, "unknown-parameter", Some([0, 1])),
        (expression(&"1+1".repeat(400)), 413, "too-long", None),
        (expression(&deep), 413, "too-deep", None),
        (expression(&format!("1{}", "+1".repeat(101))), 413, "too-many-nodes", None),
        (expression("123456789012345678901"), 413, "too-many-digits", None),
        (r#"{"expression": "a", "parameters": {"a": "one"}}"#.into(), 422, "malformed-parameter", None),
        (r#"{"expression": "a", "parameters": {"a": true}}"#.into(), 400, "malformed-body", None),
        (r#"{"expression": "1", "digits": 21}"#.into(), 422, "too-many-digits-asked", None),
        (r#"{"expression": "1", "digits": -1}"#.into(), 400, "malformed-body", None),
        (r#"{"expresion": "1"}"#.into(), 400, "malformed-body", None),
        (r#""expression": (1+"#.into(), 422, "unexpected-end", Some([3, 3])),
        ("not json".into(), 400, "malformed-body", None),
        (String::new(), 400, "malformed-body", None),
        (" ".repeat(4097), 413, "body-too-large", None),
    ] {
        let (code, text) = bench.send(Method::POST, "/v1/expressions?wait=1", &body).await;
        let problem = problem(&text);
        assert_eq!(
            (code.as_u16(), problem.status, problem.kind.as_str()),
            (status, status, kind),
            "{body}: {text}"
        );
        assert_eq!(problem.kind_uri, format!("/problems/{kind}"));
        if span.is_some() {
            assert_eq!(problem.span, span, "{body}");
        }
    }
    assert_eq!(bench.engine.records().accepted().await.expect("counts"), 0);
}

#[tokio::test]
async fn a_chunked_body_is_refused_where_it_passes_the_limit() {
    let bench = Bench::idle(|config| config.limits.body_bytes = 4096).await;
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(4096));
    let request = format!(
        "POST /v1/expressions HTTP/1.1\r\nhost: q\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    let answer = bench.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("body-too-large"), "{answer}");
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body_comes() {
    let bench = Bench::idle(|_| {}).await;
    let request = "POST /v1/expressions HTTP/1.1\r\nhost: q\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n";
    let answer = bench.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn headers_are_bounded_in_number_and_size() {
    let bench = Bench::idle(|_| {}).await;
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(64 << 10));
    for headers in [many, large] {
        let answer = bench.raw(&format!("GET /healthz HTTP/1.1\r\nhost: q\r\n{headers}\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert_eq!(bench.send(Method::GET, "/healthz", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn errors_of_the_result_are_problems_for_who_waits_and_kept_for_who_asks_later() {
    let bench = Bench::new().await;
    for (expression, status, kind, span) in
        [("6/(2-2)", 422, "division-by-zero", Some([1, 2])), ("0+0", 504, "deadline", None)]
    {
        let body = serde_json::json!({ "expression": expression }).to_string();
        let (code, text) = bench.send(Method::POST, "/v1/expressions?wait=10", &body).await;
        let error = problem(&text);
        assert_eq!((code.as_u16(), error.kind.as_str(), error.span), (status, kind, span), "{text}");
        let id = error.id.expect("it was accepted");
        let (code, text) = bench.send(Method::GET, &format!("/v1/expressions/{id}"), "").await;
        let answer = answer(&text);
        assert_eq!((code, answer.status), (StatusCode::OK, Status::Failed));
        assert_eq!(answer.error.expect("an error").kind, kind);
    }
}

#[tokio::test]
async fn who_does_not_wait_gets_a_place_to_look() {
    let mut bench = Bench::idle(|_| {}).await;
    let request = "POST /v1/expressions HTTP/1.1\r\nhost: q\r\nconnection: close\r\ncontent-length: 21\r\n\r\n{\"expression\": \"1+2\"}";
    let text = bench.raw(request).await;
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    let body = text.rsplit("\r\n\r\n").next().expect("a body");
    let id = answer(body).id;
    let location = format!("/v1/expressions/{id}");
    assert!(text.contains(&format!("location: {location}\r\n")), "{text}");
    let (_, text) = bench.send(Method::GET, &location, "").await;
    assert_eq!(answer(&text).status, Status::Accepted);
    bench.schedule();
    let (_, text) = bench.send(Method::GET, &format!("{location}?wait=20"), "").await;
    assert_eq!((answer(&text).status, answer(&text).result.as_deref()), (Status::Done, Some("3")));
}

#[tokio::test]
async fn a_wait_that_is_over_is_answered_202_and_a_hint_wakes_the_next() {
    let mut bench = Bench::idle(|config| config.timeouts.wait = Duration::from_millis(50)).await;
    let (code, text) =
        bench.send(Method::POST, "/v1/expressions?wait=3600", r#"{"expression": "2*3"}"#).await;
    assert_eq!((code, answer(&text).status), (StatusCode::ACCEPTED, Status::Accepted));
    bench.schedule();
    let result = loop {
        let path = format!("/v1/expressions/{}?wait=1", answer(&text).id);
        let (_, text) = bench.send(Method::GET, &path, "").await;
        if let Some(result) = answer(&text).result {
            break result;
        }
    };
    assert_eq!(result, "6");
}

#[tokio::test]
async fn ids_that_are_unknown_malformed_or_expired_are_told_apart() {
    let bench = Bench::idle(|config| {
        config.timeouts.request = Duration::from_millis(1);
        config.timeouts.keep = Duration::ZERO;
    })
    .await;
    let (_, text) = bench.send(Method::POST, "/v1/expressions", r#"{"expression": "1+1"}"#).await;
    let accepted = answer(&text).id;
    let started = Instant::now();
    while bench.engine.records().expire(10).await.expect("expires") == 0 {
        assert!(started.elapsed() < PATIENCE, "nothing expires");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let unknown = Uuid::now_v7().to_string();
    for (id, status, kind) in [
        (accepted.to_string(), 410, "expired"),
        (unknown, 404, "unknown-id"),
        ("seven".to_owned(), 404, "malformed-id"),
    ] {
        for path in [
            format!("/v1/expressions/{id}"),
            format!("/v1/expressions/{id}/events"),
            format!("/v1/receipts/{id}"),
        ] {
            let (code, text) = bench.send(Method::GET, &path, "").await;
            assert_eq!((code.as_u16(), problem(&text).kind.as_str()), (status, kind), "{path}");
        }
    }
}

#[tokio::test]
async fn repeats_under_one_key_are_one_request_however_many_come_at_once() {
    let bench = Arc::new(Bench::new().await);
    let repeats = (0..16).map(|_| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let key = [("idempotency-key", "order 17".to_owned())];
            bench.send_with(Method::POST, "/v1/expressions?wait=10", &key, r#"{"expression": "20+22"}"#).await
        })
    });
    let mut ids = Vec::new();
    for repeat in repeats.collect::<Vec<_>>() {
        let (code, text) = repeat.await.expect("does not panic");
        assert_eq!((code, answer(&text).result.as_deref()), (StatusCode::OK, Some("42")), "{text}");
        ids.push(answer(&text).id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(ids[0].get_version_num(), 8);

    let key = ("idempotency-key", "order 17".to_owned());
    let other = r#"{"expression": "20+23"}"#;
    let (code, text) =
        bench.send_with(Method::POST, "/v1/expressions", std::slice::from_ref(&key), other).await;
    assert_eq!((code.as_u16(), problem(&text).kind.as_str()), (422, "idempotency-key-reused"));
    // Another user's keys are another's.
    let token = ("authorization", "Bearer somebody".to_owned());
    let (code, text) = bench.send_with(Method::POST, "/v1/expressions?wait=10", &[key, token], other).await;
    assert_eq!((code, answer(&text).result.as_deref()), (StatusCode::OK, Some("43")), "{text}");
    for malformed in [String::new(), "x".repeat(256)] {
        let key = [("idempotency-key", malformed)];
        let (code, text) = bench.send_with(Method::POST, "/v1/expressions", &key, other).await;
        assert_eq!((code.as_u16(), problem(&text).kind.as_str()), (400, "malformed-idempotency-key"));
    }
    // Which of two is meant can't be known.
    let keys = ["order 18", "order 19"].map(|key| ("idempotency-key", key.to_owned()));
    let (code, text) = bench.send_with(Method::POST, "/v1/expressions", &keys, other).await;
    assert_eq!((code.as_u16(), problem(&text).kind.as_str()), (400, "malformed-idempotency-key"), "{text}");
}

#[tokio::test]
async fn a_repeat_of_a_request_that_lost_its_message_sends_it_again() {
    let mut bench = Bench::idle(|config| config.timeouts.lease = Duration::from_millis(1)).await;
    let key = [("idempotency-key", "k".to_owned())];
    let body = r#"{"expression": "1+1"}"#;
    bench.send_with(Method::POST, "/v1/expressions", &key, body).await;
    let inbound = bench.engine.queue(&QueueName::inbound()).await.expect("a queue");
    let lost = inbound.receive(1, Duration::from_secs(60), PATIENCE).await.expect("receives");
    inbound.delete(&[lost[0].handle.clone()]).await.expect("deletes");
    // As soon as a lease is over, a repeat sends it again.
    let sent_again = async {
        while inbound.depth().await.expect("counts").waiting == 0 {
            bench.send_with(Method::POST, "/v1/expressions", &key, body).await;
        }
    };
    tokio::time::timeout(PATIENCE, sent_again).await.expect("it is sent again");
    bench.schedule();
    let (code, text) = bench.send_with(Method::POST, "/v1/expressions?wait=10", &key, body).await;
    assert_eq!((code, answer(&text).result.as_deref()), (StatusCode::OK, Some("2")), "{text}");
}

#[tokio::test]
async fn events_tell_acceptance_and_end_and_then_stop() {
    let mut bench = Bench::idle(|_| {}).await;
    for (expression, last) in [("1+2", "done"), ("1/0", "failed")] {
        let body = serde_json::json!({ "expression": expression }).to_string();
        let (_, text) = bench.send(Method::POST, "/v1/expressions", &body).await;
        let path = format!("/v1/expressions/{}/events", answer(&text).id);
        let request = format!("GET {path} HTTP/1.1\r\nhost: q\r\nconnection: close\r\n\r\n");
        let (text, ()) = tokio::join!(bench.raw(&request), async {
            let messages = bench.engine.queue(&QueueName::inbound()).await.expect("a queue");
            let messages = messages.receive(1, Duration::from_secs(5), PATIENCE).await.expect("receives");
            conclude(&*bench.engine, &messages[0]).await;
        });
        assert!(text.contains("content-type: text/event-stream"), "{text}");
        let events: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events, ["accepted", last], "{text}");
    }
    bench.schedule();
}

#[tokio::test]
async fn over_the_limit_of_unanswered_requests_nothing_is_accepted() {
    let mut bench = Bench::idle(|config| config.limits.accepted = 3).await;
    let body = r#"{"expression": "1+1"}"#;
    for _ in 0..3 {
        assert_eq!(bench.send(Method::POST, "/v1/expressions", body).await.0, StatusCode::ACCEPTED);
    }
    let request = format!(
        "POST /v1/expressions HTTP/1.1\r\nhost: q\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let refused = bench.raw(&request).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("\"overloaded\""), "{refused}");
    assert_eq!(bench.engine.records().accepted().await.expect("counts"), 3);
    bench.schedule();
    // The client tries again for as long as it takes.
    assert_eq!(bench.calculate("1+1").await.expect("an answer").result.as_deref(), Some("2"));
}

#[tokio::test]
async fn receipts_are_for_who_asked() {
    let bench = Bench::new().await;
    let with = Submission { expression: "1+2".into(), receipt: true, ..Submission::default() };
    let mut client = bench.client();
    let answer = client.calculate(&with, false, PATIENCE).await.expect("an answer");
    assert_eq!(client.receipt(answer.id).await.expect("a receipt"), "{\"a\": \"receipt\"}");
    let without = Submission { receipt: false, ..with };
    let answer = client.calculate(&without, false, PATIENCE).await.expect("an answer");
    match client.receipt(answer.id).await {
        Err(ClientError::Problem(problem)) => assert_eq!(problem.kind, "no-receipt"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_receipt_that_nobody_would_sign_is_refused_at_the_door() {
    let bench = Bench::idle(|config| config.functions.mul.replication = Replication::None).await;
    for (expression, status, kind) in
        [("(1+2)*3", 422, Some("receipt-unavailable")), ("(1+2)-3", 202, None), ("7", 202, None)]
    {
        let body = format!(r#"{{"expression": "{expression}", "receipt": true}}"#);
        let (code, text) = bench.send(Method::POST, "/v1/expressions", &body).await;
        assert_eq!(code.as_u16(), status, "{expression}: {text}");
        if let Some(kind) = kind {
            let problem = problem(&text);
            assert_eq!(problem.kind, kind);
            assert!(problem.detail.contains("`mul`"), "{}", problem.detail);
        }
    }
    assert_eq!(bench.engine.records().accepted().await.expect("counts"), 2);
}

#[tokio::test]
async fn a_failure_that_stands_does_not_ask_its_client_to_come_again() {
    let bench = Bench::idle(|_| {}).await;
    let (_, text) = bench.send(Method::POST, "/v1/expressions", r#"{"expression": "1+2"}"#).await;
    let failure = Failure { kind: "function-unavailable".into(), detail: "no worker".into(), span: None };
    let outcome = Outcome { result: Err(failure), nodes: 1, elapsed_ms: 1.0, timeline: Vec::new() };
    let id = answer(&text).id;
    bench.engine.records().finish(id, outcome, None).await.expect("finishes");
    let (_, text) = bench.send(Method::GET, &format!("/v1/expressions/{id}"), "").await;
    let error = answer(&text).error.expect("it failed");
    assert_eq!((error.status, error.kind.as_str()), (504, "function-unavailable"));
}

#[tokio::test]
async fn without_its_engine_the_gateway_takes_nothing_loses_nothing_and_comes_back() {
    let mut bench = Bench::idle(|_| {}).await;
    let away = Arc::new(AtomicBool::new(false));
    let (refused, mut refusals) = watch::channel(0);
    let flaky = Arc::new(Flaky { engine: bench.engine.clone(), away: away.clone(), refused });
    let (address, _end, _gateway) = start(&bench.config, flaky, "127.0.0.1:0").await;
    bench.address = address;
    let (code, text) = bench.send(Method::POST, "/v1/expressions", r#"{"expression": "1+2"}"#).await;
    assert_eq!(code, StatusCode::ACCEPTED);
    let id = answer(&text).id;

    // One who waits has been accepted: that stays so while the engine is away.
    let patient = bench.client();
    let waiting = tokio::spawn(async move {
        let mut client = patient;
        let body = Bytes::from_static(br#"{"expression": "2*3"}"#);
        client.send(Method::POST, "/v1/expressions?wait=15", &[], body, PATIENCE).await.expect("an answer")
    });
    // Its message is the last thing that acceptance writes.
    let inbound = bench.engine.queue(&QueueName::inbound()).await.expect("a queue");
    while inbound.depth().await.expect("counts").waiting < 2 {
        tokio::task::yield_now().await;
    }

    away.store(true, Ordering::SeqCst);
    let body = r#"{"expression": "1+1"}"#;
    let close = "Host: a\r\nConnection: close\r\n";
    for request in [
        format!("POST /v1/expressions?wait=5 HTTP/1.1\r\n{close}Content-Length: 21\r\n\r\n{body}"),
        format!(
            "POST /v1/expressions HTTP/1.1\r\nIdempotency-Key: k\r\n{close}Content-Length: 21\r\n\r\n{body}"
        ),
        format!("GET /v1/expressions/{id} HTTP/1.1\r\n{close}\r\n"),
        format!("GET /v1/expressions/{id}?wait=15 HTTP/1.1\r\n{close}\r\n"),
        format!("GET /v1/expressions/{id}/events HTTP/1.1\r\n{close}\r\n"),
        format!("GET /v1/receipts/{id} HTTP/1.1\r\n{close}\r\n"),
        format!("GET /v1/status HTTP/1.1\r\n{close}\r\n"),
        format!("GET /v1/queues HTTP/1.1\r\n{close}\r\n"),
        format!("GET /readyz HTTP/1.1\r\n{close}\r\n"),
    ] {
        let answer = bench.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{request}: {answer}");
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{request}: {answer}");
        assert!(answer.contains(r#""kind":"unavailable""#), "{request}: {answer}");
    }
    // The process is well, and its metrics say what they last knew.
    for path in ["/healthz", "/metrics"] {
        assert_eq!(bench.send(Method::GET, path, "").await.0, StatusCode::OK);
    }
    assert_eq!(bench.engine.records().accepted().await.expect("counts"), 2);
    // Four of the requests above read a record; the next to be refused is the one who waits.
    tokio::time::timeout(PATIENCE, refusals.wait_for(|count| *count > 4))
        .await
        .expect("looks")
        .expect("lives");

    away.store(false, Ordering::SeqCst);
    assert_eq!(bench.send(Method::GET, "/readyz", "").await.0, StatusCode::OK);
    bench.schedule();
    let (code, body) = waiting.await.expect("does not panic");
    let text = String::from_utf8(body.to_vec()).expect("text");
    assert_eq!((code, answer(&text).result.as_deref()), (StatusCode::OK, Some("6")), "{text}");
    let (_, text) = bench.send(Method::GET, &format!("/v1/expressions/{id}?wait=15"), "").await;
    assert_eq!(answer(&text).result.as_deref(), Some("3"));
    assert_eq!(bench.calculate("1+1").await.expect("an answer").result.as_deref(), Some("2"));
}

#[tokio::test]
async fn what_is_accepted_survives_the_gateway() {
    let bench = Bench::idle(|_| {}).await;
    let (_, text) = bench.send(Method::POST, "/v1/expressions", r#"{"expression": "7*6"}"#).await;
    let id = answer(&text).id;
    // One who waits is answered when the gateway ends, not cut off.
    let path = format!("/v1/expressions/{id}?wait=60");
    let waiting = tokio::spawn({
        let mut client = bench.client();
        async move { client.send(Method::GET, &path, &[], Bytes::new(), PATIENCE).await }
    });
    let (folder, address, config) = bench.stop().await;
    match waiting.await.expect("does not panic") {
        Ok((code, body)) => {
            assert_eq!(code, StatusCode::OK);
            assert_eq!(serde_json::from_slice::<Answer>(&body).expect("an answer").status, Status::Accepted);
        }
        // It came after the gateway had stopped listening.
        Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => {}
        Err(other) => panic!("{other}"),
    }

    let engine = open(folder.path());
    let (_, end, gateway) = start(&config, engine.clone(), &address.to_string()).await;
    let scheduler = tokio::spawn(schedule(engine));
    let mut client = Client::new(&format!("http://{address}")).expect("an address");
    let path = format!("/v1/expressions/{id}?wait=20");
    let (_, body) = client.send(Method::GET, &path, &[], Bytes::new(), PATIENCE).await.expect("an answer");
    let answer: Answer = serde_json::from_slice(&body).expect("an answer");
    assert_eq!(answer.result.as_deref(), Some("42"));
    end.send_replace(true);
    gateway.await.expect("ends");
    scheduler.abort();
}

#[tokio::test]
async fn a_slow_request_holds_up_no_other() {
    let bench = Bench::new().await;
    let mut half_sent = TcpStream::connect(bench.address).await.expect("connects");
    half_sent
        .write_all(b"POST /v1/expressions HTTP/1.1\r\nhost: q\r\ncontent-length: 100\r\n\r\n{")
        .await
        .expect("sends");
    let large = serde_json::json!({ "expression": format!("1{}", "+1".repeat(400_000)) }).to_string();
    let slow = bench.send(Method::POST, "/v1/expressions", &large);
    let quick = bench.calculate("1+1");
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!(quick.expect("an answer").result.as_deref(), Some("2"));
    assert_eq!(slow.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn queues_are_shown_and_only_those_that_exist_can_be_redriven() {
    let bench = Bench::idle(|_| {}).await;
    bench.send(Method::POST, "/v1/expressions", r#"{"expression": "1+1"}"#).await;
    let (_, text) = bench.send(Method::GET, "/v1/queues", "").await;
    let queues: Vec<QueueStatus> = serde_json::from_str(&text).expect("queues");
    let inbound = queues.iter().find(|queue| queue.queue == "inbound").expect("inbound");
    assert_eq!((inbound.waiting, inbound.dead), (1, 0));
    let mut client = bench.client();
    assert_eq!(client.redrive("inbound").await.expect("redrives").messages, 0);
    assert!(client.dead_letters("inbound").await.expect("lists").is_empty());
    match client.redrive("inbuond").await {
        Err(ClientError::Problem(problem)) => assert_eq!(problem.kind, "unknown-queue"),
        other => panic!("{other:?}"),
    }
    match client.scale("add", 2).await {
        Err(ClientError::Problem(problem)) => assert_eq!(problem.kind, "unavailable"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_that_is_refused_is_a_problem_document() {
    let bench = Bench::idle(|_| {}).await;
    for (method, path, body, status, kind) in [
        (Method::GET, "/nowhere", "", 404, "not-found"),
        (Method::DELETE, "/v1/expressions", "", 405, "method-not-allowed"),
        (Method::GET, "/v1/expressions/%FF", "", 400, "malformed-path"),
        (Method::GET, "/v1/receipts/%FF", "", 400, "malformed-path"),
        (Method::POST, "/v1/queues/%FF/redrive", "", 400, "malformed-path"),
        (Method::POST, "/v1/expressions?wait=soon", "", 400, "malformed-query"),
        (Method::POST, "/v1/expressions?wait=-1", "", 400, "malformed-query"),
        (Method::POST, "/v1/expressions?wiat=1", "", 400, "malformed-query"),
        (Method::PUT, "/v1/functions/pow/scale", "{\"desired\": 1}", 404, "unknown-function"),
        (Method::PUT, "/v1/functions/add/scale", "two", 400, "malformed-body"),
        (Method::PUT, "/v1/functions/add/scale", &" ".repeat(5000), 413, "body-too-large"),
    ] {
        let (code, text) = bench.send(method, path, body).await;
        assert_eq!((code.as_u16(), problem(&text).kind.as_str()), (status, kind), "{path}: {text}");
    }
}

#[tokio::test]
async fn health_readiness_metrics_and_the_document_are_served() {
    let bench = Bench::new().await;
    bench.calculate("1+1").await.expect("an answer");
    assert_eq!(bench.send(Method::GET, "/healthz", "").await.0, StatusCode::OK);
    assert_eq!(bench.send(Method::GET, "/readyz", "").await.0, StatusCode::OK);
    assert_eq!(bench.send(Method::GET, "/v1/status", "").await, (StatusCode::OK, "[]".into()));
    let (_, metrics) = bench.send(Method::GET, "/metrics", "").await;
    for line in [
        "# TYPE quorate_expression_duration_seconds histogram",
        "quorate_expression_duration_seconds_bucket{outcome=\"done\",le=\"0.001\"}",
        "quorate_http_requests_total{method=\"POST\",route=\"/v1/expressions\",status=\"200\"}",
        "quorate_layer_depth{function=\"add\"} 0",
        "quorate_expressions_accepted 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let (_, document) = bench.send(Method::GET, "/openapi.json", "").await;
    assert_eq!(document, gateway::openapi());
}

/// Others build on it: a change is seen in review. UPDATE=1 writes it.
#[test]
fn the_openapi_document_is_the_one_that_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, gateway::openapi()).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == gateway::openapi(),
        "openapi.json is stale; UPDATE=1 cargo test -p quorate --test gateway writes it"
    );
}
