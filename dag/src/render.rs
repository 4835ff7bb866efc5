//! A plan as text, Graphviz DOT, Mermaid and JSON.

use std::fmt::{self, Write};

use crate::plan::{Operand, Plan};

/// An operand as people read it: `n3`, `4`, `a`.
impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Parameter(name) => f.write_str(name),
            Self::Node(node) => write!(f, "n{node}"),
        }
    }
}

/// The plan as a tree from its result down; what is shared is drawn once.
///
/// ```
/// let plan = quorate_dag::Expression::parse("((3+5)*(4/2))")?.plan();
/// assert_eq!(plan.to_string(), "\
/// n2 = n0 * n1
/// ├─ n0 = 3 + 5
/// └─ n1 = 4 / 2
/// ");
/// # Ok::<(), quorate_dag::ExpressionError>(())
/// ```
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(root) = self.root().node() else {
            return writeln!(f, "{}", self.root());
        };
        let mut drawn = vec![false; self.len()];
        // Each with its depth, and whether it is the last of its operation.
        let mut steps = vec![(root, 0usize, true)];
        let mut open: Vec<bool> = Vec::new(); // by depth: whether a line runs on below
        while let Some((node, depth, is_last)) = steps.pop() {
            if depth > 0 {
                open.truncate(depth - 1);
                // Deeper than a page is wide, a number says more than lines do.
                if depth <= DEPTH_DRAWN {
                    open.iter()
                        .try_for_each(|runs_on| f.write_str(if *runs_on { "│  " } else { "   " }))?;
                } else {
                    write!(f, "[{depth}] ")?;
                }
                f.write_str(if is_last { "└─ " } else { "├─ " })?;
                open.push(!is_last);
            }
            let [left, right] = self.operands(node);
            write!(f, "n{node}")?;
            if std::mem::replace(&mut drawn[node.index()], true) {
                writeln!(f, " (above)")?;
                continue;
            }
            writeln!(f, " = {left} {} {right}", self.function(node).symbol())?;
            match (left.node(), right.node()) {
                (Some(left), Some(right)) if left != right => {
                    steps.extend([(right, depth + 1, true), (left, depth + 1, false)]);
                }
                (Some(only), _) | (_, Some(only)) => steps.push((only, depth + 1, true)),
                (None, None) => {}
            }
        }
        Ok(())
    }
}

const DEPTH_DRAWN: usize = 40;

impl Plan {
    /// For Graphviz: `dot -Tsvg`.
    ///
    /// ```
    /// let plan = quorate_dag::Expression::parse("(a+1)*2")?.plan();
    /// assert_eq!(plan.to_dot(), r#"digraph plan {
    ///   rankdir=BT;
    ///   n0 [label="n0: a + 1"];
    ///   n1 [label="n1: n0 * 2"];
    ///   n0 -> n1;
    /// }
    /// "#);
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    pub fn to_dot(&self) -> String {
        let mut out = "digraph plan {\n  rankdir=BT;\n".to_owned();
        self.each(&mut out, |out, name, label| writeln!(out, "  {name} [label=\"{label}\"];"));
        self.edges(&mut out, "->", ";");
        out.push_str("}\n");
        out
    }

    /// For Mermaid, as in a Markdown block of that name.
    ///
    /// ```
    /// let plan = quorate_dag::Expression::parse("(a+1)*2")?.plan();
    /// assert_eq!(plan.to_mermaid(), r#"flowchart BT
    ///   n0["n0: a + 1"]
    ///   n1["n1: n0 * 2"]
    ///   n0 --> n1
    /// "#);
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    pub fn to_mermaid(&self) -> String {
        let mut out = "flowchart BT\n".to_owned();
        self.each(&mut out, |out, name, label| writeln!(out, "  {name}[\"{label}\"]"));
        self.edges(&mut out, "-->", "");
        out
    }

    /// For programs. Positions are bytes of the source; an operand is `{"node": 0}`,
    /// `{"value": "1/3"}` or `{"parameter": "a"}`.
    ///
    /// ```
    /// let plan = quorate_dag::Expression::parse("(a+1)*2")?.plan();
    /// assert_eq!(plan.to_json(), concat!(
    ///     r#"{"version":1,"depth":2,"width":1,"parameters":["a"],"root":{"node":1},"nodes":["#,
    ///     r#"{"id":0,"function":"add","left":{"parameter":"a"},"right":{"value":"1"},"position":2},"#,
    ///     r#"{"id":1,"function":"mul","left":{"node":0},"right":{"value":"2"},"position":5}],"#,
    ///     r#""waves":[[0],[1]]}"#,
    /// ));
    /// # Ok::<(), quorate_dag::ExpressionError>(())
    /// ```
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(64 + self.len() * 96);
        self.write_json(&mut out).expect("writing to a String");
        out
    }

    fn write_json(&self, out: &mut String) -> fmt::Result {
        let waves = self.waves();
        let width = waves.iter().map(Vec::len).max().unwrap_or(0);
        write!(out, "{{\"version\":{},", Self::VERSION)?;
        write!(out, "\"depth\":{},\"width\":{width},\"parameters\":[", waves.len())?;
        // Names are letters, digits and `_`, and values digits, `.`, `-` and `/`: nothing to escape.
        list(out, self.parameters(), |out, name| write!(out, "\"{name}\""))?;
        out.write_str("],\"root\":")?;
        json_operand(out, self.root())?;
        out.write_str(",\"nodes\":[")?;
        list(out, self.nodes(), |out, node| {
            let [left, right] = self.operands(node);
            write!(out, "{{\"id\":{node},\"function\":\"{}\",\"left\":", self.function(node))?;
            json_operand(out, left)?;
            out.write_str(",\"right\":")?;
            json_operand(out, right)?;
            write!(out, ",\"position\":{}}}", self.position(node))
        })?;
        out.write_str("],\"waves\":[")?;
        list(out, waves, |out, wave| {
            out.write_char('[')?;
            list(out, wave, |out, node| write!(out, "{node}"))?;
            out.write_char(']')
        })?;
        out.write_str("]}")
    }

    /// Each box with its name and label: the nodes, or where there are none the result itself.
    fn each(&self, out: &mut String, write: impl Fn(&mut String, &str, &str) -> fmt::Result) {
        if self.root().node().is_none() {
            write(out, "result", &self.root().to_string()).expect("writing to a String");
        }
        for node in self.nodes() {
            let [left, right] = self.operands(node);
            let label = format!("n{node}: {left} {} {right}", self.function(node).symbol());
            write(out, &format!("n{node}"), &label).expect("writing to a String");
        }
    }

    fn edges(&self, out: &mut String, arrow: &str, end: &str) {
        for node in self.nodes() {
            for operand in self.operands(node).iter().filter_map(Operand::node) {
                writeln!(out, "  n{operand} {arrow} n{node}{end}").expect("writing to a String");
            }
        }
    }
}

fn json_operand(out: &mut String, operand: Operand<'_>) -> fmt::Result {
    match operand {
        Operand::Value(value) => write!(out, "{{\"value\":\"{value}\"}}"),
        Operand::Parameter(name) => write!(out, "{{\"parameter\":\"{name}\"}}"),
        Operand::Node(node) => write!(out, "{{\"node\":{node}}}"),
    }
}

fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.write_char(',')?;
        }
        write(out, item)?;
    }
    Ok(())
}
