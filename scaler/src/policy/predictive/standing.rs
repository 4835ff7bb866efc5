//! Capacity that stands ready for what cannot be foreseen.

/// Bins a doubling of the load, and their number: up to a million busy slots.
const BINS_PER_OCTAVE: f64 = 8.0;
const BINS: usize = 160;

/// Ticks after which a load is remembered with the e-th part of its weight.
const MEMORY: f64 = 1000.0;

/// Ticks without a request after which nothing stands any more: who keeps pods pays for requests that come.
const IDLE_TICKS: u32 = 300;

/// The loads that came unforeseen, weighted by their requests: where bursts come from nothing and go before a
/// pod has started, only pods that are there help, and a share of the requests says how many that pays for.
/// A load that was provided for counts as none, so that what can be foreseen keeps nothing standing.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Standing {
    /// Requests by the load with which they came.
    bins: Vec<f64>,
    /// Ticks since the last request.
    idle: u32,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self { bins: vec![0.0; BINS], idle: 0 }
    }

    /// Takes in a tick of `requests` that met this load, of which so many slots had been provided.
    pub(super) fn observe(&mut self, load: f64, provided: u32, requests: f64) {
        for bin in &mut self.bins {
            *bin *= 1.0 - 1.0 / MEMORY;
        }
        let unforeseen = if load > f64::from(provided) { load } else { 0.0 };
        let bin = (BINS_PER_OCTAVE * (1.0 + unforeseen).log2()).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bins")]
        let bin = bin.clamp(0.0, (BINS - 1) as f64) as usize;
        self.bins[bin] += requests;
        self.idle = if requests > 0.0 { 0 } else { self.idle.saturating_add(1) };
    }

    /// The load that this share of the requests did not pass; 0 on an idle layer.
    pub(super) fn load(&self, share: f64) -> f64 {
        if self.idle >= IDLE_TICKS {
            return 0.0;
        }
        let wanted = share * self.bins.iter().sum::<f64>();
        let mut sum = 0.0;
        for (bin, requests) in self.bins.iter().enumerate() {
            sum += requests;
            if sum >= wanted {
                return (bin as f64 / BINS_PER_OCTAVE).exp2() - 1.0;
            }
        }
        0.0
    }

    /// A stored state is input.
    pub(super) fn fit(&mut self) {
        let whole = self.bins.len() == BINS;
        if !(whole && self.bins.iter().all(|bin| bin.is_finite() && *bin >= 0.0)) {
            *self = Self::new();
        }
    }
}
