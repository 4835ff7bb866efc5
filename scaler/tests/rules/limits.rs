use std::num::NonZeroU32;

use quorate_scaler::policy::{Threshold, ThresholdSettings};
use quorate_scaler::{
    CHANGES_PER_MINUTE_LIMIT, Decision, Fallback, InvalidLimits, Limited, Limits, Observation, Policy,
    Reason, Seconds,
};

use crate::table;

/// Wants what the test says, whatever it sees; called again in an hour.
#[derive(Debug)]
struct Wants(u32);

impl Policy for Wants {
    type State = ();

    fn decide(&mut self, observation: &Observation) -> Decision {
        let wake_at = observation.now.saturating_add(Seconds::new(3600));
        Decision { desired: self.0, reason: Reason::Steady, forecast: Some(2.5), wake_at }
    }

    fn restore(&mut self, _state: ()) {}

    fn state(&self) {}
}

#[track_caller]
fn check<P: Policy>(policy: P, limits: Limits, table: &str) {
    let mut limited = Limited::new(policy, limits).expect("the limits agree");
    table::check(table, |observation| {
        let after = limited.tick(observation).after;
        format!("{} {}", after.desired, after.reason)
    });
}

/// The platform's own arrangement: the threshold may go to zero, the limits keep the last pod alive.
fn threshold_to_zero() -> Threshold {
    Threshold::new(ThresholdSettings { pods_min: 0, ..ThresholdSettings::default() })
}

fn some(count: u32) -> Option<NonZeroU32> {
    Some(NonZeroU32::new(count).expect("not 0"))
}

fn to_zero(keep_alive: u64) -> Limits {
    Limits { pods_min: 0, keep_alive: Seconds::new(keep_alive), ..Limits::default() }
}

#[test]
fn default_limits_leave_a_policy_alone() {
    check(Wants(1), Limits::default(), "ready=900 | 1 steady");
    check(Wants(900), Limits::default(), "ready=1 | 900 steady");
}

#[test]
fn bounds_hold() {
    let limits = Limits { pods_min: 2, pods_max: 5, ..Limits::default() };
    check(Wants(9), limits, "ready=3 | 5 pods_max");
    check(Wants(5), limits, "ready=3 | 5 steady");
    check(Wants(0), limits, "ready=3 | 2 pods_min");
    check(Wants(2), limits, "ready=3 | 2 steady");
}

#[test]
fn lowered_maximum_holds_for_pods_that_are_there() {
    let limits = Limits { pods_max: 5, step_down_max: some(1), ..Limits::default() };
    check(Wants(9), limits, "ready=9 | 5 pods_max");
    check(Wants(9), limits, "invalid ready=9 | 5 pods_max");
}

#[test]
fn steps_are_counted_from_ready_and_starting() {
    let limits = Limits { step_up_max: some(3), step_down_max: some(2), ..Limits::default() };
    check(Wants(20), limits, "ready=4 starting=2 draining=5 | 9 step_up");
    check(Wants(9), limits, "ready=4 starting=2 | 9 steady");
    check(Wants(1), limits, "ready=4 starting=2 draining=5 | 4 step_down");
    check(Wants(4), limits, "ready=4 starting=2 | 4 steady");
}

#[test]
fn changes_in_any_minute_stay_within_the_budget() {
    check(
        Wants(9),
        Limits { step_up_max: some(1), changes_per_minute_max: some(2), ..Limits::default() },
        "t=100 ready=1            | 2 step_up
         t=130 ready=1 starting=1 | 3 step_up
         t=131 ready=3            | 3 change_budget
         t=159 ready=3            | 3 change_budget
         t=160 ready=3            | 4 step_up
         t=161 ready=4            | 4 change_budget
         t=190 ready=4            | 5 step_up",
    );
}

#[test]
fn wish_for_no_change_costs_no_budget() {
    check(
        Wants(2),
        Limits { changes_per_minute_max: some(1), ..Limits::default() },
        "9x ready=2 | 2 steady
            ready=1 | 2 steady
            ready=1 | 1 change_budget",
    );
}

