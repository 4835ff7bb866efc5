//! A plan with values for its parameters: what each node is called with, and what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{ErrorKind, ExpressionError};
use crate::function::{Function, NodeError};
use crate::graph::NodeId;
use crate::limits::Limits;
use crate::number::{Value, apply};
use crate::plan::{Plan, Ref, Target};
use crate::rank::Costs;
use crate::run::{OnFailure, Portable, RestoreError, Run, RunError};

/// Values by name, given beside the text.
///
/// ```
/// use quorate_dag::{Expression, Parameters};
///
/// let parameters = Parameters::new().with("a", "1/3".parse()?).with("b", 2.into());
/// assert_eq!(Expression::parse("a*b + a*b")?.evaluate(&parameters)?.to_string(), "4/3");
///
/// let error = Expression::parse("a / (b - c)")?.evaluate(&parameters).unwrap_err();
/// assert_eq!(error.to_string(), "unknown parameter `c` at bytes 9..10");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, Value>);

impl Parameters {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// These and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: Value) -> Self {
        self.insert(name, value);
        self
    }

    /// Gives a name its value, in place of one it had.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), value);
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self(pairs.map(|(name, value)| (name.into(), value)).collect())
    }
}

/// What a started node asks of its function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call<'a> {
    /// The function.
    pub function: Function,
    /// Its left operand.
    pub left: &'a Value,
    /// Its right operand.
    pub right: &'a Value,
}

impl Call<'_> {
    /// Runs it here.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn apply(&self, limits: &Limits) -> Result<Value, NodeError> {
        apply(self.function, self.left, self.right, limits)
    }
}

/// One computation of an expression: a [`Run`] over its plan that knows the operands of every node
/// that may start, and turns the failures of nodes into the one error of the expression.
///
/// That error does not depend on timing: it is the failure whose operator comes first in the source,
/// and a division by zero is at the first `/` whose divisor is zero. So when a node fails the rest
/// goes on, except for what could only fail further right; that is withdrawn.
///
/// ```
/// use std::sync::Arc;
/// use quorate_dag::{Costs, Evaluation, Expression, Limits, Parameters};
///
/// let text = "(1 + 2) / (a - a)";
/// let plan = Arc::new(Expression::parse(text)?.plan());
/// let parameters = Parameters::new().with("a", 7.into());
/// let mut evaluation = Evaluation::new(plan, &parameters, &Costs::default())?;
/// while let Some(node) = evaluation.start_next() {
///     match evaluation.call(node).unwrap().apply(&Limits::default()) {
///         Ok(value) => drop(evaluation.complete(node, value)?),
///         Err(error) => evaluation.fail(node, error)?,
///     }
/// }
/// let error = evaluation.outcome().unwrap().unwrap_err();
/// assert_eq!((error.kind.as_str(), error.span), ("division-by-zero", 8..9));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Evaluation {
    plan: Arc<Plan>,
    /// By parameter number.
    parameters: Vec<Value>,
    run: Run<Value, NodeError>,
    /// Made by the first node that fails: most computations have none.
    failure: Option<Failure>,
}

/// The leftmost failure so far: what can only fail at or right of it does not matter any more.
#[derive(Clone, Debug)]
struct Failure {
    at: u32,
    /// For each node, the leftmost `/` that divides by it; `u32::MAX` when none does.
    slashes: Vec<u32>,
    /// For each node, the leftmost place at which it or one that depends on it can fail: by overflow
    /// at its operator, as a divisor at its `/`.
    reaches: Vec<u32>,
}

impl Failure {
    fn none_yet(plan: &Plan) -> Self {
        let mut slashes = vec![u32::MAX; plan.len()];
        for divisor in plan.divisors() {
            if let Some(node) = divisor.operand.node() {
                let first = &mut slashes[node.index()];
                *first = divisor.slash.min(*first);
            }
        }
        let mut reaches: Vec<u32> = slashes.clone();
        for node in plan.nodes().rev() {
            let behind = plan.graph().dependants(node).iter();
            let behind = behind.map(|dependant| reaches[dependant.index()]).min();
            let reach = &mut reaches[node.index()];
            *reach = (*reach).min(plan.at(node)).min(behind.unwrap_or(u32::MAX));
        }
        Self { at: u32::MAX, slashes, reaches }
    }
}

