//! Two passes: what is the same (hash-consing the syntax), then what to run (chains to trees).

use std::collections::HashMap;
use std::sync::Arc;

use super::chain;
use super::table::{Keys, Operation, Table};
use super::{Divisor, Plan, PlanOptions, Ref, Target};
use crate::expression::{Expression, ItemKind};
use crate::function::Function;
use crate::graph::{Graph, NodeId};
use crate::limits::Limits;
use crate::number::{Value, apply};

pub(super) fn plan(expression: &Expression, options: &PlanOptions) -> Plan {
    let mut constants = Constants::default();
    let syntax = Syntax::of(expression, options.share, &mut constants);
    let mut nodes = Nodes::new(constants, options, syntax.entries.len());
    let root = chain::build(&syntax, options.reassociate, &mut nodes);
    nodes.finish(expression, root)
}

/// The constants of a plan, each value once.
#[derive(Default)]
struct Constants {
    values: Vec<Value>,
    /// Below [`Constants::DIRECT`], by value; the number plus one. Made, as `numbers` is, when there
    /// are more than [`Constants::FEW`].
    small: Vec<u32>,
    numbers: HashMap<Value, u32, Keys>,
}

impl Constants {
    /// So many are looked through sooner than one is hashed.
    const FEW: usize = 8;
    const DIRECT: u32 = 1024;

    fn small(&mut self, value: u32) -> Ref {
        if value >= Self::DIRECT || self.values.len() < Self::FEW {
            return self.insert(Value::from(value));
        }
        if self.small.is_empty() {
            self.small = vec![0; Self::DIRECT as usize];
        }
        let mut number = self.small[value as usize];
        if number == 0 {
            number = self.number(Value::from(value)) + 1;
            self.small[value as usize] = number;
        }
        Ref::new(Target::Constant(number - 1))
    }

    fn insert(&mut self, value: Value) -> Ref {
        Ref::new(Target::Constant(self.number(value)))
    }

    fn number(&mut self, value: Value) -> u32 {
        let next = count(self.values.len());
        let number = if self.values.len() < Self::FEW {
            self.values.iter().position(|known| *known == value).map_or(next, count)
        } else {
            if self.numbers.is_empty() {
                self.numbers = self.values.iter().cloned().zip(0..).collect();
            }
            *self.numbers.entry(value.clone()).or_insert(next)
        };
        if number == next {
            self.values.push(value);
        }
        number
    }
}

/// One distinct operation of the source. Its operands are constants, parameters or, as "nodes", the
/// numbers of other entries.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) left: Ref,
    /// Of a sign, the same as `left`.
    pub(super) right: Ref,
    /// The operator's byte, where it stands first.
    pub(super) at: u32,
    pub(super) kind: EntryKind,
    /// By how many operands of distinct operations it is used, 255 for more; 0 when it is not needed.
    pub(super) uses: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Binary(Function),
    Negate,
}

impl EntryKind {
    pub(super) fn is_sum(self) -> bool {
        match self {
            Self::Negate => true,
            Self::Binary(function) => function.is_sum(),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Binary(function) => function as u8,
            Self::Negate => 4,
        }
    }
}

/// The distinct operations of the source, operands before operators.
pub(super) struct Syntax {
    pub(super) entries: Vec<Entry>,
    pub(super) root: Ref,
}

impl Syntax {
    fn of(expression: &Expression, share: bool, constants: &mut Constants) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(expression.items.len() / 2);
        let mut table = Table::with_capacity(if share { expression.items.len() / 2 } else { 0 });
        // A postfix tree is read with a stack of its operands.
        let mut operands: Vec<Ref> = Vec::new();
        for item in &expression.items {
            let operand = match item.kind() {
                ItemKind::Small(value) => constants.small(value),
                ItemKind::Literal(index) => constants.insert(expression.literals[index as usize].clone()),
                ItemKind::Parameter(index) => Ref::new(Target::Parameter(index)),
                ItemKind::Negate => {
                    let of = operands.pop().expect("a sign follows its operand");
                    match negated(of, &entries, constants) {
                        Some(operand) => operand,
                        None => {
                            let entry = Entry::new(EntryKind::Negate, of, of, item.at);
                            enter(&mut entries, share.then_some(&mut table), entry)
                        }
                    }
                }
                ItemKind::Binary(function) => {
                    let right = operands.pop().expect("an operator follows its operands");
                    let left = operands.pop().expect("an operator follows its operands");
                    let entry = Entry::new(EntryKind::Binary(function), left, right, item.at);
                    enter(&mut entries, share.then_some(&mut table), entry)
                }
            };
            operands.push(operand);
        }
        let root = operands.pop().expect("an expression has an operand");
        count_uses(&mut entries, root);
        Self { entries, root }
    }
}

impl Entry {
    fn new(kind: EntryKind, left: Ref, right: Ref, at: u32) -> Self {
        Self { kind, left, right, at, uses: 0 }
    }

    fn operation(&self) -> Operation {
        Operation { code: self.kind.code(), left: self.left, right: self.right }
    }
}

/// A sign folds into a number, and cancels another one.
fn negated(of: Ref, entries: &[Entry], constants: &mut Constants) -> Option<Ref> {
    match of.target() {
        Target::Constant(index) => {
            let value = constants.values[index as usize].negated();
            Some(constants.insert(value))
        }
        Target::Node(entry) if entries[entry.index()].kind == EntryKind::Negate => {
            Some(entries[entry.index()].left)
        }
        _ => None,
    }
}

