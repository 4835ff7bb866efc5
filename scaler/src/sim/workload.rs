use std::fmt;

use super::Trace;
use super::random::SplitMix64;

/// Most requests of one workload: each takes 12 bytes.
pub const REQUESTS_MAX: u64 = 100_000_000;

/// The 99.5th percentile of a trace's rate becomes this many requests per second: 32 pods at 0.5 s each.
const PEAK_RATE: f64 = 64.0;

/// Mean service time in µs.
const SERVICE_MEAN_US: u32 = 500_000;

const SECOND: u64 = 1_000_000;

/// How long requests are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Service {
    /// Exponential with mean 0.5 s: as irregular as service usually gets.
    #[default]
    Exponential,
    /// 0.5 s each.
    Deterministic,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exponential => "exponential",
            Self::Deterministic => "deterministic",
        })
    }
}

/// The requests of a trace: when each arrives and how long it is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Times of arrival in µs, in order.
    pub(super) arrivals: Vec<u64>,
    /// Time in service in µs.
    pub(super) services: Vec<u32>,
    /// At each second from 0: how many requests have arrived up to and including that instant, and the sum
    /// of their times of arrival.
    pub(super) arrived: Vec<(usize, u64)>,
    /// Requests per second in each second.
    pub(super) rates: Vec<f64>,
    scale: f64,
}

/// A trace that cannot become requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Scaling has nothing to hold on to.
    #[error("the trace is empty but for rare bins: its 99.5th percentile is 0, which cannot be scaled")]
    NoLoad,
    /// More than fit.
    #[error("the trace makes about {requests} requests, more than {REQUESTS_MAX}: cut it")]
    Requests {
        /// How many.
        requests: u64,
    },
}

impl Workload {
    /// Draws the requests: arrivals as a Poisson process whose rate is the trace's, scaled so that its 99.5th
    /// percentile is 64 per second, from the generator with state `seed`; service times from the one with
    /// state `1000 + seed`.
    ///
    /// # Errors
    ///
    /// When the trace has no load to scale or makes too many requests.
    pub fn new(trace: &Trace, seed: u64, service: Service) -> Result<Self, WorkloadError> {
        let peak = trace.percentile(0.995);
        if peak <= 0.0 {
            return Err(WorkloadError::NoLoad);
        }
        // Four places, so that a table can say all of it; very busy traces need more.
        let exact = PEAK_RATE / peak;
        let scale = if exact < 0.01 { exact } else { (exact * 1e4).round() / 1e4 };
        let rates: Vec<f64> = trace.rates().map(|rate| rate * scale).collect();
        let expected = rates.iter().sum::<f64>();
        if expected > REQUESTS_MAX as f64 * 0.99 {
            #[expect(clippy::cast_possible_truncation, reason = "a figure for the message; casts saturate")]
            #[expect(clippy::cast_sign_loss, reason = "rates are not negative")]
            return Err(WorkloadError::Requests { requests: expected as u64 });
        }
        let arrivals = arrivals(&rates, SplitMix64(seed));
        let services = services(arrivals.len(), SplitMix64(seed.wrapping_add(1000)), service);
        let arrived = arrived(&arrivals, trace.seconds());
        Ok(Self { arrivals, services, arrived, rates, scale })
    }

    /// How many requests there are.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.arrivals.len() as u64
    }

    /// The length of the trace.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.rates.len() as u64
    }

    /// What the trace's rates were multiplied by.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The sum of all times of arrival in µs: with [`requests`](Self::requests), a fingerprint.
    #[must_use]
    pub fn arrival_sum_us(&self) -> u128 {
        self.arrivals.iter().map(|at| u128::from(*at)).sum()
    }

    /// The sum of all times in service in µs: the least that any plan has to pay for.
    #[must_use]
    pub fn service_sum_us(&self) -> u64 {
        self.services.iter().map(|time| u64::from(*time)).sum()
    }

    /// The load in busy pods that the trace offers in a second.
    #[must_use]
    pub fn load(&self, second: u64) -> f64 {
        usize::try_from(second).ok().and_then(|second| self.rates.get(second)).copied().unwrap_or_default()
            * f64::from(SERVICE_MEAN_US)
            / 1e6
    }

    /// Pods ready at the start: the mean load of the first minute, rounded up, and one.
    #[must_use]
    pub fn start_pods(&self) -> u32 {
        let first = self.seconds().min(60);
        let mean = (0..first).map(|second| self.load(second)).sum::<f64>() / first as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a load of a few pods")]
        let pods = mean.ceil() as u32;
        pods.saturating_add(1)
    }
}

fn arrivals(rates: &[f64], mut random: SplitMix64) -> Vec<u64> {
    let mut arrivals = Vec::new();
    for (second, rate) in (0..).zip(rates).filter(|(_, rate)| **rate > 0.0) {
        let mut offset = random.exponential() / rate;
        while offset < 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "from 0 to below 10^6"
            )]
            arrivals.push(second * SECOND + (1e6 * offset) as u64);
            offset += random.exponential() / rate;
        }
    }
    arrivals
}

fn services(requests: usize, mut random: SplitMix64, service: Service) -> Vec<u32> {
    let draw = |_| match service {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "-ln(u) is from 0 to 37")]
        Service::Exponential => ((random.exponential() * f64::from(SERVICE_MEAN_US)) as u32).max(1),
        Service::Deterministic => SERVICE_MEAN_US,
    };
    (0..requests).map(draw).collect()
}

fn arrived(arrivals: &[u64], seconds: u64) -> Vec<(usize, u64)> {
    let (mut count, mut sum) = (0, 0_u64);
    let until = |second: u64| {
        while arrivals.get(count).is_some_and(|at| *at <= second * SECOND) {
            // A sum that wraps still gives the right difference between two ticks.
            sum = sum.wrapping_add(arrivals[count]);
            count += 1;
        }
        (count, sum)
    };
    (0..=seconds).map(until).collect()
}
