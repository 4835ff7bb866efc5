use crate::window::Recent;

/// Ticks that the margin remembers.
const TICKS: usize = 600;

/// Width of a bin, the lowest edge, and their number.
const WIDTH: f64 = 0.25;
const LOWEST: f64 = -4.0;
const BINS: usize = 160;

/// How far the load has passed what was provided for it, in standard deviations and weighted by requests:
/// a quantile of it is the margin that would have covered that share of the requests.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(super) struct Margin {
    ticks: Recent<(u8, u64)>,
    bins: Vec<u64>,
    total: u64,
}

impl Margin {
    pub(super) fn new() -> Self {
        Self { ticks: Recent::new(TICKS), bins: vec![0; BINS], total: 0 }
    }

    /// Takes in a tick of `requests` that met a load `excess` standard deviations over the provision.
    pub(super) fn observe(&mut self, excess: f64, requests: u64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bins")]
        let bin = ((excess - LOWEST) / WIDTH).clamp(0.0, (BINS - 1) as f64) as u8;
        self.bins[usize::from(bin)] += requests;
        self.total += requests;
        if let Some((bin, requests)) = self.ticks.push((bin, requests), TICKS) {
            self.bins[usize::from(bin)] -= requests;
            self.total -= requests;
        }
    }

    /// The middle of the bin in which this share of the requests is reached, at least 0.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.total as f64;
        let mut sum = 0;
        for (bin, requests) in self.bins.iter().enumerate() {
            sum += requests;
            if sum as f64 >= wanted {
                return (LOWEST + (bin as f64 + 0.5) * WIDTH).max(0.0);
            }
        }
        0.0
    }

    /// A stored state is input: what the bins hold follows from the ticks.
    pub(super) fn fit(&mut self) {
        let ticks: Vec<_> = self.ticks.iter().collect();
        *self = Self::new();
        for (bin, requests) in ticks {
            let middle = LOWEST + (f64::from(bin) + 0.5) * WIDTH;
            self.observe(middle, requests.min(REQUESTS_MAX));
        }
    }
}

/// Most requests that one tick weighs: sums over all ticks stay far from their limit.
pub(super) const REQUESTS_MAX: u64 = 1 << 48;
