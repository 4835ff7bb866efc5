//! When to add and remove pods: the [`Policy`] trait and one policy a module.

use crate::{Decision, Observation};

mod conditions;
mod dc2;
mod hpa;
mod keda;
mod kpa;
mod named;
mod predictive;
mod stabilised;
mod target_tracking;
mod threshold;
mod timer;
mod usage;

pub use conditions::Conditions;
pub use dc2::{Dc2, Dc2State, QueueModel};
pub use hpa::{Hpa, HpaState};
pub use keda::{Keda, KedaState};
pub use kpa::{Kpa, KpaState};
pub use named::{AnyPolicy, AnyState, Name, UnknownName};
pub use predictive::{Predictive, PredictiveSettings, PredictiveState};
pub use target_tracking::{TargetTracking, TargetTrackingState};
pub use threshold::{Threshold, ThresholdSettings, ThresholdState};

/// A rule that turns what a layer looks like into a number of pods.
///
/// A policy does no input or output and has no clock, no thread and no random source: the same
/// observations in the same order give the same decisions, bit for bit. It decides without allocating.
/// It may be handed anything: whatever the numbers, it answers, and later good samples bring it back.
///
/// Two rules hold for every policy: one call of [`decide`](Self::decide) is one tick, and a sample that is
/// not [`valid`](Observation::valid) never lowers what is desired.
///
/// Bounds are not a policy's affair: wrap it in [`Limited`](crate::Limited).
///
/// # Another leader goes on
///
/// ```
/// use quorate_scaler::policy::{Policy, Threshold, ThresholdSettings};
/// use quorate_scaler::{Observation, Seconds};
///
/// let idle = |second| Observation { now: Seconds::new(second), ready: 3, ..Observation::default() };
///
/// let mut first = Threshold::new(ThresholdSettings::default());
/// for second in 0..29 {
///     assert_eq!(first.decide(&idle(second)).desired, 3);
/// }
/// // The leader stores its state at each tick; with the feature `serde` in any format.
/// let stored = first.state();
///
/// let mut second = Threshold::new(ThresholdSettings::default());
/// second.restore(stored);
/// assert_eq!(second.decide(&idle(29)).desired, 2); // the 30th idle tick, counted over both
/// ```
pub trait Policy {
    /// What the policy remembers between ticks, without its settings. Plain data; a format that stores it
    /// must keep every bit of a floating-point number (`serde_json` does with its feature
    /// `float_roundtrip`).
    type State;

    /// One tick: the number of pods that this observation, after all before it, asks for.
    fn decide(&mut self, observation: &Observation) -> Decision;

    /// Goes on where another instance stopped. Anything is accepted, also a state that no policy ever had.
    fn restore(&mut self, state: Self::State);

    /// What another instance needs to go on from here.
    fn state(&self) -> Self::State;
}
