//! What holds whatever is observed.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use quorate_scaler::policy::{Threshold, ThresholdSettings};
use quorate_scaler::{Expected, Fallback, Limited, Limits, Observation, Policy, Reason, Ruling, Seconds};

use crate::layer::Layer;

/// Any count, with those that matter often.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..12_u64, 1 => any::<u64>()]
}

fn pods() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..12_u32, 1 => any::<u32>()]
}

/// A clock that mostly runs, but also stands still, goes back, jumps an hour, and shows what is no time.
fn clock() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (0..400_u32).prop_map(f64::from),
        1 => (0..40_u32).prop_map(|hours| f64::from(hours) * 3600.0),
        1 => any::<f64>(),
        1 => Just(f64::NAN),
        1 => Just(-1.0),
    ]
}

/// Anything a broken sampler could hand over, through the edge that it has to pass.
pub(crate) fn garbage() -> impl Strategy<Value = Observation> {
    let counts = (count(), count(), count(), count());
    let layer = (pods(), pods(), pods(), 1..5_u32);
    (clock(), prop::bool::weighted(0.8), counts, layer, any::<f64>()).prop_map(
        |(now, valid, (arrivals, completions, waiting, in_service), layer, seconds)| {
            let (ready, starting, draining, slots) = layer;
            let (now, seconds) = (Seconds::try_from(now), Seconds::try_from(seconds));
            Observation {
                now: now.unwrap_or_default(),
                valid: valid && now.is_ok(),
                arrivals,
                completions,
                waiting,
                oldest_wait: seconds.unwrap_or_default(),
                in_service,
                ready,
                starting,
                draining,
                slots_per_pod: NonZeroU32::new(slots).unwrap(),
                busy_time: seconds.unwrap_or(Seconds::MAX),
                service_time: seconds.unwrap_or(Seconds::MAX),
                started: starting,
                start_time: seconds.unwrap_or(Seconds::MAX),
                expected: expected(seconds.unwrap_or(Seconds::MAX), completions),
                ..Observation::default()
            }
        },
    )
}

fn expected(due_in: Seconds, requests: u64) -> Expected {
    let mut expected = Expected::new(Seconds::from_micros(requests));
    expected.add(due_in, u32::try_from(requests).unwrap_or(u32::MAX));
    expected.add(Seconds::ZERO, u32::MAX - 7);
    expected
}

fn some_count(most: u32) -> impl Strategy<Value = Option<NonZeroU32>> {
    option::of((1..=most).prop_map(|count| NonZeroU32::new(count).unwrap()))
}

pub(crate) fn any_limits() -> impl Strategy<Value = Limits> {
    let bounds = (0..4_u32, 0..20_u32);
    let restraints = (some_count(5), some_count(5), some_count(6));
    (bounds, restraints, option::of((1..5_u32, any::<prop::sample::Index>())), 0..400_u64).prop_map(
        |((pods_min, more), (step_up_max, step_down_max, changes_per_minute_max), fallback, keep_alive)| {
            Limits {
                pods_min,
                pods_max: pods_min + more,
                step_up_max,
                step_down_max,
                changes_per_minute_max,
                paused: false,
                fallback: fallback.map(|(after, pods)| Fallback {
                    after: NonZeroU32::new(after).unwrap(),
                    pods: pods_min + u32::try_from(pods.index(more as usize + 1)).unwrap(),
                }),
                keep_alive: Seconds::new(keep_alive),
            }
        },
    )
}

/// The threshold as the platform runs it: the limits have the say about the last pod.
pub(crate) fn limited(limits: Limits) -> Limited<Threshold> {
    let settings = ThresholdSettings {
        pods_min: 0,
        idle_ticks: NonZeroU32::new(5).unwrap(), // short, so that removing pods is often seen
        ..ThresholdSettings::default()
    };
    Limited::new(Threshold::new(settings), limits).expect("generated limits agree")
}

pub(crate) fn bits(ruling: &Ruling) -> [(u32, Reason, Option<u64>, Seconds); 2] {
    [ruling.before, ruling.after].map(|it| (it.desired, it.reason, it.forecast.map(f64::to_bits), it.wake_at))
}

/// Runs until nothing can change any more and returns each count of pods on the way.
fn settle(scaler: &mut Limited<Threshold>, layer: &mut Layer) -> Vec<u32> {
    let mut counts = vec![layer.pods()];
    for _ in 0..3000 {
        let desired = scaler.tick(&layer.observe()).after.desired;
        layer.obey(desired);
        counts.push(desired);
    }
    counts
}

/// Whether no rule of the threshold or of the limits asks for another count.
fn is_settled(layer: &Layer, limits: &Limits) -> bool {
    let observation = layer.observe();
    let long = observation.waiting > 4 && layer.pods() < limits.pods_max;
    let idle = observation.waiting == 0 && observation.has_idle_pod() && layer.pods() > limits.pods_min;
    let stuck = layer.pods() == 0 && observation.waiting > 0 && limits.pods_max > 0;
    !long && !idle && !stuck && (limits.pods_min..=limits.pods_max).contains(&layer.pods())
}

fn layer() -> impl Strategy<Value = Layer> {
    (0..40_u64, 1..4_u32, 0..12_u64, 0..30_u32).prop_map(|(requests, slots, delay, ready)| Layer {
        now: Seconds::new(100),
        requests,
        slots_per_pod: NonZeroU32::new(slots).unwrap(),
        start_delay: Seconds::new(delay),
        ready,
        starting: VecDeque::new(),
    })
}

