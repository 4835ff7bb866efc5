//! Who may do what: bearer tokens, their scopes, and how often each may ask.

use super::{
    Gateway,
    problem::{FORBIDDEN, RATE, UNAUTHORIZED},
};
use crate::{
    api::Problem,
    config::{Access as Rule, Config},
    token::{Scope, Token, TokenError, Tokens},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the file of tokens is looked at, while requests come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A token's text is shorter; a longer header is not even hashed.
const TOKEN_BYTES_MAX: usize = 256;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is a file, and no tokens can be read from it.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Anybody on the network could come.
    #[error(
        "the gateway would listen on {listen} for anybody: there are no tokens in {}; make one \
         (quorate tokens make NAME --scope submit), listen on 127.0.0.1, or say gateway.access = \"open\"",
        path.display()
    )]
    Open {
        /// Where it would listen.
        listen: SocketAddr,
        /// Where tokens would be.
        path: PathBuf,
    },
}

/// What is asked of who comes.
pub(super) struct Access {
    rule: Rule,
    path: PathBuf,
    /// Requests a second of a token that does not say.
    rate: u32,
    known: Mutex<Known>,
}

struct Known {
    tokens: Option<Arc<Tokens>>,
    /// The file as it was read: when it was changed, its size.
    version: Option<(SystemTime, u64)>,
    looked: Instant,
    /// What each token has left, by its name.
    allowances: HashMap<String, Allowance>,
}

/// A bucket that fills with `rate` requests a second and holds a second's worth.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.left = (self.left + filled).min(rate);
        self.at = now;
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        }
        is_there
    }
}

impl Access {
    /// As configured, for a gateway that listens at `listen`.
    pub(super) fn new(config: &Config, listen: SocketAddr) -> Result<Self, AccessError> {
        let path = config.gateway.tokens(&config.data);
        let version = version(&path);
        let tokens = Tokens::read(&path)?.map(Arc::new);
        if config.gateway.access == Rule::Auto && tokens.is_none() && !listen.ip().is_loopback() {
            return Err(AccessError::Open { listen, path });
        }
        let known = Known { tokens, version, looked: Instant::now(), allowances: HashMap::new() };
        let rate = config.limits.requests_per_second;
        Ok(Self { rule: config.gateway.access, path, rate, known: Mutex::new(known) })
    }

    /// Whether who comes with these headers may do what any of `scopes` allows.
    fn check(&self, headers: &HeaderMap, scopes: &[Scope], now: Instant) -> Result<(), Problem> {
        if self.rule == Rule::Open {
            return Ok(());
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look(&self.path, now);
        let tokens = match (&known.tokens, self.rule) {
            (Some(tokens), _) => Arc::clone(tokens),
            // Nobody but this machine reaches a gateway that started so.
            (None, Rule::Auto) => return Ok(()),
            (None, _) => Arc::default(),
        };
        let token = bearer(headers).and_then(|text| tokens.find(text)).ok_or_else(|| {
            UNAUTHORIZED
                .with("send `Authorization: Bearer TOKEN` with a token of this platform (quorate tokens)")
        })?;
        if !token.allows(scopes) {
            let needed: Vec<_> = scopes.iter().map(Scope::to_string).collect();
            return Err(FORBIDDEN.with(format!("token {} lacks scope {}", token.name, needed.join(" or "))));
        }
        known.take(token, self.rate, now)
    }
}

impl Known {
    /// Reads the file again if it has changed. One that has become unreadable changes nothing: who is let in
    /// stays let in, and nobody else is.
    fn look(&mut self, path: &Path, now: Instant) {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        let version = version(path);
        if version == self.version {
            return;
        }
        match Tokens::read(path) {
            // A file that was there and is gone leaves nobody a way in, rather than everybody.
            Ok(None) if self.tokens.is_some() => self.tokens = Some(Arc::default()),
            Ok(tokens) => self.tokens = tokens.map(Arc::new),
            Err(error) => {
                tracing::error!(%error, "the tokens stay as they were");
                return;
            }
        }
        self.version = version;
        let names: Vec<_> =
            self.tokens.iter().flat_map(|tokens| tokens.all()).map(|token| &token.name).collect();
        self.allowances.retain(|name, _| names.contains(&name));
        tracing::info!(tokens = names.len(), "the tokens were read again");
    }

