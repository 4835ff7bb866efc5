//! A sorted map of bytes in pages of the state: a B+ tree.
//!
//! | page | what |
//! | --- | --- |
//! | [`HEADER`] | the root's page and the first page that is not in use, 8 bytes each; empty when the map is |
//! | from `HEADER + 1` on | nodes |
//!
//! A node is its level (1 byte, 0 for leaves) and its entries in the order of their keys: length of
//! the key and of the value (2 bytes each), key, value. In a leaf the values are the map's; above it
//! a value is the page of a child (8 bytes), and its key is the lowest that the child may hold; the
//! first key of a node is empty instead: its child holds whatever is below the second one.
//!
//! * A node of more than [`NODE_BYTES_MAX`] bytes is cut in halves, unless it has one entry only: so a
//!   page holds many small entries, or one large one.
//! * A node that has shrunk below a quarter of that joins a neighbour, if both fit into one page.
//! * Pages in use have no gaps between them: the last page moves into one that became free. Whoever
//!   removes everything leaves no page behind.
//!
//! A change reads and writes one page a level, and few more when nodes are cut, join or move.

use std::ops::{ControlFlow, Range};

use bytes::{Buf as _, BufMut as _};

use crate::service::State;

/// A node of more bytes than this is cut.
const NODE_BYTES_MAX: usize = 4096;
/// A node of fewer bytes than this looks for a neighbour to join.
const NODE_BYTES_MIN: usize = NODE_BYTES_MAX / 4;
/// Where the tree begins.
const HEADER: u64 = 1;

/// The value of a key.
pub(super) fn get<'a>(state: &'a State, key: &[u8]) -> Option<&'a [u8]> {
    let mut page = root(state)?;
    loop {
        let node = state.page(page);
        if is_leaf(node) {
            return entries(node).find(|entry| entry.key == key).map(|entry| entry.value);
        }
        page = child_for(node, key).page();
    }
}

/// Shows the entries from a key on, in order, until `visit` breaks off.
pub(super) fn scan<'a>(
    state: &'a State,
    from: &[u8],
    visit: &mut impl FnMut(&'a [u8], &'a [u8]) -> ControlFlow<()>,
) {
    if let Some(root) = root(state) {
        let _ = scan_below(state, root, from, visit);
    }
}

/// Goes as deep as the tree is high.
fn scan_below<'a>(
    state: &'a State,
    page: u64,
    from: &[u8],
    visit: &mut impl FnMut(&'a [u8], &'a [u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let node = state.page(page);
    if is_leaf(node) {
        return entries(node)
            .filter(|entry| entry.key >= from)
            .try_for_each(|entry| visit(entry.key, entry.value));
    }
    let first = child_for(node, from).at.start;
    entries(node)
        .filter(|entry| entry.at.start >= first)
        .try_for_each(|entry| scan_below(state, entry.page(), from, visit))
}

/// Gives a key a value, in the place of the one that it has.
pub(super) fn insert(state: &mut State, key: &[u8], value: &[u8]) {
    Editor::open(state).change(key, Some(value));
}

/// Takes a key out, if it is there.
pub(super) fn remove(state: &mut State, key: &[u8]) {
    Editor::open(state).change(key, None);
}

fn root(state: &State) -> Option<u64> {
    state.page(HEADER).try_get_u64().ok()
}

fn is_leaf(node: &[u8]) -> bool {
    node[0] == 0
}

struct Entry<'a> {
    /// Its bytes in the node.
    at: Range<usize>,
    key: &'a [u8],
    value: &'a [u8],
}

impl Entry<'_> {
    /// The child that it stands for.
    fn page(&self) -> u64 {
        u64::from_be_bytes(self.value.try_into().expect("above the leaves a value is a page"))
    }
}

fn entries(node: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut start = 1;
    std::iter::from_fn(move || {
        let entry = (start < node.len()).then(|| entry_at(node, start))?;
        start = entry.at.end;
        Some(entry)
    })
}

fn entry_at(node: &[u8], start: usize) -> Entry<'_> {
    let mut rest = &node[start..];
    let (key_bytes, value_bytes) = (usize::from(rest.get_u16()), usize::from(rest.get_u16()));
    let (key, rest) = rest.split_at(key_bytes);
    Entry { at: start..start + 4 + key_bytes + value_bytes, key, value: &rest[..value_bytes] }
}

