//! What ran where and when, for `eval --explain`; and how a node is written.

use super::table::table;
use crate::api::{Answer, NodeRun};
use quorate_dag::{Expression, NodeId, Operand, Plan};
use std::collections::BTreeMap;

/// Characters of a number that are shown.
const DIGITS: usize = 24;

/// A node as a person writes it: `3 + 5`, `n0 * a`.
pub(super) fn label(plan: &Plan, node: NodeId) -> String {
    let [left, right] = plan.operands(node).map(|operand| match operand {
        Operand::Node(node) => format!("n{}", node.get()),
        Operand::Parameter(name) => name.to_owned(),
        Operand::Value(value) => shortened(&value.to_string()),
    });
    format!("{left} {} {right}", plan.function(node).symbol())
}

fn shortened(number: &str) -> String {
    match number.char_indices().nth(DIGITS) {
        Some((at, _)) => format!("{}…", &number[..at]),
        None => number.to_owned(),
    }
}

/// Every node with where and when it ran, in order of time.
pub(super) fn timeline(expression: &Expression, answer: &Answer) -> String {
    let plan = expression.plan();
    let nodes: BTreeMap<u32, NodeId> = plan.nodes().map(|node| (node.get(), node)).collect();
    let mut runs: Vec<&NodeRun> = answer.timeline.iter().collect();
    runs.sort_by(|left, right| left.start_ms.total_cmp(&right.start_ms).then(left.node.cmp(&right.node)));
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            [
                format!("n{}", run.node),
                nodes.get(&run.node).map(|node| label(&plan, *node)).unwrap_or_default(),
                run.set.clone(),
                format!("{:.3}", run.start_ms),
                format!("{:.3}", run.end_ms),
            ]
        })
        .collect();
    let mut text = format!("request {}", answer.id);
    if let (Some(nodes), Some(elapsed_ms)) = (answer.nodes, answer.elapsed_ms) {
        let plural = if nodes == 1 { "" } else { "s" };
        text.push_str(&format!(": {nodes} operation{plural} in {} waves, {elapsed_ms:.3} ms", plan.depth()));
    }
    text.push('\n');
    if rows.is_empty() {
        if !plan.is_empty() {
            text.push_str("it was too large for its timeline to be kept\n");
        }
        return text;
    }
    text + &table(["NODE", "OPERATION", "SET", "START MS", "END MS"], &rows)
}
