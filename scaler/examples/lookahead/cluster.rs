//! Four layers, their pods and the graphs in flight, from one event to the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use quorate_dag::{Function, NodeId, Plan};
use quorate_scaler::policy::{AnyPolicy, Conditions, Name};
use quorate_scaler::{Expected, Observation, Policy, Seconds};

const SECOND: u64 = 1_000_000;

/// Most pods of a layer.
const PODS_MAX: u32 = 100;

/// What happens, in the order in which it does at the same microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Completed { layer: usize, graph: usize, node: NodeId, arrived: u64, started: u64 },
    Ready { layer: usize, order: u64 },
    Tick,
}

/// What it cost and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) pod_seconds: f64,
    /// Operations that waited over a second, in %.
    pub(crate) violations: f64,
    pub(crate) p99_wait: f64,
    /// From an expression's arrival to its result, in seconds.
    pub(crate) mean_result: f64,
    pub(crate) p99_result: f64,
}

impl Outcome {
    /// Adds a share of another.
    pub(crate) fn add(&mut self, other: &Self, share: f64) {
        self.pod_seconds += share * other.pod_seconds;
        self.violations += share * other.violations;
        self.p99_wait += share * other.p99_wait;
        self.mean_result += share * other.mean_result;
        self.p99_result += share * other.p99_result;
    }
}

struct Layer {
    policy: AnyPolicy,
    queue: VecDeque<(usize, NodeId, u64)>,
    busy: u32,
    idle: u32,
    leaving: u32,
    /// Orders that are not up, oldest first; those that were cancelled are not in it.
    starting: VecDeque<u64>,
    /// Sums since the last tick.
    seen: Observation,
    /// Mean response, which is how long an operand takes.
    response: f64,
}

/// A graph in flight.
struct Graph {
    plan: Arc<Plan>,
    arrived: u64,
    /// Operands that are missing, by node; `None` when the node is done.
    missing: Vec<Option<usize>>,
    left: usize,
}

pub(crate) struct Cluster {
    start_delay: u64,
    look_ahead: bool,
    layers: Vec<Layer>,
    graphs: BTreeMap<usize, Graph>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    orders: u64,
    now: u64,
    pod_time: u64,
    waits: Vec<u64>,
    results: Vec<u64>,
}

fn layer_of(function: Function) -> usize {
    match function {
        Function::Add => 0,
        Function::Sub => 1,
        Function::Mul => 2,
        Function::Div => 3,
    }
}