proptest! {
    #[test]
    fn bounds_are_always_kept(limits in any_limits(), observations in vec(garbage(), 1..80)) {
        let mut scaler = limited(limits);
        for observation in &observations {
            let desired = scaler.tick(observation).after.desired;
            prop_assert!((limits.pods_min..=limits.pods_max).contains(&desired));
        }
    }

    #[test]
    fn pause_never_asks_for_a_change(limits in any_limits(), observations in vec(garbage(), 1..80)) {
        let mut scaler = limited(Limits { paused: true, ..limits });
        for observation in &observations {
            prop_assert_eq!(scaler.tick(observation).after.desired, observation.current());
        }
    }

    #[test]
    fn same_observations_give_the_same_decisions_bit_for_bit(
        limits in any_limits(),
        observations in vec(garbage(), 1..80),
    ) {
        let (mut one, mut other) = (limited(limits), limited(limits));
        for observation in &observations {
            prop_assert_eq!(bits(&one.tick(observation)), bits(&other.tick(observation)));
        }
    }

    #[test]
    fn restored_state_goes_on_with_the_same_decisions(
        limits in any_limits(),
        before in vec(garbage(), 0..80),
        after in vec(garbage(), 1..80),
    ) {
        let mut first = limited(limits);
        before.iter().for_each(|observation| { first.tick(observation); });
        let mut second = limited(limits);
        second.restore(first.state());
        for observation in &after {
            prop_assert_eq!(bits(&first.tick(observation)), bits(&second.tick(observation)));
        }
    }

    #[test]
    fn invalid_sample_never_lowers(limits in any_limits(), observations in vec(garbage(), 1..80)) {
        let (mut scaler, mut bare) = (limited(limits), Threshold::new(ThresholdSettings::default()));
        let (mut last, mut bare_last) = (0, 0);
        for observation in &observations {
            let desired = scaler.tick(observation).after.desired;
            let bare_desired = bare.decide(observation).desired;
            if !observation.valid {
                prop_assert!(desired >= last.max(observation.current().min(limits.pods_max)));
                prop_assert!(bare_desired >= bare_last.max(observation.current()));
            }
            (last, bare_last) = (desired, bare_desired);
        }
    }

    #[test]
    fn steps_and_budget_hold_for_all_that_is_not_forced(
        limits in any_limits(),
        mut layer in layer(),
        requests in vec(0..40_u64, 1..20),
    ) {
        let mut scaler = limited(limits);
        let mut changes = Vec::new();
        for requests in requests {
            layer.requests = requests;
            for _ in 0..20 {
                let current = layer.pods();
                let after = scaler.tick(&layer.observe()).after;
                let forced = matches!(after.reason, Reason::PodsMin | Reason::PodsMax | Reason::FirstRequest);
                if after.desired != current {
                    changes.push(layer.now);
                }
                if after.desired != current && !forced {
                    let recent = |at: &&Seconds| layer.now.saturating_sub(**at) < Seconds::new(60);
                    let in_minute = changes.iter().filter(recent).count();
                    let budget = limits.changes_per_minute_max.map_or(usize::MAX, |max| max.get() as usize);
                    prop_assert!(in_minute <= budget);
                    let up = limits.step_up_max.map_or(u32::MAX, NonZeroU32::get);
                    let down = limits.step_down_max.map_or(u32::MAX, NonZeroU32::get);
                    prop_assert!(after.desired.saturating_sub(current) <= up);
                    prop_assert!(current.saturating_sub(after.desired) <= down);
                }
                layer.obey(after.desired);
            }
        }
    }

    #[test]
    fn more_requests_never_want_fewer_pods(
        limits in any_limits(),
        before in vec(garbage(), 0..40),
        observation in garbage(),
        more in (count(), count()),
    ) {
        let mut fewer = limited(limits);
        before.iter().for_each(|observation| { fewer.tick(observation); });
        let mut bare_fewer = fewer.policy().clone();
        let (mut greater, mut bare_greater) = (fewer.clone(), bare_fewer.clone());
        let longer = Observation {
            waiting: observation.waiting.saturating_add(more.0),
            in_service: observation.in_service.saturating_add(more.1),
            ..observation
        };
        prop_assert!(greater.tick(&longer).after.desired >= fewer.tick(&observation).after.desired);
        prop_assert!(bare_greater.decide(&longer).desired >= bare_fewer.decide(&observation).desired);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn constant_load_does_not_oscillate(limits in any_limits(), mut layer in layer()) {
        let counts = settle(&mut limited(limits), &mut layer);
        let steps: Vec<_> = counts.windows(2).map(|pair| pair[1].cmp(&pair[0])).collect();
        let changes: Vec<_> = steps.iter().filter(|step| step.is_ne()).collect();
        // Up while pods start, and down again if that was too far: one turn, then rest.
        let turns = changes.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(turns <= 1, "{turns} turns in {counts:?}");
        prop_assert!(steps[steps.len() - 400..].iter().all(|step| step.is_eq()), "no rest in {counts:?}");
        prop_assert!(is_settled(&layer, &limits), "{:?} is not settled", layer.observe());
    }

    #[test]
    fn good_samples_bring_back_a_policy_that_saw_garbage(
        limits in any_limits(),
        observations in vec(garbage(), 1..80),
        mut layer in layer(),
    ) {
        let mut scaler = limited(limits);
        observations.iter().for_each(|observation| { scaler.tick(observation); });
        settle(&mut scaler, &mut layer);
        prop_assert!(is_settled(&layer, &limits), "{:?} is not settled", layer.observe());
    }
}
