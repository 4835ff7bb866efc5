//! What the predictive policy makes of work that is known to come, of times that it measures, and of bursts.

use quorate_scaler::policy::{Conditions, Predictive, PredictiveSettings};
use quorate_scaler::{Decision, Expected, Observation, Policy, Reason, Seconds};

fn balanced() -> Predictive {
    Predictive::new(PredictiveSettings::BALANCED, &Conditions::default())
}

/// So many requests due in so many seconds.
fn due(seconds: u64, requests: u32) -> Expected {
    let mut expected = Expected::new(Seconds::new(1));
    expected.add(Seconds::new(seconds), requests);
    expected
}

/// Four pods that serve four requests of half a second in each second.
fn quiet(second: u64) -> Observation {
    Observation {
        now: Seconds::new(second),
        arrivals: 4,
        completions: 4,
        in_service: 2,
        ready: 4,
        busy_time: Seconds::new(2),
        in_system_time: Seconds::new(2),
        service_time: Seconds::new(2),
        response_time: Seconds::new(2),
        ..Observation::default()
    }
}

fn after(policy: &mut Predictive, seconds: std::ops::Range<u64>) -> Decision {
    seconds.map(|second| policy.decide(&quiet(second))).last().unwrap()
}

#[test]
fn bins_hold_what_is_due_within_them() {
    let mut expected = due(3, 5);
    expected.add(Seconds::ZERO, 2);
    expected.add(Seconds::new(32), 9); // beyond the last bin
    expected.add(Seconds::MAX, 9);
    assert_eq!(expected.total(), 7);
    expected.add(Seconds::new(31), u32::MAX);
    expected.add(Seconds::new(31), u32::MAX); // as many as can be told
    assert_eq!(expected.total(), 7 + u64::from(u32::MAX));
    assert_eq!(Expected::default().total(), 0);
    let mut nowhere = Expected::default(); // no width: nothing lies in it
    nowhere.add(Seconds::ZERO, 1);
    assert_eq!(nowhere.total(), 0);
}

#[test]
fn pods_are_ordered_one_start_delay_before_the_work_is_due() {
    let (mut told, mut blind) = (balanced(), balanced());
    let before = after(&mut told, 0..100);
    assert_eq!(before, after(&mut blind, 0..100));
    // 60 requests in the 11th second from now keep 30 pods busy for a second, five in the mean of six seconds.
    let decision = told.decide(&Observation { expected: due(11, 60), ..quiet(100) });
    let without = blind.decide(&quiet(100));
    assert_eq!(decision.reason, Reason::Forecast);
    let (known, unknown) = (decision.forecast.unwrap(), without.forecast.unwrap());
    assert!((known - unknown - 5.0).abs() < 1e-9, "{known} and {unknown}");
    assert!(decision.desired >= without.desired + 5, "{decision:?}, {without:?}");

    // What is due before a pod could be up, or long after, orders none.
    for seconds in [5, 25] {
        let mut policy = balanced();
        after(&mut policy, 0..100);
        let decision = policy.decide(&Observation { expected: due(seconds, 60), ..quiet(100) });
        assert_eq!(decision.forecast, without.forecast, "due in {seconds} s");
    }
}

#[test]
fn announced_work_is_not_counted_again_when_it_comes() {
    let (mut told, mut blind) = (balanced(), balanced());
    for second in 0..140 {
        // From second 100 on, ten requests more a second for twenty seconds, known long before.
        let more = |at: u64| if (100..120).contains(&at) { 10 } else { 0 };
        let mut expected = Expected::new(Seconds::new(1));
        for ahead in 0..32 {
            expected.add(Seconds::new(ahead), more(second + ahead));
        }
        let seen = Observation { arrivals: 4 + u64::from(more(second.saturating_sub(1))), ..quiet(second) };
        let with = told.decide(&Observation { expected, ..seen }).forecast;
        let without = blind.decide(&seen).forecast;
        if second == 118 {
            // It will be over when a pod ordered now is up: only those who were told know.
            assert!(with.unwrap() < 2.5, "{with:?}");
            assert!(without.unwrap() > 5.0, "{without:?}");
        }
    }
}

