use quorate_scaler::Seconds;
use quorate_scaler::sim::{Oracle, Replay, Service, Trace, Workload, forecast};

const SLO: Seconds = Seconds::new(1);

fn workload(counts: Vec<u64>) -> Workload {
    Workload::new(&Trace::new(1, counts).unwrap(), 1, Service::Exponential).unwrap()
}

#[test]
fn oracle_pays_for_the_work_and_less_than_a_perfect_forecast() {
    let workload = workload((0..900).map(|second| if second % 300 < 150 { 4 } else { 40 }).collect());
    let oracle = Oracle::new(&workload, SLO);
    for delay in [2, 10, 60] {
        let start_delay = Seconds::new(delay);
        let cost = oracle.cost(start_delay);
        assert!(cost > workload.service_sum_us() as f64 / 1e6);
        let replay = Replay { start_delay, ..Replay::default() };
        assert!(cost < forecast(&replay, &workload).pod_seconds(), "at {delay} s");
    }
}

#[test]
fn longer_start_delays_and_shorter_waits_cost_more() {
    let workload = workload((0..600).map(|second| if second % 40 < 10 { 30 } else { 0 }).collect());
    let oracle = Oracle::new(&workload, SLO);
    let cost = |delay| oracle.cost(Seconds::new(delay));
    assert!(cost(0) < cost(2) && cost(2) < cost(10) && cost(10) < cost(60));
    let patient = Oracle::new(&workload, Seconds::new(5));
    assert!(patient.cost(Seconds::new(10)) < cost(10));
}

#[test]
fn plan_for_one_burst_is_known() {
    // One burst of one second in ten minutes: whatever the block, its pods start once.
    let mut counts = vec![0; 600];
    counts[300] = 8;
    counts.extend([0; 3]);
    let trace = Trace::new(1, counts).unwrap();
    // Bursts this rare are over the percentile that the scale holds on to.
    assert!(Workload::new(&trace, 1, Service::Deterministic).is_err());
    let steady = workload(vec![1; 300]);
    let cost = Oracle::new(&steady, SLO).cost(Seconds::new(10));
    // 64 requests a second of 0.5 s keep 32 pods busy: between that and what a standing queue needs.
    assert!(cost > 300.0 * 31.0 && cost < 300.0 * 40.0 + 40.0 * 10.5, "{cost}");
}
