use super::trend::TrendSettings;

/// The constants of a [`Predictive`](super::Predictive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictiveSettings {
    pub(super) filter: Filter,
    /// ε: the share of requests that may wait longer than the objective, at the load that is forecast.
    pub(super) miss: f64,
    /// The share of requests that the margin would have covered.
    pub(super) cover: f64,
    /// `H` in start delays, at least 10 ticks.
    pub(super) hold_delays: f64,
    /// For the backlog, and for the forecast of [`Filter::Trend`].
    pub(super) trend: TrendSettings,
    /// `T`: in how many seconds a backlog shall be served.
    pub(super) backlog_seconds: f64,
    /// How much of the requests that wait now can be backlog: 0 or 1.
    pub(super) backlog_cap: f64,
    /// `L`: ticks that a load is the mean of.
    pub(super) load_ticks: usize,
    /// `f`: the share of the largest recent load that stays covered.
    pub(super) burst_floor: f64,
    /// Ticks without a larger need that a step down of at most one in `calm_share` pods waits for.
    pub(super) calm_ticks: usize,
    pub(super) calm_share: u32,
}

impl PredictiveSettings {
    /// The first version: few pods; waiting is cheap.
    pub const CANDIDATE_LEAN: Self = Self {
        miss: 0.01,
        cover: 0.0,
        hold_delays: 2.0,
        trend: TrendSettings { level_noise: 0.004, slope_noise: 6.7e-5, shift: 2.5 },
        backlog_seconds: 10.0,
        backlog_cap: 0.0,
        burst_floor: 0.3,
        ..Self::CANDIDATE_BALANCED
    };

    /// The first version: the default of the page.
    pub const CANDIDATE_BALANCED: Self = Self {
        filter: Filter::Trend,
        miss: 0.003,
        cover: 0.45,
        hold_delays: 3.0,
        trend: TrendSettings { level_noise: 0.02, slope_noise: 1e-3, shift: 2.0 },
        backlog_seconds: 3.0,
        backlog_cap: 1.0,
        load_ticks: 2,
        burst_floor: 0.45,
        calm_ticks: 60,
        calm_share: 16,
    };

    /// The first version: few waits; pods are cheap.
    pub const CANDIDATE_STRICT: Self = Self {
        miss: 0.0003,
        cover: 0.8,
        trend: TrendSettings { level_noise: 0.03, slope_noise: 1.5e-3, shift: 1.5 },
        backlog_seconds: 2.0,
        burst_floor: 0.7,
        ..Self::CANDIDATE_BALANCED
    };

    /// Few pods: waiting is cheap. The first version is still the cheapest where load is a train of bursts.
    pub const LEAN: Self = Self::CANDIDATE_LEAN;

    /// The default of the platform.
    pub const BALANCED: Self = Self {
        filter: Filter::Bank,
        miss: 0.003,
        cover: 0.4,
        backlog_seconds: 3.0,
        burst_floor: 0.43,
        calm_ticks: 90,
        calm_share: 10,
        ..Self::CANDIDATE_BALANCED
    };

    /// Few waits: pods are cheap.
    pub const STRICT: Self = Self { miss: 0.0003, backlog_seconds: 1.0, burst_floor: 0.68, ..Self::BALANCED };
}

/// What the forecast comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// A level and a slope.
    Trend,
    /// Rates with memories of different length.
    Bank,
}
