use super::trend::TrendSettings;

/// The constants of a [`Predictive`](super::Predictive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictiveSettings {
    pub(super) version: Version,
    /// ε: the share of requests that may wait longer than the objective, at the load that is forecast.
    pub(super) miss: f64,
    /// `H`: ticks, and start delays, that a need is held for; at least 10 ticks.
    pub(super) hold_ticks: f64,
    pub(super) hold_delays: f64,
    /// `T`: in how many seconds a backlog shall be served, and how much longer for each second of start delay.
    pub(super) backlog_seconds: f64,
    pub(super) backlog_per_delay: f64,
    /// How much of the requests that wait now can be backlog: 0 or 1.
    pub(super) backlog_cap: f64,
    /// Ticks without a larger need that a step down of at most one in `calm_share` pods waits for.
    pub(super) calm_ticks: usize,
    pub(super) calm_share: u32,
}

/// Where the forecast and the margin come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Version {
    First(First),
    Second(Second),
}

/// One filter of a level and a slope, a margin for its errors, a floor under recent bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct First {
    pub(super) trend: TrendSettings,
    /// The share of requests that the margin would have covered.
    pub(super) cover: f64,
    /// `f`: the share of the largest recent load that stays covered.
    pub(super) burst_floor: f64,
}

/// A bank of filters, and capacity that stands ready.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Second {
    /// The share of requests whose unforeseen load stays covered, at a start delay of nothing.
    pub(super) standing: f64,
    /// Ticks in a row, and start delays, that more pods are needed for before they are ordered.
    pub(super) confirm_ticks: usize,
    pub(super) confirm_delays: f64,
}

impl PredictiveSettings {
    /// The first version: few pods; waiting is cheap.
    pub const CANDIDATE_LEAN: Self = Self {
        version: Version::First(First {
            trend: TrendSettings { level_noise: 0.004, slope_noise: 6.7e-5, shift: 2.5 },
            cover: 0.0,
            burst_floor: 0.3,
        }),
        miss: 0.01,
        hold_delays: 2.0,
        backlog_seconds: 10.0,
        backlog_cap: 0.0,
        ..Self::CANDIDATE_BALANCED
    };

    /// The first version, between the two others.
    pub const CANDIDATE_BALANCED: Self = Self {
        version: Version::First(First {
            trend: TrendSettings { level_noise: 0.02, slope_noise: 1e-3, shift: 2.0 },
            cover: 0.45,
            burst_floor: 0.45,
        }),
        miss: 0.003,
        hold_ticks: 0.0,
        hold_delays: 3.0,
        backlog_seconds: 3.0,
        backlog_per_delay: 0.0,
        backlog_cap: 1.0,
        calm_ticks: 60,
        calm_share: 16,
    };

    /// The first version: few waits; pods are cheap.
    pub const CANDIDATE_STRICT: Self = Self {
        version: Version::First(First {
            trend: TrendSettings { level_noise: 0.03, slope_noise: 1.5e-3, shift: 1.5 },
            cover: 0.8,
            burst_floor: 0.7,
        }),
        miss: 0.0003,
        backlog_seconds: 2.0,
        ..Self::CANDIDATE_BALANCED
    };

    /// Few pods: waiting is cheap.
    pub const LEAN: Self = Self {
        version: Version::Second(Second { standing: 0.47, confirm_ticks: 3, confirm_delays: 0.0 }),
        miss: 0.0045,
        hold_ticks: 20.0,
        hold_delays: 0.4,
        backlog_cap: 0.0,
        ..Self::BALANCED
    };

    /// The default of the platform.
    pub const BALANCED: Self = Self {
        version: Version::Second(Second { standing: 0.71, confirm_ticks: 1, confirm_delays: 0.02 }),
        miss: 0.0015,
        hold_ticks: 22.0,
        hold_delays: 0.5,
        backlog_seconds: 1.0,
        backlog_per_delay: 0.2,
        backlog_cap: 1.0,
        calm_ticks: 100,
        calm_share: 10,
    };

    /// Few waits: pods are cheap.
    pub const STRICT: Self = Self {
        version: Version::Second(Second { standing: 0.85, confirm_ticks: 1, confirm_delays: 0.0 }),
        miss: 0.0003,
        hold_ticks: 15.0,
        hold_delays: 3.0,
        backlog_seconds: 0.5,
        backlog_per_delay: 0.0,
        ..Self::BALANCED
    };
}
