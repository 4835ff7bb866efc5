use std::fmt;
use std::time::Duration;

/// A length of time, or an instant counted from the platform's start: whole microseconds, never negative.
///
/// Policies know no clock: every time they meet came in through an [`Observation`](crate::Observation).
/// A measurement that is not a time (NaN, negative, infinite) ends at `try_from`, so that no policy has to
/// expect one. Sums of integers are exact, which keeps decisions the same on every machine.
///
/// ```
/// use quorate_scaler::Seconds;
///
/// let half = Seconds::try_from(0.5)?;
/// assert_eq!(half, Seconds::from_micros(500_000));
/// assert_eq!(Seconds::new(2).saturating_add(half).as_f64(), 2.5);
/// assert!(Seconds::try_from(f64::NAN).is_err());
/// # Ok::<(), quorate_scaler::InvalidSeconds>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Seconds(u64);

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest time, over 500,000 years. Sums end here instead of overflowing.
    pub const MAX: Self = Self(u64::MAX);

    /// This many whole seconds.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// This many microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The time in microseconds.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time in seconds; exact up to 2^53 µs (285 years).
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The sum, at most [`Seconds::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The time since `earlier`, zero if that is later.
    #[must_use]
    pub const fn saturating_sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// Drops what is below a microsecond; what is over [`Seconds::MAX`] becomes it.
impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        u64::try_from(duration.as_micros()).map_or(Self::MAX, Self)
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_micros(seconds.0)
    }
}

/// The edge at which a measurement in floating-point seconds becomes a time.
impl TryFrom<f64> for Seconds {
    type Error = InvalidSeconds;

    fn try_from(value: f64) -> Result<Self, InvalidSeconds> {
        Duration::try_from_secs_f64(value)
            .ok()
            .and_then(|duration| u64::try_from(duration.as_micros()).ok())
            .map(Self)
            .ok_or(InvalidSeconds { value })
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.as_f64())
    }
}

/// A floating-point number that is not a time. Mark the sample as not valid instead of guessing one.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{value} s is not a time: it must be finite, not negative and at most {}", Seconds::MAX)]
pub struct InvalidSeconds {
    /// What was given.
    pub value: f64,
}