#[test]
fn forced_change_is_counted_in_the_budget() {
    check(
        Wants(9),
        Limits { changes_per_minute_max: some(1), ..to_zero(0) },
        "t=0 waiting=1 ready=1 | 9 steady
         t=1 waiting=1         | 1 first_request
         t=59 waiting=1 ready=1 | 1 change_budget
         t=60 waiting=1 ready=1 | 1 change_budget
         t=61 waiting=1 ready=1 | 9 steady",
    );
}

#[test]
fn pause_asks_for_what_is_there() {
    let limits = Limits { pods_min: 2, pods_max: 5, paused: true, ..Limits::default() };
    check(
        Wants(4),
        limits,
        "ready=3 starting=1 | 4 steady
         ready=3            | 3 paused
         ready=9            | 9 paused
         waiting=7          | 0 paused
         invalid ready=1    | 1 paused",
    );
}

#[test]
fn pause_ends_with_other_limits() {
    let mut limited = Limited::new(Wants(4), Limits { paused: true, ..Limits::default() }).unwrap();
    let observation = Observation { ready: 1, ..Observation::default() };
    assert_eq!(limited.tick(&observation).after.desired, 1);
    limited.set_limits(Limits { paused: false, ..*limited.limits() }).unwrap();
    assert_eq!(limited.tick(&observation).after.desired, 4);
}

#[test]
fn invalid_sample_never_lowers_whatever_the_policy_wants() {
    check(
        Wants(1),
        Limits { step_up_max: some(1), ..Limits::default() },
        "t=0 invalid ready=6    | 6 invalid_sample
         t=1 invalid ready=2    | 6 invalid_sample
         t=2 invalid            | 6 invalid_sample
         t=3 ready=2 starting=4 | 1 steady",
    );
    // Not even to zero, however long it goes on.
    check(
        Wants(0),
        to_zero(0),
        "99x invalid ready=2 | 2 invalid_sample
             ready=2         | 0 steady",
    );
}

#[test]
fn order_repeated_for_an_invalid_sample_costs_no_budget() {
    check(
        Wants(3),
        Limits { changes_per_minute_max: some(2), ..Limits::default() },
        "            ready=1 | 3 steady
         9x invalid          | 3 steady
            ready=2          | 3 steady
            ready=2          | 2 change_budget",
    );
}

#[test]
fn fallback_holds_after_n_invalid_samples_also_from_zero() {
    let fallback = Some(Fallback { after: NonZeroU32::new(3).unwrap(), pods: 4 });
    // Steps and budget do not hold it back.
    let limits = Limits { fallback, step_up_max: some(1), changes_per_minute_max: some(1), ..to_zero(300) };
    check(
        Wants(0),
        limits,
        "2x invalid            | 0 steady
            invalid            | 4 fallback
            invalid starting=4 | 4 change_budget
            invalid            | 4 change_budget
            ready=4 busy=1     | 4 change_budget",
    );
    check(Wants(0), limits, "9x invalid ready=7 | 7 invalid_sample");
}

#[test]
fn valid_sample_starts_the_fallback_count_again() {
    let fallback = Some(Fallback { after: NonZeroU32::new(3).unwrap(), pods: 4 });
    check(
        Wants(0),
        Limits { fallback, ..to_zero(300) },
        "2x invalid | 0 steady
                    | 0 steady
         2x invalid | 0 steady
            invalid | 4 fallback",
    );
}

#[test]
fn first_request_orders_a_pod_at_once() {
    // Neither steps nor budget hold it back: the budget was used up by going to zero.
    let limits = Limits { changes_per_minute_max: some(1), step_up_max: some(1), ..to_zero(0) };
    check(
        threshold_to_zero(),
        limits,
        "            | 0 steady
         ready=1     | 0 scaled_to_zero
         waiting=1   | 1 first_request
         starting=1 waiting=4 | 1 steady",
    );
}

