//! The policies that others published, against decisions computed by hand from their rules.

use quorate_scaler::policy::{AnyPolicy, Conditions, Name};
use quorate_scaler::{Observation, Policy, Reason, Seconds};

/// A layer at one second: pods ready and starting, what waits and is served, and the mean number busy.
#[derive(Clone, Copy, Default)]
struct At {
    ready: u32,
    starting: u32,
    waiting: u64,
    busy: f64,
}

impl At {
    fn observe(self, second: u64) -> Observation {
        #[expect(clippy::cast_possible_truncation, reason = "a few pods")]
        let in_service = self.busy.round() as u64;
        Observation {
            now: Seconds::new(second),
            ready: self.ready,
            starting: self.starting,
            waiting: self.waiting,
            in_service,
            busy_time: Seconds::try_from(self.busy).unwrap(),
            in_system_time: Seconds::try_from(self.busy + self.waiting as f64).unwrap(),
            ..Observation::default()
        }
    }
}

fn policy(name: Name) -> AnyPolicy {
    AnyPolicy::new(name, &Conditions::default())
}

/// Shows the same layer for some seconds and returns the last decision, the only one that may ask for a change.
fn hold(policy: &mut AnyPolicy, at: At, seconds: std::ops::RangeInclusive<u64>) -> (u32, Reason) {
    let last = *seconds.end();
    for second in seconds {
        let decision = policy.decide(&at.observe(second));
        if second == last {
            return (decision.desired, decision.reason);
        }
        assert_eq!(decision.desired, at.ready + at.starting, "at {second} s");
    }
    unreachable!("there is a last second")
}

#[test]
fn hpa_follows_utilisation_every_fifteen_seconds() {
    let mut hpa = policy(Name::Hpa80);
    // 9 of 10 pods busy: 0.9 / 0.8 = 1.125, over the tolerance: ceil(1.125 · 10) = 12.
    let at = At { ready: 10, busy: 9.0, ..At::default() };
    assert_eq!(hold(&mut hpa, at, 0..=15), (12, Reason::Utilisation));
    // 0.85 / 0.8 = 1.0625 is within the tolerance.
    let at = At { ready: 12, busy: 10.2, ..At::default() };
    assert_eq!(hold(&mut hpa, at, 16..=30), (12, Reason::Steady));
    // Pods that start are taken to be idle: 1.25 · 12 / 15 = 1.0 changes nothing, though 1.25 alone would.
    let at = At { ready: 12, starting: 3, busy: 12.0, ..At::default() };
    assert_eq!(hold(&mut hpa, at, 31..=45), (15, Reason::Steady));
}

#[test]
fn hpa_lowers_only_after_five_minutes_and_rises_by_four_or_twice() {
    let mut hpa = policy(Name::Hpa50);
    let busy = At { ready: 2, busy: 2.0, ..At::default() };
    assert_eq!(hold(&mut hpa, busy, 0..=15), (4, Reason::Utilisation));
    // What was recommended once holds for twenty looks: until 315 s, exclusive of the first.
    let idle = At { ready: 4, busy: 0.0, ..At::default() };
    assert_eq!(hold(&mut hpa, idle, 16..=315), (1, Reason::PodsMin));
    // From one pod, a utilisation of 1 can ask for two; KEDA's queue shows the limit on the step.
    let mut keda = policy(Name::Keda1);
    let long = At { ready: 1, waiting: 99, busy: 1.0, ..At::default() };
    assert_eq!(hold(&mut keda, long, 0..=15), (5, Reason::StepUp));
    let mut keda = policy(Name::Keda1);
    let long = At { ready: 20, waiting: 99, busy: 20.0, ..At::default() };
    assert_eq!(hold(&mut keda, long, 0..=15), (40, Reason::StepUp));
}

#[test]
fn keda_counts_messages_in_flight_too() {
    let at = At { ready: 2, waiting: 9, busy: 2.0, ..At::default() };
    assert_eq!(hold(&mut policy(Name::Keda5), at, 0..=15), (3, Reason::LayerLength)); // ceil(11 / 5)
    // 11 / (5 · 2) = 1.1 is the tolerance; 10 / 10 is on target.
    let at = At { ready: 2, waiting: 8, busy: 2.0, ..At::default() };
    assert_eq!(hold(&mut policy(Name::Keda5), at, 0..=15), (2, Reason::Steady));
}

