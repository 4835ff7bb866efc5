use super::{Outcome, Replay, Workload};
use crate::queueing::{servers_for, to_count};
use crate::{Decision, Reason, Seconds};

/// Requests that may wait longer than the objective, and the backlog that gets pods of its own.
const MISS: f64 = 0.005;
const BACKLOG_MIN: u64 = 4;

/// Seconds in which a backlog is served.
const BACKLOG_SECONDS: f64 = 10.0;

/// What a perfect forecast of the rate would make of a workload: a reference and no policy, since it is told
/// what no policy can know, the rate of the next two start delays. When the requests arrive it does not know.
pub fn forecast(replay: &Replay, workload: &Workload) -> Outcome {
    let service = replay.conditions().service_prior.as_f64();
    let ahead = (2 * replay.start_delay.as_micros()).div_ceil(1_000_000);
    let decide = |observation: &crate::Observation| {
        let second = observation.now.as_micros() / 1_000_000;
        let loads = (second..second + ahead.max(1)).map(|second| workload.load(second));
        let load = loads.fold(0.0, f64::max);
        let mut pods = servers_for(load, replay.slo.as_f64() / service, MISS);
        if observation.waiting > BACKLOG_MIN {
            pods += to_count((observation.waiting as f64 * service / BACKLOG_SECONDS).floor());
        }
        Decision {
            desired: pods,
            reason: Reason::Forecast,
            forecast: Some(load),
            wake_at: observation.now.saturating_add(Seconds::new(1)),
        }
    };
    replay.decide(workload, decide, |_| {})
}
