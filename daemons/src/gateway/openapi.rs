//! The OpenAPI document, generated from the handlers and their types.

use super::{expressions, faults, platform};
use crate::api::{
    Answer, DeadMessage, FaultStatus, Health, NodeRun, Problem, ProcessStatus, QueueStatus, Redriven, Scale,
    ScalingStatus, Status, Submission,
};
use std::sync::LazyLock;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    modifiers(&BearerTokens),
    security(
        ("token" = ["submit"]),
        ("token" = ["read"]),
        ("token" = ["admin"]),
        (),
    ),
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
        platform::scaling,
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
        ScalingStatus,
        Status,
        Submission,
    ))
)]
struct Document;

/// Tokens, where a gateway asks for them.
struct BearerTokens;

impl Modify for BearerTokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "A token of the platform, where it asks for them. 401: none, or an unknown one; 403: its scope \
             does not allow this; 429: it asks too often, and `Retry-After` says when to come again.",
        ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

/// The document as JSON.
#[must_use]
pub fn openapi() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| Document::openapi().to_pretty_json().expect("the document is plain data") + "\n");
    &TEXT
}
