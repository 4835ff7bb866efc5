//! What is replayed, on all cores.

use super::Subject;
use indicatif::ProgressBar;
use quorate_scaler::{
    Seconds,
    policy::AnyPolicy,
    sim::{Oracle, Outcome, Replay, Service, Workload, forecast},
};
use serde::Serialize;
use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What every workload goes through.
pub(super) struct Plan {
    pub(super) subjects: Vec<Subject>,
    pub(super) start_delays: Vec<u16>,
    pub(super) service: Service,
    pub(super) threads: NonZeroUsize,
}

/// One workload, as the tables introduce it.
pub(super) struct Recorded {
    pub(super) trace: String,
    pub(super) scale: f64,
    pub(super) seconds: u64,
    pub(super) requests: u64,
    pub(super) arrival_sum_us: u128,
    pub(super) service_sum_us: u64,
    pub(super) start_pods: u32,
    /// Pod-seconds by start delay.
    pub(super) oracle: Vec<f64>,
}

/// One replay, as `--json` shows it.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) trace: String,
    pub(super) policy: &'static str,
    pub(super) start_delay_s: u16,
    /// Pod-seconds over those of the oracle.
    pub(super) cost_ratio: f64,
    pub(super) service: String,
    pub(super) seed: u64,
    pub(super) p50_wait_s: f64,
    pub(super) p99_wait_s: f64,
    /// The share of requests that waited over a second, 0 to 1.
    pub(super) violations: f64,
    pub(super) actions: u64,
    pub(super) flips: u64,
}

impl Plan {
    /// Replays of one workload, and its oracle.
    pub(super) fn jobs(&self) -> usize {
        self.subjects.len() * self.start_delays.len() + 1
    }

    pub(super) fn start_delay(&self, at: usize) -> Seconds {
        Seconds::new(self.start_delays[at].into())
    }

    /// Replays a workload against everything, the oracle first: it takes longest.
    pub(super) fn replay(
        &self,
        trace: &str,
        seed: u64,
        workload: &Workload,
        bar: &ProgressBar,
    ) -> (Recorded, Vec<Row>) {
        let next = AtomicUsize::new(0);
        let oracle = Mutex::new(None);
        let outcomes = Mutex::new(Vec::new());
        let work = || {
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job == 0 {
                    let plans = Oracle::new(workload, Replay::default().slo);
                    *oracle.lock().unwrap_or_else(PoisonError::into_inner) = Some(plans);
                } else if job < self.jobs() {
                    let (delay, subject) = ((job - 1) / self.subjects.len(), (job - 1) % self.subjects.len());
                    let outcome = self.outcome(delay, self.subjects[subject], workload);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((delay, subject, outcome));
                } else {
                    return;
                }
                bar.inc(1);
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.threads.get().min(self.jobs()) {
                scope.spawn(work);
            }
        });
        let oracle = oracle.into_inner().unwrap_or_else(PoisonError::into_inner).expect("job 0 was done");
        let costs: Vec<f64> =
            (0..self.start_delays.len()).map(|at| oracle.cost(self.start_delay(at))).collect();
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(delay, subject, _)| (*delay, *subject));
        let row = |(delay, subject, outcome): &(usize, usize, Outcome)| Row {
            trace: trace.to_owned(),
            policy: self.subjects[*subject].name(),
            start_delay_s: self.start_delays[*delay],
            cost_ratio: outcome.pod_seconds() / costs[*delay],
            service: self.service.to_string(),
            seed,
            p50_wait_s: outcome.wait_percentile(0.5),
            p99_wait_s: outcome.wait_percentile(0.99),
            violations: outcome.violation_share(),
            actions: outcome.actions,
            flips: outcome.flips,
        };
        let rows = outcomes.iter().map(row).collect();
        let recorded = Recorded {
            trace: trace.to_owned(),
            scale: workload.scale(),
            seconds: workload.seconds(),
            requests: workload.requests(),
            arrival_sum_us: workload.arrival_sum_us(),
            service_sum_us: workload.service_sum_us(),
            start_pods: workload.start_pods(),
            oracle: costs,
        };
        (recorded, rows)
    }

    fn outcome(&self, delay: usize, subject: Subject, workload: &Workload) -> Outcome {
        let replay = Replay { start_delay: self.start_delay(delay), ..Replay::default() };
        match subject {
            Subject::Policy(name) => replay.run(workload, &mut AnyPolicy::new(name, &replay.conditions())),
            Subject::Forecast => forecast(&replay, workload),
        }
    }
}
