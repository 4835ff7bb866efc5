use quorate_scaler::sim::{Replay, Service, Trace, Workload, forecast};
use quorate_scaler::{Decision, Observation, Reason, Seconds};

fn workload(counts: Vec<u64>) -> Workload {
    Workload::new(&Trace::new(1, counts).unwrap(), 1, Service::Exponential).unwrap()
}

/// Decides for a number of pods that depends on the second.
fn scripted(pods: impl Fn(u64) -> u32) -> impl FnMut(&Observation) -> Decision {
    move |observation| Decision {
        desired: pods(observation.now.as_micros() / 1_000_000),
        reason: Reason::Steady,
        forecast: None,
        wake_at: observation.now,
    }
}

#[test]
fn enough_pods_let_nobody_wait_and_cost_their_time() {
    let workload = workload(vec![20; 100]);
    let outcome = Replay::default().decide(&workload, scripted(|_| 100), |_| {});
    // The start pods were there from the start; the others are paid for from their order at second 0.
    assert_eq!(outcome.violations, 0);
    assert_eq!(outcome.pod_seconds(), 100.0 * 100.0);
    assert_eq!(outcome.wait_percentile(0.85), 0.0); // the start pods alone are busy for ten seconds
    assert_eq!((outcome.actions, outcome.flips), (1, 0));
}

#[test]
fn every_sum_that_a_policy_sees_adds_up() {
    let workload = workload((0..300).map(|second| if second % 60 < 20 { 9 } else { 2 }).collect());
    let pods = |second| if second % 40 < 20 { 24 } else { 12 };
    let replay = Replay { start_delay: Seconds::from_micros(2_500_000), ..Replay::default() };
    let mut last = Observation::default();
    let mut sums = Observation::default();
    let outcome = replay.decide(&workload, scripted(pods), |tick| {
        let now = *tick.observation;
        sums.arrivals += now.arrivals;
        sums.completions += now.completions;
        for (sum, part) in [
            (&mut sums.busy_time, now.busy_time),
            (&mut sums.in_system_time, now.in_system_time),
            (&mut sums.service_time, now.service_time),
            (&mut sums.response_time, now.response_time),
        ] {
            *sum = sum.saturating_add(part);
        }
        let in_system = now.waiting + now.in_service + u64::from(now.draining);
        assert_eq!(sums.arrivals - sums.completions, in_system, "at {}", now.now);
        assert!(now.oldest_wait <= now.now);
        last = now;
    });
    assert!(sums.completions > 1000 && outcome.requests == workload.requests());
    // Little's law, exactly: time in service and in the system, less that of those still there at the end.
    assert!(sums.busy_time >= sums.service_time && sums.in_system_time >= sums.response_time);
    let open = last.waiting + last.in_service + u64::from(last.draining);
    assert!(sums.busy_time.as_f64() - sums.service_time.as_f64() < 5.0 * open as f64 + 1e-6);
}

#[test]
fn pods_leave_starting_then_idle_then_busy_and_never_come_back() {
    let workload = workload(vec![30; 60]);
    let pods = |second| match second {
        0..20 => 60,
        20 => 70,    // ten more start ...
        21 => 60,    // ... and are the first to go
        22..30 => 2, // then idle ones, and busy ones when they end
        _ => 90,
    };
    let replay = Replay::default();
    let mut seen = Vec::new();
    replay.decide(&workload, scripted(pods), |tick| {
        let it = tick.observation;
        seen.push((it.ready, it.starting, it.draining));
    });
    assert_eq!(seen[21], (60, 10, 0));
    assert_eq!(seen[22], (60, 0, 0));
    let (ready, starting, draining) = seen[23];
    assert!(ready == 2 && starting == 0 && draining == 2, "{:?}", seen[23]);
    assert!(seen[24].2 < draining, "they go one by one");
    assert_eq!(seen[31].0 + seen[31].1, 90);
    assert_eq!((seen[39].0, seen[40].0), (2, 90)); // ten seconds after the order at 30
}

#[test]
fn flips_are_turns_within_a_minute() {
    let workload = workload(vec![10; 400]);
    let pods = |second| match second {
        0..100 => 40,
        100..130 => 50, // up
        130..200 => 40, // down 30 s later: a flip
        _ => 50,        // up 70 s later: none
    };
    let outcome = Replay::default().decide(&workload, scripted(pods), |_| {});
    assert_eq!((outcome.actions, outcome.flips), (4, 1));
}

#[test]
fn requests_that_nobody_serves_wait_and_violate() {
    let workload = workload(vec![5; 30]);
    let outcome = Replay::default().decide(&workload, scripted(|_| 0), |_| {});
    assert!(outcome.violation_share() > 0.2);
    // The replay ends an hour after the trace: the first that was not served has waited all that time.
    assert!(outcome.wait_percentile(0.999) > 3590.0);
}

#[test]
fn slowdown_takes_effect_in_the_second_half() {
    let workload = workload(vec![5; 200]);
    let busy = |slowdown| {
        let (mut first, mut second) = (0.0, 0.0);
        Replay { slowdown, ..Replay::default() }.decide(&workload, scripted(|_| 100), |tick| {
            let half = if tick.observation.now <= Seconds::new(100) { &mut first } else { &mut second };
            *half += tick.observation.busy_time.as_f64();
        });
        (first, second)
    };
    let (usual, slow) = (busy(1), busy(3));
    assert_eq!(usual.0, slow.0);
    assert!((slow.1 / usual.1 - 3.0).abs() < 0.15, "{}", slow.1 / usual.1);
}

#[test]
fn perfect_forecast_is_ready_before_the_load_is() {
    let workload = workload((0..600).map(|second| if second % 200 < 100 { 4 } else { 40 }).collect());
    let outcome = forecast(&Replay::default(), &workload);
    assert!(outcome.violation_share() < 0.005, "{}", outcome.violation_share());
}
