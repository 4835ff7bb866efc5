use super::timer::Timer;
use super::{Conditions, Policy};
use crate::queueing::to_count;
use crate::window::Recent;
use crate::{Decision, Observation, Reason, Seconds};

/// Between two looks: `tick-interval`.
const LOOK: Seconds = Seconds::new(2);

/// Ticks in the stable window (60 s) and in the panic window (10 % of it).
const STABLE: usize = 60;
const PANIC: usize = 6;

/// Requests in the system per slot: concurrency 1 at a target utilisation of 70 %.
const TARGET: f64 = 0.7;

/// Panic begins when the panic window asks for this many times the ready pods: `panic-threshold-percentage`.
const PANIC_RATIO: f64 = 2.0;

/// How long the stable window must have been empty before the last pod goes: `scale-to-zero-grace-period`.
const TO_ZERO: Seconds = Seconds::new(30);

/// Largest factors of one look: `max-scale-up-rate` and `max-scale-down-rate`.
const UP_RATE: u32 = 1000;
const DOWN_RATE: u32 = 2;

/// Knative's pod autoscaler: mean concurrency over a minute, over six seconds in a panic.
///
/// Source: Knative Serving, `pkg/autoscaler/scaling/autoscaler.go` and
/// `config/core/configmaps/autoscaler.yaml` at `98e5ef90`. Every 2 s, with `s` and `p` the mean number of
/// requests in the system over 60 s and 6 s: `ds = ceil(s/0.7)`, `dp = ceil(p/0.7)`, both kept in
/// `[floor(R/2), 1000·R]` with `R ≥ 1` pods ready. `dp/R ≥ 2`, before that is bounded, starts or renews the
/// panic, which ends 60 s after it was last renewed. In panic: the largest of `ds` and `dp` since it began;
/// outside: `ds`. To 0 when `s = 0` for 30 s, if the minimum allows it (`min-scale`).
#[derive(Clone, Debug)]
pub struct Kpa {
    tick: Seconds,
    pods_min: u32,
    state: KpaState,
}

/// What a [`Kpa`] remembers between ticks.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct KpaState {
    look: Timer,
    /// Seconds in the system and seconds that passed, of each tick.
    ticks: Recent<(Seconds, Seconds)>,
    last_at: Option<Seconds>,
    /// When the panic was last renewed, and the most pods since it began.
    panic: Option<(Seconds, u32)>,
    /// The last look at which the stable window was not empty, or the first of all.
    empty_since: Option<Seconds>,
    desired: u32,
}

impl Kpa {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(conditions: &Conditions) -> Self {
        let state = KpaState { ticks: Recent::new(STABLE), ..KpaState::default() };
        Self { tick: conditions.tick, pods_min: conditions.pods_min, state }
    }

    fn observe(&mut self, observation: &Observation) {
        let now = observation.now;
        let passed = now.saturating_sub(self.state.last_at.unwrap_or(now));
        if self.state.last_at.is_some_and(|last| last > now) {
            self.state.ticks.clear();
            self.state.panic = None;
            self.state.empty_since = None;
        } else if passed > Seconds::ZERO {
            self.state.ticks.push((observation.in_system_time, passed), STABLE);
        }
        self.state.last_at = Some(now);
    }

    /// The mean number of requests in the system over the last ticks.
    fn concurrency(&self, ticks: usize) -> f64 {
        let (mut in_system, mut passed) = (Seconds::ZERO, Seconds::ZERO);
        for (time, span) in self.state.ticks.iter().rev().take(ticks) {
            (in_system, passed) = (in_system.saturating_add(time), passed.saturating_add(span));
        }
        if passed == Seconds::ZERO { 0.0 } else { in_system.as_f64() / passed.as_f64() }
    }

    fn look(&mut self, observation: &Observation, decision: &mut Decision) {
        let now = observation.now;
        let (stable, panic) = (self.concurrency(STABLE), self.concurrency(PANIC));
        let ready = observation.ready.max(1);
        let target = TARGET * f64::from(observation.slots_per_pod.get());
        let bounded = |pods: u32| pods.clamp(observation.ready / DOWN_RATE, ready.saturating_mul(UP_RATE));
        let panic_pods = to_count((panic / target).ceil());
        let both = (bounded(to_count((stable / target).ceil())), bounded(panic_pods));

        if f64::from(panic_pods) / f64::from(ready) >= PANIC_RATIO {
            let most = self.state.panic.map_or(0, |(_, most)| most);
            self.state.panic = Some((now, most));
        } else if let Some((renewed, _)) = self.state.panic
            && now.saturating_sub(renewed) > Seconds::new(STABLE as u64)
        {
            self.state.panic = None;
        }
        if let Some((_, most)) = &mut self.state.panic {
            *most = both.0.max(both.1).max(*most);
            decision.replace(*most, Reason::Panic);
        } else {
            decision.replace(both.0, Reason::Concurrency);
        }

        let since = if stable > 0.0 { now } else { self.state.empty_since.unwrap_or(now) };
        self.state.empty_since = Some(since);
        if now.saturating_sub(since) >= TO_ZERO {
            (decision.desired, decision.reason) = (0, Reason::ScaledToZero);
        } else if observation.current() > 0 {
            decision.replace(decision.desired.max(1), Reason::KeepAlive);
        }
        decision.replace(decision.desired.max(self.pods_min), Reason::PodsMin);
    }
}

impl Policy for Kpa {
    type State = KpaState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut decision = Decision::keep(observation, self.state.desired, self.tick);
        let due = self.state.look.due(observation.now, LOOK);
        if observation.valid {
            self.observe(observation);
            if due {
                self.look(observation, &mut decision);
            }
        }
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: KpaState) {
        self.state = state;
        self.state.ticks.fit(STABLE);
    }

    fn state(&self) -> KpaState {
        self.state.clone()
    }
}