/// The entry's number; an equal one that was there before keeps its place, which is further left.
fn enter(entries: &mut Vec<Entry>, table: Option<&mut Table>, entry: Entry) -> Ref {
    let next = count(entries.len());
    let number = table.map_or(next, |table| {
        table.find_or_insert(entry.operation(), next, |number| entries[number as usize].operation())
    });
    if number == next {
        entries.push(entry);
    }
    Ref::new(Target::Node(NodeId::new(number)))
}

/// From the root down, users before what they use: a sign that another cancelled has no user, and
/// uses nothing.
fn count_uses(entries: &mut [Entry], root: Ref) {
    if let Some(entry) = root.node() {
        entries[entry.index()].uses = 1;
    }
    for number in (0..entries.len()).rev() {
        let Entry { kind, left, right, uses, .. } = entries[number];
        if uses == 0 {
            continue;
        }
        let right = (kind != EntryKind::Negate).then_some(right);
        for used in [Some(left), right].into_iter().flatten().filter_map(Ref::node) {
            let uses = &mut entries[used.index()].uses;
            *uses = uses.saturating_add(1);
        }
    }
}

/// The nodes of the plan as they are made.
pub(super) struct Nodes {
    functions: Vec<Function>,
    operands: Vec<[Ref; 2]>,
    at: Vec<u32>,
    /// The wave that follows each node's: 1 for one that waits for nothing.
    heights: Vec<u32>,
    divisors: Vec<Divisor>,
    constants: Constants,
    /// Made when two operations could first be the same: see [`Nodes::distinct`].
    table: Option<Table>,
    share: bool,
    fold: Option<Limits>,
}

impl Nodes {
    fn new(constants: Constants, options: &PlanOptions, capacity: usize) -> Self {
        Self {
            functions: Vec::with_capacity(capacity),
            operands: Vec::with_capacity(capacity),
            at: Vec::with_capacity(capacity),
            heights: Vec::with_capacity(capacity),
            divisors: Vec::new(),
            constants,
            table: None,
            share: options.share,
            fold: options.fold,
        }
    }

    /// The node of an operation of the source as it stands there. As long as there are no others,
    /// distinct entries are distinct nodes, and none needs to be looked for.
    pub(super) fn distinct(&mut self, function: Function, left: Ref, right: Ref, at: u32) -> Ref {
        if self.table.is_some() || self.fold.is_some() {
            return self.node(function, left, right, at);
        }
        self.push(function, left, right, at)
    }

    /// The node of an operation, made unless there is one. A node that is there for several
    /// operators stands for the first.
    pub(super) fn node(&mut self, function: Function, left: Ref, right: Ref, at: u32) -> Ref {
        if let Some(folded) = self.folded(function, left, right) {
            return folded;
        }
        if !self.share {
            return self.push(function, left, right, at);
        }
        let (functions, operands) = (&self.functions, &self.operands);
        let known = |number: u32| {
            let [left, right] = operands[number as usize];
            Operation::new(functions[number as usize], left, right)
        };
        let table = self.table.get_or_insert_with(|| {
            let mut table = Table::with_capacity(functions.capacity());
            for number in 0..count(functions.len()) {
                table.find_or_insert(known(number), number, known);
            }
            table
        });
        let next = count(functions.len());
        let number = table.find_or_insert(Operation::new(function, left, right), next, known);
        if number == next {
            return self.push(function, left, right, at);
        }
        let first = &mut self.at[number as usize];
        *first = at.min(*first);
        Ref::new(Target::Node(NodeId::new(number)))
    }

    fn push(&mut self, function: Function, left: Ref, right: Ref, at: u32) -> Ref {
        let number = count(self.functions.len());
        self.functions.push(function);
        self.operands.push([left, right]);
        self.at.push(at);
        self.heights.push(self.height(left).max(self.height(right)) + 1);
        Ref::new(Target::Node(NodeId::new(number)))
    }

    pub(super) fn zero(&mut self) -> Ref {
        self.constants.small(0)
    }

    pub(super) fn divisor(&mut self, slash: u32, operand: Ref) {
        self.divisors.push(Divisor { slash, operand });
    }

    /// How many waves an operand takes.
    #[inline]
    pub(super) fn height(&self, operand: Ref) -> u32 {
        operand.node().map_or(0, |node| self.heights[node.index()])
    }

    fn folded(&mut self, function: Function, left: Ref, right: Ref) -> Option<Ref> {
        let limits = self.fold.as_ref()?;
        let (Target::Constant(left), Target::Constant(right)) = (left.target(), right.target()) else {
            return None;
        };
        let values = &self.constants.values;
        let (left, right) = (&values[left as usize], &values[right as usize]);
        let value = apply(function, left, right, limits).ok()?;
        Some(self.constants.insert(value))
    }

    fn finish(self, expression: &Expression, root: Ref) -> Plan {
        let functions = self.functions.iter().map(|function| function.id()).collect();
        let edges = (0..).zip(&self.operands).flat_map(|(to, operands)| {
            operands.iter().filter_map(move |operand| Some((operand.node()?.get(), to)))
        });
        Plan {
            graph: Arc::new(Graph::in_order(functions, edges)),
            operands: self.operands,
            at: self.at,
            constants: self.constants.values,
            names: expression.names.clone(),
            divisors: self.divisors,
            root,
        }
    }
}

/// Counts of items are below 2^30, the most bytes a text may have.
#[expect(
    clippy::cast_possible_truncation,
    reason = "there are fewer items than bytes of text, and parse refuses more than 2^30 of those"
)]
fn count(value: usize) -> u32 {
    debug_assert!(value <= Limits::BYTES_MAX);
    value as u32
}
