//! Random graphs with random completion orders, failures and losses.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use quorate_dag::{
    Costs, Dag, DagError, FunctionId, Graph, NodeId, NodeState, OnFailure, RestoreError, Run, RunError,
};

/// Edges go from a smaller to a larger place of a random order, so that there is no cycle.
fn graph() -> impl Strategy<Value = (Arc<Graph>, Vec<(NodeId, NodeId)>)> {
    (1usize..80)
        .prop_flat_map(|nodes| {
            let edges = prop::collection::vec((0..nodes, 0..nodes), 0..nodes * 3);
            let order = Just((0..nodes).collect::<Vec<_>>()).prop_shuffle();
            (order, edges, prop::collection::vec((0u16..4, 1u32..5), nodes))
        })
        .prop_map(|(order, pairs, kinds)| {
            let mut dag = Dag::new();
            let nodes: Vec<NodeId> = kinds
                .into_iter()
                .map(|(function, weight)| dag.add_weighted((), FunctionId(function), weight))
                .collect();
            let mut edges = Vec::new();
            for (from, to) in pairs.into_iter().filter(|(from, to)| from < to) {
                let (from, to) = (nodes[order[from]], nodes[order[to]]);
                dag.edge(from, to).expect("both are there");
                edges.push((from, to));
            }
            (dag.freeze().expect("no cycle"), edges)
        })
}

/// What a run does under random events, checked after each.
struct Model {
    run: Run<u64, String>,
    edges: Vec<(NodeId, NodeId)>,
    in_flight: Vec<NodeId>,
    done: BTreeSet<NodeId>,
    failed: BTreeSet<NodeId>,
}

impl Model {
    fn check(&self) {
        let graph = self.run.graph();
        let progress = self.run.progress();
        let all = progress.waiting
            + progress.ready
            + progress.in_flight
            + progress.done
            + progress.failed
            + progress.cancelled;
        assert_eq!(all, graph.len());
        assert_eq!(progress.done, self.done.len());
        assert_eq!(progress.in_flight, self.in_flight.len());
        let ready: BTreeSet<NodeId> = self.run.ready().collect();
        assert_eq!(ready.len(), progress.ready);
        for (from, to) in &self.edges {
            let state = self.run.state(*to).expect("a node");
            let has_started = matches!(
                state,
                NodeState::InFlight | NodeState::Done | NodeState::Returned | NodeState::Failed
            );
            assert!(!has_started || self.done.contains(from), "{to} before {from}");
            if self.failed.contains(from) {
                assert_eq!(state, NodeState::Cancelled);
            }
        }
        for node in graph.nodes() {
            assert_eq!(self.run.value(node).is_some(), self.done.contains(&node));
        }
    }