/// The child whose keys include `key`: the last one whose lowest key is not above it.
fn child_for<'a>(node: &'a [u8], key: &[u8]) -> Entry<'a> {
    let child = entries(node).take_while(|entry| entry.key <= key).last();
    child.expect("the first key is not above any")
}

fn put_entry(node: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    node.put_u16(u16::try_from(key.len()).expect("keys are shorter"));
    node.put_u16(u16::try_from(value.len()).expect("values are shorter"));
    node.put_slice(key);
    node.put_slice(value);
}

/// Puts an entry, or nothing, in the place of some bytes of a node.
fn replace(node: &mut Vec<u8>, at: Range<usize>, entry: Option<(&[u8], &[u8])>) {
    let mut bytes = Vec::new();
    if let Some((key, value)) = entry {
        put_entry(&mut bytes, key, value);
    }
    node.splice(at, bytes);
}

/// Gives the first child of a node above the leaves another lowest key. Says which key was the first.
fn set_first_key(node: &mut Vec<u8>, key: &[u8]) -> Vec<u8> {
    let Some(first) = entries(node).next() else { return Vec::new() };
    let (old, at, value) = (first.key.to_vec(), first.at.clone(), first.value.to_vec());
    if !is_leaf(node) {
        replace(node, at, Some((key, &value)));
    }
    old
}

/// Cuts a node in halves, as long as there are any that are too large.
fn cut(node: Vec<u8>, pieces: &mut Vec<Vec<u8>>) {
    let starts: Vec<_> = entries(&node).skip(1).map(|entry| entry.at.start).collect();
    let middle = node.len() / 2;
    let Some(&at) =
        starts.iter().min_by_key(|at| at.abs_diff(middle)).filter(|_| node.len() > NODE_BYTES_MAX)
    else {
        pieces.push(node);
        return;
    };
    let mut right = vec![node[0]];
    right.extend_from_slice(&node[at..]);
    let mut left = node;
    left.truncate(at);
    cut(left, pieces);
    cut(right, pieces);
}

/// What a change made of a node.
enum Changed {
    /// Its parent need not know.
    Inside,
    /// It is so small that it may join a neighbour.
    Thin,
    /// It was cut: the lowest keys and the pages of the nodes that follow it now.
    Cut(Vec<(Vec<u8>, u64)>),
}

/// One change of the tree.
struct Editor<'a> {
    state: &'a mut State,
    /// 0 for an empty tree.
    root: u64,
    /// The first page that is not in use.
    end: u64,
    /// Pages below `end` that this change made free.
    free: Vec<u64>,
}

impl<'a> Editor<'a> {
    fn open(state: &'a mut State) -> Self {
        let mut header = state.page(HEADER);
        let root = header.try_get_u64().unwrap_or(0);
        let end = header.try_get_u64().unwrap_or(HEADER + 1);
        Self { state, root, end, free: Vec::new() }
    }

    fn change(mut self, key: &[u8], value: Option<&[u8]>) {
        let before = (self.root, self.end);
        if self.root == 0 {
            if value.is_none() {
                return;
            }
            self.root = self.fresh_page();
            self.state.write(self.root, &[0]);
        }
        let mut changed = self.change_below(self.root, key, value);
        while let Changed::Cut(others) = changed {
            let mut node = vec![self.state.page(self.root)[0] + 1];
            put_entry(&mut node, &[], &self.root.to_be_bytes());
            for (low, page) in others {
                put_entry(&mut node, &low, &page.to_be_bytes());
            }
            self.root = self.fresh_page();
            changed = self.store(self.root, node);
        }
        self.lower_root();
        self.close_gaps();
        if before != (self.root, self.end) {
            let header = [self.root.to_be_bytes(), self.end.to_be_bytes()].concat();
            self.state.write(HEADER, if self.root == 0 { &[] } else { &header });
        }
    }

