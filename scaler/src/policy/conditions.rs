use crate::Seconds;

/// What a policy is told about its layer beforehand, as far as it wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Conditions {
    /// From the order of a pod to its first request.
    pub start_delay: Seconds,
    /// How long a request may wait.
    pub wait_objective: Seconds,
    /// Mean service time as long as none was measured.
    pub service_prior: Seconds,
    /// Fewest pods that it asks for; with 0 it may do without. [`Limits`](crate::Limits) bind whatever it asks.
    pub pods_min: u32,
    /// Time between ticks.
    pub tick: Seconds,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            start_delay: Seconds::new(10),
            wait_objective: Seconds::new(1),
            service_prior: Seconds::from_micros(500_000),
            pods_min: 1,
            tick: Seconds::new(1),
        }
    }
}
