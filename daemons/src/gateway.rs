//! The gateway: HTTP in front, a record and a message behind.
//!
//! What is accepted is in the records before it is answered, so that a gateway may die at any time. One
//! who waits is woken by the hint that a scheduler sends to this gateway's outbound queue, and looks at
//! the record every 250 ms besides.

#![expect(clippy::result_large_err, reason = "a problem is the answer itself: made once, moved once")]

mod access;
mod admission;
mod expressions;
mod faults;
mod metrics;
mod openapi;
mod platform;
mod problem;
pub(crate) mod serve;
mod submission;
mod waiters;

pub use access::AccessError;
pub use openapi::openapi;

use crate::{
    api::Problem,
    config::Config,
    engine::Engine,
    queue::{Queue, QueueError, QueueName},
    shutdown::Shutdown,
    tls::TlsError,
    wires::Wires,
};
use access::Access;

use admission::{Admission, Bodies};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State},
    http::{Method, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use metrics::Metrics;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::net::TcpListener;
use uuid::Uuid;
use waiters::Waiters;

/// Bodies that are not submissions: a number or two.
const SMALL_BODY_BYTES: usize = 4096;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its listener has no address.
    #[error("the gateway's listener is unusable: {0}")]
    Listener(#[from] std::io::Error),
    /// Its queues can't be had.
    #[error("the gateway can't reach its queues: {0}")]
    Queues(#[from] QueueError),
    /// Its certificate can't be used.
    #[error(transparent)]
    Certificate(#[from] TlsError),
    /// Nobody, or anybody, could come.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// What every handler sees.
struct Gateway {
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    wires: Wires,
    inbound: Arc<dyn Queue>,
    /// Where schedulers leave hints for this gateway.
    outbound: QueueName,
    waiters: Arc<Waiters>,
    access: Access,
    admission: Admission,
    bodies: Bodies,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Serves until the end: then takes no more connections, answers who waits with 202, and returns.
///
/// # Errors
/// When it can't start.
pub async fn run(
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    wires: Wires,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), GatewayError> {
    let instance = instance(&listener)?;
    let access = Access::new(&config, listener.local_addr()?)?;
    let tls = serve::acceptor(&config.gateway)?;
    let inbound = engine.queue(&QueueName::inbound()).await?;
    let outbound = QueueName::outbound(&instance);
    let hints = engine.queue(&outbound).await?;
    let waiters = Arc::new(Waiters::default());
    tracing::info!(address = %listener.local_addr()?, %instance, "gateway listens");
    let gateway = Arc::new(Gateway {
        access,
        admission: Admission::new(config.limits.accepted),
        bodies: Bodies::new(config.limits.body_bytes),
        metrics: Metrics::new(),
        waiters: Arc::clone(&waiters),
        shutdown: shutdown.clone(),
        config,
        engine,
        wires,
        inbound,
        outbound,
    });
    let hints = tokio::spawn(waiters::hand_on(waiters, hints, shutdown.clone()));
    serve::serve(listener, tls, router(gateway), shutdown).await;
    hints.abort();
    Ok(())
}

/// A gateway that comes back under its address finds the hints that were left for it.
fn instance(listener: &TcpListener) -> std::io::Result<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(format!("{host}-{}", listener.local_addr()?.port()))
}

fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/expressions", post(expressions::calculate_expression))
        .route("/v1/expressions/{id}", get(expressions::get_expression))
        .route("/v1/expressions/{id}/events", get(expressions::get_events))
        .route("/v1/receipts/{id}", get(expressions::get_receipt))
        .route("/v1/status", get(platform::status))
        .route("/v1/faults", get(faults::faults))
        .route("/v1/faults/{id}/proof", get(faults::proof))
        .route("/v1/queues", get(platform::queues))
        .route("/v1/scaling", get(platform::scaling))
        .route("/v1/queues/{queue}/dead-letters", get(platform::dead_letters))
        .route("/v1/queues/{queue}/redrive", post(platform::redrive))
        .route("/v1/functions/{function}/scale", put(platform::scale))
        .route("/openapi.json", get(openapi_json))
        .route("/healthz", get(platform::healthz))
        .route("/readyz", get(platform::readyz))
        .route("/metrics", get(platform::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(SMALL_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&gateway), access::guard))
        .layer(from_fn_with_state(Arc::clone(&gateway), count))
        .with_state(gateway)
}

async fn openapi_json() -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}

async fn not_found(request: Request) -> Problem {
    problem::NOT_FOUND
        .with(format!("`{:.200}` is not a path; /openapi.json has them all", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    problem::METHOD_NOT_ALLOWED.with(format!("`{method:.20}` is not allowed on `{path:.200}`"))
}

/// Counts every response.
async fn count(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        // Anything may be written there, and every label is a time series.
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    gateway.metrics.responded(method, route, response.status().as_u16());
    response
}

impl Gateway {
    /// What schedulers read: `{"id": …, "reply_to": …}`.
    fn inbound_message(&self, id: Uuid) -> Bytes {
        let message = serde_json::json!({ "id": id, "reply_to": self.outbound.as_str() });
        serde_json::to_vec(&message).expect("plain strings serialise").into()
    }
}

/// What the path names; one that is no text is a problem document.
struct Path<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(path)| Self(path))
            .map_err(|refused| problem::MALFORMED_PATH.with(refused.body_text()))
    }
}

/// The query string; one that is malformed is a problem document.
struct Query<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|refused| problem::MALFORMED_QUERY.with(refused.body_text()))
    }
}
