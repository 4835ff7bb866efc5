mod bank;
mod margin;
mod settings;
mod standing;
mod trend;

use self::bank::Bank;
use self::margin::{Margin, REQUESTS_MAX};
use self::settings::{First, Second, Version};
use self::standing::Standing;
use self::trend::Trend;
use super::{Conditions, Policy};
use crate::queueing::{servers_for, servers_for_any, to_count};
use crate::window::{Peak, Recent};
use crate::{Decision, Observation, Reason};

pub use settings::PredictiveSettings;

/// Ticks over which the burst floor remembers the largest load.
const BURST_TICKS: usize = 500;

/// `L`: ticks that a load of the first version is the mean of.
const LOAD_TICKS: usize = 2;

/// Longest start delay that is looked ahead, in ticks.
const DELAY_MAX: usize = 600;

/// Completions that weigh as much as what was known before about the service time, and starts that weigh as
/// much as what was known before about the start delay.
const SERVICE_WEIGHT: f64 = 200.0;
const START_WEIGHT: f64 = 3.0;

/// How fast the variability of service times is learnt, and how much one tick can say.
const VARIABILITY_GAIN: f64 = 0.005;
const VARIABILITY_MAX: f64 = 9.0;

/// Backlogs of no more requests than this are left to what is there.
const BACKLOG_MIN: f64 = 2.0;

/// Start delay in seconds at which half as many unforeseen requests stay uncovered: who waits for a new pod waits
/// longer.
const STANDING_DELAY: f64 = 240.0;

/// When expected work is due is an estimate: what counts is its mean over half a start delay after one start delay.
const EXPECTED_SPAN: f64 = 1.5;

/// How much of the requests that were announced and have not come a tick still waits for.
const OWED: f64 = 0.8;

/// Our own policy: it forecasts the load at the start delay, staffs for a wait, and keeps standing what pays for
/// itself.
///
/// With `Q` requests waiting, `R` slots ready, `G` starting, `y` arrivals of a tick and `h` the start delay `d` in
/// ticks and one:
///
/// 1. The mean service time `S`, its variability `c²` and the start delay follow what is measured.
/// 2. A bank of filters follows the arrivals, levels with memories from two ticks to eighty and trends with
///    memories up to ten minutes; those weigh most that foretold the last counts best, and each knows how certain
///    it is. A lone spike is not believed.
/// 3. The load `a` at `h` is a distribution; `ne` are the fewest servers with which at most a share `ε` of the
///    requests waits too long, over all of it: the mean of
///    `ErlangC(n, a)·exp(−2(n − a)·objective/(S·(1 + c²)))` (Allen and Cunneen), weighted by `a`.
/// 4. Look-ahead: what is [expected](crate::Expected) at `h` adds to `a`, and is taken from the arrivals that
///    the bank learns from when it comes. Pods that the work expected before then will need are not given up.
/// 5. Backlog: what will be left when a new pod is up, `Q` and what comes less `R·d/S` and `G·d/(2S)`, is served
///    in `T`.
/// 6. A need counts when it has been there for some ticks in a row: where a pod starts slowly, a short burst is
///    over before the pod is up.
/// 7. Standing: the loads that came though fewer slots had been provided are remembered, weighted by requests;
///    a share of them stays covered. Where bursts come from nothing it is pods that are there that help.
/// 8. Hold: the largest need of the last `H` ticks; a step down of at most `max(1, cur/10)` waits for the
///    largest of 100.
///
/// The presets whose names begin with `CANDIDATE` are its first version, kept to compare with: in steps 2 and 3
/// one Kalman filter of level and damped slope forecasts one load, steps 4 and 6 are missing, and in place of
/// step 7 are a margin, the quantile of the forecast's errors in 600 ticks, and a share of the largest load of 500.
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
    /// Mean service time in seconds, and its squared coefficient of variation.
    service: f64,
    variability: f64,
    /// Start delay in seconds.
    delay: f64,
    trend: Trend,
    bank: Bank,
    arrivals: Recent<u64>,
    /// Load and servers that were forecast, of the ticks that have not come yet.
    forecasts: Recent<(f64, u32)>,
    /// Requests that were expected, of the ticks that have not come yet; and those whose tick has and that have not.
    announced: Recent<f64>,
    owed: f64,
    margin: Margin,
    standing: Standing,
    /// Needs of the last ticks, before they are confirmed.
    needs: Recent<u32>,
    burst: Peak<f64>,
    hold: Peak<u32>,
    calm: Peak<u32>,
    ticks: u64,
    desired: u32,
}

/// The largest need so far, and the rule that gave it.
#[derive(Clone, Copy, Debug)]
struct Need {
    slots: u32,
    reason: Reason,
}

