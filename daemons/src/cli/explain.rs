//! What ran where and when, for `eval --explain`; and how a node is written.

use super::table::table;
use crate::api::{Answer, NodeRun};
use quorate_dag::{Costs, Expression, Function, NodeId, Operand, Plan};
use std::{collections::BTreeMap, time::Duration};

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

/// Every node with where and when it ran, in order of time, beside when it would have run if each function
/// always took what it took on average, and nothing waited for anything but its operands.
pub(super) fn timeline(expression: &Expression, answer: &Answer) -> String {
    let plan = expression.plan();
    let nodes: BTreeMap<u32, NodeId> = plan.nodes().map(|node| (node.get(), node)).collect();
    let mut runs: Vec<(&NodeRun, NodeId)> =
        answer.timeline.iter().filter_map(|run| Some((run, *nodes.get(&run.node)?))).collect();
    runs.sort_by(|(left, _), (right, _)| {
        left.start_ms.total_cmp(&right.start_ms).then(left.node.cmp(&right.node))
    });
    let mut text = format!("request {}", answer.id);
    if let (Some(nodes), Some(elapsed_ms)) = (answer.nodes, answer.elapsed_ms) {
        let plural = if nodes == 1 { "" } else { "s" };
        text.push_str(&format!(": {nodes} operation{plural} in {} waves, {elapsed_ms:.3} ms", plan.depth()));
    }
    text.push('\n');
    if runs.is_empty() {
        if !plan.is_empty() {
            text.push_str("it was too large for its timeline to be kept\n");
        }
        return text;
    }
    let costs = averages(&plan, &runs);
    let predicted = plan.graph().schedule(plan.width(), &costs);
    // Both begin with the first operation: what is before it is acceptance and planning.
    let first = runs.iter().map(|(run, _)| run.start_ms).fold(f64::INFINITY, f64::min);
    let rows: Vec<_> = runs
        .iter()
        .map(|(run, node)| {
            let at = |time: Duration| format!("{:.3}", first + time.as_secs_f64() * 1e3);
            let beside = &predicted[node.index()];
            [
                format!("n{}", run.node),
                label(&plan, *node),
                run.set.clone(),
                format!("{:.3}", run.start_ms),
                format!("{:.3}", run.end_ms),
                at(beside.start),
                at(beside.end),
            ]
        })
        .collect();
    let headings = ["NODE", "OPERATION", "SET", "START MS", "END MS", "PREDICTED START", "PREDICTED END"];
    let last = runs.iter().map(|(run, _)| run.end_ms).fold(0.0, f64::max);
    let time = plan.predict(plan.width(), &costs).time;
    text.push_str(&table(headings, &rows));
    text.push_str(&format!(
        "from the first start to the last end {:.3} ms; predicted {:.3} ms, with each function at its average\n",
        last - first,
        time.as_secs_f64() * 1e3
    ));
    text
}

/// What each function took on average.
fn averages(plan: &Plan, runs: &[(&NodeRun, NodeId)]) -> Costs {
    let mut costs = Costs::default();
    for function in Function::ALL {
        let of_it = runs.iter().filter(|(_, node)| plan.function(*node) == function);
        let took: Vec<f64> = of_it.map(|(run, _)| (run.end_ms - run.start_ms).max(0.0)).collect();
        let average = took.iter().sum::<f64>() / took.len() as f64;
        if let Ok(average) = Duration::try_from_secs_f64(average / 1e3) {
            costs.set(function.id(), average);
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(node: u32, set: &str, start_ms: f64, end_ms: f64) -> NodeRun {
        NodeRun { node, set: set.into(), start_ms, end_ms }
    }

    #[test]
    fn what_happened_stands_beside_what_was_predicted() {
        let expression = Expression::parse("(1+2)*(3+4)").expect("an expression");
        let answer = Answer {
            id: uuid::Uuid::nil(),
            status: crate::api::Status::Done,
            result: Some("21".into()),
            error: None,
            nodes: Some(3),
            elapsed_ms: Some(9.0),
            timeline: vec![ran(2, "mul-0", 6.0, 8.0), ran(0, "add-0", 1.0, 2.0), ran(1, "add-1", 1.5, 4.5)],
        };
        let text = timeline(&expression, &answer);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        // A sum takes 2 ms on average, the product 2 ms after both.
        assert_eq!(rows[2], ["n0", "1", "+", "2", "add-0", "1.000", "2.000", "1.000", "3.000"]);
        assert_eq!(rows[3], ["n1", "3", "+", "4", "add-1", "1.500", "4.500", "1.000", "3.000"]);
        assert_eq!(rows[4], ["n2", "n0", "*", "n1", "mul-0", "6.000", "8.000", "3.000", "5.000"]);
        let last = "from the first start to the last end 7.000 ms; predicted 4.000 ms, with each function at its average";
        assert_eq!(text.lines().last(), Some(last));
    }
}
