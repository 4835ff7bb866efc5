//! All the randomness of a run comes from its seed.

use std::time::Duration;

use crate::group::splitmix;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed ^ 0x5851_f42d_4c95_7f2d;
        splitmix(&mut state);
        Self(state)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        splitmix(&mut self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below_u32(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(bound.into())).expect("below a u32")
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A duration from `least` to `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = u64::try_from((most - least).as_nanos()).expect("a run is shorter than centuries");
        least + Duration::from_nanos(self.below(spread + 1))
    }
}
