//! One request's computation: its plan, the values so far, and what is kept for its timeline and receipt.

use super::{
    ahead::Ahead,
    inbound::failure,
    kept::{Kept, Proof},
};
use crate::records::{Failure, NodeRun, Request};
use bytes::Bytes;
use quorate_dag::{
    Call, Costs, Evaluation, Expression, ExpressionError, Function, Limits, NodeError, NodeId, Parameters,
    Plan, Value,
};
use std::{sync::Arc, time::Instant};

/// A plan with more operations has no timeline: it would not fit where records are kept.
const TIMELINE_NODES: usize = 512;

/// A plan with more operations is not kept on the way: writing it down would keep the core from its work.
const KEPT_NODES: usize = 16 << 10;

/// A computation in progress.
#[derive(Debug)]
pub(super) struct Work {
    request: Request,
    evaluation: Evaluation,
    limits: Limits,
    /// The cost of the longest path from each node to the end, in nanoseconds.
    ranks: Vec<u64>,
    timeline: Option<Vec<NodeRun>>,
    evidence: Option<Vec<Option<Evidence>>>,
    /// What is still to come of it, if it is large.
    ahead: Option<Box<Ahead>>,
    /// Nodes that were done when it was last kept.
    done_kept: usize,
}

/// What proves a node's value.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The set that executed it.
    pub(super) set: Arc<str>,
    /// The PBFT receipt, and the set's chain that it is checked with.
    pub(super) receipt: Bytes,
    pub(super) chain: Bytes,
}

impl Work {
    /// Parses and plans a request.
    pub(super) fn plan(request: &Request, limits: &Limits, costs: &Costs) -> Result<Self, Failure> {
        Self::resume(request, limits, costs, None)
    }

    /// The same, and goes on from what was kept of it by a scheduler that is gone, if that fits.
    pub(super) fn resume(
        request: &Request,
        limits: &Limits,
        costs: &Costs,
        kept: Option<Kept>,
    ) -> Result<Self, Failure> {
        let mut parameters = Parameters::new();
        for (name, text) in &request.parameters {
            let value = Value::parse(text, limits).map_err(|error| {
                failure("malformed-parameter", format!("parameter `{name}` is not a number: {error}"))
            })?;
            parameters.insert(name.clone(), value);
        }
        let expression = Expression::parse_within(&request.expression, limits).map_err(of_expression)?;
        let plan = Arc::new(expression.plan());
        let ranks = plan.graph().ranks(costs);
        let nodes = plan.len();
        let evaluation = Evaluation::new(Arc::clone(&plan), &parameters, costs).map_err(of_expression)?;
        let mut work = Self {
            evaluation,
            limits: *limits,
            ranks,
            timeline: (nodes <= TIMELINE_NODES).then(|| Vec::with_capacity(nodes)),
            evidence: request.receipt.then(|| vec![None; nodes]),
            ahead: None,
            done_kept: 0,
            request: request.clone(),
        };
        if let Some(kept) = kept.filter(|kept| kept.plan_version == Plan::VERSION)
            && let Ok(evaluation) = Evaluation::restore(plan, &parameters, costs, &kept.run)
        {
            work.evaluation = evaluation;
            work.done_kept = work.done();
            kept.timeline.into_iter().for_each(|run| work.ran(run.into()));
            for proof in kept.proofs {
                work.proven(NodeId::new(proof.node), proof.into());
            }
        }
        work.ahead = Ahead::of(work.graph(), |node| work.value(node).is_some(), costs, Instant::now());
        Ok(work)
    }

    fn done(&self) -> usize {
        self.evaluation.run().progress().done
    }

    /// What another scheduler can go on from, when nodes were done since it was last asked; `None` for
    /// what is computed again sooner than it is kept.
    pub(super) fn keep(&mut self) -> Option<Kept> {
        if self.done() == self.done_kept || self.nodes() > KEPT_NODES {
            return None;
        }
        self.done_kept = self.done();
        let proofs = self.evidence.iter().flatten().enumerate();
        Some(Kept {
            plan_version: Plan::VERSION,
            run: self.evaluation.snapshot(),
            timeline: self.timeline.iter().flatten().map(Into::into).collect(),
            proofs: proofs.filter_map(|(node, proof)| Some(Proof::of(node, proof.as_ref()?))).collect(),
        })
    }