impl Evaluation {
    /// A computation in which nothing has started.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownParameter`] for the first name of the source that has no value.
    pub fn new(plan: Arc<Plan>, parameters: &Parameters, costs: &Costs) -> Result<Self, ExpressionError> {
        let parameters = bind(&plan, parameters)?;
        let run = Run::new(Arc::clone(plan.graph()), costs);
        Ok(Self::of(plan, parameters, run))
    }

    /// The computation that [`Evaluation::snapshot`] was taken of. Nodes that were in flight have
    /// returned; an answer of theirs that still comes is taken.
    ///
    /// # Errors
    /// [`RestoreError`]. Parameters must be those it was made with.
    pub fn restore(
        plan: Arc<Plan>,
        parameters: &Parameters,
        costs: &Costs,
        snapshot: &[u8],
    ) -> Result<Self, RestoreError> {
        let parameters = bind(&plan, parameters).map_err(|_| RestoreError::OtherGraph)?;
        let run: Run<Value, NodeError> = Run::restore(Arc::clone(plan.graph()), costs, snapshot)?;
        let failures = run.failures().to_vec();
        let mut evaluation = Self::of(plan, parameters, run);
        for (node, error) in failures {
            evaluation.failed(node, error);
        }
        Ok(evaluation)
    }

    fn of(plan: Arc<Plan>, parameters: Vec<Value>, run: Run<Value, NodeError>) -> Self {
        Self { plan, parameters, run, failure: None }
    }

