//! A platform on this machine under load, of which a random process is killed every two seconds: workers,
//! replicas, the control plane. Nothing that was accepted may be lost, answered twice with different values,
//! or wrong.

use quorate_tests::{BYZANTINE, Load, Mix, Platform, Random, process};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

const USAGE: &str = "\
Kills random processes of a platform under load, and checks every answer.

usage: storm [--minutes N] [--every MS] [--outstanding N] [--seed N]

  --minutes N      how long (10)
  --every MS       between two kills (2000)
  --outstanding N  requests at any time (16)
  --seed N         which processes (1)
  --help           this

Exit codes: 0 nothing was lost, doubled or wrong, 1 something was, 2 wrong usage.";

struct Options {
    minutes: u64,
    every: Duration,
    outstanding: usize,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { minutes: 10, every: Duration::from_secs(2), outstanding: 16, seed: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--help" {
            return Err(USAGE.into());
        }
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("`{argument}` takes a whole number; see --help"))?;
        match argument.as_str() {
            "--minutes" => options.minutes = value,
            "--every" => options.every = Duration::from_millis(value.max(1)),
            "--outstanding" => options.outstanding = usize::try_from(value.max(1)).unwrap_or(usize::MAX),
            "--seed" => options.seed = value,
            _ => return Err(format!("`{argument}` is no option; see --help")),
        }
    }
    Ok(options)
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
    let platform = Platform::up(BYZANTINE).await;
    platform.result("((3+5)*(4-2))/1").await;
    let mut load = Load::start(&platform, Mix::All, options.outstanding);
    load.answered(50).await;
    // The same choices for the same seed, as far as the same processes are there.
    let (start, mut random) = (Instant::now(), Random::new(options.seed));
    let mut killed: BTreeMap<String, u64> = BTreeMap::new();
    let mut ticks = tokio::time::interval(options.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while start.elapsed() < Duration::from_secs(options.minutes * 60) {
        ticks.tick().await;
        let children: Vec<_> = platform
            .data
            .processes()
            .into_iter()
            .filter(|process| process.pid != platform.supervisor())
            .collect();
        if children.is_empty() {
            continue; // all of them are being started
        }
        let nth = usize::try_from(random.below(children.len() as u64)).expect("an index");
        let daemon =
            children[nth].command.split(' ').find(|word| ["worker", "replica", "control"].contains(word));
        *killed.entry(daemon.unwrap_or("other").to_owned()).or_default() += 1;
        process::kill(children[nth].pid);
    }
    let report = load.finish().await;
    println!("seed         {}", options.seed);
    println!("seconds      {}", start.elapsed().as_secs());
    for (daemon, count) in &killed {
        println!("killed       {count} {daemon}");
    }
    println!("requests     {}", report.sent);
    println!("p50          {:?}", Duration::from_micros(report.latency_us.value_at_quantile(0.5)));
    println!("p99          {:?}", Duration::from_micros(report.latency_us.value_at_quantile(0.99)));
    println!("slowest      {:?}", report.slowest());
    for (what, all) in [("lost", &report.lost), ("doubled", &report.duplicated), ("wrong", &report.wrong)] {
        println!("{what:<12} {}", all.len());
        for one in all.iter().take(10) {
            println!("  {one}");
        }
    }
    platform.stop().await;
    let flawless = report.lost.is_empty() && report.duplicated.is_empty() && report.wrong.is_empty();
    if flawless { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
