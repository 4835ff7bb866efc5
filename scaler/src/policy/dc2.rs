use super::timer::Timer;
use super::usage::Usage;
use super::{Conditions, Policy};
use crate::window::Recent;
use crate::{Decision, Observation, Reason, Seconds};

/// Between two measurements.
const INTERVAL: Seconds = Seconds::new(10);

/// Intervals in a row that have to need less before there is less.
const HOLD: usize = 3;

/// Variance that one interval adds to each part of the state.
const PROCESS_NOISE: [f64; 3] = [1e-5, 1e-6, 1e-5];

/// Variance of the measured utilisation and of the measured mean response.
const NOISE: [f64; 2] = [1e-3, 1e-2];

/// Variance of a measurement that says nothing.
const NO_MEASUREMENT: f64 = 1e6;

/// Utilisation beyond which a steady state says nothing.
const UTILISATION_MAX: f64 = 0.95;

/// Most pods that the model is asked for.
const PODS_MAX: u32 = 10_000;

/// How a layer's pods are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueModel {
    /// Each pod a queue of its own, M/M/1: response `b + S/(1 − u)`.
    PerPod,
    /// One queue before all pods, M/M/k in Sakasegawa's approximation:
    /// `b + S·(1 + u^(√(2(k+1)) − 1)/(k(1 − u)))`.
    Pooled,
}

/// Dependable Compute Cloud: a Kalman filter learns the parameters of a queueing model, which then says how
/// many pods the objective needs. A reconstruction.
///
/// Source: Gandhi, Dube, Karve, Kochut, Zhang, "Adaptive, model-driven autoscaling for cloud applications",
/// ICAC 2014, of whose abstract this is certain: the filter learns online, nothing is profiled, capacity
/// follows from the model. The equations are those of tracking filters for queueing models (Zheng, Yang,
/// Woodside, Litoiu, Iszlai: QEST 2005; Zheng, Woodside, Litoiu: IEEE TSE 34(3), 2008).
///
/// Every 10 s: state `x = (S, u0, b)`, service demand, background utilisation and background delay, a random
/// walk. Measured are utilisation, modelled as `u = u0 + λS` (λ completions per second and slot), and mean
/// response, modelled by [`QueueModel`] with `u` clipped to [0, 0.95], plus `20·S·(u − 0.95)` beyond 0.95. An
/// extended Kalman step, derivatives by difference; above 95 % measured utilisation the response is ignored,
/// and an interval in which nothing was answered only makes the state less certain.
/// Pods: the fewest whose predicted response meets the target at the arrival rate of the last interval; up at
/// once, down after 3 intervals in a row that needed less, to the largest of the three. The first tick counts
/// as an interval without arrivals.
#[derive(Clone, Debug)]
pub struct Dc2 {
    model: QueueModel,
    target: f64,
    tick: Seconds,
    prior: f64,
    state: Dc2State,
}

/// What a [`Dc2`] remembers between ticks.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Dc2State {
    interval: Timer,
    began: Option<Seconds>,
    usage: Usage,
    sums: Sums,
    x: [f64; 3],
    p: [[f64; 3]; 3],
    /// The needs of the last intervals, while each is lower than what is there.
    lower: Recent<u32>,
    desired: u32,
}

/// What happened in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
struct Sums {
    arrivals: u64,
    completions: u64,
    response_time: Seconds,
}

impl Dc2 {
    /// A policy that has seen nothing yet.
    #[must_use]
    pub fn new(model: QueueModel, conditions: &Conditions) -> Self {
        // The published constants: 1.0 s for the model that sees queues where there are none, 0.6 s for the
        // pooled one, of an objective of 1.0 s.
        let share = if model == QueueModel::PerPod { 1.0 } else { 0.6 };
        let prior = conditions.service_prior.as_f64().max(1e-3);
        let mut policy = Self {
            model,
            target: share * conditions.wait_objective.as_f64(),
            tick: conditions.tick,
            prior,
            state: Dc2State { lower: Recent::new(HOLD), ..Dc2State::default() },
        };
        policy.forget();
        policy
    }

