//! A failing schedule is made short, the same every time, and what is left still fails.
#![cfg(feature = "sim")]

use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::run::{self, Reason};
use quorate_pbft::sim::schedule::{Schedule, Scheme};
use quorate_pbft::sim::shorten::{Shortened, shorten};

/// The first seed that notices the mistake, and its schedule's short form.
fn first_failure(operations: u64) -> (Schedule, Shortened) {
    let schedules = (0..500).map(|seed| Schedule::draw(Scheme::Faults, seed, operations));
    let failing = schedules.filter_map(|schedule| Some((run::run(&schedule).err()?, schedule))).next();
    let (reason, schedule) = failing.expect("some seed notices it");
    let shortened = shorten(schedule.clone(), &reason);
    assert!(shortened.reason.is_like(&reason), "{} instead of {reason}", shortened.reason);
    (schedule, shortened)
}

#[test]
fn failing_schedule_is_shortened_to_a_few_steps_that_still_fail() {
    let short = mutation::with(Mutation::ForgetPrepared, || {
        let (whole, short) = first_failure(60);
        println!("{short}");
        let steps = short.schedule.steps.len();
        assert!(
            steps <= 12 && steps < whole.steps.len() / 4,
            "{steps} of {} steps:\n{short}",
            whole.steps.len()
        );
        assert_eq!(run::run(&short.schedule), Err(short.reason.clone()));
        // What a person copies from the failure's text is the same run.
        let copied: Schedule = short.to_string().parse().expect("it is a schedule");
        assert_eq!(copied, short.schedule);
        // Nothing more can be taken from it alone.
        for index in 0..steps {
            let mut less = short.schedule.clone();
            less.steps.remove(index);
            let alike = run::run(&less).is_err_and(|reason| reason.is_like(&short.reason));
            assert!(!alike, "step {index} is not needed:\n{short}");
        }
        short
    });
    // Without the mistake it is a run like others.
    assert_eq!(run::run(&short.schedule).err(), None::<Reason>);
}

#[test]
fn same_failure_is_shortened_to_the_same_schedule() {
    mutation::with(Mutation::ExecuteOutOfOrder, || {
        assert_eq!(first_failure(25), first_failure(25));
    });
}
