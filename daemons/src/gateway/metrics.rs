//! What the gateway counts, with the names of Prometheus' conventions: base units, `_total` on counters.

use crate::{queue::Depth, records::Record};
use metrics::{
    Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use quorate_dag::Function;
use std::time::Duration;

/// Handles that are looked up once.
pub(super) struct Metrics {
    done: Histogram,
    failed: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        crate::telemetry::metrics();
        describe_histogram!(
            "quorate_expression_duration_seconds",
            Unit::Seconds,
            "From a request's arrival at the gateway to its answer, for requests that were waited for"
        );
        describe_counter!("quorate_http_requests_total", "HTTP requests by method, route and status");
        describe_gauge!("quorate_layer_depth", "Nodes that wait on a function's layer queue");
        describe_gauge!("quorate_inbound_depth", "Requests that wait for a scheduler");
        describe_gauge!("quorate_dead_letters", "Messages put aside after too many receives");
        describe_gauge!("quorate_expressions_accepted", "Requests accepted and not finished");
        Self {
            done: histogram!("quorate_expression_duration_seconds", "outcome" => "done"),
            failed: histogram!("quorate_expression_duration_seconds", "outcome" => "failed"),
        }
    }

    pub(super) fn answered(&self, record: &Record, took: Duration) {
        match record.outcome.as_ref().map(|outcome| &outcome.result) {
            Some(Ok(_)) => self.done.record(took),
            Some(Err(_)) => self.failed.record(took),
            None => {}
        }
    }

    pub(super) fn responded(&self, method: &'static str, route: &str, status: u16) {
        counter!(
            "quorate_http_requests_total",
            "method" => method, "route" => route.to_owned(), "status" => status.to_string()
        )
        .increment(1);
    }

    pub(super) fn layer(&self, function: Function, depth: Depth) {
        gauge!("quorate_layer_depth", "function" => function.name()).set(float(depth.waiting));
        gauge!("quorate_dead_letters", "queue" => format!("layer-{}", function.name()))
            .set(float(depth.dead));
    }

    pub(super) fn inbound(&self, depth: Depth) {
        gauge!("quorate_inbound_depth").set(float(depth.waiting));
        gauge!("quorate_dead_letters", "queue" => "inbound").set(float(depth.dead));
    }

    pub(super) fn accepted(&self, accepted: u64) {
        gauge!("quorate_expressions_accepted").set(float(accepted));
    }
}

/// A gauge is a binary fraction; counts this side of 2^53 are exact in it.
fn float(count: u64) -> f64 {
    count as f64
}
