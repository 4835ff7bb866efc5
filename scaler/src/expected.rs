use crate::Seconds;

/// Requests that are known to come to a layer, by when they are due: work of graphs in flight whose operands
/// are not there yet, messages with a delay, a schedule.
///
/// Counts lie in [`BINS`](Self::BINS) bins of equal width from now on. It says what is known at this tick; the
/// next one says it anew, without what has come in the meantime. Who knows of nothing leaves it empty.
///
/// ```
/// use quorate_scaler::{Expected, Observation, Seconds};
///
/// // A graph of three waves was just admitted: its first wave has arrived, two are to come.
/// let mut expected = Expected::new(Seconds::from_micros(500_000));
/// expected.add(Seconds::from_micros(600_000), 40);
/// expected.add(Seconds::from_micros(1_200_000), 10);
/// assert_eq!(expected.total(), 50);
///
/// let observation = Observation { now: Seconds::new(7), arrivals: 80, expected, ..Observation::default() };
/// assert_eq!(observation.expected.total(), 50);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Expected {
    width: Seconds,
    counts: [u32; Self::BINS],
}

impl Expected {
    /// How many bins there are.
    pub const BINS: usize = 32;

    /// Nothing yet, in bins of this width, at least 1 µs. What is due later than all bins is not told; bins of an
    /// eighth of the start delay reach four start delays ahead.
    #[must_use]
    pub fn new(width: Seconds) -> Self {
        Self { width: width.max(Seconds::from_micros(1)), counts: [0; Self::BINS] }
    }

    /// Adds requests that are due in so long. What is late already is due now.
    pub fn add(&mut self, due_in: Seconds, requests: u32) {
        let bin =
            due_in.as_micros().checked_div(self.width.as_micros()).and_then(|bin| usize::try_from(bin).ok());
        if let Some(count) = bin.and_then(|bin| self.counts.get_mut(bin)) {
            *count = count.saturating_add(requests);
        }
    }

    /// All requests in the bins.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Requests due before so many seconds have passed; bins count in part.
    pub(crate) fn until(&self, seconds: f64) -> f64 {
        let bins = seconds / self.width.as_f64();
        let share = |bin: usize| (bins - bin as f64).clamp(0.0, 1.0);
        if bins.is_nan() {
            return 0.0;
        }
        self.counts.iter().enumerate().map(|(bin, count)| share(bin) * f64::from(*count)).sum()
    }

    /// Requests a second that are due from one instant to another, in seconds from now.
    pub(crate) fn per_second(&self, from: f64, until: f64) -> f64 {
        if self.counts == [0; Self::BINS] {
            0.0
        } else {
            (self.until(until) - self.until(from)) / (until - from)
        }
    }

    /// Requests a second in the busiest bin that begins before so many seconds have passed.
    pub(crate) fn per_second_most(&self, seconds: f64) -> f64 {
        let width = self.width.as_f64();
        let soon = self.counts.iter().enumerate().filter(|(bin, _)| *bin as f64 * width <= seconds);
        let most = soon.map(|(_, count)| *count).max().unwrap_or(0);
        if most == 0 { 0.0 } else { f64::from(most) / width }
    }
}
