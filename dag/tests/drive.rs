//! The tokio driver: order, bounds, deadlines, and what is left when it is stopped.
#![cfg(all(feature = "arithmetic", feature = "tokio"))]

#[path = "graphs/fan.rs"]
mod fan;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fan::fan;
use quorate_dag::{
    Costs, Drive, DriveError, Evaluation, Expression, Limits, NodeId, NodeState, OnFailure, Parameters, Run,
    apply, run_async,
};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn no_more_nodes_are_in_flight_than_there_are_slots() {
    let (mut run, last) = fan(100);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    run_async(&mut run, &Drive { slots: 8, ..Drive::default() }, |_, node| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(node.get())
        }
    })
    .await
    .expect("it ends");
    assert_eq!(most.load(Ordering::SeqCst), 8);
    assert_eq!(run.value(last), Some(&0));
    // 100 nodes 8 at a time are 13 waves, and the last one comes after.
    assert_eq!(started.elapsed().as_millis() / 10, 14);
}

#[tokio::test]
async fn no_slot_is_one_slot() {
    let (mut run, last) = fan(3);
    let drive = Drive { slots: 0, ..Drive::default() };
    run_async(&mut run, &drive, |run, node| {
        assert_eq!(run.progress().in_flight, 1);
        async move { Ok(node.get()) }
    })
    .await
    .expect("it ends");
    assert_eq!(run.value(last), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn a_run_stopped_by_its_deadline_goes_on() {
    let (mut run, last) = fan(10);
    let mut work = |_: &Run<u32, &'static str>, node: NodeId| async move {
        sleep(Duration::from_millis(10)).await;
        Ok(node.get())
    };
    let drive = Drive {
        slots: 4,
        deadline: Some((Instant::now() + Duration::from_millis(15)).into_std()),
        ..Drive::default()
    };
    let stopped = run_async(&mut run, &drive, &mut work).await;
    assert!(matches!(stopped, Err(DriveError::Deadline { unfinished: 7 })), "{stopped:?}");
    assert_eq!((run.progress().done, run.progress().in_flight), (4, 0));
    // One that has passed before lets nothing start.
    let stopped = run_async(&mut run, &drive, |_, node| {
        assert!(node.index() > 99, "{node} starts");
        async { Ok(1) }
    })
    .await;
    assert!(matches!(stopped, Err(DriveError::Deadline { unfinished: 7 })), "{stopped:?}");
    assert_eq!(run.progress().done, 4);
    run_async(&mut run, &Drive::default(), work).await.expect("it ends");
    assert_eq!(run.value(last), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_gives_its_nodes_back() {
    let (mut run, _) = fan(3);
    let drive = Drive::default();
    {
        let driven = run_async(&mut run, &drive, |_, _| std::future::pending());
        tokio::select! {
            _ = driven => panic!("nothing ends"),
            () = sleep(Duration::from_millis(1)) => {}
        }
    }
    assert_eq!(run.progress().ready, 3);
    assert_eq!(run.state(NodeId::new(1)), Some(NodeState::Returned));
}

#[tokio::test]
async fn a_panic_is_an_error_that_names_its_node() {
    let (mut run, last) = fan(3);
    let panicked = run_async(&mut run, &Drive::default(), |_, node| async move {
        assert!(node != last, "on purpose");
        Ok(1)
    })
    .await;
    assert_eq!(panicked, Err(DriveError::Panicked { node: last, message: "on purpose".to_owned() }));
    run_async(&mut run, &Drive::default(), |_, _| async { Ok(1) }).await.expect("it ends");
    assert!(run.is_finished());
}

#[tokio::test]
async fn a_node_is_tried_again_as_often_as_asked() {
    let (mut run, last) = fan(1);
    let tries = Arc::new(AtomicUsize::new(0));
    let drive = Drive { on_failure: OnFailure::Retry, retries: 3, ..Drive::default() };
    run_async(&mut run, &drive, |_, _| {
        let tries = Arc::clone(&tries);
        async move {
            tries.fetch_add(1, Ordering::SeqCst);
            Err("broken")
        }
    })
    .await
    .expect("it ends");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    assert_eq!(run.failures(), [(NodeId::new(1), "broken")]);
    assert_eq!(run.state(last), Some(NodeState::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_sum_of_4096_terms_is_within_brents_bound() {
    let names: Vec<String> = (0..4096).map(|term| term.to_string()).collect();
    let plan = Arc::new(Expression::parse(&names.join("+")).expect("a sum").plan());
    let prediction = plan.predict(64, &Costs::default());
    let mut evaluation = Evaluation::new(plan, &Parameters::new(), &Costs::default()).expect("no parameters");
    let started = Instant::now();
    let value = evaluation
        .run_async(&Drive { slots: 64, ..Drive::default() }, |call| {
            let value = apply(call.function, call.left, call.right, &Limits::default());
            async move {
                sleep(Duration::from_millis(1)).await;
                value
            }
        })
        .await
        .expect("it ends")
        .expect("it has a value");
    assert_eq!(value.to_string(), (4095 * 4096 / 2).to_string());
    // On virtual time the driver itself takes none: what is measured is the order.
    let took = started.elapsed().as_secs_f64();
    assert!(took <= 1.15 * prediction.lower.as_secs_f64(), "{took} s, {prediction:?}");
}

#[tokio::test]
async fn the_leftmost_failure_is_reported_whatever_ends_first() {
    let text = "(1/(a-a) + 2) * (3/(a-a-a+a))";
    let plan = Arc::new(Expression::parse(text).expect("an expression").plan());
    let parameters = Parameters::new().with("a", 1.into());
    let mut evaluation = Evaluation::new(plan, &parameters, &Costs::default()).expect("given");
    let error = evaluation
        .run_async(&Drive::default(), |call| {
            let value = call.apply(&Limits::default());
            async { value }
        })
        .await
        .expect("it ends")
        .expect_err("it divides by zero");
    assert_eq!((error.kind.as_str(), error.span), ("division-by-zero", 2..3));
}
