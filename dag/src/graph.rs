//! Who waits for whom: the shape that every scheduler here walks.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A node's number: dense from 0, and the same on every build of the same graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The node of that number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Its number as an index into one entry per node.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A function's number: nodes of one function cost about the same, and can share a batched call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u16);

/// The shape of an acyclic graph, frozen: flat arrays, about 14 bytes a node and 4 an edge.
///
/// Built by [`Dag::freeze`] or as a part of a `Plan`, and shared by
/// [`Arc`], so that a [`Run`](crate::Run) can move to any thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    functions: Vec<FunctionId>,
    /// Empty when every weight is 1.
    weights: Vec<u32>,
    /// How many edges enter each node.
    operands: Vec<u32>,
    /// The dependants of node i are `dependants[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    dependants: Vec<NodeId>,
    /// Operands before dependants; empty when 0, 1, 2 … is such an order.
    order: Vec<NodeId>,
}

/// More nodes or edges than this are refused: counts share their word with a node's state.
pub(crate) const SIZE_MAX: usize = (1 << 29) - 1;

impl Graph {
    /// Edges go from a smaller to a larger number. `weights` may be empty.
    pub(crate) fn in_order(
        functions: Vec<FunctionId>,
        edges: impl Iterator<Item = (u32, u32)> + Clone,
    ) -> Self {
        let (operands, starts, dependants) = adjacency(functions.len(), edges);
        Self { functions, weights: Vec::new(), operands, starts, dependants, order: Vec::new() }
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// How many edges.
    pub fn edges(&self) -> usize {
        self.dependants.len()
    }

    /// Every node, by number.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..u32::try_from(self.len()).expect("a graph has under 2^29 nodes")).map(NodeId)
    }

    /// Every node, operands before dependants.
    pub fn topological(&self) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        (0..self.len()).map(|place| {
            self.order
                .get(place)
                .copied()
                .unwrap_or_else(|| NodeId(u32::try_from(place).expect("a graph has under 2^29 nodes")))
        })
    }

    /// The function of a node of this graph.
    pub fn function(&self, node: NodeId) -> FunctionId {
        self.functions[node.index()]
    }

    /// How many times its function's cost a node takes; 1 unless it was given.
    pub fn weight(&self, node: NodeId) -> u32 {
        self.weights.get(node.index()).copied().unwrap_or(1)
    }

    /// How many edges enter a node. A node that uses another as both operands counts it twice.
    pub fn operand_count(&self, node: NodeId) -> usize {
        self.operands[node.index()] as usize
    }

    /// The nodes that wait for a node of this graph.
    pub fn dependants(&self, node: NodeId) -> &[NodeId] {
        let at = node.index();
        &self.dependants[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// Whether the number is one of this graph's.
    pub fn contains(&self, node: NodeId) -> bool {
        node.index() < self.len()
    }
}

/// Edges counted and sorted by where they start.
fn adjacency(
    nodes: usize,
    edges: impl Iterator<Item = (u32, u32)> + Clone,
) -> (Vec<u32>, Vec<u32>, Vec<NodeId>) {
    let mut operands = vec![0u32; nodes];
    let mut starts = vec![0u32; nodes + 1];
    for (from, to) in edges.clone() {
        operands[to as usize] += 1;
        starts[from as usize + 1] += 1;
    }
    for at in 0..nodes {
        starts[at + 1] += starts[at];
    }
    let mut dependants = vec![NodeId(0); starts[nodes] as usize];
    // Each start runs ahead to its end while its edges are placed, and is put back after.
    for (from, to) in edges {
        let place = &mut starts[from as usize];
        dependants[*place as usize] = NodeId(to);
        *place += 1;
    }
    starts.copy_within(0..nodes, 1);
    starts[0] = 0;
    (operands, starts, dependants)
}

/// A graph built by hand: nodes with anything in them, and who waits for whom.
///
/// ```
/// use quorate_dag::{Costs, Dag, Run};
///
/// let mut dag = Dag::new();
/// let fetch = dag.add("fetch");
/// let build = dag.add("build");
/// let test = dag.add("test");
/// dag.edge(fetch, build)?;
/// dag.edge(build, test)?;
///
/// let mut run: Run<()> = Run::new(dag.freeze()?, &Costs::default());
/// assert_eq!(run.start_next(), Some(fetch));
/// assert_eq!(run.complete(fetch, ())?, [build]);
///
/// dag.edge(test, fetch)?; // now nothing could start
/// assert_eq!(dag.freeze().unwrap_err().to_string(), "cycle 0 -> 1 -> 2 -> 0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Dag<N> {
    nodes: Vec<N>,
    functions: Vec<FunctionId>,
    weights: Vec<u32>,
    edges: Vec<(u32, u32)>,
}

/// Why a [`Dag`] is not the graph that was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// An edge names a node that was never added.
    #[error("unknown node {node}: the graph has {nodes} nodes")]
    UnknownNode {
        /// The number given.
        node: NodeId,
        /// How many nodes there are.
        nodes: usize,
    },
    /// Every node of `nodes` waits for the one before it, and the first for the last.
    #[error("{}", named(nodes))]
    Cycle {
        /// The cycle, once round, from its smallest number.
        nodes: Vec<NodeId>,
    },
    /// More nodes or edges than ids can count.
    #[error("graph of {count} nodes or edges is over the limit ({limit})")]
    TooLarge {
        /// How many there are.
        count: usize,
        /// The most there may be.
        limit: usize,
    },
}

