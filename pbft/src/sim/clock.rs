//! A replica's clock: it may be ahead of others, and go faster or slower.

use std::time::Duration;

use crate::time::Instant;

/// Ticks of a right clock while a million of real ones pass.
pub(super) const RIGHT: u64 = 1_000_000;

/// What a replica takes for the time. It never goes back: a replica reads the wall clock once, when
/// it starts, and from then on counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When it was set.
    since: Instant,
    /// What it showed then.
    shown: Instant,
    /// How many ticks it counts in a million.
    ticks: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { since: Instant(0), shown: Instant(0), ticks: RIGHT }
    }
}

impl Clock {
    /// It leaps ahead, and goes at so many ticks in a million from now on.
    ///
    /// # Panics
    /// When it is to stand still.
    pub(super) fn set(&mut self, now: Instant, leap: Duration, ticks: u64) {
        assert!(ticks > 0, "a clock that stands still fires no timer");
        *self = Self { since: now, shown: self.read(now) + leap, ticks };
    }

    /// What it shows.
    pub(super) fn read(&self, now: Instant) -> Instant {
        self.shown + scale(now.since(self.since), self.ticks, RIGHT, 0)
    }

    /// When it shows this time, or a later one.
    pub(super) fn when(&self, shown: Instant) -> Instant {
        self.since + scale(shown.since(self.shown), RIGHT, self.ticks, self.ticks - 1)
    }
}

/// `duration · by / over` in nanoseconds, after `more` was added to the product.
fn scale(duration: Duration, by: u64, over: u64, more: u64) -> Duration {
    if by == over {
        return duration;
    }
    let nanos = (duration.as_nanos() * u128::from(by) + u128::from(more)) / u128::from(over);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_is_never_early_and_at_most_a_tick_late() {
        for ticks in [1, 700_001, 999_999, RIGHT, 1_000_001, 3_141_592] {
            let mut clock = Clock::default();
            clock.set(Instant(77), Duration::from_nanos(1000), ticks);
            for shown in [1077, 1078, 5000, 123_456_789] {
                let at = clock.when(Instant(shown));
                assert!(clock.read(at) >= Instant(shown), "{ticks} ticks: {shown} is not yet there");
                assert!(at == Instant(77) || clock.read(Instant(at.0 - 1)) < Instant(shown), "{ticks}: late");
            }
        }
    }

    #[test]
    fn clock_that_is_set_again_goes_on_from_what_it_showed() {
        let mut clock = Clock::default();
        clock.set(Instant(100), Duration::ZERO, 2 * RIGHT);
        assert_eq!(clock.read(Instant(150)), Instant(200));
        clock.set(Instant(150), Duration::from_nanos(5), RIGHT / 2);
        assert_eq!(clock.read(Instant(150)), Instant(205));
        assert_eq!(clock.read(Instant(250)), Instant(255));
    }
}
