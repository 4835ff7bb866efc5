//! What it is worth to know the graphs in flight: bursts of expressions on four layers, one for each operator,
//! scaled with and without what the scheduler knows will come.
//!
//! ```text
//! cargo run --release -p quorate-scaler --example lookahead
//! ```
//!
//! The expressions are parsed and planned by `quorate-dag`. An operation joins the queue of its layer when its
//! operands are there; pods serve one at a time, half a second each in the mean. At each tick the scheduler says
//! of every operation that waits for operands when it is due: one mean response of their layer after the latest of
//! its operands. Cost is pod-seconds of all layers; violations are operations that waited over a second; times of
//! expressions are from their arrival to their result. Means of five seeds.

mod cluster;
#[path = "../../src/sim/random.rs"]
mod random;

use std::sync::Arc;

use cluster::{Cluster, Outcome};
use quorate_dag::{Expression, Plan};
use quorate_scaler::policy::Name;
use random::SplitMix64;

/// Half an hour.
const SECONDS: u64 = 1800;

/// Seconds between bursts in the mean, and expressions in one.
const BETWEEN: f64 = 90.0;
const BURST: usize = 12;

/// A sum of products over a sum of products, and that a few times in a row: each part needs the one before.
fn expression(parts: usize, products: usize) -> String {
    let sum = |first: usize| {
        let product = |at: usize| format!("x{}*y{}", first + at, first + at);
        (0..products).map(product).collect::<Vec<_>>().join(" + ")
    };
    let mut text = "1".to_owned();
    for part in 0..parts {
        let (above, below) = (2 * part * products, (2 * part + 1) * products);
        // A factor in every product makes it wait for the part before.
        let inner = |first| format!("({})", sum(first)).replace("*", &format!("*r{part}*"));
        text = format!("({text} - {}/{})", inner(above), inner(below)).replace(&format!("r{part}"), &text);
    }
    text
}

/// When expressions arrive, in µs, and which.
fn arrivals(seed: u64, plans: &[Arc<Plan>]) -> Vec<(u64, Arc<Plan>)> {
    let mut random = SplitMix64(seed);
    let mut arrivals = Vec::new();
    let micros = |seconds: f64| std::time::Duration::from_secs_f64(seconds).as_micros();
    let mut push = |at: f64, plan: &Arc<Plan>| {
        if at < SECONDS as f64 {
            arrivals.push((u64::try_from(micros(at)).expect("half an hour fits"), Arc::clone(plan)));
        }
    };
    let mut at = 0.0;
    while at < SECONDS as f64 {
        at += BETWEEN * random.exponential();
        let mut one = at;
        for _ in 0..BURST {
            one += 0.2 * random.exponential();
            push(one, &plans[1]);
        }
    }
    let mut at = 0.0;
    while at < SECONDS as f64 {
        at += 2.0 * random.exponential();
        push(at, &plans[0]);
    }
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = |text: &str| Expression::parse(text).map(|expression| Arc::new(expression.plan()));
    let plans = [plan(&expression(1, 2))?, plan(&expression(2, 8))?];
    for (said, plan) in ["between bursts", "in bursts"].iter().zip(&plans) {
        println!("{said}: expressions of {} operations in {} waves", plan.len(), plan.depth());
    }
    println!(
        "\ndelay  policy       look-ahead  pod-seconds  violations %  p99 wait s  mean result s  p99 result s"
    );
    for delay in [2, 5, 10, 30] {
        for name in [Name::Threshold, Name::Kpa, Name::Lean, Name::Balanced, Name::Strict] {
            let ours = !matches!(name, Name::Threshold | Name::Kpa);
            for look_ahead in if ours { &[false, true][..] } else { &[false] } {
                let mut mean = Outcome::default();
                for seed in 1..=5 {
                    let arrivals = arrivals(seed, &plans);
                    let mut random = SplitMix64(1000 + seed);
                    let cluster = Cluster::new(name, delay, *look_ahead);
                    mean.add(&cluster.run(&arrivals, || 0.5 * random.exponential()), 0.2);
                }
                println!(
                    "{delay:3} s  {name:11}  {:10}  {:11.0}  {:12.2}  {:10.2}  {:13.2}  {:12.2}",
                    if *look_ahead { "yes" } else { "no" },
                    mean.pod_seconds,
                    mean.violations,
                    mean.p99_wait,
                    mean.mean_result,
                    mean.p99_result
                );
            }
        }
    }
    Ok(())
}
