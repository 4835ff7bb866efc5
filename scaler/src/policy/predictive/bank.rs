use crate::queueing::Weighed;

/// How many rates are followed at once.
const MEMORIES: usize = 6;

/// Mean age in ticks of what the shortest and the longest memory know. Between them they grow by a factor.
const SHORTEST: f64 = 1.0 / 0.6;
const LONGEST: f64 = 50.0;

/// How much of a memory's past credit a tick leaves it, as an exponent: 0.995 forgets in some minutes.
const CREDIT: f64 = 0.995;

/// Least weight of a memory, so that each can come back; and the weight from which one is asked.
const WEIGHT_MIN: f64 = 1e-12;
const WEIGHT_ASKED: f64 = 1e-3;

/// How fast what a memory knows gets old on the way to the horizon, as an exponent.
const AGEING: f64 = 0.03;

/// Squared surprise, in variances, beyond which a tick counts no more against a memory.
const SURPRISE_MAX: f64 = 25.0;

/// Variance of a count and least rate in requests a tick where nothing comes: a first request is no wonder.
const COUNT_VARIANCE: f64 = 0.05;
const RATE_MIN: f64 = 0.02;

/// A bank of filters that follow the arrival rate with memories of different length, and of which those weigh
/// most that foretold the last counts best (multiple model estimation: Magill, IEEE TAC 10(4), 1965).
///
/// Each is the conjugate filter of a Poisson count: arrivals and ticks, both discounted (power discounting:
/// Smith, JRSS B 41(3), 1979), so that the rate is known with as much certainty as its memory is long. A
/// steady load is known well and needs little reserve; at a change the short memories take over within a few
/// ticks and bring their uncertainty with them. Nothing has to be tuned to the load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Bank {
    /// Requests and ticks that each memory holds, and its weight; the weights sum to 1.
    arrivals: [f64; MEMORIES],
    ticks: [f64; MEMORIES],
    weights: [f64; MEMORIES],
    started: bool,
}

impl Bank {
    /// Takes in a tick's arrivals.
    pub(super) fn observe(&mut self, y: f64) {
        if !self.started {
            *self = Self {
                arrivals: [y + 0.1; MEMORIES],
                ticks: [1.0; MEMORIES],
                weights: [1.0 / MEMORIES as f64; MEMORIES],
                started: true,
            };
            return;
        }
        for (memory, kept) in discounts().enumerate() {
            let (arrivals, ticks) = (self.arrivals[memory] * kept, self.ticks[memory] * kept);
            let mean = arrivals / ticks;
            let variance = mean * (1.0 + 1.0 / ticks) + COUNT_VARIANCE;
            let surprise = ((y - mean) * (y - mean) / variance).min(SURPRISE_MAX);
            let likelihood = (-0.5 * surprise).exp() / variance.sqrt();
            self.weights[memory] = self.weights[memory].powf(CREDIT) * likelihood + WEIGHT_MIN;
            (self.arrivals[memory], self.ticks[memory]) = (arrivals + y, ticks + 1.0);
        }
        let sum: f64 = self.weights.iter().sum();
        self.weights = self.weights.map(|weight| weight / sum);
        self.fit();
    }

    /// The loads that may come in this many ticks, with their weights, and their mean.
    pub(super) fn loads(&self, horizon: f64, service: f64) -> (Loads, f64) {
        let mut loads = [Weighed { load: 0.0, weight: 0.0 }; 3 * MEMORIES];
        let mut mean = 0.0;
        for (memory, kept) in discounts().enumerate() {
            let rate = self.arrivals[memory] / self.ticks[memory];
            mean += self.weights[memory] * rate;
            if self.weights[memory] < WEIGHT_ASKED {
                continue;
            }
            // The root of a rate is known with the same certainty whatever the rate: Gauss and Hermite's
            // three points of its distribution stand for all of it.
            let known = self.ticks[memory] * kept.powf(AGEING * horizon);
            let deviation = 0.5 / known.sqrt() * (rate / rate.max(RATE_MIN)).sqrt().max(1.0);
            for (at, (step, share)) in
                [(-SQRT_3, 1.0 / 6.0), (0.0, 2.0 / 3.0), (SQRT_3, 1.0 / 6.0)].iter().enumerate()
            {
                let root = (rate.sqrt() + step * deviation).max(0.0);
                loads[3 * memory + at] =
                    Weighed { load: service * root * root, weight: share * self.weights[memory] };
            }
        }
        (loads, service * mean)
    }

    /// Forgets everything if the filters cannot go on from here.
    pub(super) fn fit(&mut self) {
        let all = self.arrivals.iter().chain(&self.ticks).chain(&self.weights);
        let healthy = all.clone().all(|part| part.is_finite() && *part >= 0.0);
        let known = self.ticks.iter().all(|ticks| *ticks > 0.0);
        if self.started && !(healthy && known && self.weights.iter().sum::<f64>() > 0.5) {
            *self = Self::default();
        }
    }
}

const SQRT_3: f64 = 1.732;

/// Loads with their weights; those of memories that are not asked weigh nothing.
pub(super) type Loads = [Weighed; 3 * MEMORIES];

/// What a tick leaves of each memory.
fn discounts() -> impl Iterator<Item = f64> {
    let step = (LONGEST / SHORTEST).powf(1.0 / (MEMORIES - 1) as f64);
    (0..MEMORIES).scan(SHORTEST, move |age, _| {
        let kept = 1.0 - 1.0 / *age;
        *age *= step;
        Some(kept)
    })
}
