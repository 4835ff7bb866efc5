//! A platform under load of which something random is killed again and again: a process of this machine, or a pod in
//! Kubernetes; workers, replicas, the control plane. Nothing that was accepted may be lost, answered twice with
//! different values, wrong, or gone once it was seen.

use quorate_tests::{BYZANTINE, Load, Mix, Platform, Random, Report, process};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

const USAGE: &str = "\
Kills random processes of a platform under load, or its pods in Kubernetes, and checks every answer.

usage: storm [--kubernetes] [--minutes N] [--every MS] [--outstanding N] [--seed N]

  --kubernetes     in the cluster of KUBECONFIG, from a client at a NodePort; needs the cargo feature `engines`
  --minutes N      how long (10)
  --every MS       between two kills (2000; 10000 in Kubernetes)
  --outstanding N  requests at any time (16)
  --seed N         which of them (1)
  --help           this

Exit codes: 0 nothing was lost, doubled, wrong or gone, 1 something was, 2 wrong usage.";

struct Options {
    kubernetes: bool,
    minutes: u64,
    every: Duration,
    outstanding: usize,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let (mut kubernetes, mut minutes, mut every, mut outstanding, mut seed) = (false, 10, None, 16, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" => return Err(USAGE.into()),
            "--kubernetes" if cfg!(feature = "engines") => {
                kubernetes = true;
                continue;
            }
            "--kubernetes" => return Err("`--kubernetes` needs the cargo feature `engines`".into()),
            _ => {}
        }
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("`{argument}` takes a whole number; see --help"))?;
        match argument.as_str() {
            "--minutes" => minutes = value,
            "--every" => every = Some(Duration::from_millis(value.max(1))),
            "--outstanding" => outstanding = usize::try_from(value.max(1)).unwrap_or(usize::MAX),
            "--seed" => seed = value,
            _ => return Err(format!("`{argument}` is no option; see --help")),
        }
    }
    let every = every.unwrap_or(Duration::from_secs(if kubernetes { 10 } else { 2 }));
    Ok(Options { kubernetes, minutes, every, outstanding, seed })
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) if text == USAGE => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let mut killed = BTreeMap::new();
    let report = if options.kubernetes {
        in_kubernetes(&options, &mut killed).await
    } else {
        here(&options, &mut killed).await
    };
    println!("seed         {}", options.seed);
    println!("minutes      {}", options.minutes);
    for (what, count) in &killed {
        println!("killed       {count} {what}");
    }
    println!("requests     {}", report.sent);
    println!("p50          {:?}", Duration::from_micros(report.latency_us.value_at_quantile(0.5)));
    println!("p99          {:?}", Duration::from_micros(report.latency_us.value_at_quantile(0.99)));
    println!("slowest      {:?}", report.slowest());
    for (what, all) in report.violations.kinds() {
        println!("{what:<12} {}", all.len());
        for one in all.iter().take(10) {
            println!("  {one}");
        }
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many of each kind were killed.
type Killed = BTreeMap<String, u64>;

/// Has one of those that there are killed at each tick, until the time is up.
async fn storm<T>(
    options: &Options,
    killed: &mut Killed,
    there: impl Fn() -> Vec<(String, T)>,
    kill: impl Fn(&T),
) {
    // The same choices for the same seed, as far as the same ones are there.
    let (start, mut random) = (Instant::now(), Random::new(options.seed));
    let mut ticks = tokio::time::interval(options.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while start.elapsed() < Duration::from_secs(options.minutes * 60) {
        ticks.tick().await;
        let all = there();
        if all.is_empty() {
            continue; // all of them are being started
        }
        let (what, one) = &all[usize::try_from(random.below(all.len() as u64)).expect("an index")];
        *killed.entry(what.clone()).or_default() += 1;
        kill(one);
    }
}

async fn here(options: &Options, killed: &mut Killed) -> Report {
    let platform = Platform::up(BYZANTINE).await;
    platform.result("((3+5)*(4-2))/1").await;
    let mut load = Load::start(&platform, Mix::All, options.outstanding);
    load.answered(50).await;
    let children = || {
        let all = platform.data.processes().into_iter().filter(|one| one.pid != platform.supervisor());
        let named = |one: process::Process| {
            let daemon = one.command.split(' ').find(|word| ["worker", "replica", "control"].contains(word));
            (daemon.unwrap_or("other").to_owned(), one.pid)
        };
        all.map(named).collect()
    };
    storm(options, killed, children, |pid| process::kill(*pid)).await;
    let report = load.finish().await;
    platform.stop().await;
    report
}

#[cfg(feature = "engines")]
async fn in_kubernetes(options: &Options, killed: &mut Killed) -> Report {
    use quorate_tests::{
        MIXED,
        kubernetes::{Deployed, GATEWAY},
    };
    let platform = Deployed::start(MIXED, None).await;
    let mut load = Load::at(GATEWAY, platform.http.clone(), Mix::All, options.outstanding);
    load.answered(20).await;
    storm(options, killed, || platform.running(), |pod| platform.kill(pod)).await;
    load.finish().await
}

#[cfg(not(feature = "engines"))]
async fn in_kubernetes(_: &Options, _: &mut Killed) -> Report {
    unreachable!("it is refused as an option")
}
