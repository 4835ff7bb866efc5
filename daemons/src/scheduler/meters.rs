//! What the scheduler counts: totals per function for the autoscaler, and metrics for people.

use super::{ahead::Due, dispatch::place};
use crate::proto::FunctionSample;
use metrics::{Counter, Histogram, counter, histogram};
use quorate_dag::Function;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Totals of one function since the start.
#[derive(Debug, Default)]
struct Totals {
    arrivals: AtomicU64,
    completions: AtomicU64,
    in_service: AtomicU32,
    service_us: AtomicU64,
    response_us: AtomicU64,
}

/// All that is counted. The metrics' handles are made once, for looking one up costs more than counting.
pub(super) struct Meters {
    totals: [Totals; Function::ALL.len()],
    /// What is known to come.
    ahead: Mutex<Due>,
    operation: [Histogram; Function::ALL.len()],
    spilled: [Counter; Function::ALL.len()],
    taken: [Counter; Function::ALL.len()],
    expression: Histogram,
    done: Counter,
    failed: Counter,
    retried: Counter,
    disagreed: Counter,
}

impl Meters {
    pub(super) fn new() -> Self {
        let each = |make: fn(Function) -> Counter| Function::ALL.map(make);
        Self {
            totals: Default::default(),
            ahead: Mutex::default(),
            operation: Function::ALL
                .map(|f| histogram!("quorate_operation_duration_seconds", "function" => f.name())),
            spilled: each(|f| counter!("quorate_layer_spilled_total", "function" => f.name())),
            taken: each(|f| counter!("quorate_layer_taken_total", "function" => f.name())),
            expression: histogram!("quorate_expression_duration_seconds"),
            done: counter!("quorate_expressions_total", "outcome" => "done"),
            failed: counter!("quorate_expressions_total", "outcome" => "failed"),
            retried: counter!("quorate_operations_retried_total"),
            disagreed: counter!("quorate_expressions_disagreed_total"),
        }
    }

    /// A node of a run became ready.
    pub(super) fn arrived(&self, function: Function) {
        self.totals[place(function)].arrivals.fetch_add(1, Relaxed);
    }

    /// A worker decided an operation.
    pub(super) fn answered(&self, function: Function, service: Duration, response: Duration) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let totals = &self.totals[place(function)];
        totals.completions.fetch_add(1, Relaxed);
        totals.service_us.fetch_add(micros(service), Relaxed);
        totals.response_us.fetch_add(micros(response), Relaxed);
        self.operation[place(function)].record(service.as_secs_f64());
    }

    pub(super) fn ahead(&self, due: Due) {
        *self.ahead.lock().expect("nothing panics while it is held") = due;
    }

    pub(super) fn in_service(&self, function: Function, count: usize) {
        self.totals[place(function)].in_service.store(u32::try_from(count).unwrap_or(u32::MAX), Relaxed);
    }

    pub(super) fn spilled(&self, function: Function, count: usize) {
        self.spilled[place(function)].increment(count as u64);
    }

    pub(super) fn taken(&self, function: Function, count: usize) {
        self.taken[place(function)].increment(count as u64);
    }

    pub(super) fn retried(&self, count: u64) {
        self.retried.increment(count);
    }

    /// A request has ended.
    pub(super) fn ended(&self, is_done: bool, elapsed: Duration) {
        if is_done { &self.done } else { &self.failed }.increment(1);
        self.expression.record(elapsed.as_secs_f64());
    }

    /// A request was finished twice with different results, which must not be.
    pub(super) fn disagreed(&self) {
        self.disagreed.increment(1);
    }

    /// The totals, for the autoscaler.
    pub(super) fn samples(&self) -> Vec<FunctionSample> {
        let ahead = *self.ahead.lock().expect("nothing panics while it is held");
        let sample = |function: Function| {
            let totals = &self.totals[place(function)];
            FunctionSample {
                function: function.name().into(),
                arrivals: totals.arrivals.load(Relaxed),
                completions: totals.completions.load(Relaxed),
                in_service: totals.in_service.load(Relaxed),
                service_us: totals.service_us.load(Relaxed),
                response_us: totals.response_us.load(Relaxed),
                ahead: ahead[place(function)].into(),
            }
        };
        Function::ALL.map(sample).into()
    }
}