    fn step(&mut self, event: u8, pick: prop::sample::Index) {
        if event < 4 || self.in_flight.is_empty() {
            let ready: Vec<NodeId> = self.run.ready().collect();
            if ready.is_empty() {
                return;
            }
            let node = ready[pick.index(ready.len())];
            self.run.start(node).expect("it was ready");
            self.in_flight.push(node);
            return;
        }
        let node = self.in_flight.swap_remove(pick.index(self.in_flight.len()));
        match event {
            4..=10 => {
                let before: BTreeSet<NodeId> = self.run.ready().collect();
                let newly = self.run.complete(node, node.get().into()).expect("in flight");
                let newly: BTreeSet<NodeId> = newly.iter().copied().collect();
                self.done.insert(node);
                let after: BTreeSet<NodeId> = self.run.ready().collect();
                assert_eq!(newly, after.difference(&before).copied().collect());
                // Said again, and said otherwise: nothing changes.
                assert_eq!(self.run.complete(node, 0), Ok(&[][..]));
                assert_eq!(self.run.fail(node, "late".into(), OnFailure::Continue), Ok(&[][..]));
                assert_eq!(self.run.value(node), Some(&node.get().into()));
            }
            11..=13 => {
                let times = self.run.returns(node) + 1;
                assert_eq!(self.run.lost(node), Ok(times));
                assert_eq!(self.run.state(node), Some(NodeState::Returned));
            }
            14 => {
                self.run.fail(node, "broken".into(), OnFailure::Continue).expect("in flight");
                self.failed.insert(node);
            }
            15 => {
                self.run.fail(node, "again".into(), OnFailure::Retry).expect("in flight");
            }
            _ => {
                // To another process and back, on which what was in flight has returned.
                let snapshot = self.run.snapshot();
                let graph = Arc::clone(self.run.graph());
                self.run = Run::restore(graph, &Costs::default(), &snapshot).expect("its own");
                // A late answer of the process before still counts.
                self.run.complete(node, node.get().into()).expect("it was started");
                self.done.insert(node);
                self.in_flight.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_node_runs_after_its_operands_and_once_and_the_end_is_reached(
        (graph, edges) in graph(),
        events in prop::collection::vec((0u8..18, any::<prop::sample::Index>()), 0..300),
    ) {
        let mut model = Model {
            run: Run::new(graph, &Costs::default()),
            edges,
            in_flight: Vec::new(),
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        model.check();
        for (event, pick) in events {
            model.step(event, pick);
            model.check();
        }
        for node in std::mem::take(&mut model.in_flight) {
            model.run.complete(node, node.get().into()).expect("in flight");
            model.done.insert(node);
        }
        while let Some(node) = model.run.start_next() {
            model.run.complete(node, node.get().into()).expect("in flight");
            model.done.insert(node);
        }
        model.check();
        prop_assert!(model.run.is_finished());
        prop_assert_eq!(model.run.progress().waiting, 0);
        if model.failed.is_empty() {
            prop_assert_eq!(model.done.len(), model.run.graph().len());
        }
    }

    #[test]
    fn damaged_snapshots_are_refused_or_runnable(
        (graph, _) in graph(),
        started in 0usize..40,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut run: Run<u64, String> = Run::new(Arc::clone(&graph), &Costs::default());
        for step in 0..started {
            let Some(node) = run.start_next() else { break };
            match step % 5 {
                0 => {}
                1 => drop(run.fail(node, "broken".into(), OnFailure::Continue)),
                _ => drop(run.complete(node, 1)),
            }
        }
        let mut bytes = run.snapshot();
        for (place, with) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= with;
        }
        if let Ok(mut run) = Run::<u64, String>::restore(graph, &Costs::default(), &bytes) {
            while let Some(node) = run.start_next() {
                run.complete(node, 1).expect("it was started");
            }
            prop_assert!(run.is_finished());
        }
    }

    #[test]
    fn predictions_keep_within_brents_bounds((graph, _) in graph(), workers in 1usize..10) {
        let prediction = graph.predict(workers, &Costs::default());
        prop_assert!(prediction.lower <= prediction.time, "{prediction:?}");
        prop_assert!(prediction.time <= prediction.upper, "{prediction:?}");
        let (work, span) = (prediction.work.as_nanos(), prediction.span.as_nanos());
        let p = workers as u128;
        prop_assert_eq!(prediction.lower.as_nanos(), work.div_ceil(p).max(span));
        prop_assert_eq!(prediction.upper.as_nanos(), (work + span * (p - 1)).div_ceil(p));
    }

    #[test]
    fn waves_are_as_early_as_can_be((graph, edges) in graph()) {
        let waves = graph.waves();
        let mut wave_of = vec![usize::MAX; graph.len()];
        for (wave, nodes) in waves.iter().enumerate() {
            nodes.iter().for_each(|node| wave_of[node.index()] = wave);
        }
        for node in graph.nodes() {
            let operands = edges.iter().filter(|edge| edge.1 == node);
            let latest = operands.map(|edge| wave_of[edge.0.index()] + 1).max();
            prop_assert_eq!(wave_of[node.index()], latest.unwrap_or(0));
        }
        prop_assert_eq!(graph.depth(), waves.len());
        prop_assert_eq!(graph.width(), waves.iter().map(Vec::len).max().unwrap_or(0));
    }

    #[test]
    fn a_cycle_is_named(nodes in 1usize..60, length in 1usize..60, extra in 0usize..60) {
        let length = length.min(nodes);
        let mut dag = Dag::new();
        let ids: Vec<NodeId> = (0..nodes).map(|_| dag.add(())).collect();
        for place in 0..length {
            dag.edge(ids[place], ids[(place + 1) % length]).expect("both are there");
        }
        for place in 0..extra.min(nodes - 1) {
            dag.edge(ids[place], ids[nodes - 1]).expect("both are there");
        }
        let Err(DagError::Cycle { nodes: cycle }) = dag.freeze() else {
            panic!("there is a cycle");
        };
        for (place, node) in cycle.iter().enumerate() {
            let next = cycle[(place + 1) % cycle.len()].index();
            let is_edge = next == (node.index() + 1) % length && node.index() < length
                || next == nodes - 1 && node.index() < extra.min(nodes - 1);
            prop_assert!(is_edge, "{node} -> {next} in {cycle:?}");
        }
    }
}

#[test]
fn a_prediction_is_the_time_of_the_best_known_order() {
    // A path of three, its nodes of 2, 3 and 1 ms, beside three single nodes of 2 ms.
    let mut dag = Dag::new();
    let path = [2, 3, 1].map(|weight| dag.add_weighted((), FunctionId(0), weight));
    dag.edge(path[0], path[1]).expect("both are there");
    dag.edge(path[1], path[2]).expect("both are there");
    let single = [2; 3].map(|weight| dag.add_weighted((), FunctionId(0), weight));
    let graph = dag.freeze().expect("no cycle");
    let costs = Costs::default();
    let ms = |workers| {
        let found = graph.predict(workers, &costs);
        [found.work, found.span, found.lower, found.time, found.upper].map(|time| time.as_micros())
    };
    assert_eq!(ms(1), [12_000, 6_000, 12_000, 12_000, 12_000]);
    assert_eq!(ms(2), [12_000, 6_000, 6_000, 6_000, 9_000]);
    assert_eq!(ms(4), [12_000, 6_000, 6_000, 6_000, 7_500]);
    // Nobody is one worker.
    assert_eq!(graph.predict(0, &costs), graph.predict(1, &costs));
    assert_eq!(graph.schedule(0, &costs), graph.schedule(1, &costs));
    assert_eq!(graph.critical_path(&costs), path);
    // Among paths that take as long, the smallest numbers.
    let mut costs = costs;
    costs.set(FunctionId(0), std::time::Duration::ZERO);
    assert_eq!(graph.critical_path(&costs), path);
    assert_eq!(single[0].index(), 3);
}

fn chain(length: u32) -> (Arc<Graph>, Vec<NodeId>) {
    let mut dag = Dag::new();
    let nodes: Vec<NodeId> = (0..length).map(|node| dag.add(node)).collect();
    for pair in nodes.windows(2) {
        dag.edge(pair[0], pair[1]).expect("both are there");
    }
    (dag.freeze().expect("no cycle"), nodes)
}

#[test]
fn ending_a_node_that_was_never_started_is_an_error() {
    let (graph, nodes) = chain(2);
    let mut run: Run<()> = Run::new(graph, &Costs::default());
    for node in nodes {
        assert_eq!(run.complete(node, ()), Err(RunError::NotStarted { node }));
        assert_eq!(run.lost(node), Err(RunError::NotStarted { node }));
    }
    let node = NodeId::new(2);
    let unknown = RunError::UnknownNode { node, nodes: 2 };
    assert_eq!(run.complete(node, ()), Err(unknown));
    assert_eq!(unknown.to_string(), "unknown node 2: the graph has 2 nodes");
}

#[test]
fn an_answer_after_its_worker_was_given_up_is_taken() {
    let (graph, nodes) = chain(2);
    let mut run: Run<u64> = Run::new(graph, &Costs::default());
    run.start(nodes[0]).expect("ready");
    run.lost(nodes[0]).expect("in flight");
    assert_eq!(run.complete(nodes[0], 7), Ok(&nodes[1..]));
    assert_eq!(run.ready().collect::<Vec<_>>(), [nodes[1]]);
}

#[test]
fn stopping_cancels_all_that_is_not_in_flight() {
    let (graph, nodes) = chain(3);
    let mut run: Run<u64, &str> = Run::new(graph, &Costs::default());
    run.start(nodes[0]).expect("ready");
    assert_eq!(run.stop(), &nodes[1..]);
    assert!(!run.is_finished());
    run.complete(nodes[0], 7).expect("in flight");
    assert!(run.is_finished());
    assert_eq!(run.start(nodes[1]), Err(RunError::NotReady { node: nodes[1], state: NodeState::Cancelled }));
}

#[test]
fn a_failure_stops_the_rest_when_asked() {
    // Two chains: one fails, the other has a node in flight and one that waits for it.
    let mut dag = Dag::new();
    let [fails, after, goes_on, behind, idle] = [(); 5].map(|()| dag.add(()));
    dag.edge(fails, after).expect("both are there");
    dag.edge(goes_on, behind).expect("both are there");
    let mut run: Run<u64, &str> = Run::new(dag.freeze().expect("no cycle"), &Costs::default());
    run.start(fails).expect("ready");
    run.start(goes_on).expect("ready");
    assert_eq!(run.fail(fails, "broken", OnFailure::Stop), Ok(&[after, behind, idle][..]));
    assert_eq!(run.complete(goes_on, 7), Ok(&[][..]));
    assert!(run.is_finished());
    let progress = run.progress();
    assert_eq!((progress.done, progress.failed, progress.cancelled), (1, 1, 3));
}

#[test]
fn an_edge_said_twice_is_one() {
    let mut dag = Dag::new();
    let (first, second) = (dag.add(()), dag.add(()));
    for _ in 0..3 {
        dag.edge(first, second).expect("both are there");
    }
    let graph = dag.freeze().expect("no cycle");
    assert_eq!((graph.edges(), graph.operand_count(second)), (1, 1));
    assert_eq!(graph.dependants(first), [second]);
    let unknown = NodeId::new(2);
    assert_eq!(dag.edge(first, unknown), Err(DagError::UnknownNode { node: unknown, nodes: 2 }));
}

#[test]
fn a_long_cycle_is_named_in_a_line() {
    let named = |length: u32| {
        let mut dag = Dag::new();
        let nodes: Vec<NodeId> = (0..length).map(|node| dag.add(node)).collect();
        for (place, node) in nodes.iter().enumerate() {
            // Downwards, so that the smallest number comes last where the search begins.
            dag.edge(*node, nodes[(place + nodes.len() - 1) % nodes.len()]).expect("both are there");
        }
        dag.freeze().expect_err("a cycle").to_string()
    };
    assert_eq!(named(3), "cycle 0 -> 2 -> 1 -> 0");
    assert_eq!(
        named(16),
        "cycle 0 -> 15 -> 14 -> 13 -> 12 -> 11 -> 10 -> 9 -> 8 -> 7 -> 6 -> 5 -> 4 -> 3 -> 2 -> 1 -> 0"
    );
    assert_eq!(
        named(100),
        "cycle 0 -> 99 -> 98 -> 97 -> 96 -> 95 -> 94 -> 93 -> (85 more) -> 7 -> 6 -> 5 -> 4 -> 3 -> 2 -> 1 -> 0"
    );
}

#[test]
fn batches_hold_as_many_of_the_best_as_asked() {
    let mut dag = Dag::new();
    let nodes = [(1, 1), (0, 5), (1, 3), (0, 4), (2, 2)]
        .map(|(function, weight)| dag.add_weighted((), FunctionId(function), weight));
    let run: Run<()> = Run::new(dag.freeze().expect("no cycle"), &Costs::default());
    let batches = |count| run.batches(count).collect::<Vec<_>>();
    assert_eq!(batches(0), []);
    assert_eq!(batches(3), [(FunctionId(0), vec![nodes[1], nodes[3]]), (FunctionId(1), vec![nodes[2]])]);
    assert_eq!(batches(9).len(), 3);
    assert_eq!(run.progress().ready, 5);
}

#[test]
fn the_longest_path_goes_first_and_learnt_costs_change_it() {
    // Two paths from the start: one long of function 0, one short of function 1.
    let mut dag = Dag::new();
    let long = [dag.add(()), dag.add(()), dag.add(())];
    let short = dag.add_weighted((), FunctionId(1), 1);
    dag.edge(long[0], long[1]).expect("both are there");
    dag.edge(long[1], long[2]).expect("both are there");
    let mut costs = Costs::default();
    let mut run: Run<()> = Run::new(dag.freeze().expect("no cycle"), &costs);
    assert_eq!(run.ready().collect::<Vec<_>>(), [long[0], short]);
    costs.observe(FunctionId(1), std::time::Duration::from_secs(1));
    run.set_costs(&costs);
    assert_eq!(run.ready().collect::<Vec<_>>(), [short, long[0]]);
    let batches: Vec<_> = run.batches(10).collect();
    assert_eq!(batches, [(FunctionId(1), vec![short]), (FunctionId(0), vec![long[0]])]);
}

#[test]
fn a_snapshot_of_another_graph_is_refused() {
    let (graph, _) = chain(3);
    let run: Run<u64> = Run::new(graph, &Costs::default());
    let (other, _) = chain(4);
    let refused = Run::<u64>::restore(other, &Costs::default(), &run.snapshot());
    assert_eq!(refused.expect_err("another graph"), RestoreError::OtherGraph);
}

#[test]
fn a_chain_of_a_million_nodes_runs_to_its_end() {
    let (graph, nodes) = chain(1_000_000);
    let mut run: Run<(), ()> = Run::new(graph, &Costs::default());
    run.start(nodes[0]).expect("ready");
    let cancelled = run.fail(nodes[0], (), OnFailure::Continue).expect("in flight").len();
    assert_eq!(cancelled, 999_999);
    assert!(run.is_finished());
}