    /// All that is known, as bytes.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use quorate_dag::{Costs, Evaluation, Expression, Limits, Parameters};
    ///
    /// let (text, parameters) = ("(a + 1) * (a - 1)", Parameters::new().with("a", 5.into()));
    /// let plan = Arc::new(Expression::parse(text)?.plan());
    /// let mut evaluation = Evaluation::new(plan, &parameters, &Costs::default())?;
    /// let sum = evaluation.start_next().unwrap();
    /// evaluation.complete(sum, 6.into())?;
    /// let difference = evaluation.start_next().unwrap(); // on its way when this process ends
    /// let bytes = evaluation.snapshot();
    ///
    /// // In another process: the same text and options give the same plan.
    /// let plan = Arc::new(Expression::parse(text)?.plan());
    /// let mut evaluation = Evaluation::restore(plan, &parameters, &Costs::default(), &bytes)?;
    /// assert_eq!(evaluation.run().value(sum), Some(&6.into()));
    /// assert_eq!(evaluation.start_next(), Some(difference)); // it runs again
    /// # evaluation.complete(difference, 4.into())?;
    /// # let product = evaluation.start_next().unwrap();
    /// # evaluation.complete(product, evaluation.call(product).unwrap().apply(&Limits::default())?)?;
    /// # assert_eq!(evaluation.outcome().unwrap()?, 24.into());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self) -> Vec<u8> {
        self.run.snapshot()
    }

    /// Starts the ready node with the longest path before it.
    pub fn start_next(&mut self) -> Option<NodeId> {
        loop {
            let node = self.run.ready().next()?;
            if self.matters(node) {
                return self.run.start_next();
            }
            self.run.cancel(node).expect("a ready node is one of the run's");
        }
    }

    /// Starts up to `count` ready nodes and appends them, longest path first.
    pub fn take(&mut self, count: usize, into: &mut Vec<NodeId>) {
        into.extend(std::iter::from_fn(|| self.start_next()).take(count));
    }

    /// Starts up to `count` ready nodes, grouped by function for one call each.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use quorate_dag::{Costs, Evaluation, Expression, Function, Parameters};
    ///
    /// let plan = Arc::new(Expression::parse("(1+2) * (3-4) * (5+6)")?.plan());
    /// let mut evaluation = Evaluation::new(plan, &Parameters::new(), &Costs::default())?;
    /// let batches = evaluation.take_batches(100).into_iter();
    /// let batches: Vec<_> = batches.map(|(function, nodes)| (function, nodes.len())).collect();
    /// assert_eq!(batches, [(Function::Add, 2), (Function::Sub, 1)]);
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    pub fn take_batches(&mut self, count: usize) -> Vec<(Function, Vec<NodeId>)> {
        let mut batches: Vec<(Function, Vec<NodeId>)> = Vec::new();
        for _ in 0..count {
            let Some(node) = self.start_next() else { break };
            let function = self.plan.function(node);
            match batches.iter_mut().find(|batch| batch.0 == function) {
                Some(batch) => batch.1.push(node),
                None => batches.push((function, vec![node])),
            }
        }
        batches
    }

    /// The function and the operands of a node whose operands are known; `None` before that.
    pub fn call(&self, node: NodeId) -> Option<Call<'_>> {
        if !self.plan.graph().contains(node) {
            return None;
        }
        let [left, right] = self.plan.refs(node);
        Some(Call { function: self.plan.function(node), left: self.value(left)?, right: self.value(right)? })
    }

    /// Keeps a node's value, and gives the nodes that are ready for it. The first answer counts.
    ///
    /// # Errors
    /// As [`Run::complete`].
    pub fn complete(&mut self, node: NodeId, value: Value) -> Result<&[NodeId], RunError> {
        if let Some(failure) = &mut self.failure
            && value.is_zero()
            && self.run.value(node).is_none()
            && let Some(slash) = failure.slashes.get(node.index())
        {
            failure.at = failure.at.min(*slash);
        }
        self.run.complete(node, value)
    }

    /// A node has no value, and will have none however often it is tried.
    ///
    /// # Errors
    /// As [`Run::fail`].
    pub fn fail(&mut self, node: NodeId, error: NodeError) -> Result<(), RunError> {
        let before = self.run.failures().len();
        self.run.fail(node, error, OnFailure::Continue)?;
        if self.run.failures().len() > before {
            self.failed(node, error);
        }
        Ok(())
    }

    /// The node's worker died: it is ready again. Gives how often that has happened to it.
    ///
    /// # Errors
    /// As [`Run::lost`].
    pub fn lost(&mut self, node: NodeId) -> Result<u32, RunError> {
        self.run.lost(node)
    }

    /// The result, once it is known: the value of the expression, or its error when all that could
    /// have failed further left has ended. `None` while there is something to start or to wait for.
    pub fn outcome(&self) -> Option<Result<Value, ExpressionError>> {
        if let Some(value) = self.value(self.plan.root_ref()) {
            return Some(Ok(value.clone()));
        }
        let is_open = self.run.progress().in_flight > 0 || self.run.ready().any(|node| self.matters(node));
        if is_open || self.run.failures().is_empty() {
            return None;
        }
        Some(Err(self.error()))
    }

    /// The failure whose operator comes first.
    fn error(&self) -> ExpressionError {
        let overflows = self.run.failures().iter().filter_map(|(node, error)| {
            let NodeError::Overflow { limit } = error else {
                return None;
            };
            Some((self.plan.at(*node), ErrorKind::Overflow { limit: *limit }))
        });
        // A quotient that never ran, because another of its divisors failed, still has this one.
        let zero = self.zero_divisor().map(|slash| (slash, ErrorKind::DivisionByZero));
        // Who computes elsewhere may say of a divisor that is not zero that it is: then the quotient.
        let said =
            self.run.failures().iter().map(|(node, error)| (self.plan.at(*node), ErrorKind::from(*error)));
        let (at, kind) = overflows
            .chain(zero)
            .min_by_key(|failure| failure.0)
            .or_else(|| said.min_by_key(|failure| failure.0))
            .expect("a computation without a value has a failure");
        let at = at as usize;
        ExpressionError::new(kind, at..at + 1)
    }

    /// Takes notice of a failure.
    fn failed(&mut self, node: NodeId, error: NodeError) {
        let mut failure = match self.failure.take() {
            Some(failure) => failure,
            None => {
                let mut failure = Failure::none_yet(&self.plan);
                // From here on, complete takes notice of every zero.
                failure.at = self.zero_divisor().unwrap_or(u32::MAX);
                failure
            }
        };
        if matches!(error, NodeError::Overflow { .. }) {
            failure.at = failure.at.min(self.plan.at(node));
        }
        self.failure = Some(failure);
    }

    /// The leftmost `/` whose divisor is known to be zero.
    fn zero_divisor(&self) -> Option<u32> {
        let is_zero = |operand| self.value(operand).is_some_and(Value::is_zero);
        let divisors = self.plan.divisors().iter();
        divisors.filter(|divisor| is_zero(divisor.operand)).map(|divisor| divisor.slash).min()
    }

    fn matters(&self, node: NodeId) -> bool {
        self.failure.as_ref().is_none_or(|failure| failure.reaches[node.index()] < failure.at)
    }

    fn value(&self, operand: Ref) -> Option<&Value> {
        match operand.target() {
            Target::Node(node) => self.run.value(node),
            Target::Constant(index) => Some(self.plan.constant(index)),
            Target::Parameter(index) => self.parameters.get(index as usize),
        }
    }

    /// The plan that it computes.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Where every node is.
    pub fn run(&self) -> &Run<Value, NodeError> {
        &self.run
    }

    /// Learnt costs change the order of what is ready from here on.
    pub fn set_costs(&mut self, costs: &Costs) {
        self.run.set_costs(costs);
    }
}

