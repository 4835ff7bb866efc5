//! What an evaluation starts, and what it does not start any more once something has failed.
#![cfg(feature = "arithmetic")]

use std::sync::Arc;

use quorate_dag::{Costs, Evaluation, Expression, Function, Limits, NodeError, NodeId, Parameters};

fn parameters() -> Parameters {
    [("a", 5), ("b", 3), ("z", 0)].into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// An evaluation of which all that is ready has started.
struct Started {
    evaluation: Evaluation,
    text: &'static str,
}

impl Started {
    fn new(text: &'static str) -> Self {
        let plan = Arc::new(Expression::parse(text).expect("an expression").plan());
        let mut evaluation = Evaluation::new(plan, &parameters(), &Costs::default()).expect("all are given");
        evaluation.take(usize::MAX, &mut Vec::new());
        Self { evaluation, text }
    }

    /// The node of the operator at the end of this part of the text.
    fn node(&self, part: &str) -> NodeId {
        let at = self.text.find(part).expect("a part of the text") + part.len() - 1;
        let plan = self.evaluation.plan();
        plan.nodes().find(|node| plan.position(*node) == at).expect("an operator is there")
    }

    /// The node of this part of the text ends, as it does by itself.
    fn end(&mut self, part: &str) {
        let node = self.node(part);
        match self.evaluation.call(node).expect("its operands are known").apply(&Limits::default()) {
            Ok(value) => drop(self.evaluation.complete(node, value).expect("it was started")),
            Err(error) => self.evaluation.fail(node, error).expect("it was started"),
        }
    }

    fn overflows(&mut self, part: &str) {
        let node = self.node(part);
        self.evaluation.fail(node, NodeError::Overflow { limit: 9 }).expect("it was started");
    }

    fn error(&self) -> (&'static str, usize) {
        let error = self.evaluation.outcome().expect("it has ended").expect_err("it failed");
        (error.kind.as_str(), error.span.start)
    }
}

#[test]
fn what_could_fail_further_left_is_started_after_a_failure() {
    let mut run = Started::new("(a+b) * (a-b) + 1/z");
    for part in ["1/", "(a+", "(a-"] {
        assert_eq!(run.evaluation.outcome(), None);
        run.end(part);
    }
    let product = run.node("(a+b) *");
    assert_eq!(run.evaluation.outcome(), None);
    assert_eq!(run.evaluation.start_next(), Some(product));
    run.overflows("(a+b) *");
    assert_eq!(run.evaluation.start_next(), None);
    assert_eq!(run.error(), ("overflow", 6));
}

#[test]
fn what_can_only_fail_further_right_is_withdrawn() {
    let mut run = Started::new("1/z + (a+b) * (a-b)");
    run.end("1/");
    run.end("(a+");
    run.end("(a-");
    assert_eq!(run.evaluation.start_next(), None);
    assert_eq!(run.error(), ("division-by-zero", 1));
    assert_eq!(run.evaluation.run().progress().cancelled, 2);
}

#[test]
fn a_run_that_was_taken_over_knows_what_is_withdrawn() {
    let mut run = Started::new("1/z + (a+b) * (a-b)");
    run.end("1/");
    let plan = Arc::clone(run.evaluation.plan());
    let snapshot = run.evaluation.snapshot();
    run.evaluation =
        Evaluation::restore(plan, &parameters(), &Costs::default(), &snapshot).expect("its own snapshot");
    assert_eq!(run.evaluation.start_next(), None);
    assert_eq!(run.error(), ("division-by-zero", 1));
}

/// Whether its zero is known before the failure further right or after it: the quotient at the left
/// fails, and nothing that could only fail right of it is started.
#[test]
fn a_divisor_that_is_zero_is_as_good_as_its_quotient_failed() {
    const TEXT: &str = "1/(a-a) + (a+b) * (a-b) + 1/z";
    for order in [["1/(a-", "+ 1/"], ["+ 1/", "1/(a-"]] {
        let mut run = Started::new(TEXT);
        for part in order.into_iter().chain(["+ (a+", "* (a-"]) {
            run.end(part);
        }
        assert_eq!(run.evaluation.start_next(), None);
        assert_eq!(run.error(), ("division-by-zero", 1));
    }
}

#[test]
fn an_end_that_is_said_twice_counts_once() {
    let mut run = Started::new("(a+b) * (a-b) * (1/z)");
    run.end("(a+");
    run.overflows("(a+"); // it has its value: nothing is withdrawn for it
    run.end("(a-");
    assert_eq!(run.evaluation.start_next(), Some(run.node("(a+b) *")));
    run.end("(1/");
    run.end("(1/");
    run.end("(a+b) *");
    assert_eq!(run.error(), ("division-by-zero", 18));
    let progress = run.evaluation.run().progress();
    assert_eq!((progress.done, progress.failed, progress.cancelled), (3, 1, 1));
}

#[test]
fn batches_are_by_function_and_as_large_as_asked() {
    let plan = Arc::new(Expression::parse("(a+1)*(a-2)*(a+3)*(a-4)*(a+5)").expect("an expression").plan());
    let mut evaluation = Evaluation::new(plan, &parameters(), &Costs::default()).expect("all are given");
    let mut sizes = |count| {
        let batches = evaluation.take_batches(count).into_iter();
        batches.map(|(function, nodes)| (function, nodes.len())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(0), []);
    assert_eq!(sizes(3), [(Function::Add, 2), (Function::Sub, 1)]);
    assert_eq!(sizes(9), [(Function::Sub, 1), (Function::Add, 1)]);
    assert_eq!(sizes(9), []);
}

#[test]
fn a_node_of_another_plan_is_refused() {
    let mut run = Started::new("a+b");
    let node = NodeId::new(7);
    assert_eq!(run.evaluation.call(node), None);
    assert!(run.evaluation.complete(node, 0.into()).is_err());
    assert!(run.evaluation.fail(node, NodeError::DivisionByZero).is_err());
    assert!(run.evaluation.lost(node).is_err());
}
