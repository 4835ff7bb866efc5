//! The platform while its engines fail: what a user and an operator see, and that nothing is lost.

#![cfg(feature = "engines")]

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use quorate_tests::{
    Load, MIXED, Mix, NONE, Platform,
    cloud::Cloud,
    eventually, process,
    servers::{etcd, proxy::Proxy},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{process::Stdio, sync::Arc};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Requests that are outstanding at any time.
const OUTSTANDING: usize = 4;

/// Answers before and after a fault.
const AROUND: u64 = 12;

// --- SQS and DynamoDB -----------------------------------------------------------------------------------

/// The service and the code of its refusals, with their status.
type Refusal = (&'static str, u16, &'static str);

/// What stands before moto, and refuses what one of the services is asked for as long as it is told to.
struct Front {
    endpoint: String,
    refuses: watch::Sender<Option<Refusal>>,
    refused: watch::Sender<u64>,
    serving: JoinHandle<()>,
}

struct Before {
    moto: String,
    http: reqwest::Client,
    refuses: watch::Receiver<Option<Refusal>>,
    refused: watch::Sender<u64>,
}

/// How the services are named in what they are asked.
const SQS: &str = "AmazonSQS";
const DYNAMO: &str = "DynamoDB_20120810";

impl Front {
    async fn before(moto: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (refuses, told) = watch::channel(None);
        let refused = watch::Sender::new(0);
        let state = Before {
            moto: moto.into(),
            http: reqwest::Client::new(),
            refuses: told,
            refused: refused.clone(),
        };
        let app = Router::new().fallback(pass).with_state(Arc::new(state));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { endpoint, refuses, refused, serving }
    }

    /// Refuses until so many were refused and `meanwhile` has come to its end.
    async fn refusing(&self, refusal: Refusal, meanwhile: impl Future<Output = ()>) {
        let until = *self.refused.borrow() + 10;
        self.refuses.send_replace(Some(refusal));
        let mut refused = self.refused.subscribe();
        let seen = refused.wait_for(|refused| *refused >= until);
        let seen = tokio::time::timeout(quorate_tests::PATIENCE, seen).await;
        seen.expect("it is asked again and again").expect("it is here");
        meanwhile.await;
        self.refuses.send_replace(None);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(State(before): State<Arc<Before>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refusal = *before.refuses.borrow();
    if let Some((service, status, code)) = refusal
        && header("x-amz-target").starts_with(service)
    {
        before.refused.send_modify(|refused| *refused += 1);
        let body = json!({ "__type": code, "message": "Because." }).to_string();
        return (StatusCode::from_u16(status).expect("is one"), body).into_response();
    }
    let mut request = before.http.post(&before.moto).body(body);
    for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
        request = request.header(name, header(name));
    }
    let Ok(answer) = request.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, code) = (answer.status(), answer.headers().get("x-amzn-query-error").cloned());
    let mut passed = answer.bytes().await.unwrap_or_default().into_response();
    *passed.status_mut() = status;
    // The older name of an error, by which clients know it.
    passed.headers_mut().extend(code.map(|code| (HeaderName::from_static("x-amzn-query-error"), code)));
    passed
}

/// What a user sees of a platform that can accept nothing now.
async fn is_refused(platform: &Platform) {
    let refused = eventually("a refusal", || async {
        let answer = platform.post("/v1/expressions", r#"{"expression": "1+1"}"#).await;
        (answer.status != 202).then_some(answer)
    })
    .await;
    assert_eq!(
        (refused.status, refused.header("content-type")),
        (503, "application/problem+json"),
        "{refused:?}"
    );
    assert_eq!(refused.json()["kind"], "unavailable", "{refused:?}");
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
}

async fn goes_wrong(refusals: [Refusal; 3]) {
    let cloud = Cloud::start(1);
    let front = Front::before(&cloud.moto.endpoint).await;
    let etcd = cloud.etcd.endpoints().join(",");
    let config = Cloud::config_at(NONE, &front.endpoint, &etcd);
    let platform = Platform::up_on(Cloud::data(), &config).await;
    assert_eq!(platform.result("((3+5)*(4-2))/1").await, "16");
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    for refusal in refusals {
        front.refusing(refusal, is_refused(&platform)).await;
        // The operator can read why.
        let (_, _, code) = refusal;
        eventually(code, || async { platform.log().iter().any(|line| line.contains(code)).then_some(()) })
            .await;
        load.answered(AROUND).await;
    }
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn sqs_that_throttles_fails_or_knows_the_credentials_no_more_costs_no_request() {
    goes_wrong([(SQS, 400, "RequestThrottled"), (SQS, 500, "InternalError"), (SQS, 403, "ExpiredToken")])
        .await;
}

#[tokio::test]
async fn dynamo_that_throttles_fails_or_knows_the_credentials_no_more_costs_no_request() {
    goes_wrong([
        (DYNAMO, 400, "ProvisionedThroughputExceededException"),
        (DYNAMO, 500, "InternalServerError"),
        (DYNAMO, 400, "ExpiredTokenException"),
    ])
    .await;
}

/// Asks moto's SQS as any client does.
async fn sqs(moto: &str, operation: &str, body: Value) -> Value {
    let answer = reqwest::Client::new()
        .post(moto)
        .header("x-amz-target", format!("{SQS}.{operation}"))
        .header("content-type", "application/x-amz-json-1.0")
        // moto has queues of their own for each region, which it reads from here.
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/sqs/aws4_request, \
             SignedHeaders=host, Signature=0",
        )
        .body(body.to_string())
        .send()
        .await
        .expect("moto answers");
    assert!(answer.status().is_success(), "{operation}: {answer:?}");
    serde_json::from_str(&answer.text().await.expect("to its end")).expect("JSON")
}

#[tokio::test]
async fn a_poisoned_message_ends_as_a_dead_letter_that_the_operator_sees_and_stops_nobody() {
    let cloud = Cloud::start(1);
    let platform = Platform::up_on(Cloud::data(), &cloud.config(NONE)).await;
    assert_eq!(platform.result("1+2").await, "3");
    let moto = &cloud.moto.endpoint;
    let queues = ["quorate-inbound", "quorate-layer-add"];
    for queue in queues {
        let url = sqs(moto, "GetQueueUrl", json!({ "QueueName": queue })).await["QueueUrl"].clone();
        let poison = json!({ "QueueUrl": url, "MessageBody": format!("poison for {queue}") });
        sqs(moto, "SendMessage", poison).await;
    }
    let mut load = Load::start(&platform, Mix::Only("add"), OUTSTANDING);
    let letters = eventually("both as dead letters", || async {
        let letters = platform.data.answer(&["dlq", "list", "--json"]).await;
        let letters: Vec<Value> = serde_json::from_str(&letters).expect("is JSON");
        (letters.len() == queues.len()).then_some(letters)
    })
    .await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    for queue in queues {
        let of = queue.strip_prefix("quorate-").expect("has the prefix");
        let letter = letters.iter().find(|letter| letter["queue"] == of);
        let message = &letter.unwrap_or_else(|| panic!("none of {of}: {letters:?}"))["message"];
        assert_eq!(message["body"], format!("poison for {queue}").as_str(), "{letters:?}");
        assert_eq!(message["receives"], 5, "{letters:?}");
    }
    let text = platform.data.answer(&["dlq", "list", "inbound"]).await;
    assert!(text.contains("poison for quorate-inbound"), "{text}");
    let back = platform.data.answer(&["dlq", "redrive", "inbound"]).await;
    assert_eq!(back, "1 messages are back on inbound");
    assert_eq!(platform.result("20+22").await, "42");
    platform.stop().await;
}

// --- etcd -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn etcd_without_a_quorum_stops_no_request_and_repairs_go_on_when_it_has_one_again() {
    let mut cloud = Cloud::start(3);
    let platform = Platform::up_on(Cloud::data(), &cloud.config(MIXED)).await;
    assert_eq!(platform.result("((3+5)*(4-2))/1").await, "16");
    let worker = platform.worker("add").await;
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    cloud.etcd.kill(0);
    cloud.etcd.kill(1);
    // The operator sees it; whoever computes goes on with the workers that are known.
    eventually("a gateway that says so", || async {
        (platform.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    load.answered(AROUND).await;
    // A worker that dies now is replaced as soon as that can be written down.
    process::signal(worker.process(), Signal::KILL);
    cloud.etcd.restart_all(&[0, 1]);
    platform.replaced(&worker).await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_store_that_is_compacted_while_it_is_out_of_reach_for_longer_than_a_lease_is_read_anew() {
    let cloud = Cloud::start(1);
    let store = Proxy::to(&cloud.etcd.endpoint(0)).await;
    let config = Cloud::config_at(MIXED, &cloud.moto.endpoint, &store.endpoint);
    let platform = Platform::up_on(Cloud::data(), &config).await;
    assert_eq!(platform.result("((3+5)*(4-2))/1").await, "16");
    let worker = platform.worker("add").await;
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    let announced =
        || etcd::ctl(&cloud.etcd.endpoint(0), &["get", "--prefix", "quorate/daemons/", "--keys-only"]);
    assert!(announced().contains("scheduler"), "{}", announced());
    store.deafen(true);
    store.cut();
    // Leases lapse: who is announced is not known any more. And what was watched is let go of.
    eventually("the end of the leases", || async { announced().trim().is_empty().then_some(()) }).await;
    for n in 0..8 {
        etcd::ctl(&cloud.etcd.endpoint(0), &["put", "elsewhere", &n.to_string()]);
    }
    cloud.etcd.compact(cloud.etcd.revision());
    load.answered(AROUND).await;
    store.deafen(false);
    store.cut();
    for daemon in ["gateway", "scheduler", "cluster", "admin", "autoscaler"] {
        platform.find(daemon, |status| status.daemon == daemon).await;
    }
    // Those who watch see what happens again.
    process::signal(worker.process(), Signal::KILL);
    platform.replaced(&worker).await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_daemon_by_itself_tells_whether_it_can_work_and_who_leads() {
    let cloud = Cloud::start(1);
    let data = Cloud::data();
    let folder = data.path().to_str().expect("is UTF-8").to_owned();
    let config = data.file("quorate.toml", &cloud.config(NONE)).to_str().expect("is UTF-8").to_owned();
    let set = "monitor=127.0.0.1:0";
    let arguments = ["admin", "--data", &folder, "--config", &config, "--set", set];
    let mut admin =
        data.command(&arguments).stderr(Stdio::null()).spawn().expect("the binary was just built");
    let pid = admin.id().expect("it runs");
    // It listens nowhere else.
    let address = eventually("a port", || async { process::listening(pid).first().copied() }).await;
    let ask = |path: &'static str| async move {
        let answer = reqwest::get(format!("http://{address}{path}")).await.expect("it answers");
        (answer.status().as_u16(), answer.text().await.expect("is text"))
    };
    let leads = |value: &'static str| async move {
        let line = format!("quorate_leads{{daemon=\"admin\"}} {value}");
        ask("/metrics").await.1.lines().any(|it| it == line).then_some(())
    };
    eventually("a leader", || leads("1")).await;
    assert_eq!(ask("/readyz").await, (200, "ok\n".into()));
    cloud.etcd.freeze(0);
    eventually("that nobody leads without a store", || leads("0")).await;
    let (status, why) = ask("/readyz").await;
    assert!(status == 503 && why.contains("store"), "{status} {why}");
    assert_eq!(ask("/healthz").await, (200, "ok\n".into()), "to start it again would not help");
    assert_eq!(ask("/v1/status").await.0, 404);
    cloud.etcd.thaw(0);
    eventually("a leader again", || leads("1")).await;
    assert_eq!(ask("/readyz").await, (200, "ok\n".into()));
    process::signal(pid, Signal::TERM);
    assert!(admin.wait().await.expect("is our child").success());
    data.deserted(quorate_tests::PATIENCE).await;
}
