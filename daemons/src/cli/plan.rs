//! `quorate plan`: what an expression would run, without running it.

use super::{Failure, Global, Settings, eval::time, explain::label, print, print_json};
use crate::expression;
use clap::Args;
use quorate_dag::{Costs, Expression, Function, NodeId, Operand, Plan as Graph};
use serde::Serialize;
use std::{fmt::Write as _, io::Read, time::Duration};

const AFTER_HELP: &str = "\
Examples:
  quorate plan '((3+5)*(4/2))'
  quorate plan 'a+b+c+d' --workers 2 --cost add=3ms
  quorate plan '(a+b)*(a+b)' --tree
  quorate plan '((3+5)*(4/2))' --dot | dot -Tsvg > plan.svg";

/// Beyond this many operations, waves are counted and not listed.
const LISTED: usize = 200;

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Plan {
    /// The expression; - reads it from standard input. Names need no values here.
    #[arg(allow_hyphen_values = true)]
    expression: String,
    /// Prints the graph as a tree, from its result down; what is used twice is drawn once.
    #[arg(long, conflicts_with_all = ["dot", "mermaid"])]
    tree: bool,
    /// Prints the graph for Graphviz.
    #[arg(long, conflicts_with = "mermaid")]
    dot: bool,
    /// Prints the graph for Mermaid.
    #[arg(long)]
    mermaid: bool,
    /// Predicts the time for N operations at once; without it, as many as can ever run at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// What one operation of a function takes, such as add=2ms; 1ms where nothing is said.
    #[arg(long, value_name = "FUNCTION=TIME", value_parser = cost)]
    cost: Vec<(Function, Duration)>,
    #[command(flatten)]
    settings: Settings,
}

fn cost(text: &str) -> Result<(Function, Duration), String> {
    let (name, cost) = text.split_once('=').ok_or("expected FUNCTION=TIME, such as add=2ms")?;
    let function = Function::from_name(name).ok_or("the functions are add, sub, mul and div")?;
    Ok((function, time(cost)?))
}

/// A plan as `--json` shows it.
#[derive(Serialize)]
struct Shown {
    expression: String,
    operations: usize,
    depth: usize,
    width: usize,
    nodes: Vec<ShownNode>,
    waves: Vec<Vec<u32>>,
    critical_path: Vec<u32>,
    predicted: Predicted,
}

#[derive(Serialize)]
struct ShownNode {
    node: u32,
    function: &'static str,
    operands: [ShownOperand; 2],
    /// The byte of its operator in the expression.
    position: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum ShownOperand {
    Value(String),
    Parameter(String),
    Node(u32),
}

#[derive(Serialize)]
struct Predicted {
    workers: usize,
    time_ms: f64,
    /// No schedule is faster on as many workers.
    lower_ms: f64,
    /// No schedule that keeps them busy is slower (Brent 1974).
    upper_ms: f64,
    /// One after another.
    work_ms: f64,
}

impl Plan {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let limits = self.settings.load(&[])?.config.limits;
        let text = text(&self.expression, limits.expression_bytes)?;
        let parsed = Expression::parse_within(&text, &expression::limits(&limits))
            .map_err(|error| Failure::of_expression(&error, &text))?;
        let graph = parsed.plan();
        if self.tree {
            return print(&graph.to_string());
        }
        if self.dot {
            return print(&graph.to_dot());
        }
        if self.mermaid {
            return print(&graph.to_mermaid());
        }
        let mut costs = Costs::default();
        for (function, cost) in &self.cost {
            costs.set(function.id(), *cost);
        }
        let workers = self.workers.map_or(graph.width(), |workers| workers.try_into().unwrap_or(usize::MAX));
        let shown = shown(text, &graph, workers, &costs);
        if global.json {
            return print_json(&shown);
        }
        print(&describe(&graph, &shown))
    }
}

/// The text of an argument, or of standard input for `-`, of which no more is read than can be right.
pub(super) fn text(argument: &str, bytes_max: usize) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    let most = bytes_max as u64 + 1;
    std::io::stdin().lock().take(most).read_to_string(&mut text).map_err(Failure::Input)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

fn shown(expression: String, graph: &Graph, workers: usize, costs: &Costs) -> Shown {
    let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(NodeId::get).collect::<Vec<_>>();
    let predicted = graph.predict(workers, costs);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Shown {
        expression,
        operations: graph.len(),
        depth: graph.depth(),
        width: graph.width(),
        nodes: graph
            .nodes()
            .map(|node| ShownNode {
                node: node.get(),
                function: graph.function(node).name(),
                operands: graph.operands(node).map(|operand| match operand {
                    Operand::Value(value) => ShownOperand::Value(value.to_string()),
                    Operand::Parameter(name) => ShownOperand::Parameter(name.to_owned()),
                    Operand::Node(node) => ShownOperand::Node(node.get()),
                }),
                position: graph.position(node),
            })
            .collect(),
        waves: graph.waves().into_iter().map(numbers).collect(),
        critical_path: numbers(graph.critical_path(costs)),
        predicted: Predicted {
            workers: predicted.workers,
            time_ms: ms(predicted.time),
            lower_ms: ms(predicted.lower),
            upper_ms: ms(predicted.upper),
            work_ms: ms(predicted.work),
        },
    }
}

fn describe(graph: &Graph, shown: &Shown) -> String {
    let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    if graph.is_empty() {
        return "nothing to run: the result is what is written".to_owned();
    }
    let mut text = format!(
        "{} in {}, at most {} at once\n\n",
        count(shown.operations, "operation"),
        count(shown.depth, "wave"),
        shown.width
    );
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes all");
    let nodes: Vec<_> = graph.nodes().collect();
    for (number, wave) in shown.waves.iter().enumerate() {
        if shown.operations > LISTED {
            line(format_args!("wave {:<4} {}", number + 1, count(wave.len(), "operation")));
            continue;
        }
        for (at, node) in wave.iter().enumerate() {
            let head = if at == 0 { format!("wave {}", number + 1) } else { String::new() };
            let node = nodes[*node as usize];
            line(format_args!("{head:<9} {:<5} {}", format!("n{}", node.get()), label(graph, node)));
        }
    }
    let path = &shown.critical_path;
    let mut steps: Vec<_> = path.iter().take(12).map(|node| format!("n{node}")).collect();
    if path.len() > steps.len() {
        steps.push(format!("… {} more", path.len() - steps.len()));
    }
    let predicted = &shown.predicted;
    line(format_args!("\ncritical path  {}", steps.join(" → ")));
    line(format_args!(
        "predicted      {} with {} at once; one after another {}",
        ms(predicted.time_ms),
        predicted.workers,
        ms(predicted.work_ms)
    ));
    text
}

fn ms(ms: f64) -> String {
    let text = format!("{ms:.3}");
    format!("{} ms", text.trim_end_matches('0').trim_end_matches('.'))
}
