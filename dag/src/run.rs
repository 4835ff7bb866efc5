//! What to run next: a graph, what is known of its nodes, and what that makes ready.

mod ready;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::graph::{FunctionId, Graph, NodeId};
use crate::rank::Costs;
use ready::Ready;

pub use snapshot::{Portable, RestoreError};

/// One walk over a graph, in which each node runs after its operands, and once.
///
/// It has no clock and no thread: its caller starts nodes, and says how they ended. In any order,
/// and as often as the network repeats it:
///
/// ```
/// use quorate_dag::{Costs, Dag, Run};
///
/// let mut dag = Dag::new();
/// let (left, right, sum) = (dag.add(2), dag.add(3), dag.add(0));
/// dag.edge(left, sum)?;
/// dag.edge(right, sum)?;
///
/// let mut run: Run<i32> = Run::new(dag.freeze()?, &Costs::default());
/// while let Some(node) = run.start_next() {
///     let value = match node {
///         node if node == sum => run.value(left).unwrap() + run.value(right).unwrap(),
///         node => dag[node],
///     };
///     run.complete(node, value)?;
/// }
/// assert_eq!(run.value(sum), Some(&5));
/// assert!(run.is_finished());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | ask | command | handle |
/// | --- | --- | --- |
/// | [`ready`](Run::ready), [`batches`](Run::batches), [`value`](Run::value), [`state`](Run::state), [`is_finished`](Run::is_finished) | [`start`](Run::start), [`start_next`](Run::start_next), [`cancel`](Run::cancel), [`stop`](Run::stop) | [`complete`](Run::complete), [`fail`](Run::fail), [`lost`](Run::lost) |
#[derive(Clone, Debug)]
pub struct Run<V, E = std::convert::Infallible> {
    graph: Arc<Graph>,
    /// A node's state, and the operands it waits for.
    nodes: Vec<Slot>,
    ready: Ready,
    values: Vec<Option<V>>,
    failures: Vec<(NodeId, E)>,
    /// How often a node came back; at most one entry a node.
    returns: BTreeMap<NodeId, u32>,
    in_flight: usize,
    waiting: usize,
    done: usize,
    cancelled: usize,
    /// The answer of the last command, kept so that none allocates.
    changed: Vec<NodeId>,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// An operand is missing.
    Waiting,
    /// It may start.
    Ready,
    /// It was started and has not ended.
    InFlight,
    /// It was started and came back: it may start again. A late answer still counts.
    Returned,
    /// It has its value.
    Done,
    /// It failed for good.
    Failed,
    /// It will not run: it waited for one that failed, or it was withdrawn.
    Cancelled,
}

/// [`NodeState`] in the top 3 bits, the number of missing operands in the rest.
#[derive(Clone, Copy, Debug)]
struct Slot(u32);

impl Slot {
    const SHIFT: u32 = 29;

    fn new(state: NodeState, missing: u32) -> Self {
        debug_assert!(missing >> Self::SHIFT == 0);
        Self((state as u32) << Self::SHIFT | missing)
    }

    fn state(self) -> NodeState {
        match self.0 >> Self::SHIFT {
            0 => NodeState::Waiting,
            1 => NodeState::Ready,
            2 => NodeState::InFlight,
            3 => NodeState::Returned,
            4 => NodeState::Done,
            5 => NodeState::Failed,
            _ => NodeState::Cancelled,
        }
    }
}

/// What becomes of the rest when a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The node is ready again; nothing else changes.
    Retry,
    /// The node's dependants are cancelled, the rest goes on.
    Continue,
    /// Everything that is not in flight is cancelled.
    Stop,
}

/// A command that makes no sense for that node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// No node has that number.
    #[error("unknown node {node}: the graph has {nodes} nodes")]
    UnknownNode {
        /// The number given.
        node: NodeId,
        /// How many nodes there are.
        nodes: usize,
    },
    /// It ended before it was started.
    #[error("node {node} was never started")]
    NotStarted {
        /// The node.
        node: NodeId,
    },
    /// It was started, but is not ready.
    #[error("node {node} is not ready but {state:?}")]
    NotReady {
        /// The node.
        node: NodeId,
        /// Where it is.
        state: NodeState,
    },
}