    fn take(&mut self, token: &Token, rate: u32, now: Instant) -> Result<(), Problem> {
        let rate = token.requests_per_second.unwrap_or(rate);
        let full = || Allowance { left: f64::from(rate), at: now };
        if self.allowances.entry(token.name.clone()).or_insert_with(full).take(rate, now) {
            return Ok(());
        }
        Err(RATE.with(format!("token {} has used its {rate} requests a second", token.name)))
    }
}

fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// The token that the headers carry. The scheme's name is in any case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let is_one = values.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    Some(token).filter(|token| is_one && token.len() <= TOKEN_BYTES_MAX)
}

/// What a route asks for: one of these scopes; `None`: nothing.
fn scopes(method: &Method, route: &str) -> Option<&'static [Scope]> {
    match (method.as_str(), route) {
        (_, "/healthz" | "/readyz" | "/openapi.json") => None,
        ("POST", "/v1/expressions") => Some(&[Scope::Submit]),
        ("GET" | "HEAD", "/v1/expressions/{id}" | "/v1/expressions/{id}/events" | "/v1/receipts/{id}") => {
            Some(&[Scope::Submit, Scope::Read])
        }
        (
            "GET" | "HEAD",
            "/v1/status" | "/v1/faults" | "/v1/faults/{id}/proof" | "/v1/queues" | "/v1/scaling" | "/metrics",
        ) => Some(&[Scope::Read]),
        // What was forgotten here is nobody's but the operator's.
        _ => Some(&[Scope::Admin]),
    }
}

/// Lets in who may come. What no route matches is answered as such: there is nothing behind it.
pub(super) async fn guard(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if let Some(scopes) = route.and_then(|route| scopes(request.method(), route))
        && let Err(problem) = gateway.access.check(request.headers(), scopes, Instant::now())
    {
        return problem.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).expect("visible characters")));
        HeaderMap::from_iter(values)
    }

    #[test]
    fn a_bearer_token_is_what_follows_the_scheme() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer abc"])), Some("abc"));
        for wrong in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer a", "Bearer a"]] {
            let mut all = HeaderMap::new();
            for value in wrong {
                all.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("visible"));
            }
            assert_eq!(bearer(&all), None, "{wrong:?}");
        }
        assert_eq!(bearer(&headers(&[&format!("Bearer {}", "a".repeat(257))])), None);
    }

    #[test]
    fn an_allowance_is_a_seconds_worth_and_fills_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance { left: 3.0, at: start };
        assert!((0..3).all(|_| allowance.take(3, start)));
        assert!(!allowance.take(3, start));
        assert!(!allowance.take(3, start + Duration::from_millis(300)));
        assert!(allowance.take(3, start + Duration::from_millis(400)));
        let later = start + Duration::from_secs(60);
        assert!((0..3).all(|_| allowance.take(3, later)));
        assert!(!allowance.take(3, later), "it holds no more than a second's worth");
    }

    #[test]
    fn what_is_not_listed_needs_the_operator() {
        assert_eq!(scopes(&Method::GET, "/healthz"), None);
        assert_eq!(scopes(&Method::POST, "/v1/expressions"), Some(&[Scope::Submit][..]));
        assert_eq!(scopes(&Method::PUT, "/v1/functions/{function}/scale"), Some(&[Scope::Admin][..]));
        assert_eq!(scopes(&Method::GET, "/v1/queues/{queue}/dead-letters"), Some(&[Scope::Admin][..]));
        assert_eq!(scopes(&Method::DELETE, "/v1/new"), Some(&[Scope::Admin][..]));
    }
}
