mod bank;
mod margin;
mod settings;
mod trend;

use self::bank::Bank;
use self::margin::{Margin, REQUESTS_MAX};
use self::trend::Trend;
use super::{Conditions, Policy};
use crate::queueing::{servers_for, servers_for_any, to_count};
use crate::window::{Peak, Recent};
use crate::{Decision, Observation, Reason};

use settings::Filter;
pub use settings::PredictiveSettings;

/// Ticks over which the burst floor remembers the largest load.
const BURST_TICKS: usize = 500;

/// Longest start delay that is looked ahead, in ticks.
const DELAY_MAX: usize = 600;

/// Completions that weigh as much as what was known before about the service time.
const SERVICE_WEIGHT: f64 = 200.0;

/// Backlogs of no more requests than this are left to what is there.
const BACKLOG_MIN: f64 = 2.0;

/// Our own policy: it forecasts the load at the start delay, and covers it with a margin that it learns.
///
/// With `Q` requests waiting, `R` slots ready, `G` starting, `y` arrivals of a tick and `h` the start delay in
/// ticks and one:
///
/// 1. The mean service time `S` follows what is measured, with weight `c/(c + 200)` for `c` completions.
/// 2. A bank of filters with memories from two ticks to fifty follows the arrivals; those weigh most that
///    foretold the last counts best, and each knows how certain it is.
/// 3. The load `a` at `h` is a distribution; `ne` are the fewest servers with which at most a share `ε` of the
///    requests waits too long, over all of it: the mean of `ErlangC(n, a)·exp(−(n − a)·objective/S)`, weighted
///    by `a`.
/// 4. Margin: how far the load of the last ticks passed the `ne` that was forecast for it, in units of
///    `√(a + 1)`, weighted by requests; the quantile `cover` of 600 ticks, at least 0, is added. It bounds the
///    share of requests, not of seconds, that meet too few pods.
/// 5. Backlog: what will be left when a new pod is up, `Q + (m − R/S)·d − G·d/(2S)`, is served in `T`.
/// 6. Floor: a share `f` of the largest load of the last 500 ticks.
/// 7. Hold: the largest need of the last `H` ticks; a step down of at most `max(1, cur/10)` waits for the
///    largest of 90.
///
/// The presets whose names begin with `CANDIDATE` are its first version, kept to compare with: in steps 2 and 3
/// one Kalman filter of level and damped slope forecasts one load.
///
/// Every constant is in [`PredictiveSettings`].
#[derive(Clone, Debug)]
pub struct Predictive {
    settings: PredictiveSettings,
    conditions: Conditions,
    state: PredictiveState,
}

/// What a [`Predictive`] remembers between ticks.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct PredictiveState {
    /// Mean service time in seconds.
    service: f64,
    trend: Trend,
    bank: Bank,
    arrivals: Recent<u64>,
    /// Load and servers that were forecast, of the ticks that have not come yet.
    forecasts: Recent<(f64, u32)>,
    margin: Margin,
    burst: Peak<f64>,
    hold: Peak<u32>,
    calm: Peak<u32>,
    ticks: u64,
    desired: u32,
}

impl Predictive {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(settings: PredictiveSettings, conditions: &Conditions) -> Self {
        let mut policy = Self { settings, conditions: *conditions, state: PredictiveState::default() };
        policy.state = PredictiveState {
            service: conditions.service_prior.as_f64(),
            arrivals: Recent::new(settings.load_ticks),
            forecasts: Recent::new(policy.horizon()),
            margin: Margin::new(),
            burst: Peak::new(BURST_TICKS),
            hold: Peak::new(policy.hold_ticks()),
            calm: Peak::new(settings.calm_ticks),
            ..PredictiveState::default()
        };
        policy
    }

    /// How uncertain the filter is of level and slope, for tests of its health.
    #[must_use]
    pub fn covariance(&self) -> [[f64; 2]; 2] {
        self.state.trend.covariance()
    }

    fn delay(&self) -> f64 {
        (self.conditions.start_delay.as_f64() / self.conditions.tick.as_f64()).clamp(0.0, DELAY_MAX as f64)
    }

    fn horizon(&self) -> usize {
        to_count(self.delay().ceil()) as usize + 1
    }

    fn hold_ticks(&self) -> usize {
        (to_count((self.settings.hold_delays * self.delay()).ceil()) as usize).max(10)
    }

