use std::num::NonZeroU32;

use super::Policy;
use crate::{Decision, Observation, Reason, Seconds};

/// One pod more while the layer is longer than a threshold, one fewer after a while with an idle pod.
///
/// The rule of the report on a serverless platform for arithmetic expressions that Quorate grew from
/// (multi-layered message queue, step h): *if the length of any layer > 4, the cluster service creates a
/// pod of that functionality*. With `Q` requests waiting and `cur` pods ready or starting, at each tick:
///
/// - `Q > 4` → `cur + 1`;
/// - `Q = 0` and an idle pod, for 30 ticks in a row → `cur − 1`, and the count starts again;
/// - otherwise `cur`; never below the minimum.
///
/// The report never removes a pod: the second rule is ours. So is what happens to a sample that is not
/// valid: it keeps the larger of `cur` and the last decision, and ends a row of idle ticks, since nobody
/// knows whether the pod was idle then.
///
/// It needs no model and reacts in proportion to nothing: one pod a tick, whatever the backlog and however
/// long a pod takes to start. Good where load moves slowly, late at a step.
///
/// With the default minimum of 1 the layer always keeps a pod. To scale to zero, set the minimum to 0 and
/// wrap the policy in [`Limited`](crate::Limited), which orders the first pod: `Q = 1` never passes the
/// threshold.
#[derive(Clone, Debug)]
pub struct Threshold {
    settings: ThresholdSettings,
    state: ThresholdState,
}

/// The constants of a [`Threshold`]; the defaults are the ones in its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct ThresholdSettings {
    /// Requests that may wait before a pod is added.
    pub waiting_max: u64,
    /// Ticks in a row with an idle pod before one is removed.
    pub idle_ticks: NonZeroU32,
    /// Fewest pods.
    pub pods_min: u32,
    /// Time between ticks. Only [`Decision::wake_at`] depends on it: the rules count ticks.
    pub tick: Seconds,
}

impl Default for ThresholdSettings {
    fn default() -> Self {
        Self {
            waiting_max: 4,
            idle_ticks: NonZeroU32::new(30).expect("30 is not 0"),
            pods_min: 1,
            tick: Seconds::new(1),
        }
    }
}

/// What a [`Threshold`] remembers between ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct ThresholdState {
    /// Ticks in a row with nothing waiting and an idle pod.
    idle_ticks: u32,
    /// The last decision.
    desired: u32,
}

impl Threshold {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(settings: ThresholdSettings) -> Self {
        Self { settings, state: ThresholdState::default() }
    }
}

impl Policy for Threshold {
    type State = ThresholdState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let current = observation.current();
        let idle = observation.valid && observation.waiting == 0 && observation.has_idle_pod();
        self.state.idle_ticks = if idle { self.state.idle_ticks.saturating_add(1) } else { 0 };

        let (desired, reason) = if !observation.valid {
            (current.max(self.state.desired), Reason::InvalidSample)
        } else if observation.waiting > self.settings.waiting_max {
            (current.saturating_add(1), Reason::LayerLong)
        } else if self.state.idle_ticks >= self.settings.idle_ticks.get() {
            self.state.idle_ticks = 0;
            (current.saturating_sub(1), Reason::PodIdle)
        } else {
            (current, Reason::Steady)
        };

        let wake_at = observation.now.saturating_add(self.settings.tick);
        let mut decision = Decision { desired, reason, forecast: None, wake_at };
        decision.replace(desired.max(self.settings.pods_min), Reason::PodsMin);
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: ThresholdState) {
        self.state = state;
    }

    fn state(&self) -> ThresholdState {
        self.state
    }
}
