use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::{Decision, Observation, Policy, Reason, Seconds};

/// Most changes per minute that [`Limits`] can allow: the instant of each is kept.
pub const CHANGES_PER_MINUTE_LIMIT: u32 = 600;

const MINUTE: Seconds = Seconds::new(60);

/// What a user allows a policy to do with one function's pods. [`Limited`] enforces it.
///
/// The default allows everything from one pod up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Limits {
    /// Fewest pods. With 0 the last pod goes when it has been idle for `keep_alive`, and the first request
    /// that waits orders one at once.
    pub pods_min: u32,
    /// Most pods.
    pub pods_max: u32,
    /// Most pods that one decision adds; `None` is any number.
    pub step_up_max: Option<NonZeroU32>,
    /// Most pods that one decision removes; `None` is any number.
    pub step_down_max: Option<NonZeroU32>,
    /// Most changes in any 60 s, at most [`CHANGES_PER_MINUTE_LIMIT`]; `None` is any number.
    pub changes_per_minute_max: Option<NonZeroU32>,
    /// Whether to leave the pods as they are, whatever their number.
    pub paused: bool,
    /// What to do when samples keep failing.
    pub fallback: Option<Fallback>,
    /// How long the last pod stays that serves nothing, when `pods_min` is 0. It may be 0.
    pub keep_alive: Seconds,
}

/// A number of pods to hold when the layer cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fallback {
    /// Samples in a row that are not valid before it holds.
    pub after: NonZeroU32,
    /// The fewest pods from then on, also from 0. More pods than this stay.
    pub pods: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pods_min: 1,
            pods_max: u32::MAX,
            step_up_max: None,
            step_down_max: None,
            changes_per_minute_max: None,
            paused: false,
            fallback: None,
            keep_alive: Seconds::new(300),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), InvalidLimits> {
        let Self { pods_min, pods_max, .. } = *self;
        if pods_min > pods_max {
            return Err(InvalidLimits::Pods { pods_min, pods_max });
        }
        if let Some(changes) = self.changes_per_minute_max
            && changes.get() > CHANGES_PER_MINUTE_LIMIT
        {
            return Err(InvalidLimits::Changes { value: changes.get() });
        }
        match self.fallback {
            Some(Fallback { pods, .. }) if !(pods_min..=pods_max).contains(&pods) => {
                Err(InvalidLimits::Fallback { pods, pods_min, pods_max })
            }
            _ => Ok(()),
        }
    }
}

/// Limits that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimits {
    /// Nothing lies between the bounds: lower one or raise the other.
    #[error("pods_min ({pods_min}) is over pods_max ({pods_max})")]
    Pods {
        /// The lower bound.
        pods_min: u32,
        /// The upper bound.
        pods_max: u32,
    },
    /// More instants than are kept: use `None` for no limit.
    #[error(
        "changes_per_minute_max of {value} is over {CHANGES_PER_MINUTE_LIMIT}: leave it out to allow any number"
    )]
    Changes {
        /// What was given.
        value: u32,
    },
    /// The fallback could never hold.
    #[error("fallback of {pods} pods is outside of pods_min ({pods_min}) to pods_max ({pods_max})")]
    Fallback {
        /// What was given.
        pods: u32,
        /// The lower bound.
        pods_min: u32,
        /// The upper bound.
        pods_max: u32,
    },
}