#[test]
fn pods_that_expected_work_will_need_are_not_given_up() {
    let idle = |second| Observation { now: Seconds::new(second), ready: 8, ..Observation::default() };
    let (mut told, mut blind) = (balanced(), balanced());
    for second in 0..300 {
        told.decide(&idle(second));
        blind.decide(&idle(second));
    }
    // Twelve requests in one second keep six pods busy; a ninth pod would come too late and is not ordered.
    let decision = told.decide(&Observation { expected: due(3, 12), ..idle(300) });
    assert_eq!((decision.desired, decision.reason), (6, Reason::Expected));
    let decision = told.decide(&Observation { expected: due(3, 100), ..idle(301) });
    assert_eq!(decision.desired, 8);
    assert_eq!(blind.decide(&idle(300)).desired, 1);
}

#[test]
fn start_delay_is_what_is_measured_not_what_was_told() {
    // Told 10 s; pods take 20.
    let mut policy = balanced();
    after(&mut policy, 0..50);
    let expected = due(22, 60);
    let before = policy.decide(&Observation { expected, ..quiet(50) }).forecast.unwrap();
    for second in 51..90 {
        policy.decide(&Observation { started: 1, start_time: Seconds::new(20), ..quiet(second) });
    }
    let after = policy.decide(&Observation { expected, ..quiet(90) }).forecast.unwrap();
    assert!(before < 2.5 && after > 4.0, "{before}, then {after}");
}

#[test]
fn service_times_that_are_alike_need_fewer_pods() {
    let wanted = |spread: u64| {
        let mut policy = balanced();
        let mut desired = 0;
        for second in 0..4000 {
            // Sixteen requests a second, of half a second each or of half a second in the mean.
            let sum = if second % 2 == 0 { 8_000 + spread } else { 8_000 - spread };
            desired = policy
                .decide(&Observation {
                    arrivals: 16,
                    completions: 16,
                    service_time: Seconds::from_micros(1000 * sum),
                    ready: 12,
                    ..quiet(second)
                })
                .desired;
        }
        desired
    };
    assert!(wanted(0) < wanted(2_000), "{} and {}", wanted(0), wanted(2_000));
}

/// A layer whose pods are up at once, which gets so many requests in this second.
fn burst(second: u64, arrivals: u64, pods: u32) -> Observation {
    Observation {
        now: Seconds::new(second),
        arrivals,
        completions: arrivals,
        ready: pods,
        service_time: Seconds::from_micros(500_000 * arrivals),
        response_time: Seconds::from_micros(500_000 * arrivals),
        ..Observation::default()
    }
}

#[test]
fn bursts_from_nothing_keep_pods_standing_until_they_stop() {
    let mut policy = balanced();
    let mut pods = 1;
    let mut kept = Vec::new();
    for second in 0..2000 {
        // 48 requests in one second of each hundred: 24 busy pods, foreseen by nobody.
        let arrivals = if second % 100 == 50 { 48 } else { 0 };
        let decision = policy.decide(&burst(second, arrivals, pods));
        pods = decision.desired;
        if second > 1000 {
            kept.push(pods);
        }
    }
    assert!(kept.iter().all(|pods| (22..=30).contains(pods)), "{kept:?}");
    for second in 2000..2240 {
        pods = policy.decide(&burst(second, 0, pods)).desired;
    }
    assert!(pods >= 22, "it may come again: {pods}");
    for second in 2240..2600 {
        pods = policy.decide(&burst(second, 0, pods)).desired;
    }
    assert_eq!(pods, 1, "nothing has come for ten minutes");
}

#[test]
fn what_is_foreseen_keeps_nothing_standing() {
    let mut policy = balanced();
    let mut pods = 30;
    for second in 0..2400 {
        // Half an hour of 24 busy pods, then of two.
        let arrivals = if second < 1800 { 48 } else { 4 };
        pods = policy.decide(&burst(second, arrivals, pods)).desired;
    }
    assert!(pods < 10, "{pods} pods for two that are busy");
}
