use super::stabilised::Stabilised;
use super::timer::Timer;
use super::usage::Usage;
use super::{Conditions, Policy};
use crate::queueing::to_count;
use crate::{Decision, Observation, Reason, Seconds};

/// Between two looks of the horizontal pod autoscaler: `--horizontal-pod-autoscaler-sync-period`.
pub(super) const SYNC: Seconds = Seconds::new(15);

/// Ratios this near 1 change nothing: `--horizontal-pod-autoscaler-tolerance`.
pub(super) const TOLERANCE: f64 = 0.1;

/// Kubernetes' horizontal pod autoscaler on CPU utilisation.
///
/// Source: Kubernetes, `pkg/controller/podautoscaler/{replica_calculator,horizontal}.go`, default behaviour.
/// With `R` pods ready, `G` starting, `cur = R + G`, every 15 s:
///
/// - `ratio` = busy time of these 15 s / time of the pods ready and draining, counted at each tick / target;
/// - pods that start are taken to use nothing: if `G > 0` and `ratio > 1`, `n = ratio·R/(R+G)` and the
///   recommendation is `ceil(n·(R+G))` if `n > 1.1`, else `cur`; otherwise `ceil(ratio·R)` if
///   `|1 − ratio| > 0.1`, else `cur`;
/// - a lower value becomes the largest recommendation of the last 300 s, at most `cur`;
/// - at most `max(cur + 4, 2·cur)`, at least one.
#[derive(Clone, Debug)]
pub struct Hpa {
    target: f64,
    tick: Seconds,
    pods_min: u32,
    state: HpaState,
}

/// What an [`Hpa`] remembers between ticks.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct HpaState {
    sync: Timer,
    usage: Usage,
    stabilised: Stabilised,
    desired: u32,
}

impl Hpa {
    /// A policy that keeps pods at this share of their capacity, 0.8 or 0.5 for instance.
    #[must_use]
    pub fn new(target: f64, conditions: &Conditions) -> Self {
        let state = HpaState { stabilised: Stabilised::new(), ..HpaState::default() };
        Self { target: target.clamp(0.01, 1.0), tick: conditions.tick, pods_min: conditions.pods_min, state }
    }

    /// What the last 15 s ask for, if they say anything.
    fn recommend(&self, observation: &Observation) -> Option<u32> {
        let (ready, current) = (f64::from(observation.ready), observation.current());
        let ratio = self.state.usage.utilisation()? / self.target;
        if observation.starting > 0 && ratio > 1.0 {
            let n = ratio * ready / f64::from(current);
            return Some(if n > 1.0 + TOLERANCE {
                to_count((n * f64::from(current)).ceil())
            } else {
                current
            });
        }
        Some(if (1.0 - ratio).abs() > TOLERANCE { to_count((ratio * ready).ceil()) } else { current })
    }
}

impl Policy for Hpa {
    type State = HpaState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let current = observation.current();
        let mut decision = Decision::keep(observation, self.state.desired, self.tick);
        let due = self.state.sync.due(observation.now, SYNC);
        if observation.valid {
            self.state.usage.observe(observation);
        }
        if due {
            if observation.valid
                && let Some(recommended) = self.recommend(observation)
            {
                self.state.stabilised.decide(recommended, current, Reason::Utilisation, &mut decision);
                decision.replace(decision.desired.max(self.pods_min), Reason::PodsMin);
            }
            self.state.usage.clear();
        }
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: HpaState) {
        self.state = state;
        self.state.stabilised.fit();
    }

    fn state(&self) -> HpaState {
        self.state.clone()
    }
}