    /// Goes as deep as the tree is high.
    fn change_below(&mut self, page: u64, key: &[u8], value: Option<&[u8]>) -> Changed {
        let mut node = self.state.page(page).to_vec();
        if is_leaf(&node) {
            let found = entries(&node).find(|entry| entry.key >= key);
            let at = match found {
                Some(entry) if entry.key == key => entry.at,
                Some(entry) => entry.at.start..entry.at.start,
                None => node.len()..node.len(),
            };
            replace(&mut node, at, value.map(|value| (key, value)));
            return self.store(page, node);
        }
        let child = child_for(&node, key);
        let (child_page, at) = (child.page(), child.at);
        match self.change_below(child_page, key, value) {
            Changed::Inside => return Changed::Inside,
            Changed::Cut(others) => {
                let mut added = Vec::new();
                for (low, page) in others {
                    put_entry(&mut added, &low, &page.to_be_bytes());
                }
                node.splice(at.end..at.end, added);
            }
            Changed::Thin => {
                if !self.join(&mut node, at.start) {
                    return Changed::Inside;
                }
            }
        }
        self.store(page, node)
    }

    /// Writes a node, and cuts it if need be.
    fn store(&mut self, page: u64, node: Vec<u8>) -> Changed {
        let is_thin = node.len() < NODE_BYTES_MIN;
        let mut pieces = Vec::new();
        cut(node, &mut pieces);
        let mut others = Vec::new();
        for (index, mut piece) in pieces.into_iter().enumerate() {
            let page = if index == 0 { page } else { self.fresh_page() };
            if index > 0 {
                others.push((set_first_key(&mut piece, &[]), page));
            }
            self.state.write(page, &piece);
        }
        match (others.is_empty(), is_thin) {
            (false, _) => Changed::Cut(others),
            (true, true) => Changed::Thin,
            (true, false) => Changed::Inside,
        }
    }

    /// Joins the child whose entry begins at `start` with a neighbour, or drops it when nothing is
    /// in it. Says whether the node changed.
    fn join(&mut self, node: &mut Vec<u8>, start: usize) -> bool {
        let children: Vec<_> = entries(node).map(|entry| (entry.at.clone(), entry.page())).collect();
        let thin = children.iter().position(|(at, _)| at.start == start).expect("it is a child of the node");
        let page = children[thin].1;
        if self.state.page(page).len() == 1 {
            self.free.push(page);
            replace(node, children[thin].0.clone(), None);
            set_first_key(node, &[]);
            return true;
        }
        let pairs = [thin.checked_sub(1).map(|left| (left, thin)), Some((thin, thin + 1))];
        for (left, right) in pairs.into_iter().flatten().filter(|(_, right)| *right < children.len()) {
            let (left_page, right_page) = (children[left].1, children[right].1);
            let mut second = self.state.page(right_page).to_vec();
            set_first_key(&mut second, entry_at(node, children[right].0.start).key);
            let joined = [self.state.page(left_page), &second[1..]].concat();
            if joined.len() <= NODE_BYTES_MAX {
                self.state.write(left_page, &joined);
                self.free.push(right_page);
                replace(node, children[right].0.clone(), None);
                return true;
            }
        }
        false
    }

    /// Drops roots that have one child, or nothing in them.
    fn lower_root(&mut self) {
        while self.root != 0 {
            let node = self.state.page(self.root);
            let mut children = entries(node);
            let next = match (is_leaf(node), children.next(), children.next()) {
                (_, None, _) => 0,
                (false, Some(only), None) => only.page(),
                _ => return,
            };
            self.free.push(self.root);
            self.root = next;
        }
    }

    fn fresh_page(&mut self) -> u64 {
        self.end += 1;
        self.end - 1
    }

    /// Moves the last pages into those that became free.
    fn close_gaps(&mut self) {
        let mut free = std::mem::take(&mut self.free);
        free.sort_unstable();
        while let Some(gap) = free.pop() {
            self.end -= 1;
            if gap < self.end {
                let node = self.state.page(self.end).to_vec();
                self.redirect(&node, self.end, gap);
                self.state.write(gap, &node);
            }
            self.state.write(self.end, &[]);
        }
    }