    /// How uncertain the filter is, for tests of its health.
    #[must_use]
    pub fn covariance(&self) -> [[f64; 3]; 3] {
        self.state.p
    }

    fn forget(&mut self) {
        let square = self.prior * self.prior;
        self.state.x = [self.prior, 0.0, 0.0];
        self.state.p = [[square, 0.0, 0.0], [0.0, 0.01, 0.0], [0.0, 0.0, square]];
    }

    /// Utilisation and mean response that a state predicts for `slots`, each with `rate` requests a second.
    fn predict(&self, [demand, background, delay]: [f64; 3], rate: f64, slots: f64) -> [f64; 2] {
        let offered = background + rate * demand;
        let u = offered.clamp(0.0, UTILISATION_MAX);
        let response = match self.model {
            QueueModel::PerPod => demand / (1.0 - u),
            QueueModel::Pooled => {
                demand * (1.0 + u.powf((2.0 * (slots + 1.0)).sqrt() - 1.0) / (slots * (1.0 - u)))
            }
        };
        let overload = 20.0 * demand * (offered - UTILISATION_MAX).max(0.0);
        // Utilisation as it would be measured, unclipped: or a full queue would say nothing of the demand.
        [offered, delay + response + overload]
    }

    /// One extended Kalman step.
    fn measure(&mut self, seconds: f64) {
        let sums = self.state.sums;
        for (part, noise) in PROCESS_NOISE.iter().enumerate() {
            self.state.p[part][part] += noise;
        }
        if sums.completions == 0 {
            return;
        }
        let Some(utilisation) = self.state.usage.utilisation() else { return };
        let slots = self.state.usage.slot_time.as_f64() / seconds;
        let completions = sums.completions as f64;
        let (rate, response) = (completions / seconds / slots, sums.response_time.as_f64() / completions);
        let mute = utilisation > UTILISATION_MAX;
        let noise = [NOISE[0], if mute { NO_MEASUREMENT } else { NOISE[1] }];

        let mut x = self.state.x;
        let mut p = self.state.p;
        let predicted = self.predict(x, rate, slots);
        let mut h = [[0.0; 3]; 2];
        for part in 0..3 {
            const STEP: f64 = 1e-4;
            let mut moved = x;
            moved[part] += STEP;
            let there = self.predict(moved, rate, slots);
            for measured in 0..2 {
                h[measured][part] = (there[measured] - predicted[measured]) / STEP;
            }
        }
        let residual = [utilisation - predicted[0], if mute { 0.0 } else { response - predicted[1] }];
        update(&mut x, &mut p, &h, residual, noise);
        x = [x[0].max(1e-3), x[1].clamp(0.0, 0.5), x[2].max(0.0)];
        (self.state.x, self.state.p) = (x, p);
        if !is_healthy(&x, &p) {
            self.forget();
        }
    }

    /// Up at once, down when enough intervals in a row needed less.
    fn follow(&mut self, pods: u32, decision: &mut Decision) {
        let lower = &mut self.state.lower;
        if pods >= decision.desired {
            lower.clear();
            decision.replace(pods, Reason::Model);
            return;
        }
        lower.push(pods, HOLD);
        let largest = lower.iter().max().filter(|_| lower.len() == HOLD);
        if let Some(largest) = largest {
            lower.clear();
            decision.replace(largest, if largest > pods { Reason::Hold } else { Reason::Model });
        } else {
            decision.reason = Reason::Hold;
        }
    }

