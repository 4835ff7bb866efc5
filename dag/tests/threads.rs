//! The rayon driver: order, bounds, deadlines, panics, and a pool of one thread.
#![cfg(feature = "parallel")]

#[path = "graphs/fan.rs"]
mod fan;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fan::fan;
use quorate_dag::{Drive, DriveError, NodeId, NodeState, OnFailure, run_parallel};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

#[test]
fn every_node_runs_once_after_its_operands_and_within_the_slots() {
    let (mut run, last) = fan(500);
    let (now, most, ran) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    pool(4).install(|| {
        run_parallel(&mut run, &Drive { slots: 3, ..Drive::default() }, |run, node| {
            assert!(node != last || run.progress().done == 500);
            let (now, most, ran) = (&now, &most, &ran);
            move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                ran.fetch_add(1, Ordering::SeqCst);
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(node.get())
            }
        })
        .expect("it ends");
    });
    assert_eq!(ran.load(Ordering::SeqCst), 501);
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    assert_eq!(run.value(last), Some(&0));
    assert!(run.is_finished());
}

#[test]
fn no_slot_is_one_slot() {
    let (mut run, last) = fan(3);
    run_parallel(&mut run, &Drive { slots: 0, ..Drive::default() }, |run, node| {
        assert_eq!(run.progress().in_flight, 1);
        move || Ok(node.get())
    })
    .expect("it ends");
    assert_eq!(run.value(last), Some(&0));
}

#[test]
fn a_pool_of_one_thread_drives_itself() {
    let (mut run, last) = fan(20);
    let pool = pool(1);
    pool.install(|| run_parallel(&mut run, &Drive::default(), |_, node| move || Ok(node.get())))
        .expect("it ends");
    assert_eq!(run.value(last), Some(&0));
}

#[test]
fn after_a_deadline_nothing_starts_and_what_ended_is_kept() {
    let (mut run, _) = fan(10);
    let drive = Drive { slots: 2, deadline: Some(Instant::now()), ..Drive::default() };
    let stopped = run_parallel(&mut run, &drive, |_, node| move || Ok(node.get()));
    assert_eq!(stopped, Err(DriveError::Deadline { unfinished: 11 }));
    assert_eq!((run.progress().done, run.progress().in_flight), (0, 0));

    // It passes while the first is on its way.
    let deadline = Instant::now() + Duration::from_secs(1);
    let drive = Drive { slots: 2, deadline: Some(deadline), ..Drive::default() };
    let stopped = run_parallel(&mut run, &drive, |_, node| {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        move || Ok(node.get())
    });
    assert_eq!(stopped, Err(DriveError::Deadline { unfinished: 11 }));
    assert_eq!((run.progress().done, run.progress().in_flight), (1, 0));
    run_parallel(&mut run, &Drive::default(), |_, node| move || Ok(node.get())).expect("it ends");
    assert_eq!(run.progress().done, 11);
}

#[test]
fn a_panic_is_an_error_that_names_its_node() {
    let (mut run, last) = fan(3);
    let panicked = run_parallel(&mut run, &Drive::default(), |_, node| {
        move || {
            assert!(node != last, "on purpose");
            Ok(1)
        }
    });
    assert_eq!(panicked, Err(DriveError::Panicked { node: last, message: "on purpose".to_owned() }));
    assert_eq!(run.state(last), Some(NodeState::Returned));
    run_parallel(&mut run, &Drive::default(), |_, _| || Ok(1)).expect("it ends");
    assert!(run.is_finished());
}

#[test]
fn a_caller_that_panics_gets_its_nodes_back() {
    let (mut run, last) = fan(3);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run_parallel(&mut run, &Drive::default(), |run, _| {
            assert!(run.progress().in_flight < 3, "on purpose");
            || Ok(1)
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(run.progress().in_flight, 0);
    run_parallel(&mut run, &Drive::default(), |_, _| || Ok(1)).expect("it ends");
    assert_eq!(run.value(last), Some(&1));
}

#[test]
fn a_node_is_tried_again_as_often_as_asked() {
    let (mut run, last) = fan(1);
    let tries = AtomicUsize::new(0);
    let drive = Drive { on_failure: OnFailure::Retry, retries: 3, ..Drive::default() };
    run_parallel(&mut run, &drive, |_, _| {
        || {
            tries.fetch_add(1, Ordering::SeqCst);
            Err("broken")
        }
    })
    .expect("it ends");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    assert_eq!(run.failures(), [(NodeId::new(1), "broken")]);
    assert_eq!(run.state(last), Some(NodeState::Cancelled));
}

#[test]
fn a_run_with_nodes_in_flight_is_left_alone() {
    let (mut run, _) = fan(2);
    run.start_next();
    let refused = run_parallel(&mut run, &Drive::default(), |_, _| || Ok(1));
    assert_eq!(refused, Err(DriveError::InFlightElsewhere { count: 1 }));
    assert_eq!(run.progress().in_flight, 1);
}

#[cfg(feature = "arithmetic")]
#[test]
fn an_expression_has_its_value_or_its_leftmost_error() {
    use quorate_dag::{Costs, Evaluation, Expression, Limits, Parameters};
    use std::sync::Arc;

    let compute = |text: &str| {
        let plan = Arc::new(Expression::parse(text).expect("an expression").plan());
        let parameters = Parameters::new().with("a", 1.into());
        let mut evaluation = Evaluation::new(plan, &parameters, &Costs::default()).expect("given");
        let outcome = evaluation.run_parallel(&Drive::default(), |call| {
            let (function, left, right) = (call.function, call.left.clone(), call.right.clone());
            move || quorate_dag::apply(function, &left, &right, &Limits::default())
        });
        outcome.expect("it ends")
    };
    let names: Vec<String> = (0..1000).map(|term| term.to_string()).collect();
    assert_eq!(compute(&names.join("+")), Ok((999 * 1000 / 2).into()));
    let error = compute("(1/(a-a) + 2) * (3/(a-a-a+a))").expect_err("it divides by zero");
    assert_eq!((error.kind.as_str(), error.span), ("division-by-zero", 2..3));
}