    /// Lets whoever points at a node point to another page.
    fn redirect(&mut self, node: &[u8], from: u64, to: u64) {
        if self.root == from {
            self.root = to;
            return;
        }
        // Any key below the node leads there; the first one is found as fast as any.
        let mut below = node;
        while !is_leaf(below) {
            below = self.state.page(entry_at(below, 1).page());
        }
        let key = entry_at(below, 1).key.to_vec();
        let mut page = self.root;
        loop {
            let parent = self.state.page(page);
            let child = child_for(parent, &key);
            if child.page() == from {
                let (mut parent, end) = (parent.to_vec(), child.at.end);
                parent[end - 8..end].copy_from_slice(&to.to_be_bytes());
                self.state.write(page, &parent);
                return;
            }
            page = child.page();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// All entries, and what must hold of every node on the way.
    fn check(state: &State) -> BTreeMap<Vec<u8>, Vec<u8>> {
        fn walk(
            state: &State,
            page: u64,
            (low, high): (&[u8], Option<&[u8]>),
            seen: &mut Vec<u64>,
            all: &mut BTreeMap<Vec<u8>, Vec<u8>>,
        ) -> u8 {
            seen.push(page);
            let node = state.page(page);
            let found: Vec<_> = entries(node).collect();
            assert!(!found.is_empty(), "page {page} is in the tree and empty");
            assert!(node.len() <= NODE_BYTES_MAX || found.len() == 1, "page {page} is too large");
            assert!(is_leaf(node) || found[0].key.is_empty(), "the first key of {page} says nothing");
            assert!(found.is_sorted_by(|a, b| a.key < b.key), "page {page} is in order");
            for (index, entry) in found.iter().enumerate() {
                if is_leaf(node) {
                    assert!(entry.key >= low && high.is_none_or(|high| entry.key < high), "bounds of {page}");
                    all.insert(entry.key.to_vec(), entry.value.to_vec());
                } else {
                    let first = if index == 0 { low } else { entry.key };
                    let next = found.get(index + 1).map(|next| next.key).or(high);
                    let level = walk(state, entry.page(), (first, next), seen, all);
                    assert_eq!(level + 1, node[0], "leaves are all on one level");
                }
            }
            node[0]
        }
        let (mut seen, mut all) = (Vec::new(), BTreeMap::new());
        if let Some(root) = root(state) {
            walk(state, root, (&[], None), &mut seen, &mut all);
            seen.sort_unstable();
            let end = u64::from_be_bytes(state.page(HEADER)[8..].try_into().expect("8 bytes"));
            assert_eq!(seen, (HEADER + 1..end).collect::<Vec<_>>(), "every page is in use, once");
            assert!(state.page(end).is_empty(), "no page is in use at the end");
        }
        all
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let short = prop::collection::vec(0..4u8, 0..4);
        let long = (0..40u8, 900..1030usize).prop_map(|(first, length)| vec![first; length]);
        prop_oneof![4 => short, 4 => (0..2000u16).prop_map(|key| key.to_be_bytes().to_vec()), 1 => long]
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![8 => 0..40usize, 4 => 300..900usize, 1 => 2000..33_000usize]
            .prop_map(|length| vec![7; length])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn tree_holds_what_a_sorted_map_holds(
            changes in prop::collection::vec((key(), prop::option::weighted(0.6, value())), 1..400),
            from in key(),
        ) {
            let (mut state, mut model) = (State::default(), BTreeMap::new());
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        insert(&mut state, &key, &value);
                        model.insert(key, value);
                    }
                    None => {
                        // Whatever is next to it, so that removals hit.
                        let key = model.range(key.clone()..).next().map_or(key, |(key, _): (&Vec<u8>, _)| key.clone());
                        remove(&mut state, &key);
                        model.remove(&key);
                    }
                }
            }
            prop_assert_eq!(check(&state), model.clone());
            for (key, value) in &model {
                prop_assert_eq!(get(&state, key), Some(&value[..]));
            }
            let mut found = Vec::new();
            scan(&state, &from, &mut |key, _| {
                found.push(key.to_vec());
                ControlFlow::Continue(())
            });
            prop_assert_eq!(found, model.range(from..).map(|(key, _)| key.clone()).collect::<Vec<_>>());
            for key in model.keys() {
                remove(&mut state, key);
                check(&state);
            }
            prop_assert!(state.page(HEADER).is_empty(), "whoever removes everything leaves nothing");
        }
    }

    #[test]
    fn many_keys_make_a_tree_of_several_levels() {
        let mut state = State::default();
        let keys: Vec<_> = (0..3000u64).map(|key| (key * 7919 % 3000).to_be_bytes().repeat(20)).collect();
        for key in &keys {
            insert(&mut state, key, &[1; 20]);
        }
        assert_eq!(check(&state).len(), keys.len());
        let levels = state.page(root(&state).expect("it is not empty"))[0];
        assert_eq!(levels, 2, "some twenty entries go into a page");
        for key in &keys {
            remove(&mut state, key);
        }
        assert!((0..400).all(|page| state.page(page).is_empty()));
    }
}