    fn predict(&mut self, observation: &Observation) -> (u32, Reason, f64) {
        let settings = self.settings;
        let slo = self.conditions.wait_objective.as_f64();
        let horizon = self.horizon();
        let state = &mut self.state;
        let arrivals = observation.arrivals.min(REQUESTS_MAX);
        if observation.completions > 0 {
            let completions = observation.completions as f64;
            let mean = observation.service_time.as_f64() / completions;
            state.service += completions / (completions + SERVICE_WEIGHT) * (mean - state.service);
        }
        state.service = state.service.max(1e-6);
        let service = state.service;
        state.trend.observe(arrivals as f64, &settings.trend);
        let level = state.trend.level;
        let (load, servers) = match settings.filter {
            Filter::Trend => {
                let load = service * (level + state.trend.change(horizon as f64));
                (load, servers_for(load, slo / service, settings.miss))
            }
            Filter::Bank => {
                state.bank.observe(arrivals as f64);
                let (loads, load) = state.bank.loads(horizon as f64, service);
                (load, servers_for_any(&loads, slo / service, settings.miss))
            }
        };

        state.arrivals.push(arrivals, settings.load_ticks);
        let recent: u64 = state.arrivals.iter().sum();
        let seen = service * recent as f64 / state.arrivals.len() as f64;
        if let Some((load, servers)) = state.forecasts.push((load, servers), horizon) {
            state.margin.observe((seen - f64::from(servers)) / (load + 1.0).sqrt(), arrivals);
        }
        let margin = state.margin.quantile(settings.cover);
        let (mut need, mut reason) = (servers, Reason::Forecast);
        let mut at_least = |slots: u32, rule| {
            if slots > need {
                (need, reason) = (slots, rule);
            }
        };
        at_least(servers.saturating_add(to_count((margin * (load + 1.0).sqrt()).ceil())), Reason::Margin);

        let waiting = observation.waiting as f64;
        let slots = f64::from(observation.slots_per_pod.get());
        let (ready, starting) =
            (f64::from(observation.ready) * slots, f64::from(observation.starting) * slots);
        let delay = self.conditions.start_delay.as_f64();
        let left = waiting + (level - ready / service) * delay - starting * delay / (2.0 * service);
        let left = left.clamp(0.0, settings.backlog_cap * waiting);
        if left > BACKLOG_MIN {
            at_least(to_count((load + left * service / settings.backlog_seconds).ceil()), Reason::Backlog);
        }
        let burst = state.burst.push(seen, BURST_TICKS);
        at_least(to_count((settings.burst_floor * burst).floor()), Reason::BurstFloor);
        (need, reason, load)
    }

    fn hold(&mut self, need: u32, observation: &Observation, decision: &mut Decision) {
        let current = observation.current();
        let held = self.state.hold.push(need, self.hold_ticks());
        let calm = self.state.calm.push(need, self.settings.calm_ticks);
        if held > need {
            decision.replace(held, Reason::Hold);
        }
        if held < current && current - held <= (current / self.settings.calm_share).max(1) {
            decision.replace(calm.clamp(held, current), Reason::SmallStep);
        }
    }
}

impl Policy for Predictive {
    type State = PredictiveState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut decision = Decision::keep(observation, self.state.desired, self.conditions.tick);
        if observation.valid && self.state.ticks > 0 {
            let (slots, reason, load) = self.predict(observation);
            let need = observation.pods_for(slots.into());
            decision.forecast = Some(load);
            decision.replace(need, reason);
            self.hold(need, observation, &mut decision);
            decision.replace(decision.desired.max(self.conditions.pods_min), Reason::PodsMin);
        }
        self.state.ticks = self.state.ticks.saturating_add(1);
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: PredictiveState) {
        self.state = state;
        let (horizon, hold_ticks, calm_ticks) = (self.horizon(), self.hold_ticks(), self.settings.calm_ticks);
        let state = &mut self.state;
        if !(state.service.is_finite() && state.service > 0.0) {
            state.service = self.conditions.service_prior.as_f64();
        }
        state.trend.fit();
        state.bank.fit();
        state.margin.fit();
        state.arrivals.fit(self.settings.load_ticks);
        state.forecasts.fit(horizon);
        state.burst.fit(BURST_TICKS, |load| load.is_finite() && load >= 0.0);
        state.hold.fit(hold_ticks, |_| true);
        state.calm.fit(calm_ticks, |_| true);
    }

    fn state(&self) -> PredictiveState {
        self.state.clone()
    }
}