/// A long cycle is cut in the middle: the message stays a line.
fn named(nodes: &[NodeId]) -> String {
    let name = |nodes: &[NodeId]| {
        let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        names.join(" -> ")
    };
    let first = name(&nodes[..1]);
    if nodes.len() <= 16 {
        return format!("cycle {} -> {first}", name(nodes));
    }
    let (head, tail) = (name(&nodes[..8]), name(&nodes[nodes.len() - 7..]));
    format!("cycle {head} -> ({} more) -> {tail} -> {first}", nodes.len() - 15)
}

impl<N> Dag<N> {
    /// An empty graph.
    pub const fn new() -> Self {
        Self { nodes: Vec::new(), functions: Vec::new(), weights: Vec::new(), edges: Vec::new() }
    }

    /// Adds a node of function 0 and weight 1.
    pub fn add(&mut self, node: N) -> NodeId {
        self.add_weighted(node, FunctionId(0), 1)
    }

    /// Adds a node that takes `weight` times the cost of `function`.
    ///
    /// # Panics
    /// When it would be node number 2³².
    pub fn add_weighted(&mut self, node: N, function: FunctionId, weight: u32) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        self.nodes.push(node);
        self.functions.push(function);
        self.weights.push(weight);
        id
    }

    /// `to` waits for `from`. Saying so twice is the same as once.
    ///
    /// # Errors
    /// [`DagError::UnknownNode`]. A cycle is found by [`Dag::freeze`].
    pub fn edge(&mut self, from: NodeId, to: NodeId) -> Result<(), DagError> {
        for node in [from, to] {
            if node.index() >= self.nodes.len() {
                return Err(DagError::UnknownNode { node, nodes: self.nodes.len() });
            }
        }
        self.edges.push((from.0, to.0));
        Ok(())
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The shape as it is now, for a [`Run`](crate::Run).
    ///
    /// # Errors
    /// [`DagError::Cycle`], with the cycle named; [`DagError::TooLarge`].
    pub fn freeze(&self) -> Result<Arc<Graph>, DagError> {
        let mut edges = self.edges.clone();
        edges.sort_unstable();
        edges.dedup();
        let count = self.nodes.len().max(edges.len());
        if count > SIZE_MAX {
            return Err(DagError::TooLarge { count, limit: SIZE_MAX });
        }
        let mut graph = Graph::in_order(self.functions.clone(), edges.iter().copied());
        if self.weights.iter().any(|weight| *weight != 1) {
            graph.weights.clone_from(&self.weights);
        }
        if edges.iter().any(|(from, to)| from >= to) {
            graph.order = sorted(&graph)?;
        }
        Ok(Arc::new(graph))
    }
}

impl<N> Index<NodeId> for Dag<N> {
    type Output = N;

    fn index(&self, node: NodeId) -> &N {
        &self.nodes[node.index()]
    }
}

/// Kahn's algorithm (CACM 5(11), 1962); what it cannot reach lies on or behind a cycle.
fn sorted(graph: &Graph) -> Result<Vec<NodeId>, DagError> {
    let mut waits = graph.operands.clone();
    let mut order: Vec<NodeId> = graph.nodes().filter(|node| waits[node.index()] == 0).collect();
    let mut next = 0;
    while let Some(&node) = order.get(next) {
        next += 1;
        for &dependant in graph.dependants(node) {
            let left = &mut waits[dependant.index()];
            *left -= 1;
            if *left == 0 {
                order.push(dependant);
            }
        }
    }
    if order.len() == graph.len() { Ok(order) } else { Err(DagError::Cycle { nodes: cycle(graph, &waits) }) }
}

/// Walks backwards among the nodes that still wait, until one comes twice.
fn cycle(graph: &Graph, waits: &[u32]) -> Vec<NodeId> {
    let mut waits_for: Vec<Option<NodeId>> = vec![None; graph.len()];
    for node in graph.nodes().filter(|node| waits[node.index()] > 0) {
        for dependant in graph.dependants(node) {
            waits_for[dependant.index()].get_or_insert(node);
        }
    }
    let back = |node: NodeId| {
        waits_for[node.index()].expect("a node that still waits has an operand that still waits")
    };
    let start = graph.nodes().find(|node| waits[node.index()] > 0).expect("some node still waits");
    // As many steps as there are nodes end on the cycle.
    let on_cycle = (0..graph.len()).fold(start, |node, _| back(node));
    let mut nodes = vec![on_cycle];
    let mut node = back(on_cycle);
    while node != on_cycle {
        nodes.push(node);
        node = back(node);
    }
    nodes.reverse();
    let smallest = (0..nodes.len()).min_by_key(|place| nodes[*place]).expect("a cycle has a node");
    nodes.rotate_left(smallest);
    nodes
}
