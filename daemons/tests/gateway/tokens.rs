//! Tokens at the gateway: who is let in, for what, and how often.

use super::{Bench, PATIENCE, problem};
use hyper::{Method, StatusCode};
use quorate::{
    config::{Access, Config},
    gateway::{self, AccessError, GatewayError},
    token::{Scope, Tokens},
    wires::Wires,
};
use std::{path::Path, sync::Arc, time::Duration};

/// A file with one token of each scope, and one that may ask twice a second; and their texts.
fn tokens(path: &Path) -> [String; 4] {
    let mut tokens = Tokens::default();
    let mut make = |name: &str, scope, rate| tokens.make(name, vec![scope], rate).expect("made").to_string();
    let texts = [
        make("submit", Scope::Submit, None),
        make("read", Scope::Read, None),
        make("admin", Scope::Admin, None),
        make("slow", Scope::Submit, Some(2)),
    ];
    tokens.write(path).expect("written");
    texts
}

fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {token}"))]
}

async fn status(bench: &Bench, token: &str, method: Method, path: &str, body: &str) -> u16 {
    bench.send_with(method, path, &bearer(token), body).await.0.as_u16()
}

const SUM: &str = r#"{"expression": "1+1"}"#;

#[tokio::test]
async fn each_scope_opens_what_it_is_for_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.json");
    let [submit, read, admin, _] = tokens(&path);
    let mut bench = Bench::idle(|config| config.gateway.tokens = Some(path)).await;
    bench.schedule();
    let (_, text) = bench.send_with(Method::POST, "/v1/expressions?wait=10", &bearer(&submit), SUM).await;
    let id = super::answer(&text).id;
    let (expression, receipt) = (format!("/v1/expressions/{id}"), format!("/v1/receipts/{id}"));
    let (redrive, letters) = ("/v1/queues/inbound/redrive", "/v1/queues/inbound/dead-letters");
    // Route by route: what the scopes submit, read and admin are answered.
    for (method, path, body, expected) in [
        (Method::POST, "/v1/expressions?wait=10", SUM, [200, 403, 200]),
        (Method::GET, expression.as_str(), "", [200, 200, 200]),
        (Method::GET, receipt.as_str(), "", [404, 404, 404]),
        (Method::GET, "/v1/status", "", [403, 200, 200]),
        (Method::GET, "/v1/faults", "", [403, 200, 200]),
        (Method::GET, "/v1/queues", "", [403, 200, 200]),
        (Method::GET, "/metrics", "", [403, 200, 200]),
        (Method::GET, letters, "", [403, 403, 200]),
        (Method::POST, redrive, "", [403, 403, 200]),
        (Method::PUT, "/v1/functions/pow/scale", r#"{"desired": 1}"#, [403, 403, 404]),
        (Method::GET, "/healthz", "", [200, 200, 200]),
        (Method::GET, "/openapi.json", "", [200, 200, 200]),
        (Method::GET, "/nothing", "", [404, 404, 404]),
    ] {
        for (token, expected) in [&submit, &read, &admin].into_iter().zip(expected) {
            let answered = status(&bench, token, method.clone(), path, body).await;
            assert_eq!(answered, expected, "{method} {path} with {token}");
        }
    }
}

#[tokio::test]
async fn who_has_no_token_or_a_wrong_one_is_told_what_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.json");
    let [submit, ..] = tokens(&path);
    let bench = Bench::idle(|config| config.gateway.tokens = Some(path)).await;
    let basic = [("authorization", format!("Basic {submit}"))];
    let cut = bearer(&submit[..submit.len() - 1]);
    for headers in [&[][..], &basic, &cut, &bearer(""), &bearer(&"a".repeat(10_000))] {
        let (status, text) = bench.send_with(Method::POST, "/v1/expressions", headers, SUM).await;
        let problem = problem(&text);
        assert_eq!((status, problem.kind.as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"));
        assert!(problem.detail.contains("Authorization: Bearer"), "{text}");
        assert!(!text.contains(&submit), "no token is repeated");
    }
    let raw = bench.raw("GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(raw.to_lowercase().contains("www-authenticate: bearer"), "{raw}");
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_to_wait_and_holds_up_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.json");
    let [submit, _, _, slow] = tokens(&path);
    let bench = Bench::idle(|config| config.gateway.tokens = Some(path)).await;
    let mut refused = None;
    // More than it may in the time that they take.
    for _ in 0..100 {
        let (status, text) = bench.send_with(Method::POST, "/v1/expressions", &bearer(&slow), SUM).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(problem(&text));
            break;
        }
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    }
    let refused = refused.expect("two a second are fewer than a hundred at once");
    assert_eq!(refused.detail, "token slow has used its 2 requests a second");
    assert_eq!(status(&bench, &submit, Method::POST, "/v1/expressions", SUM).await, 202);
}

#[tokio::test]
async fn a_token_is_known_soon_after_it_is_made_and_unknown_soon_after_it_is_revoked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.json");
    let [submit, ..] = tokens(&path);
    let bench = Bench::idle(|config| config.gateway.tokens = Some(path.clone())).await;
    let mut tokens = Tokens::read(&path).expect("read").expect("there");
    tokens.revoke("submit").expect("there");
    let new = tokens.make("new", vec![Scope::Submit], None).expect("made").to_string();
    tokens.write(&path).expect("written");
    let until = |token: String, expected: u16| {
        let bench = &bench;
        async move {
            while status(bench, &token, Method::POST, "/v1/expressions", SUM).await != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, until(new.clone(), 202)).await.expect("it is read again");
    assert_eq!(status(&bench, &submit, Method::POST, "/v1/expressions", SUM).await, 401);
    // Whatever becomes of the file, nobody is let in who was not.
    std::fs::write(&path, "rubbish").expect("written");
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is awaited is that nothing happens
    assert_eq!(status(&bench, &new, Method::POST, "/v1/expressions", SUM).await, 202);
    assert_eq!(bench.send(Method::POST, "/v1/expressions", SUM).await.0, StatusCode::UNAUTHORIZED);
    std::fs::remove_file(&path).expect("removed");
    tokio::time::timeout(PATIENCE, until(new, 401)).await.expect("nobody is left");
}

/// What a gateway that listens on `address` says of it when it starts.
async fn refused(address: &str, change: impl FnOnce(&mut Config)) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config { data: folder.path().into(), ..Config::default() };
    change(&mut config);
    let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
    let (end, shutdown) = tokio::sync::watch::channel(false);
    end.send_replace(true);
    match gateway::run(Arc::new(config), super::open(folder.path()), Wires::plain(), listener, shutdown).await
    {
        Ok(()) => None,
        Err(GatewayError::Access(error @ (AccessError::Open { .. } | AccessError::Tokens(_)))) => {
            Some(error.to_string())
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_gateway_that_others_reach_does_not_start_without_tokens() {
    let error = refused("0.0.0.0:0", |_| ()).await.expect("refused");
    assert!(error.contains("quorate tokens make") && error.contains("0.0.0.0:"), "{error}");
    assert_eq!(refused("127.0.0.1:0", |_| ()).await, None);
    assert_eq!(refused("0.0.0.0:0", |config| config.gateway.access = Access::Open).await, None);
    let with_tokens = |config: &mut Config| {
        tokens(&config.gateway.tokens(&config.data));
    };
    assert_eq!(refused("0.0.0.0:0", with_tokens).await, None);
    let with_rubbish = |config: &mut Config| {
        std::fs::write(config.gateway.tokens(&config.data), "rubbish").expect("written");
    };
    assert!(refused("127.0.0.1:0", with_rubbish).await.expect("refused").contains("holds no tokens"));
}