#[test]
fn keda_goes_to_zero_after_its_cooldown_and_wakes_at_a_poll() {
    let mut keda = policy(Name::Keda5);
    let idle = At { ready: 1, ..At::default() };
    // The first poll, at 30 s, begins the 300 s; the poll after they have passed is at 360 s.
    assert_eq!(hold(&mut keda, idle, 0..=360), (0, Reason::ScaledToZero));
    let waits = At { waiting: 1, ..At::default() };
    assert_eq!(hold(&mut keda, waits, 361..=390), (1, Reason::FirstRequest));
}

#[test]
fn kpa_sizes_for_seventy_per_cent_over_a_minute() {
    let mut kpa = policy(Name::Kpa);
    let at = At { ready: 5, busy: 3.5, ..At::default() };
    // 3.5 / 0.7 = 5: nothing to do, however often it looks.
    assert_eq!(hold(&mut kpa, at, 0..=60).0, 5);
    // A second of 6 in the window: (59 · 3.5 + 6) / 60 = 3.54, ceil(3.54 / 0.7) = 6.
    let more = At { busy: 6.0, ..at };
    assert_eq!(hold(&mut kpa, more, 61..=62), (6, Reason::Concurrency));
}

#[test]
fn kpa_panics_at_twice_what_is_ready_and_keeps_the_most_for_a_minute() {
    let mut kpa = policy(Name::Kpa);
    let calm = At { ready: 2, busy: 1.3, ..At::default() };
    assert_eq!(hold(&mut kpa, calm, 0..=60).0, 2);
    // Two seconds of 22 in the system in a window of six: (4 · 1.3 + 44) / 6 = 8.2, ceil(8.2 / 0.7) = 12.
    let burst = At { ready: 2, waiting: 20, busy: 2.0, ..At::default() };
    kpa.decide(&burst.observe(61));
    let decision = kpa.decide(&burst.observe(62));
    assert_eq!((decision.desired, decision.reason), (12, Reason::Panic));
    // The panic holds 12 while it lasts: 60 s after it was last renewed, and not a look less.
    let after = At { ready: 12, busy: 1.4, ..At::default() };
    let mut ended = None;
    for second in 63..140 {
        let decision = kpa.decide(&after.observe(second));
        if decision.desired < 12 && ended.is_none() {
            ended = Some(second);
        }
    }
    assert_eq!(ended, Some(124)); // 12 ready pods are enough from 64 s on; 62 + 60 < 124
}

#[test]
fn kpa_goes_to_zero_when_it_may() {
    let conditions = Conditions { pods_min: 0, ..Conditions::default() };
    let mut kpa = AnyPolicy::new(Name::Kpa, &conditions);
    let idle = At { ready: 1, ..At::default() };
    assert_eq!(hold(&mut kpa, idle, 0..=32), (0, Reason::ScaledToZero)); // the first look is at 2 s
    let mut kpa = policy(Name::Kpa);
    assert_eq!(hold(&mut kpa, idle, 0..=600).0, 1);
}

#[test]
fn target_tracking_adds_after_three_minutes_and_removes_after_fifteen() {
    let mut tracking = policy(Name::TargetTracking);
    // 30 wait for 10 pods: 3 each, target 2; three periods in a row, then ceil(10 · 3 / 2) = 15.
    let at = At { ready: 10, waiting: 30, busy: 10.0, ..At::default() };
    assert_eq!(hold(&mut tracking, at, 0..=180), (15, Reason::BacklogPerPod));
    // No backlog: at the fifteenth low period one pod in ten goes, at least one, and at each one after.
    let at = At { ready: 25, busy: 10.0, ..At::default() };
    assert_eq!(hold(&mut tracking, at, 181..=1080), (23, Reason::BacklogPerPod));
    let at = At { ready: 23, busy: 10.0, ..At::default() };
    assert_eq!(hold(&mut tracking, at, 1081..=1140), (21, Reason::BacklogPerPod));
}

#[test]
fn target_tracking_counts_the_pods_of_the_minute_not_of_its_end() {
    let mut tracking = policy(Name::TargetTracking);
    let at = At { ready: 10, waiting: 40, busy: 10.0, ..At::default() };
    assert_eq!(hold(&mut tracking, at, 0..=150), (10, Reason::Steady));
    // 15 pods in the mean of the third minute, for which 40 are 2.67 each: ceil(15 · 2.67 / 2) = 20 are there.
    let at = At { ready: 20, ..at };
    assert_eq!(hold(&mut tracking, at, 151..=180), (20, Reason::Steady));
}

