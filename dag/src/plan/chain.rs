//! Chains of `+ -` and of `* /` to trees as low as can be.

use super::Ref;
use super::build::{Entry, EntryKind, Nodes, Syntax};
use crate::function::Function;

/// Makes the nodes of an expression, and gives what its result is the result of.
pub(super) fn build(syntax: &Syntax, reassociate: bool, nodes: &mut Nodes) -> Ref {
    let roles = if reassociate { roles(&syntax.entries) } else { roots(&syntax.entries) };
    let mut chains = Chains {
        entries: &syntax.entries,
        roles,
        became: Vec::with_capacity(syntax.entries.len()),
        nodes,
        parts: Vec::new(),
        opened: Vec::new(),
        terms: Vec::new(),
        level: Vec::new(),
    };
    for (number, entry) in syntax.entries.iter().enumerate() {
        let became = match chains.roles[number] {
            Role::Root if chains.is_chain(entry) => {
                let shape = chains.shape(entry);
                Became::Made(chains.chain(shape, entry))
            }
            Role::Root => Became::Made(chains.alone(entry)),
            // A part of a chain to come, which may make it what it is in the source.
            Role::Opened => Became::Part(chains.shape(entry)),
            Role::Unused => Became::Made(entry.left),
        };
        chains.became.push(became);
    }
    chains.made_of(syntax.root)
}

/// Whether an operation stands for itself or is a part of its user's chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Root,
    Opened,
    Unused,
}

fn roots(entries: &[Entry]) -> Vec<Role> {
    let role = |entry: &Entry| if entry.uses > 0 { Role::Root } else { Role::Unused };
    entries.iter().map(role).collect()
}

/// What has one user of its kind is opened by it.
fn roles(entries: &[Entry]) -> Vec<Role> {
    let mut roles = roots(entries);
    for entry in entries.iter().filter(|entry| entry.uses > 0) {
        // A divisor stays whole: x/(y/z) is not x*z/y when z is zero, and x/(y*z) divides by zero
        // only if both have a value.
        let is_quotient = entry.kind == EntryKind::Binary(Function::Div);
        let operands = [Some(entry.left), (!is_quotient).then_some(entry.right)];
        for used in operands.into_iter().flatten().filter_map(Ref::node) {
            let used_entry = &entries[used.index()];
            // What has several users is computed once for all.
            if used_entry.uses == 1 && entry.kind.is_sum() == used_entry.kind.is_sum() {
                roles[used.index()] = Role::Opened;
            }
        }
    }
    roles
}

struct Chains<'a> {
    entries: &'a [Entry],
    roles: Vec<Role>,
    became: Vec<Became>,
    nodes: &'a mut Nodes,
    // Working space, kept from chain to chain.
    parts: Vec<Part>,
    opened: Vec<usize>,
    terms: Vec<Term>,
    level: Vec<Term>,
}

/// What became of an entry.
#[derive(Clone, Copy)]
enum Became {
    Made(Ref),
    Part(Shape),
}

/// What an entry is when the chain that it is a part of stays as in the source.
#[derive(Clone, Copy)]
struct Shape {
    /// How many waves it takes.
    height: u32,
    has_sign: bool,
    /// Σ 2^height over its terms, which says how low it could be; from 2⁶³ it says nothing.
    load: u64,
}

/// What is still to be opened of a chain.
#[derive(Clone, Copy)]
struct Part {
    operand: Ref,
    is_inverse: bool,
    at: u32,
    /// The `/` that divides by it; 0 when none does.
    slash: u32,
}

/// One member of a chain, or a group of members that became one node.
#[derive(Clone, Copy)]
struct Term {
    operand: Ref,
    /// Subtracted, or divided by.
    is_inverse: bool,
    /// The operator that attaches its leftmost member to the chain; 0 for the leftmost of all.
    at: u32,
    /// The place of its leftmost member in the chain, from 1.
    place: u32,
    height: u32,
    /// The `/` that divides by it; 0 when none does.
    slash: u32,
}

