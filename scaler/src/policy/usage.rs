use crate::{Observation, Seconds};

/// What a layer has used since the last time it was taken: busy time and the time of its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Usage {
    pub(super) busy_time: Seconds,
    pub(super) slot_time: Seconds,
    last_at: Option<Seconds>,
}

impl Usage {
    /// Takes in a tick. Its pods, ready and draining, count for the time since the one before.
    pub(super) fn observe(&mut self, observation: &Observation) {
        let now = observation.now;
        let Some(last_at) = self.last_at.replace(now) else { return }; // what was busy before is of no known time
        let passed = now.saturating_sub(last_at).as_micros();
        let pods = u64::from(observation.ready.saturating_add(observation.draining));
        let slots = pods.saturating_mul(observation.slots_per_pod.get().into());
        self.slot_time = self.slot_time.saturating_add(Seconds::from_micros(slots.saturating_mul(passed)));
        self.busy_time = self.busy_time.saturating_add(observation.busy_time);
    }

    /// The busy share, if there was anything that could be busy.
    pub(super) fn utilisation(&self) -> Option<f64> {
        let share = self.busy_time.as_f64() / self.slot_time.as_f64();
        share.is_finite().then_some(share)
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        (self.busy_time, self.slot_time) = (Seconds::ZERO, Seconds::ZERO);
    }
}