impl<V, E> Run<V, E> {
    /// A run in which nothing has started.
    pub fn new(graph: Arc<Graph>, costs: &Costs) -> Self {
        let mut ready = Ready::new(&graph.ranks(costs));
        let nodes = graph
            .nodes()
            .map(|node| match graph.operand_count(node) {
                0 => {
                    ready.insert(node);
                    Slot::new(NodeState::Ready, 0)
                }
                missing => Slot::new(
                    NodeState::Waiting,
                    u32::try_from(missing).expect("a graph has under 2^29 edges"),
                ),
            })
            .collect();
        let mut values = Vec::new();
        values.resize_with(graph.len(), || None);
        Self {
            nodes,
            values,
            failures: Vec::new(),
            returns: BTreeMap::new(),
            in_flight: 0,
            waiting: graph.len() - ready.len(),
            done: 0,
            cancelled: 0,
            changed: Vec::new(),
            ready,
            graph,
        }
    }

    /// Learnt costs change the order of what is ready from here on. Linear in the graph.
    ///
    /// ```
    /// use std::time::Duration;
    /// use quorate_dag::{Costs, Dag, FunctionId, Run};
    ///
    /// let mut dag = Dag::new();
    /// let copy = dag.add_weighted("copy", FunctionId(0), 1);
    /// let link = dag.add_weighted("link", FunctionId(1), 1);
    /// let mut costs = Costs::default();
    /// let mut run: Run<()> = Run::new(dag.freeze()?, &costs);
    /// assert_eq!(run.ready().collect::<Vec<_>>(), [copy, link]);
    ///
    /// costs.observe(FunctionId(1), Duration::from_secs(9)); // linking takes longest: first
    /// run.set_costs(&costs);
    /// assert_eq!(run.ready().collect::<Vec<_>>(), [link, copy]);
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    pub fn set_costs(&mut self, costs: &Costs) {
        let mut ready = Ready::new(&self.graph.ranks(costs));
        self.ready.iter().for_each(|node| ready.insert(node));
        self.ready = ready;
    }

    /// Starts the ready node with the longest path before it.
    #[inline]
    pub fn start_next(&mut self) -> Option<NodeId> {
        let node = self.ready.first()?;
        self.set_in_flight(node);
        Some(node)
    }

    /// Starts up to `count` ready nodes and appends them, longest path first.
    pub fn take(&mut self, count: usize, into: &mut Vec<NodeId>) {
        into.extend(std::iter::from_fn(|| self.start_next()).take(count));
    }

    /// Starts one ready node.
    ///
    /// # Errors
    /// [`RunError::NotReady`], [`RunError::UnknownNode`].
    pub fn start(&mut self, node: NodeId) -> Result<(), RunError> {
        match self.known(node)? {
            NodeState::Ready | NodeState::Returned => {
                self.set_in_flight(node);
                Ok(())
            }
            state => Err(RunError::NotReady { node, state }),
        }
    }

    fn set_in_flight(&mut self, node: NodeId) {
        self.ready.remove(node);
        self.nodes[node.index()] = Slot::new(NodeState::InFlight, 0);
        self.in_flight += 1;
    }

    /// Keeps a node's value, and gives the nodes that are ready for it.
    ///
    /// The first answer counts. Another one for a node that has ended changes nothing, so that
    /// answers may be repeated and come late.
    ///
    /// # Errors
    /// [`RunError::NotStarted`], [`RunError::UnknownNode`].
    #[inline]
    pub fn complete(&mut self, node: NodeId, value: V) -> Result<&[NodeId], RunError> {
        self.changed.clear();
        if self.end(node)? {
            self.nodes[node.index()] = Slot::new(NodeState::Done, 0);
            self.values[node.index()] = Some(value);
            self.done += 1;
            for &dependant in self.graph.dependants(node) {
                let slot = &mut self.nodes[dependant.index()];
                if slot.state() != NodeState::Waiting {
                    continue; // cancelled for another operand's sake
                }
                slot.0 -= 1; // Waiting is 0, so that the word is the count
                if slot.0 == 0 {
                    *slot = Slot::new(NodeState::Ready, 0);
                    self.waiting -= 1;
                    self.ready.insert(dependant);
                    self.changed.push(dependant);
                }
            }
        }
        Ok(&self.changed)
    }

