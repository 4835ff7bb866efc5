//! A stored state is a format: a leader of another version reads it.

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_scaler::policy::{AnyPolicy, AnyState, Conditions, Name, ThresholdState};
use quorate_scaler::{Decision, Limited, LimitedState, Limits, Observation, Policy, Reason, Seconds};

use crate::properties::{any_limits, bits, garbage, limited};

type State = LimitedState<ThresholdState>;

#[test]
fn stored_state_has_the_form_that_other_versions_read() {
    let limits =
        Limits { pods_min: 0, changes_per_minute_max: std::num::NonZeroU32::new(3), ..Limits::default() };
    let mut scaler = limited(limits);
    scaler.tick(&Observation { now: Seconds::new(10), waiting: 5, ready: 1, ..Observation::default() });
    scaler.tick(&Observation { now: Seconds::new(11), ready: 2, ..Observation::default() });
    let stored = serde_json::to_string(&scaler.state()).unwrap();
    assert_eq!(
        stored,
        r#"{"policy":{"idle_ticks":1,"desired":2},"memory":{"idle_since":11000000,"invalid_samples":0,"desired":2,"changes":[10000000]}}"#
    );
    assert_eq!(serde_json::from_str::<State>(&stored).unwrap(), scaler.state());
}

#[test]
fn state_of_a_version_that_kept_less_or_more_is_read() {
    let state: State = serde_json::from_str(r#"{"policy":{"new":1},"memory":{"desired":4}}"#).unwrap();
    let mut scaler = limited(Limits::default());
    scaler.restore(state);
    let after = scaler.tick(&Observation { valid: false, ..Observation::default() }).after;
    assert_eq!((after.desired, after.reason), (4, Reason::InvalidSample));
}

#[test]
fn reasons_have_one_name_everywhere() {
    for name in [
        "steady",
        "invalid_sample",
        "layer_long",
        "pod_idle",
        "utilisation",
        "layer_length",
        "concurrency",
        "panic",
        "backlog_per_pod",
        "model",
        "forecast",
        "margin",
        "backlog",
        "burst_floor",
        "standing",
        "expected",
        "hold",
        "small_step",
        "pods_min",
        "pods_max",
        "step_up",
        "step_down",
        "change_budget",
        "paused",
        "fallback",
        "first_request",
        "keep_alive",
        "scaled_to_zero",
    ] {
        let reason: Reason = serde_json::from_str(&format!("{name:?}")).unwrap();
        assert_eq!(reason.as_str(), name);
        assert_eq!(serde_json::to_string(&reason).unwrap(), format!("{name:?}"));
    }
}

#[test]
fn decision_is_stored_whole() {
    let decision =
        Decision { desired: 3, reason: Reason::PodIdle, forecast: Some(2.25), wake_at: Seconds::new(7) };
    let stored = serde_json::to_string(&decision).unwrap();
    assert_eq!(stored, r#"{"desired":3,"reason":"pod_idle","forecast":2.25,"wake_at":7000000}"#);
    assert_eq!(serde_json::from_str::<Decision>(&stored).unwrap(), decision);
}

fn via_json(scaler: &Limited<impl Policy<State = ThresholdState>>) -> State {
    serde_json::from_str(&serde_json::to_string(&scaler.state()).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn stored_state_goes_on_with_the_same_decisions(
        limits in any_limits(),
        before in vec(garbage(), 0..80),
        after in vec(garbage(), 1..80),
    ) {
        let mut first = limited(limits);
        before.iter().for_each(|observation| { first.tick(observation); });
        let mut second = limited(limits);
        second.restore(via_json(&first));
        for observation in &after {
            prop_assert_eq!(bits(&first.tick(observation)), bits(&second.tick(observation)));
            second.restore(via_json(&second)); // a change of leader at every tick
        }
    }

    #[test]
    fn every_policy_goes_on_from_json_with_the_same_decisions(
        before in vec(garbage(), 0..60),
        after in vec(garbage(), 1..30),
    ) {
        for name in Name::ALL {
            let fresh = || AnyPolicy::new(*name, &Conditions::default());
            let (mut first, mut second) = (fresh(), fresh());
            before.iter().for_each(|observation| { first.decide(observation); });
            for observation in &after {
                let stored = serde_json::to_string(&first.state()).unwrap();
                second.restore(serde_json::from_str::<AnyState>(&stored).unwrap());
                let bits = |it: Decision| (it.desired, it.reason, it.forecast.map(f64::to_bits), it.wake_at);
                prop_assert_eq!(bits(first.decide(observation)), bits(second.decide(observation)), "{}", name);
            }
        }
    }

    #[test]
    fn spoilt_state_blocks_nothing_for_more_than_a_minute(
        limits in any_limits(),
        idle_ticks: u32,
        desired: u32,
        idle_since: Option<u64>,
        changes in vec(prop_oneof![0..1_000_000_000_000_u64, any::<u64>()], 0..20),
        start in 0..1_000_000_u64,
    ) {
        let memory = serde_json::json!({
            "idle_since": idle_since, "invalid_samples": idle_ticks, "desired": desired, "changes": changes,
        });
        let policy = serde_json::json!({ "idle_ticks": idle_ticks, "desired": desired });
        let state: State = serde_json::from_value(serde_json::json!({ "policy": policy, "memory": memory })).unwrap();
        let mut scaler = limited(limits);
        scaler.restore(state);

        let long = |second| Observation {
            now: Seconds::new(start + second),
            waiting: 90,
            ready: limits.pods_min,
            ..Observation::default()
        };
        let first = scaler.tick(&long(0)).after.desired;
        prop_assert!((limits.pods_min..=limits.pods_max).contains(&first));
        let wanted = (limits.pods_min + 1).min(limits.pods_max);
        prop_assert!(first == wanted || scaler.tick(&long(60)).after.desired == wanted);
    }
}