impl Need {
    fn at_least(&mut self, slots: u32, reason: Reason) {
        if slots > self.slots {
            *self = Self { slots, reason };
        }
    }
}

impl Predictive {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(settings: PredictiveSettings, conditions: &Conditions) -> Self {
        let mut policy = Self { settings, conditions: *conditions, state: PredictiveState::default() };
        policy.state.service = conditions.service_prior.as_f64();
        policy.state.variability = 1.0;
        policy.state.delay = conditions.start_delay.as_f64();
        policy.state.margin = Margin::new();
        policy.state.standing = Standing::new();
        policy.make_room();
        policy
    }

    /// How uncertain the filters are of level and slope, for tests of their health.
    #[must_use]
    pub fn covariances(&self) -> Vec<[[f64; 2]; 2]> {
        match self.settings.version {
            Version::First(_) => vec![self.state.trend.covariance()],
            Version::Second(_) => self.state.bank.covariances().to_vec(),
        }
    }

    /// The start delay in ticks, as far as it is looked ahead.
    fn delay_ticks(&self) -> f64 {
        (self.state.delay / self.conditions.tick.as_f64()).clamp(0.0, DELAY_MAX as f64)
    }

    fn horizon(&self) -> usize {
        to_count(self.delay_ticks().ceil()) as usize + 1
    }

    fn hold_ticks(&self, delay_ticks: f64) -> usize {
        let ticks = self.settings.hold_ticks + self.settings.hold_delays * delay_ticks;
        (to_count(ticks.ceil()) as usize).max(10)
    }

    fn confirm_ticks(&self, second: &Second, delay_ticks: f64) -> usize {
        second.confirm_ticks.max(1 + to_count(second.confirm_delays * delay_ticks) as usize)
    }

    /// Room for the longest start delay, since it is learnt; nothing that a stored state has too much.
    fn make_room(&mut self) {
        let longest = DELAY_MAX as f64;
        let hold_ticks = self.hold_ticks(longest);
        let confirm_ticks = match &self.settings.version {
            Version::First(_) => 0,
            Version::Second(second) => self.confirm_ticks(second, longest),
        };
        let state = &mut self.state;
        state.arrivals.fit(LOAD_TICKS);
        state.forecasts.fit(DELAY_MAX + 1);
        state.announced.fit(DELAY_MAX + 1);
        state.needs.fit(confirm_ticks);
        state.burst.fit(BURST_TICKS, |load| load.is_finite() && load >= 0.0);
        state.hold.fit(hold_ticks, |_| true);
        state.calm.fit(self.settings.calm_ticks, |_| true);
    }

    /// What the tick says about service times and about starts.
    fn learn_times(&mut self, observation: &Observation) {
        let state = &mut self.state;
        if observation.completions > 0 {
            let completions = observation.completions as f64;
            let time = observation.service_time.as_f64();
            let error = time - completions * state.service;
            let spread = error * error / (completions * state.service * state.service);
            state.variability += VARIABILITY_GAIN * (spread.min(VARIABILITY_MAX) - state.variability);
            state.service +=
                completions / (completions + SERVICE_WEIGHT) * (time / completions - state.service);
        }
        state.service = state.service.max(1e-6);
        if observation.started > 0 {
            let started = f64::from(observation.started);
            let mean = observation.start_time.as_f64() / started;
            state.delay += started / (started + START_WEIGHT) * (mean - state.delay);
        }
    }

    fn predict(&mut self, observation: &Observation) -> (Need, f64) {
        self.learn_times(observation);
        match self.settings.version {
            Version::First(first) => self.predict_first(&first, observation),
            Version::Second(second) => self.predict_second(&second, observation),
        }
    }

    fn predict_first(&mut self, first: &First, observation: &Observation) -> (Need, f64) {
        let horizon = self.horizon();
        let slo = self.conditions.wait_objective.as_f64();
        let arrivals = observation.arrivals.min(REQUESTS_MAX);
        let state = &mut self.state;
        let service = state.service;
        state.trend.observe(arrivals as f64, &first.trend);
        let level = state.trend.level;
        let load = service * (level + state.trend.change(horizon as f64));
        let servers = servers_for(load, slo / service, self.settings.miss);

        state.arrivals.push(arrivals, LOAD_TICKS);
        let recent: u64 = state.arrivals.iter().sum();
        let seen = service * recent as f64 / LOAD_TICKS as f64; // nothing came before the first tick
        if let Some((load, servers)) = state.forecasts.push((load, servers), horizon) {
            state.margin.observe((seen - f64::from(servers)) / (load + 1.0).sqrt(), arrivals);
        }
        let margin = state.margin.quantile(first.cover);
        let burst = state.burst.push(seen, BURST_TICKS);
        let mut need = Need { slots: servers, reason: Reason::Forecast };
        need.at_least(
            servers.saturating_add(to_count((margin * (load + 1.0).sqrt()).ceil())),
            Reason::Margin,
        );
        need.at_least(self.backlog(observation, level, load), Reason::Backlog);
        need.at_least(to_count((first.burst_floor * burst).floor()), Reason::BurstFloor);
        (need, load)
    }

