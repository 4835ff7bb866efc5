//! The OpenAPI document, generated from the handlers and their types.

use super::{expressions, faults, platform};
use crate::api::{
    Answer, DeadMessage, FaultStatus, Health, NodeRun, Problem, ProcessStatus, QueueStatus, Redriven, Scale,
    Status, Submission,
};
use std::sync::LazyLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quorate",
        description = "A serverless platform for arithmetic: every operation is agreed on by a Byzantine fault-tolerant replica set.",
    ),
    paths(
        expressions::calculate_expression,
        expressions::get_expression,
        expressions::get_events,
        expressions::get_receipt,
        platform::status,
        faults::faults,
        faults::proof,
        platform::queues,
        platform::dead_letters,
        platform::redrive,
        platform::scale,
        platform::healthz,
        platform::readyz,
        platform::metrics,
    ),
    components(schemas(
        Answer,
        DeadMessage,
        FaultStatus,
        Health,
        NodeRun,
        Problem,
        ProcessStatus,
        QueueStatus,
        Redriven,
        Scale,
        Status,
        Submission,
    ))
)]
struct Document;

/// The document as JSON.
#[must_use]
pub fn openapi() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| Document::openapi().to_pretty_json().expect("the document is plain data") + "\n");
    &TEXT
}
