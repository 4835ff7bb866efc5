//! One function's layer: its policy, what is remembered from tick to tick, and how a decision is made public.

use super::{AutoscalerError, TICK, totals::Sample};
use crate::{
    api::ScalingStatus,
    config::FunctionConfig,
    set::{SCALING, SCALING_STATES},
};
use quorate_dag::Function;
use quorate_scaler::{
    Limited, LimitedState, Limits, Observation, Policy, Ruling, Seconds,
    policy::{AnyPolicy, AnyState, Conditions, Name, Threshold, ThresholdSettings},
};
use std::{collections::HashSet, num::NonZeroU32};

/// From the order of a worker set to its first operation, until that was measured.
const START_DELAY: Seconds = Seconds::new(2);

/// Mean time of an operation, as long as none was measured.
const SERVICE_PRIOR: Seconds = Seconds::from_micros(2_000);

pub(super) struct Layer {
    pub(super) function: Function,
    pub(super) slots: NonZeroU32,
    /// What was counted since the last look that saw all of it.
    pub(super) unseen: Sample,
    /// Sets that have begun to take operations, by name and order: what they took for that is learnt once.
    pub(super) begun: HashSet<(String, u64)>,
    name: Name,
    policy: Limited<AnyPolicy>,
    /// When it was looked at last.
    looked: Option<Seconds>,
    /// What was made public last.
    status: Option<ScalingStatus>,
}

impl Layer {
    pub(super) fn new(function: Function, config: &FunctionConfig) -> Result<Self, AutoscalerError> {
        let conditions = Conditions {
            start_delay: START_DELAY,
            wait_objective: Seconds::from(config.wait),
            service_prior: SERVICE_PRIOR,
            pods_min: config.pods_min,
            tick: Seconds::from(TICK),
        };
        let policy = match config.policy {
            // Its name says the report's threshold; the configuration may say another.
            Name::Threshold => AnyPolicy::Threshold(Threshold::new(ThresholdSettings {
                waiting_max: config.threshold.into(),
                pods_min: config.pods_min,
                tick: Seconds::from(TICK),
                ..ThresholdSettings::default()
            })),
            name => AnyPolicy::new(name, &conditions),
        };
        let limits = Limits {
            pods_min: config.pods_min,
            pods_max: config.pods_max,
            step_up_max: NonZeroU32::new(config.step_up),
            step_down_max: NonZeroU32::new(config.step_down),
            changes_per_minute_max: NonZeroU32::new(config.changes_per_minute),
            keep_alive: Seconds::from(config.keep_alive),
            ..Limits::default()
        };
        let policy =
            Limited::new(policy, limits).map_err(|source| AutoscalerError::Limits { function, source })?;
        let slots = NonZeroU32::new(config.slots).unwrap_or(NonZeroU32::MIN);
        let (begun, name) = (HashSet::new(), config.policy);
        Ok(Self {
            function,
            slots,
            unseen: Sample::default(),
            begun,
            name,
            policy,
            looked: None,
            status: None,
        })
    }

    /// What the policy says. What is new about it goes to the log and to the metrics, and is given back for
    /// everybody to read.
    pub(super) fn decide(&mut self, observation: &Observation) -> (Ruling, Option<&ScalingStatus>) {
        let ruling = self.policy.tick(observation);
        let before = self.looked.replace(observation.now);
        let since = before.map_or(Seconds::from(TICK), |before| observation.now.saturating_sub(before));
        let status = self.status_of(observation, &ruling, since);
        self.measure(&status);
        let is_same = self.status.as_ref().is_some_and(|last| last.is_like(&status));
        self.status = Some(status);
        (ruling, self.status.as_ref().filter(|_| !is_same))
    }

    fn status_of(&self, observation: &Observation, ruling: &Ruling, since: Seconds) -> ScalingStatus {
        let observed = observation.busy_time.as_f64() / since.as_f64().max(f64::MIN_POSITIVE);
        ScalingStatus {
            function: self.function.name().into(),
            policy: self.name.as_str().into(),
            at_ms: observation.now.as_micros() / 1000,
            valid: observation.valid,
            waiting: observation.waiting,
            in_service: observation.in_service,
            arrivals: observation.arrivals,
            observed: observed.min(f64::from(u32::MAX)),
            forecast: ruling.after.forecast,
            ready: observation.ready,
            starting: observation.starting,
            draining: observation.draining,
            wanted: ruling.before.desired,
            desired: ruling.after.desired,
            reason: ruling.after.reason.as_str().into(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge; a depth over 2^53 does not occur")]
    fn measure(&self, status: &ScalingStatus) {
        let name = self.function.name();
        let gauge = |what| metrics::gauge!(what, "function" => name);
        gauge("quorate_layer_depth").set(status.waiting as f64);
        gauge("quorate_load_observed").set(status.observed);
        if let Some(forecast) = status.forecast {
            gauge("quorate_load_forecast").set(forecast);
        }
        gauge("quorate_pods_ready").set(status.ready);
        gauge("quorate_pods_wanted").set(status.wanted);
        gauge("quorate_pods_desired").set(status.desired);
        // One reason is 1, so that a chart shows which rule decided when.
        let reasoned = |reason: &str, is: f64| {
            metrics::gauge!("quorate_scaling_reason", "function" => name, "reason" => reason.to_owned())
                .set(is);
        };
        if let Some(last) = self.status.as_ref().filter(|last| last.reason != status.reason) {
            reasoned(&last.reason, 0.0);
        }
        reasoned(&status.reason, 1.0);
    }

    /// The key of what everybody may read of it.
    pub(super) fn key(&self) -> String {
        format!("{SCALING}{}", self.function.name())
    }

    /// The key of what the next leader goes on with.
    pub(super) fn state_key(&self) -> String {
        format!("{SCALING_STATES}{}", self.function.name())
    }

    pub(super) fn state(&self) -> LimitedState<AnyState> {
        self.policy.state()
    }

    /// Goes on where another leader ended.
    pub(super) fn restore(&mut self, state: LimitedState<AnyState>) {
        self.policy.restore(state);
    }
}

/// What each metric of a layer is.
pub(super) fn describe() {
    use metrics::{Unit, describe_gauge};
    describe_gauge!("quorate_load_observed", "Mean number of busy slots of a function since the last look");
    describe_gauge!(
        "quorate_load_forecast",
        "Busy slots that are expected when a pod ordered now would be up"
    );
    describe_gauge!("quorate_pods_ready", "Worker sets, or plain workers, that take operations");
    describe_gauge!("quorate_pods_wanted", "Pods that the policy asks for, before limits");
    describe_gauge!("quorate_pods_desired", "Pods that are ordered");
    describe_gauge!("quorate_scaling_reason", Unit::Count, "1 for the rule that decided last");
}
