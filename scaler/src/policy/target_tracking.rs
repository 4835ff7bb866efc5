use super::timer::Timer;
use super::{Conditions, Policy};
use crate::queueing::to_count;
use crate::{Decision, Observation, Reason, Seconds};

/// Between two data points of the metric.
const PERIOD: Seconds = Seconds::new(60);

/// Periods in a row over the target before pods are added.
const HIGH_PERIODS: u32 = 3;

/// Periods in a row under 90 % of the target before pods are removed.
const LOW_PERIODS: u32 = 15;

/// AWS target tracking on the backlog per instance.
///
/// Source: AWS, Amazon EC2 Auto Scaling user guide, "Scaling policy based on Amazon SQS": the target is the
/// acceptable latency over the mean service time. Every 60 s `x` is the mean number of requests that wait over
/// the mean number of ready slots, `R` of that minute. 3 periods in a row with `x > target` →
/// `max(cur, ceil(R·x/target))`; 15 in a row with `x < 0.9·target` → at the 15th and each further low one
/// `cur − max(1, floor(cur/10))`, at least one.
/// AWS does not publish the size of its steps down: the 10 % is an assumption.
#[derive(Clone, Debug)]
pub struct TargetTracking {
    target: f64,
    tick: Seconds,
    pods_min: u32,
    state: TargetTrackingState,
}

/// What a [`TargetTracking`] remembers between ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct TargetTrackingState {
    period: Timer,
    waiting: u64,
    slots: u64,
    /// Ticks that both are sums of.
    ticks: u64,
    high_periods: u32,
    low_periods: u32,
    desired: u32,
}

impl TargetTracking {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(conditions: &Conditions) -> Self {
        let target = conditions.wait_objective.as_f64() / conditions.service_prior.as_f64();
        let target = if target.is_finite() && target > 0.0 { target } else { 1.0 };
        Self {
            target,
            tick: conditions.tick,
            pods_min: conditions.pods_min,
            state: TargetTrackingState::default(),
        }
    }

    fn track(&mut self, observation: &Observation, decision: &mut Decision) {
        let current = observation.current();
        let backlog = self.state.waiting as f64 / self.state.slots as f64;
        // Requests that wait for no pod at all are an endless backlog each.
        let backlog = if backlog.is_nan() { 0.0 } else { backlog };
        let (high, low) = (backlog > self.target, backlog < 0.9 * self.target);
        self.state.high_periods = if high { self.state.high_periods.saturating_add(1) } else { 0 };
        self.state.low_periods = if low { self.state.low_periods.saturating_add(1) } else { 0 };
        if self.state.high_periods >= HIGH_PERIODS {
            let slots = (self.state.slots as f64 / self.state.ticks as f64).max(1.0);
            let wanted =
                to_count((slots / f64::from(observation.slots_per_pod.get()) * backlog / self.target).ceil());
            decision.replace(current.max(wanted), Reason::BacklogPerPod);
        } else if self.state.low_periods >= LOW_PERIODS {
            decision.replace(current.saturating_sub((current / 10).max(1)), Reason::BacklogPerPod);
        }
    }
}

impl Policy for TargetTracking {
    type State = TargetTrackingState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut decision = Decision::keep(observation, self.state.desired, self.tick);
        let due = self.state.period.due(observation.now, PERIOD);
        if observation.valid {
            let slots = u64::from(observation.ready) * u64::from(observation.slots_per_pod.get());
            self.state.waiting = self.state.waiting.saturating_add(observation.waiting);
            self.state.slots = self.state.slots.saturating_add(slots);
            self.state.ticks = self.state.ticks.saturating_add(1);
        }
        if due {
            if observation.valid {
                self.track(observation, &mut decision);
            }
            (self.state.waiting, self.state.slots, self.state.ticks) = (0, 0, 0);
        }
        if observation.valid {
            decision.replace(decision.desired.max(self.pods_min), Reason::PodsMin);
        }
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: TargetTrackingState) {
        self.state = state;
    }

    fn state(&self) -> TargetTrackingState {
        self.state
    }
}