/// A policy within [`Limits`].
///
/// At each tick the policy decides first, as if it were free. Then, in this order:
///
/// 1. **Paused**: the pods stay as they are, and nothing below applies.
/// 2. **Last pod** (`pods_min = 0`): a policy that wants none gets one until nothing has waited, been served
///    or arrived for `keep_alive`; from then on a policy that wants one, because that is its own minimum,
///    gets none. Of more than one pod the policy is the judge: it may know what comes.
/// 3. **Steps**: not more than `step_up_max` above and `step_down_max` below what is ready or starting.
/// 4. **Budget**: no change when the last 60 s have seen `changes_per_minute_max`.
/// 5. **Never too few**, held back by neither steps nor budget: a sample that is not valid lowers nothing;
///    after [`Fallback::after`] such samples in a row there are [`Fallback::pods`]; the first request that
///    waits while there is no pod orders one.
/// 6. **Bounds**: `pods_min` to `pods_max`, above all else.
///
/// Every change is counted in the budget, also those of 5 and 6 that it did not hold back. To repeat the last
/// order for a sample that is not valid is no change.
///
/// When time goes backwards, what the limits remember is taken to have happened now: the keep-alive and the
/// minute start again.
///
/// ```
/// use quorate_scaler::policy::{Threshold, ThresholdSettings};
/// use quorate_scaler::{Limited, Limits, Observation, Reason, Seconds};
///
/// let policy = Threshold::new(ThresholdSettings { pods_min: 0, ..ThresholdSettings::default() });
/// let limits = Limits { pods_min: 0, pods_max: 8, ..Limits::default() };
/// let mut scaler = Limited::new(policy, limits)?;
///
/// // One request is not over the threshold of 4, but it must not wait for three others.
/// let ruling = scaler.tick(&Observation { now: Seconds::new(1), waiting: 1, ..Observation::default() });
/// assert_eq!((ruling.before.desired, ruling.before.reason), (0, Reason::Steady));
/// assert_eq!((ruling.after.desired, ruling.after.reason), (1, Reason::FirstRequest));
/// # Ok::<(), quorate_scaler::InvalidLimits>(())
/// ```
#[derive(Clone, Debug)]
pub struct Limited<P> {
    policy: P,
    limits: Limits,
    memory: Memory,
}

/// One tick's decision, before and after the limits.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ruling {
    /// What the policy wanted.
    pub before: Decision,
    /// What is to be done. Its reason is the policy's, or the last limit that changed the number.
    pub after: Decision,
}

/// What a [`Limited`] policy remembers between ticks, with what its policy `P` remembers (`S`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LimitedState<S> {
    policy: S,
    memory: Memory,
}

/// What the limits themselves remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
struct Memory {
    /// Since when nothing waits, is served or arrives, if that is so.
    idle_since: Option<Seconds>,
    /// Samples in a row that were not valid.
    invalid_samples: u32,
    /// The last decision after limits, 0 before the first.
    desired: u32,
    /// The instants of the changes in the last 60 s, oldest first; at most `changes_per_minute_max`.
    changes: VecDeque<Seconds>,
}

impl<P: Policy> Limited<P> {
    /// Puts limits around a policy.
    ///
    /// # Errors
    ///
    /// When the limits contradict each other.
    pub fn new(policy: P, limits: Limits) -> Result<Self, InvalidLimits> {
        limits.check()?;
        let mut limited = Self { policy, limits, memory: Memory::default() };
        limited.fit_changes();
        Ok(limited)
    }

    /// One tick: what the policy wants, and what the limits make of it. Does not allocate unless the policy
    /// does.
    pub fn tick(&mut self, observation: &Observation) -> Ruling {
        let before = self.policy.decide(observation);
        let current = self.memory.current(observation);
        self.memory.observe(observation);

        let mut after = before;
        if self.limits.paused {
            after.replace(observation.current(), Reason::Paused);
        } else {
            self.keep_last_pod(observation, current, &mut after);
            self.restrain(current, &mut after);
            self.ensure_enough(observation, current, &mut after);
            if after.desired != current {
                self.memory.record_change(observation.now, self.limits.changes_per_minute_max);
            }
        }
        self.memory.desired = after.desired;
        Ruling { before, after }
    }

    /// Other limits from the next tick on; what was remembered stays.
    ///
    /// # Errors
    ///
    /// When they contradict each other; the old ones stay in force.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), InvalidLimits> {
        limits.check()?;
        self.limits = limits;
        self.fit_changes();
        Ok(())
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The policy inside.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Step 2: policies leave the decision between one pod and none to the keep-alive.
    fn keep_last_pod(&self, observation: &Observation, current: u32, after: &mut Decision) {
        if self.limits.pods_min > 0 {
            return;
        }
        let leaves_at = self.memory.idle_since.map(|since| since.saturating_add(self.limits.keep_alive));
        match leaves_at {
            // Without a pod there is nothing to keep alive: a policy's own minimum does not start one.
            Some(at) if current == 0 || at <= observation.now => {
                if after.desired == 1 {
                    after.replace(0, Reason::ScaledToZero);
                }
            }
            _ => {
                if after.desired == 0 && current > 0 {
                    after.replace(1, Reason::KeepAlive);
                }
                if let Some(at) = leaves_at {
                    after.wake_at = after.wake_at.min(at);
                }
            }
        }
    }