impl Cluster {
    pub(crate) fn new(name: Name, start_delay: u64, look_ahead: bool) -> Self {
        let conditions = Conditions { start_delay: Seconds::new(start_delay), ..Conditions::default() };
        let layer = || Layer {
            policy: AnyPolicy::new(name, &conditions),
            queue: VecDeque::new(),
            busy: 0,
            idle: 1,
            leaving: 0,
            starting: VecDeque::new(),
            seen: Observation::default(),
            response: 0.5,
        };
        Self {
            start_delay: start_delay * SECOND,
            look_ahead,
            layers: (0..4).map(|_| layer()).collect(),
            graphs: BTreeMap::new(),
            events: BinaryHeap::from([Reverse((0, Event::Tick))]),
            orders: 0,
            now: 0,
            pod_time: 0,
            waits: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Runs until every expression has its result; `service` draws seconds.
    pub(crate) fn run(mut self, arrivals: &[(u64, Arc<Plan>)], mut service: impl FnMut() -> f64) -> Outcome {
        let mut arrivals = arrivals.iter().enumerate().peekable();
        while let Some(Reverse((at, event))) = self.events.pop() {
            while let Some((graph, (arrived, plan))) = arrivals.next_if(|(_, (arrived, _))| *arrived < at) {
                self.advance(*arrived);
                self.admit(graph, plan, &mut service);
            }
            self.advance(at);
            match event {
                Event::Completed { layer, graph, node, arrived, started } => {
                    self.complete(layer, graph, node, arrived, started, &mut service);
                }
                Event::Ready { layer, order } => self.ready(layer, order, &mut service),
                Event::Tick => {
                    if self.graphs.is_empty() && arrivals.peek().is_none() {
                        break;
                    }
                    self.tick();
                    self.events.push(Reverse((at + SECOND, Event::Tick)));
                }
            }
        }
        self.outcome()
    }

    /// Pods cost time.
    fn advance(&mut self, at: u64) {
        let span = at - self.now;
        for layer in &mut self.layers {
            let pods = u64::from(layer.busy) + u64::from(layer.idle) + layer.starting.len() as u64;
            self.pod_time += pods * span;
            let (busy, waiting) = (u64::from(layer.busy), layer.queue.len() as u64);
            let add = |sum: &mut Seconds, time| *sum = sum.saturating_add(Seconds::from_micros(time));
            add(&mut layer.seen.busy_time, busy * span);
            add(&mut layer.seen.in_system_time, (busy + waiting) * span);
        }
        self.now = at;
    }

    fn admit(&mut self, graph: usize, plan: &Arc<Plan>, service: &mut impl FnMut() -> f64) {
        let missing =
            |node: NodeId| plan.operands(node).iter().filter(|operand| operand.node().is_some()).count();
        let missing: Vec<_> = plan.nodes().map(|node| Some(missing(node))).collect();
        let (plan, arrived, left) = (Arc::clone(plan), self.now, missing.len());
        let first: Vec<_> = plan.nodes().filter(|node| missing[node.index()] == Some(0)).collect();
        self.graphs.insert(graph, Graph { plan, arrived, missing, left });
        for node in first {
            self.enqueue(graph, node, service);
        }
    }

    /// An operation whose operands are there joins its layer.
    fn enqueue(&mut self, graph: usize, node: NodeId, service: &mut impl FnMut() -> f64) {
        let layer = layer_of(self.graphs[&graph].plan.function(node));
        self.layers[layer].queue.push_back((graph, node, self.now));
        self.layers[layer].seen.arrivals += 1;
        self.dispatch(layer, service);
    }

    fn dispatch(&mut self, at: usize, service: &mut impl FnMut() -> f64) {
        let layer = &mut self.layers[at];
        while layer.idle > 0
            && let Some((graph, node, arrived)) = layer.queue.pop_front()
        {
            layer.idle -= 1;
            layer.busy += 1;
            self.waits.push(self.now - arrived);
            let time = std::time::Duration::from_secs_f64(service()).as_micros();
            let ends = self.now + u64::try_from(time).expect("seconds fit").max(1);
            let event = Event::Completed { layer: at, graph, node, arrived, started: self.now };
            self.events.push(Reverse((ends, event)));
        }
    }

    fn complete(
        &mut self,
        at: usize,
        graph: usize,
        node: NodeId,
        arrived: u64,
        started: u64,
        service: &mut impl FnMut() -> f64,
    ) {
        let now = self.now;
        let layer = &mut self.layers[at];
        layer.busy -= 1;
        if layer.leaving > 0 {
            layer.leaving -= 1
        } else {
            layer.idle += 1
        }
        layer.seen.completions += 1;
        let add = |sum: &mut Seconds, time| *sum = sum.saturating_add(Seconds::from_micros(time));
        add(&mut layer.seen.service_time, now - started);
        add(&mut layer.seen.response_time, now - arrived);
        layer.response += 0.02 * ((now - arrived) as f64 / 1e6 - layer.response);
        self.dispatch(at, service);

        let it = self.graphs.get_mut(&graph).expect("a graph stays until its last node");
        it.missing[node.index()] = None;
        it.left -= 1;
        let mut free = Vec::new();
        for dependant in it.plan.graph().dependants(node) {
            if let Some(Some(missing)) = it.missing.get_mut(dependant.index()) {
                let operands = it.plan.operands(*dependant);
                let edges = operands.iter().filter(|operand| operand.node() == Some(node)).count();
                *missing = missing.saturating_sub(edges);
                if *missing == 0 && !free.contains(dependant) {
                    free.push(*dependant);
                }
            }
        }
        if it.left == 0 {
            self.results.push(now - it.arrived);
            self.graphs.remove(&graph);
        }
        for node in free {
            self.enqueue(graph, node, service);
        }
    }

    fn ready(&mut self, at: usize, order: u64, service: &mut impl FnMut() -> f64) {
        let layer = &mut self.layers[at];
        // An order that is not there was cancelled.
        if let Some(place) = layer.starting.iter().position(|it| *it == order) {
            layer.starting.remove(place);
            layer.idle += 1;
            layer.seen.started += 1;
            let time = Seconds::from_micros(self.start_delay);
            layer.seen.start_time = layer.seen.start_time.saturating_add(time);
            self.dispatch(at, service);
        }
    }

    /// What every layer is known to get: each operation whose operands are missing, one mean response after the
    /// latest of them.
    fn expected(&self) -> Vec<Expected> {
        let width = Seconds::from_micros((self.start_delay / 8).max(SECOND / 4));
        let mut expected = vec![Expected::new(width); self.layers.len()];
        for graph in self.graphs.values() {
            let mut done_at = vec![0.0_f64; graph.missing.len()];
            for node in graph.plan.nodes() {
                let Some(missing) = graph.missing[node.index()] else { continue };
                let layer = layer_of(graph.plan.function(node));
                let operands = graph.plan.operands(node);
                let due = operands.iter().filter_map(|operand| operand.node());
                let due = due.map(|operand| done_at[operand.index()]).fold(0.0, f64::max);
                done_at[node.index()] = due + self.layers[layer].response;
                if missing > 0 {
                    expected[layer].add(Seconds::try_from(due).expect("a sum of responses"), 1);
                }
            }
        }
        expected
    }

    fn tick(&mut self) {
        let expected =
            if self.look_ahead { self.expected() } else { vec![Expected::default(); self.layers.len()] };
        for (at, (layer, expected)) in self.layers.iter_mut().zip(expected).enumerate() {
            let seen = std::mem::take(&mut layer.seen);
            let observation = Observation {
                now: Seconds::from_micros(self.now),
                waiting: layer.queue.len() as u64,
                in_service: u64::from(layer.busy - layer.leaving),
                ready: layer.busy + layer.idle - layer.leaving,
                starting: u32::try_from(layer.starting.len()).expect("at most PODS_MAX"),
                draining: layer.leaving,
                expected,
                ..seen
            };
            let desired = layer.policy.decide(&observation).desired.min(PODS_MAX);
            let current = observation.current();
            for _ in current..desired {
                self.orders += 1;
                layer.starting.push_back(self.orders);
                let ready = Event::Ready { layer: at, order: self.orders };
                self.events.push(Reverse((self.now + self.start_delay, ready)));
            }
            for _ in desired..current {
                if layer.starting.pop_back().is_none() {
                    if layer.idle > 0 { layer.idle -= 1 } else { layer.leaving += 1 }
                }
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let percentile = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values.get(values.len() * 99 / 100).map_or(0.0, |value| *value as f64 / 1e6)
        };
        let late = self.waits.iter().filter(|wait| **wait > SECOND).count();
        Outcome {
            pod_seconds: self.pod_time as f64 / 1e6,
            violations: 100.0 * late as f64 / self.waits.len().max(1) as f64,
            p99_wait: percentile(&mut self.waits),
            mean_result: self.results.iter().sum::<u64>() as f64 / 1e6 / self.results.len().max(1) as f64,
            p99_result: percentile(&mut self.results),
        }
    }
}
