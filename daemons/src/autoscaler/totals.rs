//! What schedulers have counted since they were last asked.

use crate::{proto::FunctionSample, scheduler::ahead::BINS};
use std::collections::HashMap;

/// What happened at a function, and how it is now, over all schedulers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Operations that became ready.
    pub(super) arrivals: u64,
    /// Operations that were answered.
    pub(super) completions: u64,
    /// Microseconds that those were at a worker, and from ready to answered.
    pub(super) service_us: u64,
    /// See [`service_us`](Self::service_us).
    pub(super) response_us: u64,
    /// Operations at workers now.
    pub(super) in_service: u64,
    /// Operations that are ready now and at no worker.
    pub(super) held: u64,
    /// Operations that will become ready.
    pub(super) ahead: [u32; BINS],
}

impl Sample {
    /// The same after more has happened.
    pub(super) fn and(&self, later: &Self) -> Self {
        Self {
            arrivals: self.arrivals + later.arrivals,
            completions: self.completions + later.completions,
            service_us: self.service_us + later.service_us,
            response_us: self.response_us + later.response_us,
            ..later.clone()
        }
    }

    fn count(&mut self, now: &FunctionSample, before: Option<&FunctionSample>) {
        // One that nobody has asked yet may have counted for hours: that is no burst. One that started again
        // counts from zero: that is nothing negative.
        let since = |total: fn(&FunctionSample) -> u64| {
            before.map_or(0, |before| total(now).saturating_sub(total(before)))
        };
        self.arrivals += since(|sample| sample.arrivals);
        self.completions += since(|sample| sample.completions);
        self.service_us += since(|sample| sample.service_us);
        self.response_us += since(|sample| sample.response_us);
        let in_service = u64::from(now.in_service);
        self.in_service += in_service;
        self.held += now.arrivals.saturating_sub(now.completions).saturating_sub(in_service);
        for (sum, ahead) in self.ahead.iter_mut().zip(&now.ahead) {
            *sum = sum.saturating_add(*ahead);
        }
    }
}

/// What each scheduler told last, by its address.
#[derive(Debug, Default)]
pub(super) struct Totals(HashMap<String, Vec<FunctionSample>>);

impl Totals {
    /// What is new in what all of them tell now, by function.
    pub(super) fn since(&mut self, told: HashMap<String, Vec<FunctionSample>>) -> HashMap<String, Sample> {
        let mut sums: HashMap<String, Sample> = HashMap::new();
        for (address, functions) in &told {
            let before = self.0.get(address).map(Vec::as_slice).unwrap_or_default();
            for now in functions {
                let before = before.iter().find(|before| before.function == now.function);
                sums.entry(now.function.clone()).or_default().count(now, before);
            }
        }
        self.0 = told;
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &str, arrivals: u64, completions: u64) -> (String, Vec<FunctionSample>) {
        let sample = FunctionSample {
            function: "add".into(),
            arrivals,
            completions,
            in_service: 1,
            service_us: 10 * completions,
            response_us: 20 * completions,
            ahead: vec![3, 1],
        };
        (address.into(), vec![sample])
    }

    fn add(totals: &mut Totals, all: &[(String, Vec<FunctionSample>)]) -> Sample {
        totals.since(all.iter().cloned().collect())["add"].clone()
    }

    #[test]
    fn what_a_scheduler_did_before_it_was_known_is_no_burst() {
        let mut totals = Totals::default();
        let first = add(&mut totals, &[told("a", 1_000_000, 999_990)]);
        assert_eq!((first.arrivals, first.completions, first.in_service, first.held), (0, 0, 1, 9));
        let second = add(&mut totals, &[told("a", 1_000_007, 999_995), told("b", 500, 500)]);
        assert_eq!((second.arrivals, second.completions, second.in_service, second.held), (7, 5, 2, 11));
        assert_eq!((second.service_us, second.response_us), (50, 100));
        assert_eq!(second.ahead[..3], [6, 2, 0]);
        // One that is away for a while, and one that has started again.
        add(&mut totals, &[told("b", 503, 500)]);
        let back = add(&mut totals, &[told("a", 2_000_000, 2_000_000), told("b", 2, 1)]);
        assert_eq!((back.arrivals, back.completions), (0, 0));
    }

    #[test]
    fn what_happened_adds_up_and_how_it_is_does_not() {
        let mut totals = Totals::default();
        add(&mut totals, &[told("a", 0, 0)]);
        let one = add(&mut totals, &[told("a", 5, 2)]);
        let both = one.and(&add(&mut totals, &[told("a", 9, 9)]));
        assert_eq!((both.arrivals, both.completions, both.in_service, both.held), (9, 9, 1, 0));
        assert_eq!((both.service_us, both.ahead[0]), (90, 3));
    }
}
