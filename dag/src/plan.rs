//! Expression to graph: equal subexpressions once, chains as balanced trees.

mod build;
mod chain;
mod table;

use std::sync::Arc;
use std::time::Duration;

use crate::expression::{Expression, Name};
use crate::function::Function;
use crate::graph::{Graph, NodeId};
use crate::limits::Limits;
use crate::number::Value;
use crate::rank::{Costs, Prediction};

/// What is done to an expression on its way to a graph.
///
/// ```
/// use quorate_dag::{Expression, Limits, PlanOptions};
///
/// let expression = Expression::parse("(a+b) * (a+b) - 2*3*4*5")?;
/// let nodes = |options: PlanOptions| expression.plan_with(&options).len();
/// let default = PlanOptions::default();
/// assert_eq!(nodes(default), 6); // the sum is one node
/// assert_eq!(nodes(PlanOptions { share: false, ..default }), 7);
/// assert_eq!(nodes(PlanOptions { fold: Some(Limits::default()), ..default }), 3); // … - 120
///
/// let depth = |options: PlanOptions| expression.plan_with(&options).depth();
/// assert_eq!((depth(default), depth(PlanOptions { reassociate: false, ..default })), (3, 4));
/// # Ok::<(), quorate_dag::ExpressionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Equal subexpressions are one node. On by default.
    pub share: bool,
    /// Chains of `+` and `-`, and of `*` and `/`, become balanced trees. On by default.
    pub reassociate: bool,
    /// Operations on two numbers are done while planning, within these limits; one that fails stays
    /// a node. Off by default: the operations are what there is to run.
    pub fold: Option<Limits>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { share: true, reassociate: true, fold: None }
    }
}

/// An expression as a graph whose nodes are operations of two operands.
///
/// Numbers of nodes are dense, and operands have smaller ones than the nodes that use them. The
/// same text planned with the same options by the same [`Plan::VERSION`] is the same plan.
///
/// ```
/// use quorate_dag::{Expression, Function, Operand};
///
/// let plan = Expression::parse("((3+5)*(4/2))")?.plan();
/// assert_eq!(plan.len(), 3);
/// assert_eq!(plan.depth(), 2);
/// assert_eq!(plan.independent().count(), 2);
///
/// let root = plan.root().node().expect("the root is an operation");
/// assert_eq!(plan.function(root), Function::Mul);
///
/// // 7 additions in 3 rounds, in place of 7.
/// assert_eq!(Expression::parse("a+b+c+d+e+f+g+h")?.plan().depth(), 3);
/// # Ok::<(), quorate_dag::ExpressionError>(())
/// ```
///
/// # Chains
///
/// A sum, through its parentheses and signs, is a list of terms that are added or subtracted, and a
/// product one of factors that multiply or divide: `x/y/z/w` is `(x/y)/(z*w)`. Terms are paired from
/// the shallowest up, neighbours first, which makes the tree as low as can be: n terms take ⌈log₂ n⌉
/// rounds. What is as low as that in the source stays as it was written. A group that is used more
/// than once is computed once and not opened, nor is a divisor, so that `x/(y/z)` fails where the
/// source does. All this is sound because arithmetic is exact.
#[derive(Clone, Debug)]
pub struct Plan {
    graph: Arc<Graph>,
    operands: Vec<[Ref; 2]>,
    /// The byte of the operator in the source that a node is there for.
    at: Vec<u32>,
    constants: Vec<Value>,
    names: Vec<Name>,
    /// Every divisor of the source and its `/`.
    divisors: Vec<Divisor>,
    root: Ref,
}

/// An operand in a word: 2 bits that say what, 30 that say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ref(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Node(NodeId),
    Constant(u32),
    Parameter(u32),
}

impl Ref {
    const SHIFT: u32 = 30;

    pub(crate) fn new(target: Target) -> Self {
        let (tag, index) = match target {
            Target::Node(node) => (0, node.get()),
            Target::Constant(index) => (1, index),
            Target::Parameter(index) => (2, index),
        };
        debug_assert!(index >> Self::SHIFT == 0);
        Self(tag << Self::SHIFT | index)
    }

