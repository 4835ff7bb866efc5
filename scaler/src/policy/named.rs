use std::fmt;
use std::str::FromStr;

use super::{
    Conditions, Dc2, Hpa, Keda, Kpa, Policy, Predictive, PredictiveSettings, QueueModel, TargetTracking,
    Threshold, ThresholdSettings,
};
use crate::{Decision, Observation};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A policy with its constants, by the name that tables, configurations and commands use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum Name { $($(#[$doc])* #[cfg_attr(feature = "serde", serde(rename = $text))] $name,)* }

        impl Name {
            /// Every one, in the order of the tables.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name of every one, in the same order.
            pub const WORDS: &[&str] = &[$($text,)*];

            /// The name as text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

names! {
    /// [`Threshold`] of 4, the report's.
    Threshold = "threshold>4",
    /// [`Hpa`] at 80 %.
    Hpa80 = "hpa-80",
    /// [`Hpa`] at 50 %.
    Hpa50 = "hpa-50",
    /// [`Keda`] with 5 messages a slot.
    Keda5 = "keda-5",
    /// [`Keda`] with 1 message a slot.
    Keda1 = "keda-1",
    /// [`Kpa`].
    Kpa = "kpa",
    /// [`TargetTracking`].
    TargetTracking = "tt",
    /// [`Dc2`] with a queue at each pod.
    Dc2PerPod = "dc2-mm1",
    /// [`Dc2`] with one queue.
    Dc2Pooled = "dc2-mmk",
    /// The first version of [`Predictive`] with few pods, kept to compare with.
    CandidateLean = "candidate-lean",
    /// The first version of [`Predictive`], kept to compare with.
    CandidateBalanced = "candidate-balanced",
    /// The first version of [`Predictive`] with few waits, kept to compare with.
    CandidateStrict = "candidate-strict",
    /// [`Predictive`] with few pods: waiting is cheap.
    Lean = "lean",
    /// [`Predictive`], the default of the platform.
    Balanced = "balanced",
    /// [`Predictive`] with few waits: pods are cheap.
    Strict = "strict",
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no policy: there are {names}", names = names())]
pub struct UnknownName(pub String);

fn names() -> String {
    Name::WORDS.join(", ")
}

impl FromStr for Name {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or_else(|| UnknownName(text.into()))
    }
}

macro_rules! any {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// One of the policies of this crate, chosen at run time.
        #[derive(Clone, Debug)]
        #[expect(clippy::large_enum_variant, reason = "there is one a layer, and it must not be behind a pointer")]
        #[non_exhaustive]
        pub enum AnyPolicy { $($(#[$doc])* $kind($kind),)* }

        /// What an [`AnyPolicy`] remembers between ticks.
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
        #[expect(clippy::large_enum_variant, reason = "as the policy is")]
        #[non_exhaustive]
        pub enum AnyState { $($(#[$doc])* $kind(<$kind as Policy>::State),)* }

        impl Policy for AnyPolicy {
            type State = AnyState;

            fn decide(&mut self, observation: &Observation) -> Decision {
                match self { $(Self::$kind(policy) => policy.decide(observation),)* }
            }

            /// The state of another policy is none of this one's: it goes on without.
            fn restore(&mut self, state: AnyState) {
                match (self, state) {
                    $((Self::$kind(policy), AnyState::$kind(state)) => policy.restore(state),)*
                    _ => {}
                }
            }

            fn state(&self) -> AnyState {
                match self { $(Self::$kind(policy) => AnyState::$kind(policy.state()),)* }
            }
        }
    };
}

any! {
    /// The report's.
    Threshold,
    /// Kubernetes'.
    Hpa,
    /// KEDA's.
    Keda,
    /// Knative's.
    Kpa,
    /// AWS'.
    TargetTracking,
    /// With a queueing model.
    Dc2,
    /// Ours.
    Predictive,
}

impl AnyPolicy {
    /// The policy of that name that has seen nothing yet.
    #[must_use]
    pub fn new(name: Name, conditions: &Conditions) -> Self {
        let predictive = |settings| Self::Predictive(Predictive::new(settings, conditions));
        match name {
            Name::Threshold => Self::Threshold(Threshold::new(ThresholdSettings {
                tick: conditions.tick,
                pods_min: conditions.pods_min,
                ..ThresholdSettings::default()
            })),
            Name::Hpa80 => Self::Hpa(Hpa::new(0.8, conditions)),
            Name::Hpa50 => Self::Hpa(Hpa::new(0.5, conditions)),
            Name::Keda5 => Self::Keda(Keda::new(5, conditions)),
            Name::Keda1 => Self::Keda(Keda::new(1, conditions)),
            Name::Kpa => Self::Kpa(Kpa::new(conditions)),
            Name::TargetTracking => Self::TargetTracking(TargetTracking::new(conditions)),
            Name::Dc2PerPod => Self::Dc2(Dc2::new(QueueModel::PerPod, conditions)),
            Name::Dc2Pooled => Self::Dc2(Dc2::new(QueueModel::Pooled, conditions)),
            Name::CandidateLean => predictive(PredictiveSettings::CANDIDATE_LEAN),
            Name::CandidateBalanced => predictive(PredictiveSettings::CANDIDATE_BALANCED),
            Name::CandidateStrict => predictive(PredictiveSettings::CANDIDATE_STRICT),
            Name::Lean => predictive(PredictiveSettings::LEAN),
            Name::Balanced => predictive(PredictiveSettings::BALANCED),
            Name::Strict => predictive(PredictiveSettings::STRICT),
        }
    }
}
