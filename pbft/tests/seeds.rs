//! Whole clusters under faults, one seed after another.
//!
//! A seed that fails prints the command that replays it, and a shorter schedule that fails as well.
#![cfg(feature = "sim")]

use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::run::{self, Report};
use quorate_pbft::sim::schedule::{Schedule, Scheme};

/// `PBFT_SEEDS=from..to` runs others than the usual ones.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PBFT_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn agree_and_lose_nothing(scheme: Scheme, seeds: std::ops::Range<u64>, operations: u64) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        match run::under(scheme, seed, operations) {
            Ok(report) => sum += report,
            Err(failed) => panic!("{}", failed.in_full()),
        }
    }
    println!("{sum:?}");
    sum
}

/// Four stretches, so that a runner with several threads uses them.
fn agree_and_lose_nothing_under_faults(seeds: std::ops::Range<u64>) {
    let sum = agree_and_lose_nothing(Scheme::Faults, seeds, 25);
    assert!(sum.answered > 0 && sum.receipts > 0 && sum.views > 0, "the runs did nothing: {sum:?}");
    let kinds: Vec<_> = sum.faults.by_kind().map(|(kind, _)| kind).collect();
    let all = [
        "changes of the weather",
        "clients that withhold operations",
        "crashes",
        "cuts",
        "duplicated messages",
        "liars",
        "lost messages",
        "refreshed keys",
        "replicas that stay away",
        "restarts",
        "restarts of clients",
        "runs on real keys",
        "skewed clocks",
        "slow disks",
        "torn writes",
    ];
    assert_eq!(kinds, all, "the runs did what they are for");
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_1() {
    agree_and_lose_nothing_under_faults(seeds(0..500));
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_2() {
    agree_and_lose_nothing_under_faults(500..1000);
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_3() {
    agree_and_lose_nothing_under_faults(1000..1500);
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_4() {
    agree_and_lose_nothing_under_faults(1500..2000);
}

/// Fewer and longer: windows turn over many times, journals are truncated.
#[test]
fn long_runs_agree_and_lose_nothing() {
    agree_and_lose_nothing(Scheme::Faults, 10_000..10_010, 1000);
}

#[test]
fn fuzzed_runs_agree_and_lose_nothing() {
    let sum = agree_and_lose_nothing(Scheme::ByzzFuzz, 0..500, 25);
    let fuzzed =
        sum.faults.by_kind().find(|(kind, _)| *kind == "fuzzed messages").map_or(0, |(_, count)| count);
    assert!(fuzzed > 500, "a run has more than one message changed or lost: {sum:?}");
}

/// Only one replica executed what a client asks for, the primary is gone, and another replica has forgotten in
/// a crash, or was never told, who vouches for it.
#[test]
fn schedules_that_failed_once_hold_and_fail_without_what_was_missing() {
    for schedule in [
        include_str!("schedules/words_forgotten_in_a_crash.txt"),
        include_str!("schedules/words_forgotten_by_a_laggard.txt"),
    ] {
        let schedule = schedule.parse().expect("it is a schedule");
        run::run(&schedule).unwrap_or_else(|reason| panic!("{reason}\n{schedule}"));
        let without = mutation::with(Mutation::SilentOnceExecuted, || run::run(&schedule));
        assert!(without.is_err(), "it fails no more when nobody vouches for what it executed:\n{schedule}");
    }
}

#[test]
fn equal_seeds_give_equal_hashes() {
    for scheme in [Scheme::Faults, Scheme::ByzzFuzz] {
        for seed in 0..5 {
            assert_eq!(run::under(scheme, seed, 25), run::under(scheme, seed, 25));
        }
    }
}

#[test]
fn schedule_runs_from_its_text_as_from_its_seed() {
    for seed in 0..20 {
        let text = Schedule::draw(Scheme::Faults, seed, 25).to_string();
        let schedule = text.parse().expect("it is a schedule");
        assert_eq!(run::run(&schedule).ok(), run::seed(seed, 25).ok());
    }
}

#[test]
fn replay() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (seed, operations) = (number("PBFT_SEED").unwrap_or(1), number("PBFT_OPERATIONS").unwrap_or(25));
    match run::seed(seed, operations) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(failed) => panic!("{}", failed.in_full()),
    }
}
