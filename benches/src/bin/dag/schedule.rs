//! Graphs of a million nodes, and a sum on a clock.

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use petgraph::graph::DiGraph;
use quorate_dag::{
    Costs, Dag, Drive, Evaluation, Expression, FunctionId, Graph, Limits, Parameters, PlanOptions, Run,
};
use tokio::sync::oneshot;

use crate::large::{Random, balanced};
use crate::report::{Effort, Report, Target, contender, median, processor_ns, take_turns};

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let tree = expression_tree(effort.nodes);
    let graphs = [
        ("expression tree", tree, 40.0),
        ("random graph, 2 operands anywhere before", random(effort.nodes, effort.nodes), 150.0),
        ("random graph, 2 operands in the 1000 before", random(effort.nodes, 1000), 150.0),
    ];
    for (what, graph, most) in graphs {
        walk(effort, report, &format!("{what}, {} nodes", graph.len()), &graph, most);
    }
    brent(report);
}

/// A plan of `nodes` operations, with none shared.
pub(crate) fn expression_tree(nodes: usize) -> Arc<Graph> {
    let mut text = String::new();
    balanced(&mut text, nodes + 1, &mut Random::new());
    let limits = Limits { bytes: 1 << 30, nodes: 1 << 30, ..Limits::default() };
    let expression = Expression::parse_within(&text, &limits).expect("right");
    let plan = expression.plan_with(&PlanOptions { share: false, ..PlanOptions::default() });
    Arc::clone(plan.graph())
}

/// Each node has two operands among the `near` before it.
fn random(nodes: usize, near: usize) -> Arc<Graph> {
    let mut random = Random::new();
    let mut dag = Dag::new();
    let ids: Vec<_> = (0..nodes)
        .map(|node| dag.add_weighted((), FunctionId(u16::try_from(node % 4).expect("four functions")), 1))
        .collect();
    for to in 1..nodes {
        for _ in 0..2 {
            let from = to - 1 - random.below(near.min(to));
            dag.edge(ids[from], ids[to]).expect("both are there");
        }
    }
    dag.freeze().expect("edges go forward")
}

fn walk(effort: &Effort, report: &mut Report, name: &str, graph: &Arc<Graph>, most: f64) {
    let mut peer = DiGraph::<(), ()>::with_capacity(graph.len(), graph.edges());
    graph.nodes().for_each(|_| _ = peer.add_node(()));
    for node in graph.nodes() {
        for dependant in graph.dependants(node) {
            peer.add_edge(node.get().into(), dependant.get().into(), ());
        }
    }
    let nodes = graph.len() as f64;
    let (mut made, mut walked, mut sorted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.samples.div_ceil(2) {
        let start = processor_ns();
        let mut run: Run<u64> = Run::new(Arc::clone(graph), &Costs::default());
        let at = processor_ns();
        let mut became_ready = 0;
        while let Some(node) = run.start_next() {
            became_ready += run.complete(node, 1).expect("it was started").len();
        }
        let end = processor_ns();
        assert!(run.is_finished() && black_box(became_ready) < graph.len());
        made.push(at - start);
        walked.push(end - at);
        let start = processor_ns();
        black_box(petgraph::algo::toposort(&peer, None).expect("no cycle"));
        sorted.push(processor_ns() - start);
    }
    let [made, walked, sorted] = [made, walked, sorted].map(|taken| median(taken) / nodes);
    report.row(name, "quorate, start and complete", walked, "ns a node").target(Target::AtMost(most));
    report.row(name, "quorate, ranks and the run before it", made, "ns a node");
    report.row(name, "petgraph, toposort alone", sorted, "ns a node");
    let mut predict = [contender("quorate", || graph.predict(64, &Costs::default()))];
    let took = take_turns(3, 1, &mut predict)[0];
    report.row(name, "quorate, predicted time for 64 workers", took / nodes, "ns a node");
}

/// 4096 terms, 64 at a time, a millisecond each: what the driver takes beyond what must be.
fn brent(report: &mut Report) {
    let terms: Vec<String> = (0..4096).map(|term| term.to_string()).collect();
    let plan = Arc::new(Expression::parse(&terms.join("+")).expect("a sum").plan());
    let bound = plan.predict(64, &Costs::default()).lower;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let elsewhere = elsewhere(Duration::from_millis(1));
    let took = |_| {
        let mut evaluation =
            Evaluation::new(Arc::clone(&plan), &Parameters::new(), &Costs::default()).expect("no parameters");
        let start = Instant::now();
        let value =
            runtime.block_on(evaluation.run_async(&Drive { slots: 64, ..Drive::default() }, |call| {
                let value = call.apply(&Limits::default());
                let (answer, answered) = oneshot::channel();
                elsewhere.send((Instant::now(), answer)).expect("it works as long as this sends");
                async move {
                    answered.await.expect("every call is answered");
                    value
                }
            }));
        assert_eq!(value.expect("it ends").expect("a value"), (4095 * 4096 / 2).into());
        start.elapsed().as_secs_f64()
    };
    let took = median((0..9).map(took).collect());
    let name = "sum of 4096 terms, 1 ms each, 64 at once";
    report.row(name, "quorate, run_async", took * 1e3, "ms");
    report.row(name, "Brent's lower bound", bound.as_secs_f64() * 1e3, "ms");
    report.row(name, "run_async ÷ bound", took / bound.as_secs_f64(), "×").target(Target::AtMost(1.15));
}

/// Workers of which each answers so long after it was asked. One thread stands for them and looks at the
/// clock all the time: one that sleeps wakes up to a tenth of a millisecond late.
fn elsewhere(takes: Duration) -> mpsc::Sender<(Instant, oneshot::Sender<()>)> {
    let (ask, asked) = mpsc::channel::<(Instant, oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        for (at, answer) in asked {
            while at.elapsed() < takes {
                std::hint::spin_loop();
            }
            // Who does not wait any more needs no answer.
            let _ = answer.send(());
        }
    });
    ask
}

/// What the script says, in its own lines of the same form. It says itself what is wrong with it.
pub(crate) fn dask(report: &mut Report) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dask");
    let output = Command::new(&script).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{}: {error}", script.display()))?;
    if !output.status.success() {
        return Err(format!("{}: {}", script.display(), output.status));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a row");
        let text = |field: &str| row[field].as_str().expect("a text").to_owned();
        report.row(&text("name"), &text("peer"), row["value"].as_f64().expect("a number"), "µs a task");
    }
    Ok(())
}