    pub(crate) fn target(self) -> Target {
        let index = self.0 & ((1 << Self::SHIFT) - 1);
        match self.0 >> Self::SHIFT {
            0 => Target::Node(NodeId::new(index)),
            1 => Target::Constant(index),
            _ => Target::Parameter(index),
        }
    }

    pub(crate) fn node(self) -> Option<NodeId> {
        match self.target() {
            Target::Node(node) => Some(node),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Divisor {
    /// The byte of the `/`.
    pub(crate) slash: u32,
    pub(crate) operand: Ref,
}

/// What a node works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A number of the source.
    Value(&'a Value),
    /// A parameter, by name.
    Parameter(&'a str),
    /// The result of another node, whose number is smaller.
    Node(NodeId),
}

impl Operand<'_> {
    /// The node, if it is one.
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(*node),
            _ => None,
        }
    }
}

impl Plan {
    /// Changes whenever the same text and options may give another plan. Who checks a receipt plans
    /// again, and must get the same nodes.
    pub const VERSION: u32 = 1;

    pub(crate) fn new(expression: &Expression, options: &PlanOptions) -> Self {
        build::plan(expression, options)
    }

    /// The shape alone, for a [`Run`](crate::Run).
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// How many operations. None for a lone number or name.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is nothing to run: the result is a number or a parameter as it stands.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Every node, operands before dependants.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        self.graph.nodes()
    }

    /// The function of a node of this plan.
    pub fn function(&self, node: NodeId) -> Function {
        Function::from_id(self.graph.function(node)).expect("a plan has the four functions only")
    }

    /// The left and the right operand of a node of this plan.
    pub fn operands(&self, node: NodeId) -> [Operand<'_>; 2] {
        self.operands[node.index()].map(|operand| self.operand(operand))
    }

    /// What the result of the expression is the result of.
    pub fn root(&self) -> Operand<'_> {
        self.operand(self.root)
    }

    /// The names of the parameters, in the order of their first use.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &*name.name)
    }

    /// The byte of the source's operator that a node is there for. In a balanced chain, each node
    /// stands for another operator of the chain; a shared node for the first of its operators.
    pub fn position(&self, node: NodeId) -> usize {
        self.at[node.index()] as usize
    }

    /// The nodes that wait for no other.
    pub fn independent(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.graph.independent()
    }

    /// See [`Graph::waves`].
    pub fn waves(&self) -> Vec<Vec<NodeId>> {
        self.graph.waves()
    }

    /// See [`Graph::depth`].
    pub fn depth(&self) -> usize {
        self.graph.depth()
    }

    /// See [`Graph::width`].
    pub fn width(&self) -> usize {
        self.graph.width()
    }

    /// See [`Graph::critical_path`].
    pub fn critical_path(&self, costs: &Costs) -> Vec<NodeId> {
        self.graph.critical_path(costs)
    }

    /// See [`Graph::predict`].
    pub fn predict(&self, workers: usize, costs: &Costs) -> Prediction {
        self.graph.predict(workers, costs)
    }

    /// The predicted time on `workers` workers alone; see [`Graph::predict`] for its bounds.
    pub fn predicted_time(&self, workers: usize, costs: &Costs) -> Duration {
        self.predict(workers, costs).time
    }

    pub(crate) fn operand(&self, operand: Ref) -> Operand<'_> {
        match operand.target() {
            Target::Node(node) => Operand::Node(node),
            Target::Constant(index) => Operand::Value(&self.constants[index as usize]),
            Target::Parameter(index) => Operand::Parameter(&self.names[index as usize].name),
        }
    }

    pub(crate) fn refs(&self, node: NodeId) -> [Ref; 2] {
        self.operands[node.index()]
    }

    pub(crate) fn at(&self, node: NodeId) -> u32 {
        self.at[node.index()]
    }

    pub(crate) fn root_ref(&self) -> Ref {
        self.root
    }

    pub(crate) fn constant(&self, index: u32) -> &Value {
        &self.constants[index as usize]
    }

    pub(crate) fn names(&self) -> &[Name] {
        &self.names
    }

    pub(crate) fn divisors(&self) -> &[Divisor] {
        &self.divisors
    }
}

#[cfg(test)]
mod tests;