#[test]
fn first_request_does_not_cut_what_the_policy_wants() {
    check(Wants(6), to_zero(300), "waiting=9 | 6 steady");
}

#[test]
fn first_request_of_an_invalid_sample_is_not_believed() {
    check(threshold_to_zero(), to_zero(300), "9x invalid waiting=7 | 0 invalid_sample");
}

#[test]
fn first_request_keeps_to_the_maximum() {
    check(Wants(0), Limits { pods_max: 0, ..to_zero(300) }, "waiting=7 | 0 pods_max");
}

#[test]
fn last_pod_stays_for_its_keep_alive() {
    check(
        threshold_to_zero(),
        to_zero(60),
        "t=0 arrived=3 ready=1 busy=1 | 1 steady
         t=1 answered=3 ready=1 | 1 steady
         28x ready=1            | 1 steady
         t=30 ready=1           | 1 keep_alive
         29x ready=1            | 1 steady
         t=60 ready=1           | 1 keep_alive
         t=61 ready=1           | 0 scaled_to_zero
         9x                     | 0 steady",
    );
}

#[test]
fn request_between_two_ticks_starts_the_keep_alive_again() {
    check(
        threshold_to_zero(),
        to_zero(60),
        "t=0 ready=1                       | 1 steady
         t=59 arrived=1 answered=1 ready=1 | 1 steady
         t=60 ready=1                      | 1 steady
         t=118 ready=1                     | 1 steady
         t=119 ready=1                     | 0 scaled_to_zero",
    );
    for busy in ["waiting=1", "busy=1", "invalid"] {
        let mut limited = Limited::new(Wants(1), to_zero(60)).unwrap();
        let table = format!("t=0 ready=1 | 1\nt=59 ready=1 {busy} | 1\nt=60 ready=1 | 1\nt=120 ready=1 | 0");
        table::check(&table, |observation| limited.tick(observation).after.desired.to_string());
    }
}

#[test]
fn keep_alive_of_zero_lets_the_last_pod_go_with_its_last_request() {
    check(
        Wants(1),
        to_zero(0),
        "ready=1 busy=1             | 1 steady
         ready=1 answered=1         | 0 scaled_to_zero",
    );
}

#[test]
fn minimum_of_a_policy_does_not_keep_a_pod_for_ever() {
    check(
        Wants(1),
        to_zero(60),
        "60x ready=1 | 1 steady
             ready=1 | 0 scaled_to_zero",
    );
}

#[test]
fn minimum_of_a_policy_starts_no_pod_that_nobody_needs() {
    check(Wants(1), to_zero(60), "9x | 0 scaled_to_zero");
}

#[test]
fn policy_judges_of_more_than_one_pod() {
    check(Wants(3), to_zero(0), "9x ready=3 | 3 steady");
    check(Wants(3), to_zero(0), "t=0 | 3 steady");
}

#[test]
fn keep_alive_is_for_the_last_pod_alone() {
    check(Wants(0), to_zero(60), "ready=5 | 1 keep_alive");
}

#[test]
fn minimum_above_zero_knows_no_keep_alive() {
    check(Wants(0), Limits { keep_alive: Seconds::ZERO, ..Limits::default() }, "9x ready=2 | 1 pods_min");
}

#[test]
fn time_that_goes_backwards_starts_keep_alive_and_minute_again() {
    check(
        Wants(1),
        to_zero(60),
        "t=1000 ready=1 | 1 steady
         t=10 ready=1   | 1 steady
         t=69 ready=1   | 1 steady
         t=70 ready=1   | 0 scaled_to_zero",
    );
    check(
        Wants(9),
        Limits { step_up_max: some(1), changes_per_minute_max: some(1), ..Limits::default() },
        "t=1000 ready=1 | 2 step_up
         t=10 ready=2   | 2 change_budget
         t=69 ready=2   | 2 change_budget
         t=70 ready=2   | 3 step_up",
    );
}