/// A value for each name of the plan, by number.
fn bind(plan: &Plan, parameters: &Parameters) -> Result<Vec<Value>, ExpressionError> {
    let value =
        |name: &crate::expression::Name| parameters.value(&name.name).cloned().ok_or_else(|| name.unknown());
    plan.names().iter().map(value).collect()
}

impl From<NodeError> for ErrorKind {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::DivisionByZero => Self::DivisionByZero,
            NodeError::Overflow { limit } => Self::Overflow { limit },
        }
    }
}

impl Plan {
    /// Computes it here and now, one node after another, each value within `limits`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use quorate_dag::{Expression, Limits, Parameters};
    ///
    /// let plan = Arc::new(Expression::parse("999 + 1 - 1")?.plan());
    /// let limits = Limits { digits: 3, ..Limits::default() };
    /// let error = plan.evaluate(&Parameters::new(), &limits).unwrap_err();
    /// assert_eq!((error.kind.as_str(), error.span), ("overflow", 4..5));
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Evaluation::outcome`], and the same.
    pub fn evaluate(
        self: &Arc<Self>,
        parameters: &Parameters,
        limits: &Limits,
    ) -> Result<Value, ExpressionError> {
        let parameters = bind(self, parameters)?;
        let mut values: Vec<Value> = Vec::with_capacity(self.len());
        for node in self.nodes() {
            let [left, right] = self.refs(node).map(|operand| match operand.target() {
                Target::Node(node) => &values[node.index()],
                Target::Constant(index) => self.constant(index),
                Target::Parameter(index) => &parameters[index as usize],
            });
            match apply(self.function(node), left, right, limits) {
                Ok(value) => values.push(value),
                // Which failure is the first can only be told when the others are known.
                Err(_) => return self.evaluate_all(parameters, limits),
            }
        }
        Ok(match self.root_ref().target() {
            Target::Node(node) => values.swap_remove(node.index()),
            Target::Constant(index) => self.constant(index).clone(),
            Target::Parameter(index) => parameters[index as usize].clone(),
        })
    }

    fn evaluate_all(
        self: &Arc<Self>,
        parameters: Vec<Value>,
        limits: &Limits,
    ) -> Result<Value, ExpressionError> {
        let run = Run::new(Arc::clone(self.graph()), &Costs::default());
        let mut evaluation = Evaluation::of(Arc::clone(self), parameters, run);
        while let Some(node) = evaluation.start_next() {
            let call = evaluation.call(node).expect("a started node has its operands");
            let result = match call.apply(limits) {
                Ok(value) => evaluation.complete(node, value).map(drop),
                Err(error) => evaluation.fail(node, error),
            };
            result.expect("the node was started just now");
        }
        evaluation.outcome().expect("nothing is left to start")
    }
}

impl Portable for Value {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    /// A snapshot is one's own: its size bounds what it holds.
    fn read(bytes: &[u8]) -> Option<Self> {
        let limits = Limits { digits: usize::MAX / 8, ..Limits::default() };
        Self::from_bytes(bytes, &limits).ok()
    }
}

impl Portable for NodeError {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::DivisionByZero => {}
            Self::Overflow { limit } => {
                out.extend_from_slice(&u64::try_from(*limit).unwrap_or(u64::MAX).to_be_bytes());
            }
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::DivisionByZero);
        }
        let limit = usize::try_from(u64::read(bytes)?).ok()?;
        Some(Self::Overflow { limit })
    }
}