impl Chains<'_> {
    fn is_chain(&self, entry: &Entry) -> bool {
        self.opened(entry.left).is_some() || self.opened(entry.right).is_some()
    }

    /// The entry of an operand that is a part of its user's chain.
    fn opened(&self, operand: Ref) -> Option<usize> {
        let number = operand.node()?.index();
        (self.roles[number] == Role::Opened).then_some(number)
    }

    fn made_of(&self, operand: Ref) -> Ref {
        match operand.node().map(|entry| self.became[entry.index()]) {
            None => operand,
            Some(Became::Made(made)) => made,
            Some(Became::Part(_)) => unreachable!("a part is made before what uses it"),
        }
    }

    fn shape(&self, entry: &Entry) -> Shape {
        let left = self.shape_of(entry.left);
        if entry.kind == EntryKind::Negate {
            return Shape { height: left.height + 1, has_sign: true, ..left };
        }
        let right = self.shape_of(entry.right);
        Shape {
            height: left.height.max(right.height) + 1,
            has_sign: left.has_sign || right.has_sign,
            load: left.load.saturating_add(right.load),
        }
    }

    fn shape_of(&self, operand: Ref) -> Shape {
        let height = match operand.node().map(|entry| self.became[entry.index()]) {
            None => 0,
            Some(Became::Made(made)) => self.nodes.height(made),
            Some(Became::Part(shape)) => return shape,
        };
        Shape { height, has_sign: false, load: 1u64.checked_shl(height).unwrap_or(u64::MAX) }
    }

    /// One operation as it is in the source.
    fn alone(&mut self, entry: &Entry) -> Ref {
        let (left, right) = (self.made_of(entry.left), self.made_of(entry.right));
        match entry.kind {
            EntryKind::Negate => {
                let zero = self.nodes.zero();
                self.nodes.node(Function::Sub, zero, left, entry.at)
            }
            EntryKind::Binary(function) => {
                if function == Function::Div {
                    self.nodes.divisor(entry.at, right);
                }
                self.nodes.distinct(function, left, right, entry.at)
            }
        }
    }

    fn chain(&mut self, Shape { height, has_sign, load }: Shape, root: &Entry) -> Ref {
        // What is as low as can be stays as it was written. A sign always goes: it is a node less.
        let power = load.checked_next_power_of_two();
        if !has_sign && power.is_some_and(|power| power.trailing_zeros() == height) {
            return self.as_written(root);
        }
        let sign = self.collect(root);
        if let Some(at) = sign
            && self.terms.iter().all(|term| term.is_inverse)
        {
            self.subtract_from_zero(at);
        }
        self.terms.sort_by_key(|term| term.height); // stable; one pass when all are equal
        if !has_sign && height == lowest(&self.terms) {
            return self.as_written(root);
        }
        let functions =
            if root.kind.is_sum() { [Function::Add, Function::Sub] } else { [Function::Mul, Function::Div] };
        for term in self.terms.iter().filter(|term| term.slash > 0) {
            self.nodes.divisor(term.slash, term.operand);
        }
        self.pair(functions).operand
    }

    /// A chain's operations as they are in the source, what is used before what uses it.
    fn as_written(&mut self, root: &Entry) -> Ref {
        let mut opened = std::mem::take(&mut self.opened);
        opened.clear();
        let mut looked_at = 0;
        let mut user = root;
        loop {
            opened.extend(self.opened(user.left));
            opened.extend(self.opened(user.right));
            let Some(&next) = opened.get(looked_at) else { break };
            user = &self.entries[next];
            looked_at += 1;
        }
        opened.sort_unstable();
        for &part in &opened {
            self.became[part] = Became::Made(self.alone(&self.entries[part]));
        }
        self.opened = opened;
        self.alone(root)
    }

    /// All members are subtracted, the leftmost too: its sign, the first in the source, becomes the
    /// operator that attaches it to a zero.
    fn subtract_from_zero(&mut self, sign: u32) {
        self.terms[0].at = sign;
        self.terms.insert(
            0,
            Term { operand: self.nodes.zero(), is_inverse: false, at: 0, place: 0, height: 0, slash: 0 },
        );
    }

    /// Fills `terms` from left to right. Gives where the first sign stands, if there is a sign.
    fn collect(&mut self, root: &Entry) -> Option<u32> {
        self.terms.clear();
        let mut sign = None;
        let leftmost = Part { operand: root.left, is_inverse: false, at: 0, slash: 0 };
        self.open(root, leftmost, &mut sign);
        while let Some(part) = self.parts.pop() {
            if let Some(number) = self.opened(part.operand) {
                self.open(&self.entries[number], part, &mut sign);
                continue;
            }
            let operand = self.made_of(part.operand);
            self.terms.push(Term {
                operand,
                is_inverse: part.is_inverse,
                at: part.at,
                place: u32::try_from(self.terms.len() + 1).expect("a chain has under 2^30 terms"),
                height: self.nodes.height(operand),
                slash: part.slash,
            });
        }
        sign
    }

    /// Opens one entry in the place of a part; its right operand waits for its left one.
    fn open(&mut self, entry: &Entry, part: Part, sign: &mut Option<u32>) {
        match entry.kind {
            EntryKind::Negate => {
                sign.get_or_insert(entry.at);
                self.parts.push(Part { operand: entry.left, is_inverse: !part.is_inverse, ..part });
            }
            EntryKind::Binary(function) => {
                let inverts = matches!(function, Function::Sub | Function::Div);
                self.parts.push(Part {
                    operand: entry.right,
                    is_inverse: part.is_inverse != inverts,
                    at: entry.at,
                    slash: if function == Function::Div { entry.at } else { 0 },
                });
                self.parts.push(Part { operand: entry.left, ..part });
            }
        }
    }

    /// Pairs terms from the shallowest up, neighbours first, an odd one waiting for the next level:
    /// the result is as low as [`lowest`] says.
    fn pair(&mut self, functions: [Function; 2]) -> Term {
        let Self { terms, level, nodes, .. } = self;
        level.clear();
        let mut waiting = terms.drain(..).peekable();
        let mut height = 0;
        loop {
            let grouped = level.len();
            while let Some(term) = waiting.next_if(|term| term.height <= height) {
                level.push(term);
            }
            if grouped > 0 && grouped < level.len() {
                level.sort_by_key(|term| term.place);
            }
            match (level.as_slice(), waiting.peek()) {
                ([] | [_], Some(next)) => {
                    height = next.height;
                    continue;
                }
                ([whole], None) => return *whole,
                _ => {}
            }
            let count = level.len();
            for pair in 0..count / 2 {
                level[pair] = group(nodes, functions, level[2 * pair], level[2 * pair + 1]);
            }
            if count % 2 == 1 {
                level[count / 2] = level[count - 1];
            }
            level.truncate(count.div_ceil(2));
            height += 1;
        }
    }
}

/// The height of the lowest tree over terms, which come by height: ⌈log₂ Σ 2^height⌉.
fn lowest(terms: &[Term]) -> u32 {
    let (mut count, mut height) = (0u32, 0u32);
    for term in terms {
        while height < term.height && count > 1 {
            count = count.div_ceil(2);
            height += 1;
        }
        height = height.max(term.height);
        count += 1;
    }
    height + count.next_power_of_two().trailing_zeros()
}

/// Two neighbours become one. The operator that attaches the later one is the one that the node
/// stands for, and the other attaches the group: so each operator of a chain has its node.
fn group(nodes: &mut Nodes, [direct, inverse]: [Function; 2], first: Term, second: Term) -> Term {
    let (function, left, right) = match (first.is_inverse, second.is_inverse) {
        (false, false) | (true, true) => (direct, first, second),
        (false, true) => (inverse, first, second),
        (true, false) => (inverse, second, first),
    };
    let at = first.at.max(second.at);
    Term {
        operand: nodes.node(function, left.operand, right.operand, at),
        is_inverse: first.is_inverse && second.is_inverse,
        at: first.at.min(second.at),
        place: first.place.min(second.place),
        height: first.height.max(second.height) + 1,
        slash: 0,
    }
}
