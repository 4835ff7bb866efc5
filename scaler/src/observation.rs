use std::num::NonZeroU32;

use crate::{Expected, Seconds};

/// What one layer looks like at one tick: the only thing that a policy ever sees.
///
/// A *layer* is the queue of one function and is scaled by itself. A *pod* is the unit that is added; it
/// serves `slots_per_pod` requests at a time. Requests are counted in slots and the layer is sized in pods:
/// [`pods_for`](Self::pods_for) goes from one to the other.
///
/// Sums (`arrivals` to `response_time`, `started`, `start_time`) are of what happened since the tick before;
/// everything else is the state at `now`.
///
/// ```
/// use quorate_scaler::{Observation, Seconds};
///
/// let observation =
///     Observation { now: Seconds::new(7), arrivals: 9, waiting: 6, in_service: 2, ready: 2, ..Observation::default() };
/// assert_eq!(observation.current(), 2);
/// assert!(!observation.has_idle_pod());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Observation {
    /// The instant of this tick, from an origin that every leader shares. A leader that counts from its own
    /// start makes time go backwards, which costs one keep-alive and one minute of changes, no more.
    pub now: Seconds,
    /// False when the sample failed or is older than three ticks. Then no count of requests below is read,
    /// and no decision goes below the one before. The counts of pods are the cluster's own and hold all the
    /// same. Who could not read those either leaves them 0 and carries the decision out upwards only: a
    /// scaler that has just started has no decision before to hold on to.
    pub valid: bool,
    /// Requests that reached the layer.
    pub arrivals: u64,
    /// Requests that were answered.
    pub completions: u64,
    /// Requests that wait for a slot now.
    pub waiting: u64,
    /// How long the first of them has waited.
    pub oldest_wait: Seconds,
    /// Requests that ready pods serve now (those of draining pods excluded).
    pub in_service: u64,
    /// Pods that take work.
    pub ready: u32,
    /// Pods that were ordered and are not up: all that the last order still lacks, so that
    /// [`current`](Self::current) is that order. A pod being replaced counts here. If a fresh order showed
    /// only later, it would be made twice.
    pub starting: u32,
    /// Pods that take no new work and leave when their requests end; also those about to, because the last
    /// order was for fewer.
    pub draining: u32,
    /// Requests that one pod serves at a time.
    pub slots_per_pod: NonZeroU32,
    /// Integral of the busy slots over time.
    pub busy_time: Seconds,
    /// Integral over time of the requests that wait or are served.
    pub in_system_time: Seconds,
    /// Time in service of the requests that were answered, summed.
    pub service_time: Seconds,
    /// Time from arrival to answer of the requests that were answered, summed.
    pub response_time: Seconds,
    /// Pods that took work for the first time.
    pub started: u32,
    /// Time from their order until then, summed: what a policy learns the start delay from.
    pub start_time: Seconds,
    /// What is known to come, if anybody knows.
    pub expected: Expected,
}

impl Observation {
    /// Pods ready or starting. Draining pods do not count: they never come back.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.ready.saturating_add(self.starting)
    }

    /// The fewest pods with at least this many slots; `u32::MAX` if there is no such number.
    #[must_use]
    pub fn pods_for(&self, slots: u64) -> u32 {
        u32::try_from(slots.div_ceil(u64::from(self.slots_per_pod.get()))).unwrap_or(u32::MAX)
    }

    /// Requests in service, with one at each draining pod: it would be gone otherwise.
    pub(crate) fn in_service_with_draining(&self) -> u64 {
        self.in_service.saturating_add(self.draining.into())
    }

    /// Whether the requests in service would fit on one ready pod fewer.
    ///
    /// With one slot per pod that is "a pod serves nothing"; with more, a pod's worth of slots is free even
    /// if dispatch has spread the requests over all pods.
    #[must_use]
    pub fn has_idle_pod(&self) -> bool {
        self.pods_for(self.in_service) < self.ready
    }
}

/// A measured layer in which nothing is and nothing happened, with no pods of one slot each.
impl Default for Observation {
    fn default() -> Self {
        Self {
            now: Seconds::ZERO,
            valid: true,
            arrivals: 0,
            completions: 0,
            waiting: 0,
            oldest_wait: Seconds::ZERO,
            in_service: 0,
            ready: 0,
            starting: 0,
            draining: 0,
            slots_per_pod: NonZeroU32::MIN,
            busy_time: Seconds::ZERO,
            in_system_time: Seconds::ZERO,
            service_time: Seconds::ZERO,
            response_time: Seconds::ZERO,
            started: 0,
            start_time: Seconds::ZERO,
            expected: Expected::default(),
        }
    }
}
