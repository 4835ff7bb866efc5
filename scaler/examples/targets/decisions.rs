//! What a decision costs: time by the size of the load, memory, allocations.

use std::hint::black_box;
use std::time::Instant;

use quorate_scaler::policy::{AnyPolicy, Conditions, Name};
use quorate_scaler::sim::{Replay, Workload};
use quorate_scaler::{Observation, Policy, Seconds};

/// Times that each is measured; the fastest counts, since only other work makes one slower.
const PASSES: usize = 5;

/// Ticks of a load that does not change.
const TICKS: u64 = 2000;

/// Busy slots of such loads.
const LOADS: [u64; 4] = [10, 100, 1000, 10_000];

const TIME_MAX_NS: f64 = 10_000.0;
const BYTES_MAX: u64 = 128 << 10;

/// Prints a row a policy and tells how many are within their limits on the recorded load.
pub(crate) fn table(recorded: &Workload) -> usize {
    let replay = Replay::default();
    let mut seen = Vec::new();
    let mut threshold = AnyPolicy::new(Name::Threshold, &replay.conditions());
    replay.watch(recorded, &mut threshold, |tick| seen.push(*tick.observation));

    let loads: Vec<_> = LOADS.iter().map(|load| format!("{load:>7}")).collect();
    println!(
        "{:18} {:>7} {} {:>8} {:>12}",
        "ns by busy slots",
        "twitter",
        loads.join(" "),
        "bytes",
        "allocations"
    );
    let mut met = 0;
    for name in Name::ALL {
        let recorded = nanoseconds(*name, &seen);
        let times: Vec<_> = LOADS
            .iter()
            .map(|load| {
                let ticks: Vec<_> = (0..TICKS).map(|second| steady(second, *load)).collect();
                format!("{:7.0}", nanoseconds(*name, &ticks))
            })
            .collect();
        let mut policy = AnyPolicy::new(*name, &Conditions::default());
        let made = allocation_counter::measure(|| policy = AnyPolicy::new(*name, &Conditions::default()));
        let bytes = made.bytes_max + size_of::<AnyPolicy>() as u64;
        let decided = allocation_counter::measure(|| decide(&mut policy, &seen));
        println!("{name:18} {recorded:7.0} {} {bytes:8} {:12}", times.join(" "), decided.count_total);
        let within = recorded <= TIME_MAX_NS && bytes <= BYTES_MAX && decided.count_total == 0;
        met += usize::from(within);
    }
    met
}

fn decide(policy: &mut AnyPolicy, seen: &[Observation]) {
    for observation in seen {
        black_box(policy.decide(black_box(observation)));
    }
}

fn nanoseconds(name: Name, seen: &[Observation]) -> f64 {
    let pass = |_| {
        let mut policy = AnyPolicy::new(name, &Conditions::default());
        let start = Instant::now();
        decide(&mut policy, seen);
        start.elapsed().as_nanos() as f64 / seen.len() as f64
    };
    (0..PASSES).map(pass).fold(f64::INFINITY, f64::min)
}

/// A layer that keeps about so many slots busy: requests of half a second, somewhat more and fewer of them.
fn steady(second: u64, load: u64) -> Observation {
    let mut noise = (second + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    noise = (noise ^ (noise >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    let spread = load.isqrt().max(1);
    let arrivals = 2 * load - spread + noise % (2 * spread + 1);
    let pods = u32::try_from(load + spread).expect("a load from the list");
    Observation {
        now: Seconds::new(second),
        arrivals,
        completions: arrivals,
        in_service: load,
        ready: pods,
        busy_time: Seconds::new(load),
        in_system_time: Seconds::new(load),
        service_time: Seconds::from_micros(500_000 * arrivals),
        response_time: Seconds::from_micros(500_000 * arrivals),
        ..Observation::default()
    }
}
