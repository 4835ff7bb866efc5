//! What the scheduler exposes: `Scheduler.Report` and `Scheduler.Samples` by gRPC, `POST /v1/parse` by
//! REST, and its health, all on one listener.

use super::{core::Event, meters::Meters, work::Work};
use crate::{
    config::Config,
    expression,
    proto::{
        ReportRequest, ReportResponse, SamplesRequest, SamplesResponse,
        scheduler_server::{Scheduler, SchedulerServer},
    },
    records::{Failure, Request},
    wires::Incoming,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use quorate_dag::{Costs, Operand, Plan};
use serde_json::{Value as Json_, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, async_trait, service::Routes, transport::Server};

/// Nodes that a parse lists; of a larger plan it gives the figures alone.
const LISTED: usize = 10_000;

struct Api {
    meters: Arc<Meters>,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl Scheduler for Api {
    async fn report(
        &self,
        request: tonic::Request<ReportRequest>,
    ) -> Result<tonic::Response<ReportResponse>, Status> {
        let outcomes = request.into_inner().outcomes;
        self.events
            .send(Event::Reported(outcomes))
            .await
            .map_err(|_| Status::unavailable("the scheduler is ending"))?;
        Ok(tonic::Response::new(ReportResponse {}))
    }

    async fn samples(
        &self,
        _: tonic::Request<SamplesRequest>,
    ) -> Result<tonic::Response<SamplesResponse>, Status> {
        Ok(tonic::Response::new(SamplesResponse { functions: self.meters.samples() }))
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(
    config: Arc<Config>,
    meters: Arc<Meters>,
    events: mpsc::Sender<Event>,
    incoming: Incoming,
) -> Result<(), tonic::transport::Error> {
    let (_, health) = tonic_health::server::health_reporter();
    let api = SchedulerServer::new(Api { meters, events })
        .max_decoding_message_size(crate::worker::MESSAGE_BYTES_MAX);
    let rest = Router::new()
        .route("/v1/parse", post(parse))
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .layer(DefaultBodyLimit::max(config.limits.body_bytes))
        .with_state(config);
    let routes = Routes::from(rest).add_service(api).add_service(health);
    Server::builder().accept_http1(true).add_routes(routes).serve_with_incoming(incoming).await
}

/// `{"expression": "…", "parameters": {…}}` to the graph that would be run.
async fn parse(State(config): State<Arc<Config>>, Json(request): Json<Request>) -> Response {
    let limits = expression::limits(&config.limits);
    let planned = tokio::task::spawn_blocking(move || Work::plan(&request, &limits, &Costs::default())).await;
    match planned {
        Ok(Ok(work)) => Json(graph(work.graph())).into_response(),
        Ok(Err(failure)) => problem(&failure),
        Err(error) => problem(&super::inbound::failure("internal", error.to_string())),
    }
}

/// RFC 9457.
fn problem(failure: &Failure) -> Response {
    let status = if failure.kind == "internal" {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let body = json!({
        "type": format!("/problems/{}", failure.kind),
        "title": failure.kind.replace('-', " "),
        "status": status.as_u16(),
        "detail": failure.detail,
        "kind": failure.kind,
        "span": failure.span,
    });
    (status, [("content-type", "application/problem+json")], Json(body)).into_response()
}

/// A plan for programs: its figures and its nodes.
fn graph(plan: &Plan) -> Json_ {
    let operand = |operand: &Operand<'_>| match operand {
        Operand::Value(value) => json!({ "value": value.to_string() }),
        Operand::Parameter(name) => json!({ "parameter": name }),
        Operand::Node(node) => json!({ "node": node.get() }),
    };
    let nodes: Vec<Json_> = plan
        .nodes()
        .take(LISTED)
        .map(|node| {
            let [left, right] = plan.operands(node);
            json!({
                "node": node.get(),
                "function": plan.function(node).name(),
                "left": operand(&left),
                "right": operand(&right),
                "position": plan.position(node),
            })
        })
        .collect();
    json!({
        "plan_version": Plan::VERSION,
        "nodes": plan.len(),
        "depth": plan.depth(),
        "width": plan.width(),
        "parameters": plan.parameters().collect::<Vec<_>>(),
        "root": operand(&plan.root()),
        "graph": nodes,
    })
}
