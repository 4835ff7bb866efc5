//! Two processes under one identity, in many of the scenarios that there are; `simulate --twins` goes
//! through all of them.
#![cfg(feature = "sim")]

use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::twins::{Report, Scenario};

/// One scenario of so many is run, so that a debug build takes seconds.
const STRIDE: usize = 101;

#[test]
fn group_with_twins_agrees_and_answers() {
    let mut sum = Report::default();
    for scenario in Scenario::all(1).step_by(STRIDE) {
        match scenario.run() {
            Ok(report) => sum += report,
            Err(reason) => panic!("{scenario}: {reason}"),
        }
    }
    println!("{sum:?}");
    assert!(sum.found_out > 0 && sum.views > sum.scenarios, "the scenarios did what they are for: {sum:?}");
}

/// With f+1 pairs agreement can be broken, and it is seen.
#[test]
fn two_pairs_of_twins_break_agreement() {
    let broken = Scenario::all(2).take(200).filter(|scenario| scenario.run().is_err()).count();
    assert!(broken > 0, "200 scenarios with f+1 faulty replicas do not break agreement");
}

#[test]
fn twins_notice_that_what_was_prepared_is_forgotten() {
    let notices = |scenario: &Scenario| mutation::with(Mutation::ForgetPrepared, || scenario.run()).is_err();
    assert!(Scenario::all(1).step_by(STRIDE).any(|scenario| notices(&scenario)));
}
