//! Runs as bytes: what is taken over, and which bytes are refused.

use std::sync::Arc;

use quorate_dag::{
    Costs, Dag, FunctionId, Graph, NodeId, NodeState, OnFailure, Portable, RestoreError, Run, RunError,
};

/// Two nodes that a third waits for, and one that nobody waits for.
fn graph(functions: [u16; 4], weights: [u32; 4]) -> (Arc<Graph>, [NodeId; 4]) {
    let mut dag = Dag::new();
    let [left, right, sum, alone] =
        [0, 1, 2, 3].map(|at| dag.add_weighted((), FunctionId(functions[at]), weights[at]));
    dag.edge(left, sum).expect("both are there");
    dag.edge(right, sum).expect("both are there");
    (dag.freeze().expect("no cycle"), [left, right, sum, alone])
}

fn plain() -> (Run<u64, String>, [NodeId; 4]) {
    let (graph, nodes) = graph([0; 4], [1; 4]);
    (Run::new(graph, &Costs::default()), nodes)
}

fn restored(run: &Run<u64, String>, bytes: &[u8]) -> Result<Run<u64, String>, RestoreError> {
    Run::restore(Arc::clone(run.graph()), &Costs::default(), bytes)
}

#[test]
fn what_ended_what_failed_and_what_came_back_is_taken_over() {
    let (mut run, [left, right, sum, alone]) = plain();
    run.start(left).expect("ready");
    run.complete(left, 7).expect("in flight");
    for _ in 0..2 {
        run.start(right).expect("ready");
        run.lost(right).expect("in flight");
    }
    run.start(alone).expect("ready");
    run.fail(alone, "broken".into(), OnFailure::Continue).expect("in flight");
    let run = restored(&run, &run.snapshot()).expect("its own");
    assert_eq!(run.value(left), Some(&7));
    assert_eq!((run.state(right), run.returns(right)), (Some(NodeState::Returned), 2));
    assert_eq!(run.state(sum), Some(NodeState::Waiting));
    assert_eq!(run.failures(), [(alone, "broken".to_owned())]);
    assert_eq!(run.ready().collect::<Vec<_>>(), [right]);
}

#[test]
fn a_process_that_dies_counts_as_a_worker_that_does() {
    let (mut run, [left, right, ..]) = plain();
    run.start(left).expect("ready");
    for times in 1..4 {
        run.start(right).expect("ready");
        run = restored(&run, &run.snapshot()).expect("its own");
        assert_eq!((run.returns(left), run.returns(right)), (1, times));
    }
}

#[test]
fn an_answer_for_what_was_cancelled_meanwhile_is_taken_for_late() {
    let (mut run, [left, right, sum, _]) = plain();
    run.start(left).expect("ready");
    run.lost(left).expect("in flight");
    assert_eq!(run.cancel(left), Ok(&[left, sum][..]));
    for mut run in [restored(&run, &run.snapshot()).expect("its own"), run] {
        assert_eq!(run.complete(left, 7), Ok(&[][..]));
        assert_eq!(run.lost(left), Ok(1));
        assert_eq!(run.value(left), None);
        // What never ran cannot have an answer.
        for node in [right, sum] {
            assert_eq!(run.complete(node, 7), Err(RunError::NotStarted { node }));
            assert_eq!(run.lost(node), Err(RunError::NotStarted { node }));
        }
    }
}

#[test]
fn a_graph_of_other_functions_weights_or_edges_is_another() {
    let (run, [left, _, _, alone]) = plain();
    let mut more = Dag::new();
    (0..4).for_each(|_| _ = more.add(()));
    more.edge(left, alone).expect("both are there");
    for other in
        [graph([0, 0, 0, 1], [1; 4]).0, graph([0; 4], [1, 1, 2, 1]).0, more.freeze().expect("no cycle")]
    {
        let refused = Run::<u64, String>::restore(other, &Costs::default(), &run.snapshot());
        assert_eq!(refused.expect_err("another graph"), RestoreError::OtherGraph);
    }
}

#[test]
fn bytes_that_no_run_wrote_are_refused() {
    let (mut run, [left, right, ..]) = plain();
    for node in [left, right] {
        run.start(node).expect("ready");
        run.fail(node, String::new(), OnFailure::Continue).expect("in flight");
    }
    let bytes = run.snapshot();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        restored(&run, &bytes).map(drop).expect_err("no run wrote it")
    };
    assert_eq!(refused(&|bytes| bytes[0] = 2), RestoreError::Version { found: 2 });
    assert_eq!(refused(&|bytes| bytes.push(0)), RestoreError::Damaged { at: bytes.len() });
    assert_eq!(refused(&Vec::clear), RestoreError::Damaged { at: 0 });
    // Version, fingerprint, count and the four states take 17 bytes, the count of failures four.
    let second = 21 + 8;
    assert_eq!(bytes[second..second + 4], right.get().to_be_bytes());
    let named_twice = refused(&|bytes| bytes[second + 3] = 0);
    assert_eq!(named_twice, RestoreError::Damaged { at: second + 8 });
    for end in 0..bytes.len() {
        let cut = refused(&|bytes| bytes.truncate(end));
        assert!(matches!(cut, RestoreError::Damaged { at } if at <= end), "{cut} of {end}");
    }
    // A node cannot have started before its operands ended.
    let mut started = plain().0.snapshot();
    started[13 + 2] = 1;
    assert!(matches!(restored(&run, &started), Err(RestoreError::Damaged { .. })));
}

/// Writes an item and reads it again.
fn carried<T: Portable>(item: &T) -> Option<T> {
    let mut bytes = Vec::new();
    item.write(&mut bytes);
    T::read(&bytes)
}

#[test]
fn what_a_snapshot_holds_is_read_as_it_was() {
    assert_eq!(carried(&()), Some(()));
    assert_eq!(carried(&u64::MAX), Some(u64::MAX));
    assert_eq!(carried(&"größe".to_owned()).as_deref(), Some("größe"));
    assert_eq!(carried(&vec![0u8, 255]), Some(vec![0, 255]));
    assert_eq!(<()>::read(&[0]), None);
    assert_eq!(u64::read(&[0; 7]), None);
    assert_eq!(String::read(&[0xff]), None);
}

#[cfg(feature = "arithmetic")]
#[test]
fn a_failed_node_keeps_its_error() {
    use quorate_dag::NodeError;

    for error in [NodeError::DivisionByZero, NodeError::Overflow { limit: 12_345 }] {
        assert_eq!(carried(&error), Some(error));
    }
    assert_eq!(NodeError::read(&[1, 2]), None);
}

#[cfg(feature = "arithmetic")]
#[test]
fn a_value_is_taken_over_whatever_limits_it_was_computed_within() {
    use quorate_dag::{Limits, Value};

    let limits = Limits { digits: 50_000, ..Limits::default() };
    for text in ["9".repeat(50_000), format!("-1/{}", "7".repeat(50_000)), "0".to_owned()] {
        let value = Value::parse(&text, &limits).expect("within the limits");
        assert_eq!(carried(&value), Some(value));
    }
}