    /// A node failed. Gives the nodes that are cancelled for it; a node that has ended stays as it is.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, NodeState, OnFailure, Run};
    ///
    /// let mut dag = Dag::new();
    /// let [fetch, build, lint] = ["fetch", "build", "lint"].map(|node| dag.add(node));
    /// dag.edge(fetch, build)?;
    ///
    /// let mut run: Run<(), &str> = Run::new(dag.freeze()?, &Costs::default());
    /// run.start(fetch)?;
    /// run.fail(fetch, "no network", OnFailure::Retry)?; // it may start again
    /// run.start(fetch)?;
    /// assert_eq!(run.fail(fetch, "not found", OnFailure::Continue)?, [build]);
    /// assert_eq!(run.state(build), Some(NodeState::Cancelled));
    /// assert_eq!(run.failures(), [(fetch, "not found")]);
    /// assert_eq!(run.start_next(), Some(lint)); // what does not depend on it goes on
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RunError::NotStarted`], [`RunError::UnknownNode`].
    pub fn fail(&mut self, node: NodeId, error: E, then: OnFailure) -> Result<&[NodeId], RunError> {
        self.changed.clear();
        if then == OnFailure::Retry {
            self.lost(node)?;
            return Ok(&self.changed);
        }
        if self.end(node)? {
            self.nodes[node.index()] = Slot::new(NodeState::Failed, 0);
            self.failures.push((node, error));
            self.cancel_behind(node);
            if then == OnFailure::Stop {
                self.cancel_rest();
            }
        }
        Ok(&self.changed)
    }

    /// The node's worker died: it is ready again. Gives how often that has happened to it, for a
    /// caller that gives up at some count.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, Run};
    ///
    /// let mut dag = Dag::new();
    /// let node = dag.add(());
    /// let mut run: Run<i32> = Run::new(dag.freeze()?, &Costs::default());
    /// run.start(node)?;
    /// assert_eq!(run.lost(node)?, 1);
    /// assert_eq!(run.ready().next(), Some(node));
    /// run.complete(node, 7)?; // the worker lived after all: its answer counts
    /// assert_eq!(run.value(node), Some(&7));
    /// assert!(run.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RunError::NotStarted`], [`RunError::UnknownNode`].
    pub fn lost(&mut self, node: NodeId) -> Result<u32, RunError> {
        match self.known(node)? {
            NodeState::InFlight => {
                self.nodes[node.index()] = Slot::new(NodeState::Returned, 0);
                self.in_flight -= 1;
                self.ready.insert(node);
                let returns = self.returns.entry(node).or_default();
                *returns = returns.saturating_add(1);
                Ok(*returns)
            }
            NodeState::Done | NodeState::Failed | NodeState::Returned => Ok(self.returns(node)),
            NodeState::Cancelled if self.returns.contains_key(&node) => Ok(self.returns(node)),
            NodeState::Waiting | NodeState::Ready | NodeState::Cancelled => {
                Err(RunError::NotStarted { node })
            }
        }
    }

    /// Withdraws a node that is not in flight, and all that wait for it. Gives the nodes cancelled.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, Run};
    ///
    /// let mut dag = Dag::new();
    /// let [fetch, build, lint] = ["fetch", "build", "lint"].map(|node| dag.add(node));
    /// dag.edge(fetch, build)?;
    /// let mut run: Run<()> = Run::new(dag.freeze()?, &Costs::default());
    /// assert_eq!(run.cancel(fetch)?, [fetch, build]);
    /// assert_eq!(run.stop(), [lint]); // and whatever else is not in flight
    /// assert!(run.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RunError::UnknownNode`].
    pub fn cancel(&mut self, node: NodeId) -> Result<&[NodeId], RunError> {
        self.changed.clear();
        if self.cancel_one(node, self.known(node)?) {
            self.cancel_behind(node);
        }
        Ok(&self.changed)
    }

    /// Cancels all that is not in flight; what is may end as it will. Gives the nodes cancelled.
    pub fn stop(&mut self) -> &[NodeId] {
        self.changed.clear();
        self.cancel_rest();
        &self.changed
    }

    /// Whether the node leaves its flight now; false when it has ended before.
    #[inline]
    fn end(&mut self, node: NodeId) -> Result<bool, RunError> {
        match self.known(node)? {
            NodeState::InFlight => {
                self.in_flight -= 1;
                Ok(true)
            }
            NodeState::Returned => {
                self.ready.remove(node);
                Ok(true)
            }
            NodeState::Done | NodeState::Failed => Ok(false),
            NodeState::Cancelled if self.returns.contains_key(&node) => Ok(false),
            NodeState::Waiting | NodeState::Ready | NodeState::Cancelled => {
                Err(RunError::NotStarted { node })
            }
        }
    }

    fn cancel_rest(&mut self) {
        for node in self.graph.nodes() {
            self.cancel_one(node, self.nodes[node.index()].state());
        }
    }

    fn cancel_behind(&mut self, node: NodeId) {
        let graph = Arc::clone(&self.graph);
        let mut behind = vec![node];
        while let Some(node) = behind.pop() {
            for &dependant in graph.dependants(node) {
                if self.cancel_one(dependant, self.nodes[dependant.index()].state()) {
                    behind.push(dependant);
                }
            }
        }
    }

    fn cancel_one(&mut self, node: NodeId, state: NodeState) -> bool {
        match state {
            NodeState::Waiting => self.waiting -= 1,
            NodeState::Ready | NodeState::Returned => self.ready.remove(node),
            _ => return false,
        }
        self.nodes[node.index()] = Slot::new(NodeState::Cancelled, 0);
        self.cancelled += 1;
        self.changed.push(node);
        true
    }

    #[inline]
    fn known(&self, node: NodeId) -> Result<NodeState, RunError> {
        match self.nodes.get(node.index()) {
            Some(slot) => Ok(slot.state()),
            None => Err(RunError::UnknownNode { node, nodes: self.nodes.len() }),
        }
    }

    /// The nodes that may start, longest path before them first (upward rank as in HEFT,
    /// Topcuoglu et al., TPDS 2002).
    pub fn ready(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.ready.iter()
    }

    /// The best `count` ready nodes, grouped by function for one call each. Nothing is started.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, FunctionId, Run};
    ///
    /// let (compile, link) = (FunctionId(0), FunctionId(1));
    /// let mut dag = Dag::new();
    /// for function in [compile, link, compile] {
    ///     dag.add_weighted((), function, 1);
    /// }
    /// let run: Run<()> = Run::new(dag.freeze()?, &Costs::default());
    /// let batches: Vec<_> = run.batches(100).map(|(function, nodes)| (function, nodes.len())).collect();
    /// assert_eq!(batches, [(compile, 2), (link, 1)]);
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    pub fn batches(&self, count: usize) -> Batches {
        let mut batches: Vec<(FunctionId, Vec<NodeId>)> = Vec::new();
        // Place of each function's batch, found again without a search through the batches.
        let mut place: BTreeMap<FunctionId, usize> = BTreeMap::new();
        for node in self.ready().take(count) {
            let function = self.graph.function(node);
            let at = *place.entry(function).or_insert_with(|| {
                batches.push((function, Vec::new()));
                batches.len() - 1
            });
            batches[at].1.push(node);
        }
        Batches(batches.into_iter())
    }

    /// Where a node is in its life; `None` when the graph has no such node.
    pub fn state(&self, node: NodeId) -> Option<NodeState> {
        self.known(node).ok()
    }

    /// The value of a node that is done.
    #[inline]
    pub fn value(&self, node: NodeId) -> Option<&V> {
        self.values.get(node.index())?.as_ref()
    }

    /// The nodes that failed, in the order in which it was said.
    pub fn failures(&self) -> &[(NodeId, E)] {
        &self.failures
    }

    /// How often a node came back.
    pub fn returns(&self, node: NodeId) -> u32 {
        self.returns.get(&node).copied().unwrap_or(0)
    }

    /// Whether nothing is left to start or to wait for.
    pub fn is_finished(&self) -> bool {
        self.in_flight == 0 && self.ready.len() == 0
    }

    /// How many nodes are where.
    pub fn progress(&self) -> Progress {
        Progress {
            waiting: self.waiting,
            ready: self.ready.len(),
            in_flight: self.in_flight,
            done: self.done,
            failed: self.failures.len(),
            cancelled: self.cancelled,
        }
    }

    /// The graph that it walks.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
}

/// How many nodes are where; together they are all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// An operand is missing.
    pub waiting: usize,
    /// May start, or start again.
    pub ready: usize,
    /// Started and not ended.
    pub in_flight: usize,
    /// Have their value.
    pub done: usize,
    /// Failed for good.
    pub failed: usize,
    /// Will not run.
    pub cancelled: usize,
}

/// Ready nodes grouped by function, the function of the best node first; see [`Run::batches`].
#[derive(Clone, Debug)]
pub struct Batches(std::vec::IntoIter<(FunctionId, Vec<NodeId>)>);

impl Iterator for Batches {
    type Item = (FunctionId, Vec<NodeId>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