    /// Steps 3 and 4: the sizes and the number of changes.
    fn restrain(&self, current: u32, after: &mut Decision) {
        if let Some(step) = self.limits.step_up_max {
            after.replace(after.desired.min(current.saturating_add(step.get())), Reason::StepUp);
        }
        if let Some(step) = self.limits.step_down_max {
            after.replace(after.desired.max(current.saturating_sub(step.get())), Reason::StepDown);
        }
        if after.desired != current
            && let Some(free_at) = self.memory.budget_free_at(self.limits.changes_per_minute_max)
        {
            after.replace(current, Reason::ChangeBudget);
            after.wake_at = after.wake_at.min(free_at);
        }
    }

    /// Steps 5 and 6: what must be there whatever the policy and the restraints say, within the bounds.
    fn ensure_enough(&self, observation: &Observation, current: u32, after: &mut Decision) {
        if !observation.valid {
            after.replace(after.desired.max(current), Reason::InvalidSample);
            if let Some(fallback) = self.limits.fallback
                && self.memory.invalid_samples >= fallback.after.get()
            {
                after.replace(after.desired.max(fallback.pods), Reason::Fallback);
            }
        } else if current == 0 && observation.waiting > 0 {
            after.replace(after.desired.max(1), Reason::FirstRequest);
        }
        after.replace(after.desired.max(self.limits.pods_min), Reason::PodsMin);
        after.replace(after.desired.min(self.limits.pods_max), Reason::PodsMax);
    }

    /// Makes room for as many changes as the budget can hold, so that no tick has to, and drops older ones.
    fn fit_changes(&mut self) {
        let changes = &mut self.memory.changes;
        let kept = self.limits.changes_per_minute_max.map_or(0, |max| max.get() as usize);
        changes.drain(..changes.len().saturating_sub(kept));
        changes.reserve_exact(kept - changes.len());
    }
}

/// Decides as [`Limited::tick`] does and shows only the decision after limits.
impl<P: Policy> Policy for Limited<P> {
    type State = LimitedState<P::State>;

    fn decide(&mut self, observation: &Observation) -> Decision {
        self.tick(observation).after
    }

    fn restore(&mut self, state: Self::State) {
        self.policy.restore(state.policy);
        self.memory = state.memory;
        // A stored state is input: only a sorted list can drop what is old from its front.
        self.memory.changes.make_contiguous().sort_unstable();
        self.fit_changes();
    }

    fn state(&self) -> Self::State {
        LimitedState { policy: self.policy.state(), memory: self.memory.clone() }
    }
}

impl Memory {
    /// The pods that a decision is measured against. Who cannot see the layer may not see its pods either:
    /// then the last order still stands, and to repeat it is no change.
    fn current(&self, observation: &Observation) -> u32 {
        if observation.valid { observation.current() } else { observation.current().max(self.desired) }
    }

    /// Takes in what the limits need to know of a tick.
    fn observe(&mut self, observation: &Observation) {
        let now = observation.now;
        if self.changes.back().is_some_and(|last| *last > now) {
            for change in &mut self.changes {
                *change = now.min(*change);
            }
        }
        while self.changes.front().is_some_and(|first| now.saturating_sub(*first) >= MINUTE) {
            self.changes.pop_front();
        }

        self.invalid_samples = if observation.valid { 0 } else { self.invalid_samples.saturating_add(1) };
        let idle = observation.valid && observation.waiting == 0 && observation.in_service == 0;
        self.idle_since = if !idle {
            None
        } else if observation.arrivals > 0 {
            Some(now) // what came since the last tick has gone again
        } else {
            Some(self.idle_since.map_or(now, |since| since.min(now)))
        };
    }

    /// When the budget allows the next change, if it allows none now.
    fn budget_free_at(&self, changes_max: Option<NonZeroU32>) -> Option<Seconds> {
        let spent = self.changes.len() >= changes_max?.get() as usize;
        let oldest = self.changes.front().filter(|_| spent)?;
        Some(oldest.saturating_add(MINUTE))
    }

    /// Keeps the instant of a change, in place of the oldest when the budget was overridden.
    fn record_change(&mut self, now: Seconds, changes_max: Option<NonZeroU32>) {
        let Some(changes_max) = changes_max else { return };
        if self.changes.len() >= changes_max.get() as usize {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
    }
}
