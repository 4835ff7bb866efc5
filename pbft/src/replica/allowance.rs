//! How much one replica may ask of this one in a stretch of time.

use std::time::Duration;

use crate::time::Instant;

/// What was taken since a period began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    began: Option<Instant>,
    taken: u32,
}

/// What one replica may do for now; whoever takes its place begins anew.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowances {
    /// Requests that it vouches for.
    pub(super) vouch: Allowance,
    /// Batches that it wants.
    pub(super) want: Allowance,
    /// Views that it leaves.
    pub(super) leave: Allowance,
    /// SUCCESSIONs that prove nothing.
    pub(super) wrong: Allowance,
}

impl Allowance {
    /// Takes `weight`, unless that would be more than `most` in a period. The first in a period is
    /// never too much.
    pub(super) fn take(&mut self, now: Instant, period: Duration, weight: u32, most: u32) -> bool {
        if self.began.is_none_or(|began| now.since(began) >= period) {
            (self.began, self.taken) = (Some(now), 0);
        }
        let fits = self.taken == 0 || self.taken.saturating_add(weight) <= most;
        if fits {
            self.taken = self.taken.saturating_add(weight);
        }
        fits
    }

    /// Whether `most` was taken in the period that is running.
    pub(super) fn is_used_up(&self, now: Instant, period: Duration, most: u32) -> bool {
        self.taken >= most && self.began.is_some_and(|began| now.since(began) < period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_allowance_waits_for_the_next_period() {
        let (mut allowance, period) = (Allowance::default(), Duration::from_millis(50));
        let mut take =
            |ms, weight| allowance.take(Instant(0) + Duration::from_millis(ms), period, weight, 10);
        assert!(take(0, 4) && take(1, 6));
        assert!(!take(49, 1), "the eleventh");
        assert!(take(50, 99), "the first of a period, whatever its size");
        assert!(!take(51, 1));
        assert!(take(100, 1));
        let is_used_up =
            |ms, most| allowance.is_used_up(Instant(0) + Duration::from_millis(ms), period, most);
        assert!(is_used_up(149, 1) && !is_used_up(149, 2) && !is_used_up(150, 1));
    }
}
