//! Health and metrics of a daemon that runs by itself, for those who look after it: a kubelet, Prometheus.
//!
//! Plain HTTP, since neither has a certificate of the platform's authority. There is nothing to be asked for but
//! three paths, and what they say is no secret. A gateway says the same of its process on its own port.

use crate::{engine::Engine, gateway::serve::serve, set::SETS, shutdown::Shutdown, telemetry};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// How long the store may take to answer before this daemon counts as not ready: a probe's own time-out is a
/// second, if nobody says otherwise.
const PATIENCE: Duration = Duration::from_millis(800);

/// Serves until shutdown.
pub(crate) async fn run(listener: TcpListener, engine: Arc<dyn Engine>, shutdown: Shutdown) {
    let watched = Watched { engine, shutdown: shutdown.clone() };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(watched);
    serve(listener, None, router, shutdown).await;
}

#[derive(Clone)]
struct Watched {
    engine: Arc<dyn Engine>,
    shutdown: Shutdown,
}

/// This process answers. One whose work hangs loses its leases, and another one does the work.
async fn healthz() -> &'static str {
    "ok\n"
}

/// It reaches the store, without which it can do nothing, and is not about to end.
async fn readyz(State(watched): State<Watched>) -> Result<&'static str, (StatusCode, String)> {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    if *watched.shutdown.borrow() {
        return Err(unready("about to end".into()));
    }
    match tokio::time::timeout(PATIENCE, watched.engine.store().get(SETS)).await {
        Ok(Ok(_)) => Ok("ok\n"),
        Ok(Err(error)) => Err(unready(format!("the store: {error}"))),
        Err(_) => Err(unready(format!("no answer from the store within {PATIENCE:?}"))),
    }
}

/// All that this process counts, in Prometheus' text format.
pub(crate) async fn metrics() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry::metrics().render()).into_response()
}
