use std::num::NonZeroU32;

use quorate_scaler::Policy;
use quorate_scaler::policy::{Threshold, ThresholdSettings};

use crate::table;

#[track_caller]
fn check(settings: ThresholdSettings, table: &str) {
    let mut policy = Threshold::new(settings);
    table::check(table, |observation| {
        let decision = policy.decide(observation);
        assert_eq!(decision.forecast, None);
        assert_eq!(decision.wake_at, observation.now.saturating_add(settings.tick));
        format!("{} {}", decision.desired, decision.reason)
    });
}

#[track_caller]
fn check_default(table: &str) {
    check(ThresholdSettings::default(), table);
}

#[test]
fn layer_longer_than_four_gets_one_pod_at_each_tick() {
    check_default(
        "ready=1 waiting=4 busy=1               | 1 steady
         ready=1 waiting=5 busy=1               | 2 layer_long
         ready=1 starting=1 waiting=9 busy=1    | 3 layer_long
         ready=1 starting=2 waiting=400 busy=1  | 4 layer_long
         ready=1 starting=3 waiting=4 busy=1    | 4 steady",
    );
}

#[test]
fn draining_pods_do_not_count() {
    check_default("ready=2 draining=3 waiting=5 busy=2 | 3 layer_long");
}

#[test]
fn idle_pod_leaves_at_the_thirtieth_tick_and_the_count_starts_again() {
    check_default(
        "29x ready=3 busy=2 | 3 steady
             ready=3 busy=2 | 2 pod_idle
         29x ready=2 busy=1 | 2 steady
             ready=2 busy=1 | 1 pod_idle",
    );
}

#[test]
fn one_tick_that_is_not_idle_starts_the_count_again() {
    // Something waits, though a pod is idle: dispatch is about to use it.
    check_default(
        "29x ready=3 busy=2           | 3 steady
             ready=3 busy=2 waiting=1 | 3 steady
         29x ready=3 busy=2           | 3 steady
             ready=3 busy=2           | 2 pod_idle",
    );
    // Nothing waits, but every pod is busy.
    check_default(
        "29x ready=3 busy=2           | 3 steady
             ready=3 busy=3           | 3 steady
         29x ready=3 busy=2           | 3 steady
             ready=3 busy=2           | 2 pod_idle",
    );
}

#[test]
fn starting_pods_are_not_idle_pods() {
    check_default("40x ready=2 starting=3 busy=2 | 5 steady");
}

#[test]
fn pod_of_several_slots_is_idle_when_the_others_hold_its_requests() {
    // Two of three pods have 8 slots: 9 requests need the third, 8 do not.
    check_default("40x ready=3 slots=4 busy=9 | 3 steady");
    check_default(
        "29x ready=3 slots=4 busy=8 | 3 steady
             ready=3 slots=4 busy=8 | 2 pod_idle",
    );
}

#[test]
fn longer_layer_adds_a_whole_pod_whatever_its_slots() {
    check_default("ready=3 slots=16 waiting=5 busy=48 | 4 layer_long");
}

#[test]
fn minimum_stays() {
    check_default(
        "29x ready=1 | 1 steady
             ready=1 | 1 pods_min
                     | 1 pods_min",
    );
    check(
        ThresholdSettings { pods_min: 0, ..ThresholdSettings::default() },
        "29x ready=1 | 1 steady
             ready=1 | 0 pod_idle
         40x         | 0 steady",
    );
}

#[test]
fn constants_are_settings() {
    check(
        ThresholdSettings {
            waiting_max: 10,
            idle_ticks: NonZeroU32::new(2).unwrap(),
            pods_min: 2,
            tick: quorate_scaler::Seconds::new(5),
        },
        "ready=2 waiting=10 busy=2 | 2 steady
         ready=2 waiting=11 busy=2 | 3 layer_long
         ready=3 busy=2            | 3 steady
         ready=3 busy=2            | 2 pod_idle
         ready=1 busy=1            | 2 pods_min",
    );
}

#[test]
fn invalid_sample_keeps_the_last_decision() {
    check_default(
        "ready=4 waiting=9 busy=4      | 5 layer_long
         invalid                       | 5 invalid_sample
         invalid waiting=90            | 5 invalid_sample
         invalid ready=3 starting=1    | 5 invalid_sample
         ready=4 starting=1 busy=4     | 5 steady",
    );
    // A new leader has no last decision: what is there is kept.
    check_default("invalid ready=3 starting=1 waiting=90 | 4 invalid_sample");
}

#[test]
fn invalid_sample_ends_a_row_of_idle_ticks() {
    check_default(
        "29x ready=3 busy=2         | 3 steady
             invalid ready=3 busy=2 | 3 invalid_sample
         29x ready=3 busy=2         | 3 steady
             ready=3 busy=2         | 2 pod_idle",
    );
}