#[test]
fn idle_hour_between_two_ticks_is_an_idle_hour() {
    check(
        Wants(1),
        to_zero(300),
        "t=0 ready=1              | 1 steady
         t=3600 ready=1           | 0 scaled_to_zero",
    );
    check(
        Wants(1),
        to_zero(300),
        "t=0 ready=1              | 1 steady
         t=3600 ready=1 arrived=1 | 1 steady",
    );
}

#[test]
fn decision_before_limits_is_visible() {
    let mut limited = Limited::new(Wants(9), Limits { pods_max: 5, ..Limits::default() }).unwrap();
    let ruling = limited.tick(&Observation { ready: 1, ..Observation::default() });
    assert_eq!((ruling.before.desired, ruling.before.reason), (9, Reason::Steady));
    assert_eq!((ruling.after.desired, ruling.after.reason), (5, Reason::PodsMax));
    assert_eq!(ruling.after.forecast, Some(2.5));
}

#[test]
fn limits_ask_to_be_called_when_their_own_time_is_up() {
    let at = |second, ready| Observation { now: Seconds::new(second), ready, ..Observation::default() };

    let mut limited = Limited::new(Wants(1), to_zero(300)).unwrap();
    assert_eq!(limited.tick(&at(10, 1)).after.wake_at, Seconds::new(310));
    assert_eq!(limited.tick(&at(50, 1)).after.wake_at, Seconds::new(310));
    assert_eq!(limited.tick(&at(310, 1)).after.wake_at, Seconds::new(310 + 3600));

    let limits = Limits { step_up_max: some(1), changes_per_minute_max: some(1), ..Limits::default() };
    let mut limited = Limited::new(Wants(9), limits).unwrap();
    assert_eq!(limited.tick(&at(10, 1)).after.wake_at, Seconds::new(3610));
    assert_eq!(limited.tick(&at(20, 2)).after.wake_at, Seconds::new(70));
}

#[test]
fn changed_limits_keep_what_was_remembered() {
    let budget = |count| Limits { changes_per_minute_max: some(count), ..Limits::default() };
    let at = |second, ready| Observation { now: Seconds::new(second), ready, ..Observation::default() };
    let mut limited = Limited::new(Wants(9), budget(3)).unwrap();
    for second in 0..3 {
        assert_eq!(limited.tick(&at(second, 1)).after.desired, 9);
    }
    // The newest of the three changes still fills a budget of one, for a minute from then.
    limited.set_limits(budget(1)).unwrap();
    assert_eq!(limited.tick(&at(61, 1)).after.desired, 1);
    assert_eq!(limited.tick(&at(62, 1)).after.desired, 9);
}

#[test]
fn contradicting_limits_are_refused_by_name() {
    let refused = |limits: Limits| Limited::new(Wants(1), limits).unwrap_err().to_string();
    let fallback = |pods| Some(Fallback { after: NonZeroU32::MIN, pods });

    assert_eq!(
        refused(Limits { pods_min: 5, pods_max: 3, ..Limits::default() }),
        "pods_min (5) is over pods_max (3)"
    );
    assert_eq!(
        refused(Limits { changes_per_minute_max: some(601), ..Limits::default() }),
        "changes_per_minute_max of 601 is over 600: leave it out to allow any number"
    );
    for pods in [1, 9] {
        assert_eq!(
            refused(Limits { pods_min: 2, pods_max: 8, fallback: fallback(pods), ..Limits::default() }),
            format!("fallback of {pods} pods is outside of pods_min (2) to pods_max (8)")
        );
    }
    let widest = Limits { changes_per_minute_max: some(CHANGES_PER_MINUTE_LIMIT), ..Limits::default() };
    let mut limited = Limited::new(Wants(1), widest).unwrap();

    let error = limited.set_limits(Limits { pods_min: 5, pods_max: 3, ..Limits::default() });
    assert_eq!(error, Err(InvalidLimits::Pods { pods_min: 5, pods_max: 3 }));
    assert_eq!(*limited.limits(), widest);
}
