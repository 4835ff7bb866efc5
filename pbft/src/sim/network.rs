//! The network: delays, losses, duplicates, and links that are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::byzzfuzz::Fuzz;
use super::random::Random;
use crate::crypto::Principal;

/// How the network treats messages. Reordering comes from delays that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest delay.
    pub delay_min: Duration,
    /// The longest delay.
    pub delay_max: Duration,
    /// Messages lost, per mille.
    pub loss: u64,
    /// Messages that arrive twice, per mille.
    pub duplication: u64,
}

impl Weather {
    /// Every message arrives once, after a millisecond.
    #[must_use]
    pub fn calm() -> Self {
        let delay = Duration::from_millis(1);
        Self { delay_min: delay, delay_max: delay, loss: 0, duplication: 0 }
    }
}

/// Links between principals, each direction for itself.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) weather: Weather,
    /// Faults that strike by the protocol's rounds instead.
    pub(super) fuzz: Fuzz,
    cut: BTreeSet<(Principal, Principal)>,
    /// What is added to every delay.
    slow: BTreeMap<(Principal, Principal), Duration>,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self { weather, fuzz: Fuzz::default(), cut: BTreeSet::new(), slow: BTreeMap::new() }
    }

    pub(super) fn cut(&mut self, from: Principal, to: Principal) {
        self.cut.insert((from, to));
    }

    pub(super) fn slow(&mut self, from: Principal, to: Principal, longer: Duration) {
        self.slow.insert((from, to), longer);
    }

    pub(super) fn mend(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.fuzz.mend();
    }

    pub(super) fn is_cut(&self, from: Principal, to: Principal) -> bool {
        self.cut.contains(&(from, to))
    }

    /// After which delays copies of a message arrive.
    pub(super) fn fate(&self, random: &mut Random, from: Principal, to: Principal) -> [Option<Duration>; 2] {
        if self.is_cut(from, to) || random.chance(self.weather.loss) {
            return [None, None];
        }
        let Weather { delay_min, delay_max, duplication, .. } = self.weather;
        let longer = self.slow.get(&(from, to)).copied().unwrap_or_default();
        let first = longer + random.between(delay_min, delay_max);
        let second = random.chance(duplication).then(|| longer + random.between(delay_min, delay_max * 2));
        [Some(first), second]
    }
}
