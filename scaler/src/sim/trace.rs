use std::num::ParseIntError;

/// Longest replay: 92 days.
const SECONDS_MAX: u64 = 92 * 86_400;

/// Requests counted in bins of equal width, as they were recorded.
///
/// The text form is one count a line, after an optional header of `# key: value` lines, of which
/// `bin_width_s` is read (1 without it), and an optional line `count`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    bin_width_s: u64,
    counts: Vec<u64>,
}

/// A text that is not a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line that is no count.
    #[error("line {line} is not a count of requests: {text:?}")]
    Count {
        /// Which, from 1.
        line: usize,
        /// Its beginning.
        text: String,
        /// What is wrong with the number.
        source: ParseIntError,
    },
    /// A header that gives no width.
    #[error("line {line}: bin_width_s must be a whole number of seconds, at least 1, not {text:?}")]
    BinWidth {
        /// Which, from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// Not one count.
    #[error("the trace has no counts")]
    Empty,
    /// More than can be replayed.
    #[error("the trace covers {seconds} s, more than {SECONDS_MAX}: cut it")]
    Long {
        /// Its length.
        seconds: u64,
    },
}

impl Trace {
    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// When a line is not what it should be, nothing is counted, or it is too long.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let (mut bin_width_s, mut counts) = (1, Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if let Some(header) = text.strip_prefix('#') {
                if let Some(("bin_width_s", width)) = header.split_once(':').map(|(key, it)| (key.trim(), it))
                {
                    let width = width.trim();
                    let parsed = width.parse().ok().filter(|width| *width > 0);
                    bin_width_s =
                        parsed.ok_or_else(|| TraceError::BinWidth { line, text: start_of(width) })?;
                }
            } else if !text.is_empty() && text != "count" {
                let count = text.parse().map_err(|source| TraceError::Count {
                    line,
                    text: start_of(text),
                    source,
                })?;
                counts.push(count);
            }
        }
        Self::new(bin_width_s, counts)
    }

    /// Takes counts that are not text.
    ///
    /// # Errors
    ///
    /// When nothing is counted or it is too long.
    pub fn new(bin_width_s: u64, counts: Vec<u64>) -> Result<Self, TraceError> {
        if counts.is_empty() || bin_width_s == 0 {
            return Err(TraceError::Empty);
        }
        let seconds = (counts.len() as u64).saturating_mul(bin_width_s);
        if seconds > SECONDS_MAX {
            return Err(TraceError::Long { seconds });
        }
        Ok(Self { bin_width_s, counts })
    }

    /// How much time it covers.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.counts.len() as u64 * self.bin_width_s
    }

    /// Requests per second in each second: bins of a second as they are, wider ones interpolated linearly
    /// between the middles of bins at the middle of each second, flat before the first and after the last.
    pub(super) fn rates(&self) -> impl Iterator<Item = f64> + '_ {
        let width = self.bin_width_s as f64;
        let last = self.counts.len() - 1;
        let rate = move |bin: usize| self.counts[bin] as f64 / width;
        (0..self.seconds()).map(move |second| {
            if self.bin_width_s == 1 {
                return rate(usize::try_from(second).unwrap_or(last));
            }
            let at = ((second as f64 + 0.5) / width - 0.5).clamp(0.0, last as f64);
            #[expect(clippy::cast_possible_truncation, reason = "between 0 and the last bin")]
            let bin = at as usize;
            let part = at - bin as f64;
            rate(bin) + part * (rate((bin + 1).min(last)) - rate(bin))
        })
    }

    /// The rate that this share of the bins does not pass, between two bins in proportion.
    pub(super) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.counts.clone();
        sorted.sort_unstable();
        let at = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and the last bin")]
        let low = at as usize;
        let high = (low + 1).min(sorted.len() - 1);
        let between = sorted[low] as f64 + (at - low as f64) * (sorted[high] as f64 - sorted[low] as f64);
        between / self.bin_width_s as f64
    }
}

/// As much of a line as an error shows.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}
