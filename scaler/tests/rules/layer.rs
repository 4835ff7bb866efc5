use std::collections::VecDeque;
use std::num::NonZeroU32;

use quorate_scaler::{Observation, Seconds};

/// A layer that always holds the same number of requests: the most constant load there is. It obeys.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) now: Seconds,
    pub(crate) requests: u64,
    pub(crate) slots_per_pod: NonZeroU32,
    pub(crate) start_delay: Seconds,
    pub(crate) ready: u32,
    /// When each starting pod will be ready, soonest first.
    pub(crate) starting: VecDeque<Seconds>,
}

impl Layer {
    pub(crate) fn observe(&self) -> Observation {
        let slots = u64::from(self.ready) * u64::from(self.slots_per_pod.get());
        let in_service = self.requests.min(slots);
        Observation {
            now: self.now,
            waiting: self.requests - in_service,
            in_service,
            arrivals: self.requests,
            completions: self.requests,
            ready: self.ready,
            starting: u32::try_from(self.starting.len()).unwrap(),
            slots_per_pod: self.slots_per_pod,
            ..Observation::default()
        }
    }

    pub(crate) fn pods(&self) -> u32 {
        self.ready + u32::try_from(self.starting.len()).unwrap()
    }

    /// Orders or removes pods, starting ones first, and lets a second pass.
    pub(crate) fn obey(&mut self, desired: u32) {
        while self.pods() < desired {
            self.starting.push_back(self.now.saturating_add(self.start_delay));
        }
        while self.pods() > desired {
            if self.starting.pop_back().is_none() {
                self.ready -= 1;
            }
        }
        self.now = self.now.saturating_add(Seconds::new(1));
        while self.starting.front().is_some_and(|up| *up <= self.now) {
            self.starting.pop_front();
            self.ready += 1;
        }
    }
}