/// A second of a layer to which 15 requests come in two seconds, of which so many are answered each second, after
/// so long.
fn model_layer(second: u64, ready: u32, [completions, busy, response]: [f64; 3]) -> Observation {
    let count = |rate: f64| if second.is_multiple_of(2) { rate.floor() } else { rate.ceil() };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few requests")]
    let [arrivals, completed] = [7.5, completions].map(|rate| count(rate) as u64);
    Observation {
        arrivals,
        completions: completed,
        response_time: Seconds::try_from(response * completed as f64).unwrap(),
        ..At { ready, busy, ..At::default() }.observe(second)
    }
}

/// The decisions at the ends of the intervals.
fn decisions(
    policy: &mut AnyPolicy,
    ready: u32,
    layer: [f64; 3],
    intervals: std::ops::Range<u64>,
) -> Vec<u32> {
    let seconds = intervals.start * 10 + u64::from(intervals.start > 0)..=intervals.end * 10;
    let decided = seconds.map(|second| (second, policy.decide(&model_layer(second, ready, layer)).desired));
    decided.filter(|(second, _)| second.is_multiple_of(10)).map(|(_, desired)| desired).collect()
}

#[test]
fn dc2_rises_at_once_and_falls_after_three_lower_intervals() {
    // S = 0.5 s, as it begins with: what it measures is what it expects, so the state stays. A pod of its own for
    // each: 0.5 / (1 − 7.5 · 0.5 / k) ≤ 1.0 from k = 7.5 on.
    let mut dc2 = policy(Name::Dc2PerPod);
    // 5 pods are busy to 3.75 / 5 = 0.75, and the mean response is 0.5 / 0.25. The first tick counts.
    assert_eq!(decisions(&mut dc2, 5, [7.5, 3.75, 2.0], 0..1), [5, 8]);
    // 16 pods are busy to 0.234, and 0.5 / 0.766.
    let wide = [7.5, 3.75, 0.5 / (1.0 - 3.75 / 16.0)];
    assert_eq!(decisions(&mut dc2, 16, wide, 1..7), [16, 16, 8, 16, 16, 8]);
    // One that is not lower, and it counts anew.
    assert_eq!(decisions(&mut dc2, 16, wide, 7..9), [16, 16]);
    assert_eq!(decisions(&mut dc2, 8, [7.5, 3.75, 0.5 / (1.0 - 3.75 / 8.0)], 9..10), [8]);
    assert_eq!(decisions(&mut dc2, 16, wide, 10..13), [16, 16, 8]);

    // One queue before all: 0.697 s with 5 pods, 0.561 s with 6, where 0.6 s are the target.
    let mut dc2 = policy(Name::Dc2Pooled);
    let ten = [7.5, 3.75, 0.5 * (1.0 + 0.375_f64.powf(22_f64.sqrt() - 1.0) / (10.0 * 0.625))];
    assert_eq!(decisions(&mut dc2, 10, ten, 0..2), [10, 10, 6]);
}

#[test]
fn dc2_does_not_learn_from_a_full_layer_or_an_empty_one() {
    let mut dc2 = policy(Name::Dc2PerPod);
    // Two pods without a pause, before which requests wait for half a minute: that is no steady state.
    assert_eq!(decisions(&mut dc2, 2, [4.0, 2.0, 30.0], 0..1), [2, 8]);
    assert_eq!(decisions(&mut dc2, 2, [4.0, 2.0, 30.0], 1..3), [8, 8]);
    // Nothing is answered, which is no response of 0 s either.
    assert_eq!(decisions(&mut dc2, 8, [0.0, 0.0, 0.0], 3..6), [8, 8, 8]);
    // What it does learn from a full layer is the demand: three a second from each pod, which are 1.0 busy and not
    // 3 · 0.5. With S = 1/3, 1/3 / (1 − 7.5 / 3 / k) ≤ 1.0 from k = 3.75 on.
    let mut dc2 = policy(Name::Dc2PerPod);
    assert_eq!(decisions(&mut dc2, 2, [6.0, 2.0, 30.0], 0..1), [2, 4]);
}

#[test]
fn names_are_read_as_they_are_written() {
    for name in Name::ALL {
        assert_eq!(name.as_str().parse(), Ok(*name));
    }
    let unknown = "kubernetes".parse::<Name>().unwrap_err().to_string();
    assert!(unknown.starts_with("\"kubernetes\" is no policy: there are threshold>4, hpa-80"), "{unknown}");
}
