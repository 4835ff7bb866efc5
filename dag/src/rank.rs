//! What nodes cost, which path is the longest, and how long the whole will take.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::graph::{FunctionId, Graph, NodeId};
use crate::run::Run;

/// What a node of each function takes, learnt from what was seen.
///
/// A new measurement counts for an eighth (the gain that TCP takes for its round-trip time,
/// RFC 6298 2.3); the first one counts whole. A function that was never seen takes 1 ms.
///
/// ```
/// use std::time::Duration;
/// use quorate_dag::{Costs, FunctionId};
///
/// let mut costs = Costs::default();
/// costs.observe(FunctionId(3), Duration::from_millis(8));
/// costs.observe(FunctionId(3), Duration::from_millis(16));
/// assert_eq!(costs.of(FunctionId(3)), Duration::from_millis(9));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// By function number, in nanoseconds; at most 65,536 entries.
    nanos: Vec<Option<u64>>,
}

impl Costs {
    /// The cost of a function that was never seen, in nanoseconds.
    const UNSEEN: u64 = 1_000_000;

    /// Takes a measurement of one node (of weight 1).
    pub fn observe(&mut self, function: FunctionId, took: Duration) {
        let sample = nanos(took);
        let cost = self.entry(function);
        *cost = Some(match *cost {
            None => sample,
            Some(old) => old - old / 8 + sample / 8,
        });
    }

    /// Sets what one node takes, in place of what was learnt.
    pub fn set(&mut self, function: FunctionId, cost: Duration) {
        *self.entry(function) = Some(nanos(cost));
    }

    /// What one node takes.
    pub fn of(&self, function: FunctionId) -> Duration {
        Duration::from_nanos(self.nanos_of(function))
    }

    fn entry(&mut self, function: FunctionId) -> &mut Option<u64> {
        let at = usize::from(function.0);
        if self.nanos.len() <= at {
            self.nanos.resize(at + 1, None);
        }
        &mut self.nanos[at]
    }

    fn nanos_of(&self, function: FunctionId) -> u64 {
        self.nanos.get(usize::from(function.0)).copied().flatten().unwrap_or(Self::UNSEEN)
    }

    fn node_nanos(&self, graph: &Graph, node: NodeId) -> u64 {
        self.nanos_of(graph.function(node)).saturating_mul(graph.weight(node).into())
    }
}

/// Over 584 years is 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How long a graph takes on a number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// How many nodes run at once.
    pub workers: usize,
    /// All nodes one after another, T₁.
    pub work: Duration,
    /// The longest path, T∞: no number of workers is faster.
    pub span: Duration,
    /// Nothing is faster: max(T₁/p, T∞).
    pub lower: Duration,
    /// Longest remaining path first, simulated.
    pub time: Duration,
    /// No schedule that keeps workers busy is slower: T₁/p + T∞·(p−1)/p (Brent, JACM 21(2), 1974, lemma 2).
    pub upper: Duration,
}

impl Graph {
    /// Upward ranks: a node's cost and the longest path behind it (Topcuoglu et al., TPDS 2002, 4),
    /// in nanoseconds, without communication. Those of different graphs can be compared.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag};
    ///
    /// let mut dag = Dag::new();
    /// let (fetch, build) = (dag.add("fetch"), dag.add("build"));
    /// dag.edge(fetch, build)?;
    /// // A millisecond each, until something else is seen.
    /// assert_eq!(dag.freeze()?.ranks(&Costs::default()), [2_000_000, 1_000_000]);
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    #[must_use]
    pub fn ranks(&self, costs: &Costs) -> Vec<u64> {
        let mut ranks = vec![0u64; self.len()];
        for node in self.topological().rev() {
            let behind =
                self.dependants(node).iter().map(|dependant| ranks[dependant.index()]).max().unwrap_or(0);
            ranks[node.index()] = behind.saturating_add(costs.node_nanos(self, node));
        }
        ranks
    }

    /// The wave of every node: 0 for one that waits for nothing, else one more than its latest operand's.
    fn wave_of(&self) -> Vec<u32> {
        let mut waves = vec![0u32; self.len()];
        for node in self.topological() {
            let next = waves[node.index()] + 1;
            for dependant in self.dependants(node) {
                let wave = &mut waves[dependant.index()];
                *wave = next.max(*wave);
            }
        }
        waves
    }

    /// What can run at the same time, step after step: each node in the earliest wave it can be in.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag};
    ///
    /// let mut dag = Dag::new();
    /// let [fetch, build, lint, test] = ["fetch", "build", "lint", "test"].map(|node| dag.add(node));
    /// for (from, to) in [(fetch, build), (fetch, lint), (build, test)] {
    ///     dag.edge(from, to)?;
    /// }
    /// let graph = dag.freeze()?;
    /// assert_eq!(graph.waves(), [vec![fetch], vec![build, lint], vec![test]]);
    /// assert_eq!((graph.depth(), graph.width()), (3, 2));
    /// assert_eq!(graph.independent().collect::<Vec<_>>(), [fetch]);
    /// assert_eq!(graph.critical_path(&Costs::default()), [fetch, build, test]);
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    pub fn waves(&self) -> Vec<Vec<NodeId>> {
        let wave_of = self.wave_of();
        let mut waves = vec![Vec::new(); depth(&wave_of)];
        for node in self.nodes() {
            waves[wave_of[node.index()] as usize].push(node);
        }
        waves
    }

    /// How many waves: the longest path in nodes.
    pub fn depth(&self) -> usize {
        depth(&self.wave_of())
    }

