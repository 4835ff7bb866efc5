use super::hpa::{SYNC, TOLERANCE};
use super::stabilised::Stabilised;
use super::timer::Timer;
use super::{Conditions, Policy};
use crate::queueing::to_count;
use crate::{Decision, Observation, Reason, Seconds};

/// KEDA's `pollingInterval`.
const POLL: Seconds = Seconds::new(30);

/// KEDA's `cooldownPeriod`.
const COOLDOWN: Seconds = Seconds::new(300);

/// KEDA's scaler for SQS: messages per pod.
///
/// Source: KEDA, `pkg/scalers/aws_sqs_queue_scaler.go` and `pkg/scaling/executor/scale_scaledobjects.go` at
/// `8b4f083c`. `N` is what waits and what is in service, by default. Every 30 s: from no pods, `N > 0` → 1;
/// `N = 0` for more than 300 s → 0. Every 15 s, with `cur > 0`, the horizontal pod autoscaler acts on `N`
/// with `L` messages a slot: `|1 − N/(L·cur)| > 0.1` → `ceil(N/L)`, then its window and its largest step.
///
/// `L = 5` is the default, `L = 1` what low latency needs.
#[derive(Clone, Debug)]
pub struct Keda {
    queue_length: u32,
    tick: Seconds,
    state: KedaState,
}

/// What a [`Keda`] remembers between ticks.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct KedaState {
    poll: Timer,
    sync: Timer,
    /// The last poll that saw a message.
    active_at: Option<Seconds>,
    stabilised: Stabilised,
    desired: u32,
}

impl Keda {
    /// A policy for this many messages a slot, at least 1 (`queueLength`).
    #[must_use]
    pub fn new(queue_length: u32, conditions: &Conditions) -> Self {
        let state = KedaState { stabilised: Stabilised::new(), ..KedaState::default() };
        Self { queue_length: queue_length.max(1), tick: conditions.tick, state }
    }

    /// The executor's part: from nothing and to nothing.
    fn activate(&mut self, observation: &Observation, messages: u64, decision: &mut Decision) {
        let now = observation.now;
        if messages > 0 {
            self.state.active_at = Some(now);
            if decision.desired == 0 {
                decision.replace(1, Reason::FirstRequest);
            }
            return;
        }
        let active_at = *self.state.active_at.get_or_insert(now);
        if active_at > now {
            self.state.active_at = Some(now);
        } else if now.saturating_sub(active_at) > COOLDOWN {
            decision.replace(0, Reason::ScaledToZero);
        }
    }
}

impl Policy for Keda {
    type State = KedaState;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let current = observation.current();
        let mut decision = Decision::keep(observation, self.state.desired, self.tick);
        let (poll, sync) =
            (self.state.poll.due(observation.now, POLL), self.state.sync.due(observation.now, SYNC));
        if observation.valid {
            let messages = observation.waiting.saturating_add(observation.in_service_with_draining());
            if sync && current > 0 {
                let slots = f64::from(current) * f64::from(observation.slots_per_pod.get());
                let wanted = messages as f64 / f64::from(self.queue_length);
                let changed = (1.0 - wanted / slots).abs() > TOLERANCE;
                let pods = to_count((wanted / f64::from(observation.slots_per_pod.get())).ceil());
                let recommended = if changed { pods } else { current };
                self.state.stabilised.decide(recommended, current, Reason::LayerLength, &mut decision);
                decision.replace(decision.desired.max(1), Reason::PodsMin);
            }
            if poll {
                self.activate(observation, messages, &mut decision);
            }
        }
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: KedaState) {
        self.state = state;
        self.state.stabilised.fit();
    }

    fn state(&self) -> KedaState {
        self.state.clone()
    }
}
