use crate::queueing::Weighed;

/// How many levels and how many trends are followed at once.
const LEVELS: usize = 6;
const TRENDS: usize = 4;
const MEMORIES: usize = LEVELS + TRENDS;

/// Mean age in ticks of what the shortest and the longest memory know, of levels and of trends. Between them
/// they grow by a factor.
const LEVEL_AGES: [f64; 2] = [1.0 / 0.6, 80.0];
const TREND_AGES: [f64; 2] = [8.0, 600.0];

/// How much of a trend is believed to last a tick longer.
const DAMPING: f64 = 0.9;

/// Ticks' worth of knowledge, beforehand, that there is no trend.
const FLAT: f64 = 100.0;

/// How much of a memory's past credit a tick leaves it, as an exponent: 0.9965 forgets in five minutes.
const CREDIT: f64 = 0.9965;

/// Least weight of a memory, so that each can come back; and the weight from which one is asked.
const WEIGHT_MIN: f64 = 1e-12;
const WEIGHT_ASKED: f64 = 1e-3;

/// How fast what a memory knows gets old on the way to the horizon, as an exponent; and the ticks after which it
/// gets no older.
const AGEING: f64 = 0.03;
const AGEING_TICKS: f64 = 100.0;

/// Squared surprise, in variances, beyond which a tick counts no more against a memory.
const SURPRISE_MAX: f64 = 25.0;

/// Standard deviations over what was expected beyond which a count is not believed before the next is as high.
const CLIP: f64 = 3.0;

/// Variance of a count where nothing comes: a first request is no wonder. And the rate in requests a tick below
/// which a layer is as good as idle.
const COUNT_VARIANCE: f64 = 0.05;
const RATE_MIN: f64 = 0.02;

/// A bank of filters that follow the arrival rate with memories of different length, and of which those weigh
/// most that foretold the last counts best (multiple model estimation: Magill, IEEE TAC 10(4), 1965).
///
/// Each is a discounted regression of the counts, on a level or on a level and a slope (discount models: Ameen
/// and Harrison, J. Forecasting 3, 1984), in units of the variance of a Poisson count: the rate is known with
/// as much certainty as its memory is long. A steady load is known well and needs little reserve; at a change
/// the short memories take over within a few ticks and bring their uncertainty with them. Nothing has to be
/// tuned to the load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Bank {
    memories: [Memory; MEMORIES],
    /// They sum to 1.
    weights: [f64; MEMORIES],
    /// Requests a tick that come now, by all memories; and the last count.
    pub(super) rate: f64,
    last: f64,
    started: bool,
}

/// Discounted sums over the ticks, `i` ticks ago: of 1, i, i², y, i·y.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
struct Memory {
    ones: f64,
    ages: f64,
    squares: f64,
    counts: f64,
    aged_counts: f64,
}

/// A level and a slope, and their covariance in units of a count's variance.
#[derive(Clone, Copy, Debug)]
struct Fit {
    level: f64,
    slope: f64,
    p00: f64,
    p01: f64,
    p11: f64,
}

impl Memory {
    fn observe(&mut self, y: f64, kept: f64) {
        *self = Self {
            ones: kept * self.ones + 1.0,
            ages: kept * (self.ages + self.ones),
            squares: kept * (self.squares + 2.0 * self.ages + self.ones),
            counts: kept * self.counts + y,
            aged_counts: kept * (self.aged_counts + self.counts),
        };
    }

    fn level(&self) -> Fit {
        Fit { level: self.counts / self.ones, slope: 0.0, p00: 1.0 / self.ones, p01: 0.0, p11: 0.0 }
    }

    /// The line `level − slope·i` through the counts; the determinant is at least `FLAT·ones`, over 0.
    fn trend(&self) -> Fit {
        let squares = self.squares + FLAT;
        let determinant = self.ones * squares - self.ages * self.ages;
        Fit {
            level: ((squares * self.counts - self.ages * self.aged_counts) / determinant).max(0.0),
            slope: (self.ages * self.counts - self.ones * self.aged_counts) / determinant,
            p00: squares / determinant,
            p01: self.ages / determinant,
            p11: self.ones / determinant,
        }
    }
}

