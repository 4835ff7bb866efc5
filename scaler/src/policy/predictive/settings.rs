use super::trend::TrendSettings;

/// The constants of a [`Predictive`](super::Predictive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictiveSettings {
    pub(super) miss: f64,
    pub(super) cover: f64,
    pub(super) hold_delays: f64,
    pub(super) trend: TrendSettings,
    pub(super) backlog_seconds: f64,
    pub(super) backlog_cap: f64,
    pub(super) load_ticks: usize,
    pub(super) burst_floor: f64,
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
        load_ticks: 2,
        burst_floor: 0.3,
    };

    /// The first version: the default of the page.
    pub const CANDIDATE_BALANCED: Self = Self {
        miss: 0.003,
        cover: 0.45,
        hold_delays: 3.0,
        trend: TrendSettings { level_noise: 0.02, slope_noise: 1e-3, shift: 2.0 },
        backlog_seconds: 3.0,
        backlog_cap: 1.0,
        load_ticks: 2,
        burst_floor: 0.45,
    };

    /// The first version: few waits; pods are cheap.
    pub const CANDIDATE_STRICT: Self = Self {
        miss: 0.0003,
        cover: 0.8,
        hold_delays: 3.0,
        trend: TrendSettings { level_noise: 0.03, slope_noise: 1.5e-3, shift: 1.5 },
        backlog_seconds: 2.0,
        backlog_cap: 1.0,
        load_ticks: 2,
        burst_floor: 0.7,
    };

    /// Few pods: waiting is cheap.
    pub const LEAN: Self = Self::CANDIDATE_LEAN;

    /// The default of the platform.
    pub const BALANCED: Self = Self::CANDIDATE_BALANCED;

    /// Few waits: pods are cheap.
    pub const STRICT: Self = Self::CANDIDATE_STRICT;
}
