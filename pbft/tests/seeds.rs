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

#[test]
fn clusters_under_faults_agree_and_lose_nothing() {
    let (mut crashes, mut receipts, mut answered) = (0, 0, 0);
    for seed in seeds(0..200) {
        match run::seed(seed, 60) {
            Ok(report) => {
                crashes += report.crashes;
                receipts += report.receipts;
                answered += report.answered;
            }
            Err(failed) => panic!("{failed}"),
        }
    }
    println!("{answered} answers, {receipts} receipts, {crashes} crashes");
    assert!(crashes > 0 && receipts > 0 && answered > 0, "the runs did what they are for");
}

#[test]
fn equal_seeds_give_equal_hashes() {
    for seed in 0..5 {
        assert_eq!(run::seed(seed, 60), run::seed(seed, 60));
    }
}

#[test]
fn replay() {
    let seed = std::env::var("PBFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match run::seed(seed, 60) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(failed) => panic!("{failed}"),
    }
}
