//! What clients of the key-value store see under faults is linearizable.
//!
//! A seed that fails prints the history of the keys in question, and the command that replays it.
#![cfg(feature = "sim")]

use quorate_pbft::sim::kv::run;

/// Two stretches, so that a runner with several threads uses them.
fn are_linearizable(seeds: std::ops::Range<u64>) {
    let (mut reads, mut listings, mut swaps, mut crashes, mut liars) = (0, 0, 0, 0, 0);
    for seed in seeds {
        match run::seed(seed, 100) {
            Ok(report) => {
                reads += report.reads;
                listings += report.listings;
                swaps += report.swaps;
                crashes += report.crashes;
                liars += report.liars;
            }
            Err(failed) => panic!("{failed}"),
        }
    }
    println!("{reads} reads at once, {listings} listings, {swaps} swaps, {crashes} crashes, {liars} liars");
    let counts = [reads, listings, swaps, crashes, liars];
    assert!(counts.iter().all(|count| *count > 0), "the runs did what they are for: {counts:?}");
}

/// `PBFT_SEEDS=from..to` runs others than the usual ones.
#[test]
fn histories_of_the_store_are_linearizable_1() {
    let seeds = std::env::var("PBFT_SEEDS").map_or(0..150, |text| {
        let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
        from.parse().expect("a number")..to.parse().expect("a number")
    });
    are_linearizable(seeds);
}

#[test]
fn histories_of_the_store_are_linearizable_2() {
    are_linearizable(150..300);
}

#[test]
fn equal_seeds_give_equal_hashes() {
    for seed in 0..5 {
        assert_eq!(run::seed(seed, 100), run::seed(seed, 100));
    }
}

#[test]
fn replay() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (seed, operations) = (number("PBFT_SEED").unwrap_or(1), number("PBFT_OPERATIONS").unwrap_or(100));
    match run::seed(seed, operations) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(failed) => panic!("{failed}"),
    }
}
