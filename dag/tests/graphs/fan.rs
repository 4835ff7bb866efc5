//! A graph that every driver is tried with.

use quorate_dag::{Costs, Dag, NodeId, Run};

/// `width` nodes that one waits for.
pub(crate) fn fan(width: u32) -> (Run<u32, &'static str>, NodeId) {
    let mut dag = Dag::new();
    let last = dag.add(());
    for _ in 0..width {
        let node = dag.add(());
        dag.edge(node, last).expect("both are there");
    }
    (Run::new(dag.freeze().expect("no cycle"), &Costs::default()), last)
}