    /// The fewest slots with which the model meets the target.
    fn need(&self, arrival_rate: f64) -> u32 {
        let meets = |slots: u32| {
            let slots = f64::from(slots);
            self.predict(self.state.x, arrival_rate / slots, slots)[1] <= self.target
        };
        // The response falls with the number of slots: search the first that meets the target by halves.
        let (mut low, mut high) = (1, PODS_MAX);
        while low < high {
            let middle = low.midpoint(high);
            if meets(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }
}

/// The update of a state by two measurements whose noise is independent, so that one follows the other;
/// Joseph's form keeps the covariance positive, and its two halves are made equal.
fn update(x: &mut [f64; 3], p: &mut [[f64; 3]; 3], h: &[[f64; 3]; 2], residual: [f64; 2], noise: [f64; 2]) {
    let start = *x;
    for ((h, residual), noise) in h.iter().zip(residual).zip(noise) {
        let ph: [f64; 3] = std::array::from_fn(|i| (0..3).map(|j| p[i][j] * h[j]).sum());
        let variance = noise + (0..3).map(|i| h[i] * ph[i]).sum::<f64>();
        let gain = ph.map(|part| part / variance);
        // What the measurement before has moved is no longer a surprise.
        let moved: f64 = (0..3).map(|i| h[i] * (x[i] - start[i])).sum();
        for i in 0..3 {
            x[i] += gain[i] * (residual - moved);
        }
        let keep: [[f64; 3]; 3] =
            std::array::from_fn(|i| std::array::from_fn(|j| f64::from(u8::from(i == j)) - gain[i] * h[j]));
        let half: [[f64; 3]; 3] =
            std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| keep[i][k] * p[k][j]).sum()));
        for i in 0..3 {
            for j in 0..=i {
                let entry = (0..3).map(|k| half[i][k] * keep[j][k]).sum::<f64>() + gain[i] * noise * gain[j];
                (p[i][j], p[j][i]) = (entry, entry);
            }
        }
    }
}

/// Whether a state is one that the filter can go on from: finite, and no correlation over 1.
fn is_healthy(x: &[f64; 3], p: &[[f64; 3]; 3]) -> bool {
    let finite = x.iter().chain(p.iter().flatten()).all(|part| part.is_finite());
    let within = |i: usize, j: usize| p[i][j] * p[i][j] <= p[i][i] * p[j][j] * (1.0 + 1e-9);
    finite && (0..3).all(|i| p[i][i] >= 0.0 && (0..i).all(|j| p[i][j] == p[j][i] && within(i, j)))
}

impl Policy for Dc2 {
    type State = Dc2State;

    fn decide(&mut self, observation: &Observation) -> Decision {
        let now = observation.now;
        let mut decision = Decision::keep(observation, self.state.desired, self.tick);
        let due = self.state.interval.due(now, INTERVAL);
        let sums = &mut self.state.sums;
        if observation.valid {
            sums.arrivals = sums.arrivals.saturating_add(observation.arrivals);
            sums.completions = sums.completions.saturating_add(observation.completions);
            self.state.usage.observe(observation);
            sums.response_time = sums.response_time.saturating_add(observation.response_time);
        }
        let seconds = now.saturating_sub(self.state.began.unwrap_or(now)).as_f64();
        if observation.valid && due && seconds > 0.0 {
            self.measure(seconds);
            let slots = self.need(self.state.sums.arrivals as f64 / seconds);
            self.follow(observation.pods_for(slots.into()), &mut decision);
        } else if observation.valid && self.state.began.is_none() {
            self.follow(observation.pods_for(self.need(0.0).into()), &mut decision);
        }
        if due || self.state.began.is_none_or(|began| began > now) {
            self.state.sums = Sums::default();
            self.state.usage.clear();
            self.state.began = Some(now);
        }
        self.state.desired = decision.desired;
        decision
    }

    fn restore(&mut self, state: Dc2State) {
        self.state = state;
        self.state.lower.fit(HOLD);
        if !is_healthy(&self.state.x, &self.state.p) {
            self.forget();
        }
    }

    fn state(&self) -> Dc2State {
        self.state.clone()
    }
}