    /// The largest wave in nodes: how many workers can be of use at once.
    pub fn width(&self) -> usize {
        let wave_of = self.wave_of();
        let mut sizes = vec![0usize; depth(&wave_of)];
        for wave in wave_of {
            sizes[wave as usize] += 1;
        }
        sizes.into_iter().max().unwrap_or(0)
    }

    /// The nodes that wait for no other.
    pub fn independent(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes().filter(|node| self.operand_count(*node) == 0)
    }

    /// The path that takes longest, in order; the smallest numbers where several do.
    pub fn critical_path(&self, costs: &Costs) -> Vec<NodeId> {
        let ranks = self.ranks(costs);
        let longest = |nodes: &mut dyn Iterator<Item = NodeId>| {
            nodes.max_by_key(|node| (ranks[node.index()], Reverse(*node)))
        };
        let mut path = Vec::new();
        let mut next = longest(&mut self.independent());
        while let Some(node) = next {
            path.push(node);
            next = longest(&mut self.dependants(node).iter().copied());
        }
        path
    }

    /// How long it takes when `workers` nodes (at least 1) run at once.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag};
    ///
    /// // A tree of 7 nodes of 1 ms, in 3 rounds of 4, 2 and 1.
    /// let mut dag = Dag::new();
    /// let nodes = [(); 7].map(|()| dag.add(()));
    /// for from in 0..6 {
    ///     dag.edge(nodes[from], nodes[4 + from / 2])?;
    /// }
    /// let two = dag.freeze()?.predict(2, &Costs::default());
    /// assert_eq!((two.work.as_millis(), two.span.as_millis()), (7, 3));
    /// // Brent: no sooner than max(7 / 2, 3), no later than 7 / 2 + 3 / 2.
    /// assert_eq!((two.lower.as_micros(), two.upper.as_micros()), (3_500, 5_000));
    /// assert_eq!(two.time.as_millis(), 4);
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    pub fn predict(self: &Arc<Self>, workers: usize, costs: &Costs) -> Prediction {
        let workers = workers.max(1);
        let cost = |node| costs.node_nanos(self, node);
        let work = self.nodes().map(cost).fold(0, u64::saturating_add);
        let span = self.ranks(costs).into_iter().max().unwrap_or(0);
        let p = u64::try_from(workers).unwrap_or(u64::MAX);
        let upper = (u128::from(work) + u128::from(span) * u128::from(p - 1)).div_ceil(p.into());
        let time = self.simulate(workers, costs, |_, _, _| {});
        Prediction {
            workers,
            work: Duration::from_nanos(work),
            span: Duration::from_nanos(span),
            lower: Duration::from_nanos(work.div_ceil(p).max(span)),
            time: Duration::from_nanos(time),
            // Sums that saturate say nothing: never below what the simulation found.
            upper: Duration::from_nanos(u64::try_from(upper).unwrap_or(u64::MAX).max(time)),
        }
    }

    /// When each node starts and ends, by number, if `workers` nodes (at least 1) run at once: what
    /// [`Graph::predict`] finds the time of.
    ///
    /// ```
    /// use quorate_dag::{Costs, Dag, FunctionId};
    ///
    /// let mut dag = Dag::new();
    /// let fetch = dag.add("fetch");
    /// let build = dag.add_weighted("build", FunctionId(0), 3); // takes three times as long
    /// let lint = dag.add("lint");
    /// let pack = dag.add("pack");
    /// for (from, to) in [(fetch, build), (fetch, lint), (build, pack), (lint, pack)] {
    ///     dag.edge(from, to)?;
    /// }
    /// let ms = |workers| {
    ///     let schedule = dag.freeze().unwrap().schedule(workers, &Costs::default()).into_iter();
    ///     schedule.map(|node| (node.start.as_millis(), node.end.as_millis())).collect::<Vec<_>>()
    /// };
    /// assert_eq!(ms(2), [(0, 1), (1, 4), (1, 2), (4, 5)]);
    /// assert_eq!(ms(1), [(0, 1), (1, 4), (4, 5), (5, 6)]); // the longest path first
    /// # Ok::<(), quorate_dag::DagError>(())
    /// ```
    pub fn schedule(self: &Arc<Self>, workers: usize, costs: &Costs) -> Vec<Range<Duration>> {
        let mut schedule = vec![Duration::ZERO..Duration::ZERO; self.len()];
        self.simulate(workers.max(1), costs, |node, start, end| {
            schedule[node.index()] = Duration::from_nanos(start)..Duration::from_nanos(end);
        });
        schedule
    }

    /// List scheduling on virtual time; says of each node when it starts and ends.
    fn simulate(
        self: &Arc<Self>,
        workers: usize,
        costs: &Costs,
        mut says: impl FnMut(NodeId, u64, u64),
    ) -> u64 {
        let mut run: Run<()> = Run::new(Arc::clone(self), costs);
        let mut in_flight: BinaryHeap<Reverse<(u64, NodeId)>> = BinaryHeap::new();
        let mut now = 0u64;
        loop {
            while in_flight.len() < workers {
                let Some(node) = run.start_next() else { break };
                let end = now.saturating_add(costs.node_nanos(self, node));
                says(node, now, end);
                in_flight.push(Reverse((end, node)));
            }
            let Some(Reverse((end, node))) = in_flight.pop() else {
                return now;
            };
            now = end;
            run.complete(node, ()).expect("it was started just now");
        }
    }
}

fn depth(wave_of: &[u32]) -> usize {
    wave_of.iter().max().map_or(0, |last| *last as usize + 1)
}
