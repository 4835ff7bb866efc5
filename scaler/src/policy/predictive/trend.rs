/// How much of the slope is left after a tick.
pub(super) const DAMPING: f64 = 0.9;

/// How fast the dispersion follows what is seen, and its bounds.
const DISPERSION_GAIN: f64 = 0.01;
const DISPERSION_MAX: f64 = 20.0;

/// Surprises beyond this many standard deviations move the filter no further.
const CLIP: f64 = 3.0;

/// The constants of a [`Trend`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TrendSettings {
    /// Variance that a tick adds to the level and to the slope, per request of the level.
    pub(super) level_noise: f64,
    pub(super) slope_noise: f64,
    /// Two surprises in a row of this many standard deviations in one direction are a shift.
    pub(super) shift: f64,
}

/// A Kalman filter of arrivals a tick: a level and a damped slope (Gardner and McKenzie, "Forecasting trends
/// in time series", 1985) under counts whose variance is a multiple of their mean. The multiple, the
/// dispersion, is learnt: 1 for a Poisson process, more for bursts.
///
/// Kalman, "A new approach to linear filtering and prediction problems", 1960. Two surprises in a row are a
/// shift of the level, which restarts there; a lone one is clipped (Huber, 1964).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Trend {
    pub(super) level: f64,
    pub(super) slope: f64,
    p00: f64,
    p01: f64,
    p11: f64,
    dispersion: f64,
    /// The last surprise in standard deviations, and the last count.
    surprise: f64,
    last: f64,
    started: bool,
}

impl Trend {
    /// Takes in a tick's arrivals.
    pub(super) fn observe(&mut self, y: f64, settings: &TrendSettings) {
        if !self.started {
            *self = Self {
                level: y,
                p00: y.max(1.0),
                p11: 0.01,
                dispersion: 1.0,
                last: y,
                started: true,
                ..Self::default()
            };
            return;
        }
        self.predict(settings);
        let noise = self.level.max(1.0) * self.dispersion;
        let variance = self.p00 + noise;
        let deviation = variance.sqrt();
        let surprise = (y - self.level) / deviation;
        self.dispersion += DISPERSION_GAIN * ((surprise * surprise).min(CLIP * CLIP) - 1.0) * self.dispersion;
        self.dispersion = self.dispersion.clamp(1.0, DISPERSION_MAX);

        let shift = settings.shift;
        let risen = surprise > shift && self.surprise > shift;
        let fallen = surprise < -shift && self.surprise < -shift;
        if risen || fallen {
            self.level = (y + self.last) / 2.0;
            (self.slope, self.p00, self.p01) = (0.0, noise / 2.0, 0.0);
            self.surprise = 0.0;
        } else {
            let residual = (y - self.level).clamp(-CLIP * deviation, CLIP * deviation);
            let (gain, slope_gain) = (self.p00 / variance, self.p01 / variance);
            self.level = (self.level + gain * residual).max(0.0);
            self.slope += slope_gain * residual;
            self.p11 -= slope_gain * self.p01;
            self.p01 -= gain * self.p01;
            self.p00 -= gain * self.p00;
            self.surprise = surprise;
        }
        self.last = y;
        self.fit();
    }

    /// Forgets everything if the filter cannot go on from here.
    pub(super) fn fit(&mut self) {
        if self.started && !self.is_healthy() {
            *self = Self::default();
        }
    }

    fn predict(&mut self, settings: &TrendSettings) {
        self.level = (self.level + self.slope).max(0.0);
        self.slope *= DAMPING;
        let size = self.level.max(1.0);
        self.p00 += 2.0 * self.p01 + self.p11 + settings.level_noise * size;
        self.p01 = DAMPING * (self.p01 + self.p11);
        self.p11 = DAMPING * DAMPING * self.p11 + settings.slope_noise * size;
    }

    /// How far the level will have moved in this many ticks.
    pub(super) fn change(&self, ticks: f64) -> f64 {
        let moved = self.slope * (1.0 - DAMPING.powf(ticks)) / (1.0 - DAMPING);
        moved.clamp(-self.level / 2.0, self.level / 2.0 + 2.0 * self.level.sqrt())
    }

    /// Variances of level and slope and their covariance.
    pub(super) fn covariance(&self) -> [[f64; 2]; 2] {
        [[self.p00, self.p01], [self.p01, self.p11]]
    }

    /// Whether the filter can go on from here: all finite, and no correlation over 1.
    fn is_healthy(&self) -> bool {
        let all =
            [self.level, self.slope, self.p00, self.p01, self.p11, self.dispersion, self.surprise, self.last];
        all.iter().all(|part| part.is_finite())
            && self.level >= 0.0
            && (1.0..=DISPERSION_MAX).contains(&self.dispersion)
            && self.p00 >= 0.0
            && self.p11 >= 0.0
            && self.p01 * self.p01 <= self.p00 * self.p11 * (1.0 + 1e-9)
    }
}
