use std::fmt;

use crate::{Observation, Seconds};

/// What a policy wants after one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Decision {
    /// Pods that shall be ready or starting.
    pub desired: u32,
    /// The rule that gave this number.
    pub reason: Reason,
    /// The load, in busy slots, expected when a pod ordered now would be up, if the policy forecasts one.
    /// Finite.
    pub forecast: Option<f64>,
    /// The latest instant at which the policy wants to be called again. Earlier is allowed only when a
    /// request arrives at a layer without pods: for a policy, a call is a tick.
    pub wake_at: Seconds,
}

impl Decision {
    /// What is there stays; and as nobody knows how a layer is whose sample is not valid, no less than was
    /// desired last.
    pub(crate) fn keep(observation: &Observation, last: u32, tick: Seconds) -> Self {
        let current = observation.current();
        let wake_at = observation.now.saturating_add(tick);
        let mut decision = Self { desired: current, reason: Reason::Steady, forecast: None, wake_at };
        if !observation.valid {
            decision.replace(current.max(last), Reason::InvalidSample);
        }
        decision
    }

    /// Decides for `desired` instead; the reason stays when the number was the same already.
    pub(crate) fn replace(&mut self, desired: u32, reason: Reason) {
        if self.desired != desired {
            self.desired = desired;
            self.reason = reason;
        }
    }
}

/// The rule that decided, one name for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reason {
    /// Nothing asks for a change.
    Steady,
    /// The sample is not valid: the count stays where it is.
    InvalidSample,
    /// More requests wait than the threshold allows.
    LayerLong,
    /// A pod has been idle long enough.
    PodIdle,
    /// The busy share of the pods is off its target.
    Utilisation,
    /// The requests in the system are too many or too few for the pods.
    LayerLength,
    /// The mean number of requests in the system over the stable window.
    Concurrency,
    /// The mean number of requests in the system over the panic window was far over the pods.
    Panic,
    /// The backlog per pod is off its target.
    BacklogPerPod,
    /// The queueing model needs this many for the objective.
    Model,
    /// The load that is forecast.
    Forecast,
    /// The forecast, and as much as it was wrong lately.
    Margin,
    /// Requests that will still wait when a new pod is up.
    Backlog,
    /// A share of the largest recent burst.
    BurstFloor,
    /// A share of the requests that come unforeseen stays covered.
    Standing,
    /// Work that is known to come before a new pod would be up.
    Expected,
    /// A larger need of the last ticks is held.
    Hold,
    /// A small step down waits for a minute without a larger need.
    SmallStep,
    /// Fewer pods than the minimum.
    PodsMin,
    /// More pods than the maximum.
    PodsMax,
    /// More pods at once than one decision may add.
    StepUp,
    /// More pods at once than one decision may remove.
    StepDown,
    /// The changes of this minute are used up.
    ChangeBudget,
    /// Scaling is paused.
    Paused,
    /// Too many samples in a row were not valid: the fallback count holds.
    Fallback,
    /// A request waits and there is no pod.
    FirstRequest,
    /// The last pod stays until it has been idle for its keep-alive.
    KeepAlive,
    /// The last pod was idle for its keep-alive.
    ScaledToZero,
}

impl Reason {
    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::InvalidSample => "invalid_sample",
            Self::LayerLong => "layer_long",
            Self::PodIdle => "pod_idle",
            Self::Utilisation => "utilisation",
            Self::LayerLength => "layer_length",
            Self::Concurrency => "concurrency",
            Self::Panic => "panic",
            Self::BacklogPerPod => "backlog_per_pod",
            Self::Model => "model",
            Self::Forecast => "forecast",
            Self::Margin => "margin",
            Self::Backlog => "backlog",
            Self::BurstFloor => "burst_floor",
            Self::Standing => "standing",
            Self::Expected => "expected",
            Self::Hold => "hold",
            Self::SmallStep => "small_step",
            Self::PodsMin => "pods_min",
            Self::PodsMax => "pods_max",
            Self::StepUp => "step_up",
            Self::StepDown => "step_down",
            Self::ChangeBudget => "change_budget",
            Self::Paused => "paused",
            Self::Fallback => "fallback",
            Self::FirstRequest => "first_request",
            Self::KeepAlive => "keep_alive",
            Self::ScaledToZero => "scaled_to_zero",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