impl Bank {
    /// Takes in a tick's arrivals.
    pub(super) fn observe(&mut self, y: f64) {
        if !self.started {
            let memory = Memory { ones: 1.0, counts: y + 0.1, ..Memory::default() };
            *self = Self {
                memories: [memory; MEMORIES],
                weights: [1.0 / MEMORIES as f64; MEMORIES],
                rate: y,
                last: y,
                started: true,
            };
            return;
        }
        // A lone spike tells little of what comes; two in a row do.
        let believed = self.rate + CLIP * (self.rate + 1.0).sqrt();
        let clipped = y.min(believed.max(self.last));
        self.last = y;
        for (memory, kept) in discounts().enumerate() {
            let fit = self.fit_of(memory);
            let mean = (fit.level + fit.slope).max(0.0);
            let uncertain = (fit.p00 + 2.0 * fit.p01 + fit.p11) / kept;
            let variance = mean * (1.0 + uncertain) + COUNT_VARIANCE;
            let surprise = ((clipped - mean) * (clipped - mean) / variance).min(SURPRISE_MAX);
            let likelihood = (-0.5 * surprise).exp() / variance.sqrt();
            self.weights[memory] = self.weights[memory].powf(CREDIT) * likelihood + WEIGHT_MIN;
            self.memories[memory].observe(clipped, kept);
        }
        let sum: f64 = self.weights.iter().sum();
        self.weights = self.weights.map(|weight| weight / sum);
        self.rate = (0..MEMORIES).map(|memory| self.weights[memory] * self.fit_of(memory).level).sum();
        self.fit();
    }

    /// The loads that may come in this many ticks, with their weights, and their mean.
    pub(super) fn loads(&self, horizon: f64, service: f64) -> (Loads, f64) {
        let mut loads = [Weighed { load: 0.0, weight: 0.0 }; 3 * MEMORIES];
        let mut mean = 0.0;
        let ahead = (1.0 - DAMPING.powf(horizon)) / (1.0 - DAMPING);
        for (memory, kept) in discounts().enumerate() {
            let (fit, weight) = (self.fit_of(memory), self.weights[memory]);
            let change =
                (fit.slope * ahead).clamp(-0.5 * fit.level, 0.5 * fit.level + 2.0 * fit.level.sqrt());
            let rate = (fit.level + change).max(0.0);
            mean += weight * rate;
            if weight < WEIGHT_ASKED {
                continue;
            }
            let uncertain = fit.p00 + 2.0 * ahead * fit.p01 + ahead * ahead * fit.p11;
            let uncertain = uncertain / kept.powf(AGEING * horizon.min(AGEING_TICKS));
            // The root of a rate is known with the same certainty whatever the rate, unless nothing comes: Gauss
            // and Hermite's three points of its distribution stand for all of it.
            let deviation = 0.5 * uncertain.sqrt() * (rate / RATE_MIN).sqrt().min(1.0);
            for (at, (step, share)) in
                [(-SQRT_3, 1.0 / 6.0), (0.0, 2.0 / 3.0), (SQRT_3, 1.0 / 6.0)].iter().enumerate()
            {
                let root = (rate.sqrt() + step * deviation).max(0.0);
                loads[3 * memory + at] = Weighed { load: service * root * root, weight: share * weight };
            }
        }
        (loads, service * mean)
    }

    /// Variances of level and slope and their covariance, of each trend, for tests of the filters' health.
    pub(super) fn covariances(&self) -> [[[f64; 2]; 2]; TRENDS] {
        std::array::from_fn(|trend| {
            if !self.started {
                return [[0.0; 2]; 2];
            }
            let fit = self.memories[LEVELS + trend].trend();
            [[fit.p00, fit.p01], [fit.p01, fit.p11]]
        })
    }

    /// Forgets everything if the filters cannot go on from here.
    pub(super) fn fit(&mut self) {
        let healthy = |it: &Memory| {
            let sums = [it.ones, it.ages, it.squares, it.counts, it.aged_counts];
            // Cauchy and Schwarz hold for any sums over ticks; without them a fit has no answer.
            sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0)
                && it.ones > 0.0
                && it.ages * it.ages <= it.ones * (it.squares + FLAT / 2.0)
        };
        let weighed = self.weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
        let sound = weighed && self.rate.is_finite() && self.last.is_finite();
        let known = self.weights.iter().sum::<f64>() > 0.5;
        if self.started && !(self.memories.iter().all(healthy) && sound && known && self.rate >= 0.0) {
            *self = Self::default();
        }
    }

    fn fit_of(&self, memory: usize) -> Fit {
        let it = &self.memories[memory];
        if memory < LEVELS { it.level() } else { it.trend() }
    }
}

const SQRT_3: f64 = 1.732;

/// Loads with their weights; those of memories that are not asked weigh nothing.
pub(super) type Loads = [Weighed; 3 * MEMORIES];

/// What a tick leaves of each memory: of the levels, then of the trends.
fn discounts() -> impl Iterator<Item = f64> {
    ages(LEVELS, LEVEL_AGES).chain(ages(TRENDS, TREND_AGES)).map(|age| 1.0 - 1.0 / age)
}

fn ages(memories: usize, [shortest, longest]: [f64; 2]) -> impl Iterator<Item = f64> {
    let step = (longest / shortest).powf(1.0 / (memories - 1) as f64);
    (0..memories).scan(shortest, move |age, _| {
        let this = *age;
        *age *= step;
        Some(this)
    })
}