    fn predict_second(&mut self, second: &Second, observation: &Observation) -> (Need, f64) {
        let (horizon, delay_ticks) = (self.horizon(), self.delay_ticks());
        let tick = self.conditions.tick.as_f64();
        let slo = self.conditions.wait_objective.as_f64();
        let arrivals = observation.arrivals.min(REQUESTS_MAX) as f64;
        let state = &mut self.state;
        let service = state.service;
        let expected = observation.expected.per_second(state.delay, EXPECTED_SPAN * state.delay + tick);
        let due = state.announced.push(expected * tick, horizon).unwrap_or(0.0);
        state.owed = OWED * state.owed + due;
        let announced = state.owed.min(arrivals);
        state.owed -= announced;

        state.bank.observe(arrivals - announced);
        let (mut loads, load) = state.bank.loads(horizon as f64, service);
        let known = service * expected;
        for it in loads.iter_mut().filter(|it| it.weight > 0.0) {
            it.load += known;
        }
        let load = load + known;
        let wait = slo / service * 2.0 / (1.0 + state.variability);
        let servers = servers_for_any(&loads, wait, self.settings.miss);
        let seen = service * arrivals;
        let provided =
            state.forecasts.push((load, servers), horizon).map_or(u32::MAX, |(_, servers)| servers);
        state.standing.observe(seen, provided, arrivals);
        let uncovered = (1.0 - second.standing) / (1.0 + state.delay / STANDING_DELAY);
        let standing = to_count(state.standing.load(1.0 - uncovered).ceil());
        let soon = service * observation.expected.per_second_most(state.delay);

        let mut need = Need { slots: servers, reason: Reason::Forecast };
        need.at_least(self.backlog(observation, self.state.bank.rate, load), Reason::Backlog);
        need.at_least(standing, Reason::Standing);
        let confirm_ticks = self.confirm_ticks(second, delay_ticks);
        self.state.needs.push(need.slots, confirm_ticks);
        need.slots = self.state.needs.iter().min().unwrap_or(need.slots);
        let there = observation.current().saturating_mul(observation.slots_per_pod.get());
        need.at_least(to_count(soon.ceil()).min(there), Reason::Expected);
        (need, load)
    }

    /// Slots with which the requests that will still wait when a new pod is up are served in time.
    fn backlog(&self, observation: &Observation, rate: f64, load: f64) -> u32 {
        let (settings, state) = (&self.settings, &self.state);
        let (service, delay) = (state.service, state.delay);
        let slots = f64::from(observation.slots_per_pod.get());
        let (ready, starting) =
            (f64::from(observation.ready) * slots, f64::from(observation.starting) * slots);
        let expected = observation.expected.until(delay);
        let waiting = observation.waiting as f64;
        let coming = (rate * delay).max(expected);
        let left = waiting + coming - ready * delay / service - starting * delay / (2.0 * service);
        let left = left.clamp(0.0, settings.backlog_cap * (waiting + expected));
        if left <= BACKLOG_MIN {
            return 0;
        }
        let within = settings.backlog_seconds + settings.backlog_per_delay * delay;
        to_count((load + left * service / within).ceil())
    }

    fn hold(&mut self, need: u32, observation: &Observation, decision: &mut Decision) {
        let current = observation.current();
        let hold_ticks = self.hold_ticks(self.delay_ticks());
        let held = self.state.hold.push(need, hold_ticks);
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
            let (need, load) = self.predict(observation);
            let reason = need.reason;
            let need = observation.pods_for(need.slots.into());
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
        let conditions = self.conditions;
        let state = &mut self.state;
        let sound = |value: &mut f64, low: f64, prior: f64| {
            if !(value.is_finite() && *value >= low) {
                *value = prior;
            }
        };
        sound(&mut state.service, 1e-6, conditions.service_prior.as_f64());
        sound(&mut state.variability, 0.0, 1.0);
        sound(&mut state.delay, 0.0, conditions.start_delay.as_f64());
        sound(&mut state.owed, 0.0, 0.0);
        state.trend.fit();
        state.bank.fit();
        state.margin.fit();
        state.standing.fit();
        self.make_room();
    }

    fn state(&self) -> PredictiveState {
        self.state.clone()
    }
}
