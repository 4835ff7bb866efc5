//! Whole clusters under faults, one seed after another.
//!
//! A seed that fails prints the command that replays it.
#![cfg(feature = "sim")]

use quorate_pbft::sim::run;

/// `PBFT_SEEDS=from..to` runs others than the usual ones.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PBFT_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Four stretches, so that a runner with several threads uses them.
fn agree_and_lose_nothing(seeds: std::ops::Range<u64>) {
    let (mut crashes, mut receipts, mut answered, mut views, mut liars) = (0, 0, 0, 0, 0);
    for seed in seeds {
        match run::seed(seed, 25) {
            Ok(report) => {
                crashes += report.crashes;
                receipts += report.receipts;
                answered += report.answered;
                views += report.views;
                liars += report.liars;
            }
            Err(failed) => panic!("{failed}"),
        }
    }
    println!("{answered} answers, {receipts} receipts, {crashes} crashes, {views} views, {liars} liars");
    let counts = [crashes, receipts, answered, views, liars];
    assert!(counts.iter().all(|count| *count > 0), "the runs did what they are for: {counts:?}");
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_1() {
    agree_and_lose_nothing(seeds(0..500));
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_2() {
    agree_and_lose_nothing(500..1000);
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_3() {
    agree_and_lose_nothing(1000..1500);
}

#[test]
fn clusters_under_faults_agree_and_lose_nothing_4() {
    agree_and_lose_nothing(1500..2000);
}

/// Fewer and longer: windows turn over many times, journals are truncated.
#[test]
fn long_runs_agree_and_lose_nothing() {
    for seed in 10_000..10_010 {
        if let Err(failed) = run::seed(seed, 1000) {
            panic!("{failed}");
        }
    }
}

#[test]
fn equal_seeds_give_equal_hashes() {
    for seed in 0..5 {
        assert_eq!(run::seed(seed, 25), run::seed(seed, 25));
    }
}

#[test]
fn replay() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (seed, operations) = (number("PBFT_SEED").unwrap_or(1), number("PBFT_OPERATIONS").unwrap_or(25));
    match run::seed(seed, operations) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(failed) => panic!("{failed}"),
    }
}