    /// The functions that it needs.
    pub(super) fn functions(&self) -> impl Iterator<Item = Function> {
        let mut needed = [false; Function::ALL.len()];
        for node in self.evaluation.plan().nodes() {
            needed[super::dispatch::place(self.evaluation.plan().function(node))] = true;
        }
        Function::ALL.into_iter().zip(needed).filter_map(|(function, needed)| needed.then_some(function))
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    pub(super) fn graph(&self) -> &Plan {
        self.evaluation.plan()
    }

    pub(super) fn wants_receipt(&self) -> bool {
        self.evidence.is_some()
    }

    pub(super) fn nodes(&self) -> usize {
        self.evaluation.plan().len()
    }

    pub(super) fn digits_max(&self) -> u32 {
        u32::try_from(self.limits.digits).unwrap_or(u32::MAX)
    }

    /// Starts a node whose operands are known, if there is one.
    pub(super) fn start_next(&mut self) -> Option<NodeId> {
        let node = self.evaluation.start_next()?;
        let function = self.function(node);
        if let Some(ahead) = &mut self.ahead {
            ahead.arrived(function);
        }
        Some(node)
    }

    pub(super) fn ahead(&self) -> Option<&Ahead> {
        self.ahead.as_deref()
    }

    pub(super) fn rank(&self, node: NodeId) -> u64 {
        self.ranks[node.index()]
    }

    pub(super) fn function(&self, node: NodeId) -> Function {
        self.evaluation.plan().function(node)
    }

    /// What a node that was started asks of its function.
    pub(super) fn call(&self, node: NodeId) -> Call<'_> {
        self.evaluation.call(node).expect("a started node has its operands")
    }

    /// The value of a node that is done.
    pub(super) fn value(&self, node: NodeId) -> Option<&Value> {
        self.evaluation.run().value(node)
    }

    /// Keeps a node's value; the first counts. Says whether the bytes were one.
    pub(super) fn complete(&mut self, node: NodeId, value: &[u8]) -> bool {
        let Ok(value) = Value::from_bytes(value, &self.limits) else { return false };
        // A node that is not in flight was answered before, or is none of this plan: nothing to keep.
        let _ = self.evaluation.complete(node, value);
        true
    }

    /// A node has no value and never will.
    pub(super) fn fail(&mut self, node: NodeId, error: NodeError) {
        // As above.
        let _ = self.evaluation.fail(node, error);
    }

    pub(super) fn overflow(&self) -> NodeError {
        NodeError::Overflow { limit: self.limits.digits }
    }

    pub(super) fn ran(&mut self, run: NodeRun) {
        if let Some(timeline) = &mut self.timeline {
            timeline.push(run);
        }
    }

    pub(super) fn proven(&mut self, node: NodeId, evidence: Evidence) {
        if let Some(slot) = self.evidence.as_mut().and_then(|all| all.get_mut(node.index())) {
            slot.get_or_insert(evidence);
        }
    }

    /// What proves each node, when a receipt is wanted.
    pub(super) fn evidence(&self) -> Option<&[Option<Evidence>]> {
        self.evidence.as_deref()
    }

    pub(super) fn take_timeline(&mut self) -> Vec<NodeRun> {
        self.timeline.take().unwrap_or_default()
    }

    /// The end, once it is known.
    pub(super) fn outcome(&self) -> Option<Result<Value, Failure>> {
        self.evaluation.outcome().map(|outcome| outcome.map_err(of_expression))
    }

    /// The result as the request wants it.
    pub(super) fn text(&self, value: &Value) -> String {
        match self.request.digits {
            Some(digits) => value.to_decimal(usize::try_from(digits).unwrap_or(usize::MAX)),
            None => value.to_string(),
        }
    }
}

fn of_expression(error: ExpressionError) -> Failure {
    Failure {
        kind: error.kind.as_str().into(),
        detail: error.kind.to_string(),
        span: Some([error.span.start, error.span.end]),
    }
}
