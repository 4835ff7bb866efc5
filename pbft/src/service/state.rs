//! State as pages with a digest tree (TOCS 5.3): copy-on-write, so that a checkpoint costs what changed,
//! and two states are compared without looking at what they have in common.
//!
//! A *place* is a level and an index: at level 0 it is a page, above it a partition, whose children are the
//! places from `16 · index` on of the level below. One partition of the highest level ([`LEVELS`]) holds all
//! pages. The digest of a partition is made over its level and its children's digests, with two exceptions,
//! which make it depend on the pages and on nothing else:
//!
//! * what holds no page has the digest zero and is left out of its parent's: cleared pages leave no trace;
//! * a partition of partitions whose only child is its first one has that child's digest: a tree with more
//!   levels on top has the digest that it had without them.
//!
//! So it does not matter how deep the tree of a state is, or was: a small state's digest is at the same time
//! that of the first place of every level above its own. And a digest that is not zero was made at one level,
//! which its domain holds: whoever knows a place's digest can check a [`Branch`], whatever level that is from.

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::{Digest, Domain, Kind, Scope};

/// The most bytes that one page may hold.
pub const PAGE_BYTES_MAX: usize = 1 << 16;

/// Pages that a state may have.
const PAGES_MAX: u64 = 1 << 30;

/// Children of a partition. Few, so that where single pages differ, few digests have to be made anew for a
/// checkpoint, or moved to find the pages: for 1 % of 1 GiB in pages of 4 KiB, 0.2 % of it. With 64 it were
/// 0.4 %.
pub(crate) const FAN_OUT: usize = 16;

/// The level of the partition that holds all pages.
pub(crate) const LEVELS: u32 = 8;

/// An array of pages. A page is any number of bytes up to [`PAGE_BYTES_MAX`], and those that were
/// never written are empty.
#[derive(Clone, Debug, Default)]
pub struct State {
    tree: Snapshot,
    /// What pages held before the operation that is being executed wrote them.
    undo: Option<Vec<(u64, Option<Bytes>)>>,
}

/// The pages at one moment. Cloning is cheap and shares everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The level of `root`; 0 when there is no page yet.
    depth: u32,
    root: Option<Arc<Partition>>,
    /// Of all pages.
    bytes: u64,
}

/// What the digest of a partition is made over: the children that are not empty, with their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Where the digest was made: at the partition's own level, or at a lower one if everything between has
    /// only first children.
    pub level: u32,
    /// By index among the sixteen; ascending, and no digest is zero.
    pub children: Vec<(u8, Digest)>,
}

/// A node of the tree. Its digest is kept until something below it changes.
#[derive(Clone, Debug)]
struct Partition {
    digest: Option<Digest>,
    children: Children,
}

#[derive(Clone, Debug)]
enum Children {
    Partitions(Vec<Option<Arc<Partition>>>),
    Pages(Vec<Option<PageSlot>>),
}

/// A page and its digest, kept until the page changes.
#[derive(Clone, Debug)]
struct PageSlot {
    bytes: Bytes,
    digest: Option<Digest>,
}

impl State {
    /// The page's bytes; empty when it was never written.
    #[must_use]
    pub fn page(&self, index: u64) -> &[u8] {
        self.tree.page(index)
    }

    /// Replaces a page. Writing nothing makes it as if it had never been written.
    ///
    /// # Panics
    /// When there are more than [`PAGE_BYTES_MAX`] bytes or the index is 2^30 or more. In an
    /// operation that is a panic of the service: it is undone, and the reply says so.
    pub fn write(&mut self, index: u64, bytes: &[u8]) {
        assert!(
            bytes.len() <= PAGE_BYTES_MAX,
            "page {index} of {} bytes is over {PAGE_BYTES_MAX}",
            bytes.len()
        );
        assert!(index < PAGES_MAX, "page {index} is over {}", PAGES_MAX - 1);
        let new = PageSlot::new(Bytes::copy_from_slice(bytes), None);
        let old = self.tree.replace(index, new);
        if let Some(undo) = &mut self.undo {
            undo.push((index, old));
        }
    }

    /// Puts in a page whose digest is known; says whether such a page may be.
    pub(crate) fn put(&mut self, index: u64, bytes: &[u8], digest: Digest) -> bool {
        let fits = !bytes.is_empty() && bytes.len() <= PAGE_BYTES_MAX && index < PAGES_MAX;
        if fits {
            self.tree.replace(index, PageSlot::new(Bytes::copy_from_slice(bytes), Some(digest)));
        }
        fits
    }

    /// Empties every page of a place.
    pub(crate) fn clear(&mut self, level: u32, index: u64) {
        self.tree.clear(level, index);
    }

    /// Bytes of all pages.
    pub(crate) fn bytes(&self) -> u64 {
        self.tree.bytes
    }

    /// From here on, writes can be undone.
    pub(crate) fn begin(&mut self) {
        // The vector is kept from operation to operation: no allocation for each.
        self.undo.get_or_insert_default().clear();
    }

    /// Undoes all writes since [`State::begin`], the last first.
    pub(crate) fn undo(&mut self) {
        let mut undo = self.undo.take().unwrap_or_default();
        while let Some((index, old)) = undo.pop() {
            self.tree.replace(index, old.and_then(|bytes| PageSlot::new(bytes, None)));
        }
    }

    /// Digests what changed, and shares all pages as they are now.
    pub(crate) fn snapshot(&mut self, scope: &Scope) -> (Snapshot, Digest) {
        let digest = self.tree.digest(scope);
        (self.tree.clone(), digest)
    }
}

impl From<Snapshot> for State {
    fn from(tree: Snapshot) -> Self {
        Self { tree, undo: None }
    }
}

impl Branch {
    /// The digest of a place with this branch; `None` when no place has it.
    pub(crate) fn digest(&self, scope: &Scope) -> Option<Digest> {
        let child = |(index, digest): &(u8, Digest)| usize::from(*index) < FAN_OUT && *digest != Digest::ZERO;
        let sound = (1..=LEVELS).contains(&self.level)
            && self.children.is_sorted_by(|a, b| a.0 < b.0)
            && self.children.iter().all(child);
        // The digest of an only first child was made further below.
        let made_here = self.level == 1 || !matches!(self.children[..], [(0, _)]);
        (sound && made_here && !self.children.is_empty()).then(|| combine(scope, self.level, &self.children))
    }
}

impl PageSlot {
    /// None for a page without bytes: it is as if it were never written.
    fn new(bytes: Bytes, digest: Option<Digest>) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self { bytes, digest })
    }
}

impl Snapshot {
    /// The page's bytes; empty when it was never written.
    #[must_use]
    pub fn page(&self, index: u64) -> &[u8] {
        self.slot(index).map_or(&[], |page| &page.bytes)
    }

    fn slot(&self, index: u64) -> Option<&PageSlot> {
        match &self.partition(1, index / FAN_OUT as u64)?.children {
            Children::Pages(pages) => pages[child_of(index, 0)].as_ref(),
            Children::Partitions(_) => None,
        }
    }

    /// The node of a partition, or the one below it that has all its pages because the tree is no deeper.
    fn partition(&self, level: u32, index: u64) -> Option<&Partition> {
        let mut node = self.root.as_ref()?;
        if level >= self.depth {
            return (index == 0).then_some(node);
        }
        if index >= capacity(self.depth - level) {
            return None;
        }
        for above in (level..self.depth).rev() {
            let Children::Partitions(partitions) = &node.children else { return None };
            node = partitions[child_of(index, above - level)].as_ref()?;
        }
        Some(node)
    }

    /// The digest of a place; zero when nothing is there.
    pub(crate) fn digest_at(&self, level: u32, index: u64) -> Digest {
        let digest = match level {
            0 => self.slot(index).map(|page| page.digest),
            _ => self.partition(level, index).map(|partition| partition.digest),
        };
        digest.map_or(Digest::ZERO, |digest| digest.expect("what is shared was digested before"))
    }

    /// What the digest of a partition is made over; `None` when it is empty.
    pub(crate) fn branch(&self, level: u32, index: u64) -> Option<Branch> {
        let mut level = level.min(self.depth);
        let mut node = self.partition(level, index)?;
        loop {
            let digests = (0u8..).zip(node.digests());
            let children: Vec<_> = digests.filter(|(_, digest)| *digest != Digest::ZERO).collect();
            match (&node.children, &children[..]) {
                (_, []) => return None,
                (Children::Partitions(partitions), [(0, _)]) => node = partitions[0].as_ref()?,
                _ => return Some(Branch { level, children }),
            }
            level -= 1;
        }
    }

    /// The page's bytes, shared; none when it is empty.
    pub(crate) fn page_bytes(&self, index: u64) -> Option<Bytes> {
        self.slot(index).map(|page| page.bytes.clone())
    }

    /// The first page at `from` or after it that is not empty.
    #[must_use]
    pub(crate) fn next_page(&self, from: u64) -> Option<(u64, Bytes)> {
        fn search(node: &Partition, level: u32, base: u64, from: u64) -> Option<(u64, Bytes)> {
            let width = capacity(level - 1);
            let first = usize::try_from(from.saturating_sub(base) / width).ok()?;
            for child in first..FAN_OUT {
                let start = base + child as u64 * width;
                let found = match &node.children {
                    Children::Pages(pages) => pages[child].as_ref().map(|page| (start, page.bytes.clone())),
                    Children::Partitions(partitions) => partitions[child]
                        .as_ref()
                        .and_then(|partition| search(partition, level - 1, start, from)),
                };
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        let root = self.root.as_ref()?;
        if from >= capacity(self.depth) {
            return None;
        }
        search(root, self.depth, 0, from)
    }

    /// Puts a page in; gives back what was there.
    fn replace(&mut self, index: u64, new: Option<PageSlot>) -> Option<Bytes> {
        if new.is_none() && index >= capacity(self.depth) {
            return None;
        }
        while self.depth == 0 || index >= capacity(self.depth) {
            self.depth += 1;
            let mut root = Partition::empty(self.depth);
            if let (Children::Partitions(partitions), Some(old)) = (&mut root.children, self.root.take()) {
                partitions[0] = Some(old);
            }
            self.root = Some(Arc::new(root));
        }
        let added = new.as_ref().map_or(0, |page| page.bytes.len() as u64);
        let mut node = Arc::make_mut(self.root.as_mut()?);
        for level in (0..self.depth).rev() {
            node.digest = None;
            let child = child_of(index, level);
            match &mut node.children {
                Children::Pages(pages) => {
                    let old = std::mem::replace(&mut pages[child], new).map(|page| page.bytes);
                    self.bytes = self.bytes + added - old.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    return old;
                }
                Children::Partitions(partitions) => {
                    let next = partitions[child].get_or_insert_with(|| Arc::new(Partition::empty(level)));
                    node = Arc::make_mut(next);
                }
            }
        }
        unreachable!("the lowest level holds pages")
    }

    fn clear(&mut self, level: u32, index: u64) {
        if level >= self.depth {
            if index == 0 {
                *self = Self::default();
            }
            return;
        }
        if index >= capacity(self.depth - level) {
            return;
        }
        let Some(root) = &mut self.root else { return };
        let mut node = Arc::make_mut(root);
        for above in (level..self.depth).rev() {
            node.digest = None;
            let child = child_of(index, above - level);
            match &mut node.children {
                Children::Pages(pages) => {
                    self.bytes -= pages[child].take().map_or(0, |page| page.bytes.len() as u64);
                    return;
                }
                Children::Partitions(partitions) if above == level => {
                    self.bytes -= partitions[child].take().map_or(0, |gone| gone.bytes());
                    return;
                }
                Children::Partitions(partitions) => match &mut partitions[child] {
                    Some(next) => node = Arc::make_mut(next),
                    None => return,
                },
            }
        }
    }

    /// The digest of all pages, whatever order they were written in and however deep the tree has
    /// grown on the way.
    fn digest(&mut self, scope: &Scope) -> Digest {
        self.root.as_mut().map_or(Digest::ZERO, |root| digest_of(root, self.depth, scope))
    }
}

impl Partition {
    fn empty(level: u32) -> Self {
        let children = if level == 1 {
            Children::Pages(vec![None; FAN_OUT])
        } else {
            Children::Partitions(vec![None; FAN_OUT])
        };
        Self { digest: None, children }
    }

    /// Of its children; zero where nothing is.
    fn digests(&self) -> [Digest; FAN_OUT] {
        let kept = |digest: Option<Digest>| digest.expect("what is shared was digested before");
        std::array::from_fn(|child| match &self.children {
            Children::Pages(pages) => pages[child].as_ref().map_or(Digest::ZERO, |page| kept(page.digest)),
            Children::Partitions(partitions) => {
                partitions[child].as_ref().map_or(Digest::ZERO, |partition| kept(partition.digest))
            }
        })
    }

    /// Of all pages below.
    fn bytes(&self) -> u64 {
        match &self.children {
            Children::Pages(pages) => pages.iter().flatten().map(|page| page.bytes.len() as u64).sum(),
            Children::Partitions(partitions) => {
                partitions.iter().flatten().map(|partition| partition.bytes()).sum()
            }
        }
    }
}

/// How many pages a place of a level holds.
fn capacity(level: u32) -> u64 {
    (FAN_OUT as u64).pow(level)
}

/// Which child of its ancestor that is `level + 1` levels above holds the place `index`.
fn child_of(index: u64, level: u32) -> usize {
    usize::try_from(index / capacity(level) % FAN_OUT as u64).expect("below the fan-out")
}

/// The digest of a page's bytes.
pub(crate) fn page_digest(scope: &Scope, bytes: &[u8]) -> Digest {
    #[cfg(test)]
    tests::PAGES_HASHED.set(tests::PAGES_HASHED.get() + 1);
    scope.digest(Domain::new(Kind::Page, 0), &[bytes])
}

/// The digest of a partition with these children; see the module on its two exceptions.
fn combine(scope: &Scope, level: u32, children: &[(u8, Digest)]) -> Digest {
    match children {
        [] => return Digest::ZERO,
        [(0, only)] if level > 1 => return *only,
        _ => {}
    }
    #[cfg(test)]
    tests::PARTITIONS_HASHED.set(tests::PARTITIONS_HASHED.get() + 1);
    let mut hasher = scope.hasher(Domain::new(Kind::Partition, u64::from(level)));
    for (child, digest) in children {
        hasher.update(&[*child]);
        hasher.update(&digest.0);
    }
    hasher.finish()
}

fn digest_of(node: &mut Arc<Partition>, level: u32, scope: &Scope) -> Digest {
    if let Some(digest) = node.digest {
        return digest;
    }
    let node = Arc::make_mut(node);
    match &mut node.children {
        Children::Pages(pages) => {
            for page in pages.iter_mut().flatten() {
                page.digest.get_or_insert_with(|| page_digest(scope, &page.bytes));
            }
        }
        Children::Partitions(partitions) => {
            for partition in partitions.iter_mut().flatten() {
                digest_of(partition, level - 1, scope);
            }
        }
    }
    let mut children = [(0, Digest::ZERO); FAN_OUT];
    let mut count = 0;
    for (child, digest) in (0u8..).zip(node.digests()) {
        if digest != Digest::ZERO {
            children[count] = (child, digest);
            count += 1;
        }
    }
    let digest = combine(scope, level, &children[..count]);
    node.digest = Some(digest);
    digest
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::crypto::DigestAlgorithm;

    const SCOPE: Scope = Scope { group: [1; 16], configuration: 0, algorithm: DigestAlgorithm::Sha256 };

    thread_local! {
        pub(super) static PAGES_HASHED: Cell<usize> = const { Cell::new(0) };
        pub(super) static PARTITIONS_HASHED: Cell<usize> = const { Cell::new(0) };
    }

    fn digest(pages: &[(u64, &[u8])]) -> Digest {
        let mut state = State::default();
        for (index, bytes) in pages {
            state.write(*index, bytes);
        }
        state.snapshot(&SCOPE).1
    }

    #[test]
    fn digest_depends_on_pages_and_nothing_else() {
        let one = digest(&[(0, b"a"), (70, b"b"), (5000, b"c")]);
        assert_eq!(one, digest(&[(5000, b"c"), (70, b"x"), (0, b"a"), (70, b"b")]));
        assert_eq!(digest(&[(0, b"a")]), digest(&[(9999, b"z"), (0, b"a"), (9999, b"")]));
        assert_eq!(digest(&[]), digest(&[(3, b"z"), (3, b"")]));
        assert_ne!(one, digest(&[(0, b"a"), (71, b"b"), (5000, b"c")]));
        assert_ne!(digest(&[(0, b"a")]), digest(&[(64, b"a")]));
        assert_ne!(digest(&[(0, b"a")]), digest(&[(16, b"a")]));
        assert_ne!(digest(&[(0, b"a")]), digest(&[(1, b"a")]));
    }

    #[test]
    fn shallow_tree_has_the_digest_of_every_first_place_above_it() {
        let mut state = State::default();
        state.write(3, b"a");
        let (small, digest) = state.snapshot(&SCOPE);
        state.write(16 * 16 * 16, b"far");
        state.write(16 * 16 * 16, b"");
        let (grown, _) = state.snapshot(&SCOPE);
        for level in 1..=LEVELS {
            assert_eq!((small.digest_at(level, 0), small.digest_at(level, 1)), (digest, Digest::ZERO));
            assert_eq!((grown.digest_at(level, 0), grown.digest_at(level, 1)), (digest, Digest::ZERO));
            let branch = grown.branch(level, 0).expect("there is a page");
            assert_eq!((branch.level, branch.children.len()), (1, 1));
            assert_eq!((Some(branch.clone()), branch.digest(&SCOPE)), (small.branch(level, 0), Some(digest)));
        }
    }

    #[test]
    fn branch_that_no_place_has_is_refused() {
        let (some, other) = (Digest([1; 32]), Digest([2; 32]));
        let digest =
            |level, children: &[(u8, Digest)]| Branch { level, children: children.to_vec() }.digest(&SCOPE);
        assert!(digest(1, &[(0, some)]).is_some());
        assert!(digest(2, &[(1, some)]).is_some());
        assert_eq!(digest(2, &[(0, some)]), None, "it was made below");
        assert_eq!(digest(1, &[]), None);
        assert_eq!(digest(1, &[(16, some)]), None);
        assert_eq!(digest(1, &[(0, Digest::ZERO), (1, some)]), None);
        assert_eq!(digest(1, &[(1, some), (0, other)]), None);
        assert_eq!(digest(1, &[(1, some), (1, other)]), None);
        assert_eq!((digest(0, &[(1, some)]), digest(LEVELS + 1, &[(1, some)])), (None, None));
        assert_ne!(digest(2, &[(1, some)]), digest(3, &[(1, some)]));
    }

    #[test]
    fn snapshot_keeps_what_later_writes_change() {
        let mut state = State::default();
        state.write(1, b"old");
        let (snapshot, digest) = state.snapshot(&SCOPE);
        state.write(1, b"new");
        state.write(100, b"more");
        assert_eq!((snapshot.page(1), state.page(1)), (&b"old"[..], &b"new"[..]));
        state.write(1, b"old");
        state.write(100, b"");
        assert_eq!(state.snapshot(&SCOPE).1, digest);
    }

    #[test]
    fn undo_brings_back_every_page_written_since_begin() {
        let mut state = State::default();
        state.write(1, b"a");
        let before = state.snapshot(&SCOPE).1;
        state.begin();
        for (index, bytes) in [(1, &b"b"[..]), (2, b"c"), (1, b""), (1, b"d")] {
            state.write(index, bytes);
        }
        state.undo();
        assert_eq!((state.page(1), state.page(2), state.bytes()), (&b"a"[..], &b""[..], 1));
        assert_eq!(state.snapshot(&SCOPE).1, before);
    }

    #[test]
    fn pages_are_found_in_order() {
        let mut state = State::default();
        let pages = [0, 15, 16, 63, 64, 4096, 300_000, PAGES_MAX - 1];
        for index in pages {
            state.write(index, b"x");
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((index, _)) = state.tree.next_page(from) {
            found.push(index);
            from = index + 1;
        }
        assert_eq!(found, pages);
    }

    #[test]
    fn clearing_a_place_empties_its_pages_and_no_others() {
        for (level, index, gone) in [
            (0, 17, &[17][..]),
            (1, 1, &[16, 17]),
            (2, 0, &[0, 16, 17]),
            (3, 0, &[0, 16, 17, 300]),
            (4, 1, &[70_000]),
            (2, 9, &[]),
            (LEVELS, 0, &[0, 16, 17, 300, 70_000]),
            (LEVELS, 1, &[]),
        ] {
            let pages = [0, 16, 17, 300, 70_000];
            let mut state = State::default();
            pages.iter().for_each(|page| state.write(*page, b"xy"));
            state.snapshot(&SCOPE);
            state.clear(level, index);
            let left: Vec<_> = pages.iter().filter(|page| !gone.contains(page)).copied().collect();
            let expected: Vec<_> = left.iter().map(|page| (*page, &b"xy"[..])).collect();
            assert_eq!(state.snapshot(&SCOPE).1, digest(&expected), "clear({level}, {index})");
            assert_eq!(state.bytes(), 2 * left.len() as u64);
        }
    }

    /// Nodes of a tree that another one does not share.
    fn unshared(one: &Arc<Partition>, other: Option<&Arc<Partition>>) -> usize {
        if other.is_some_and(|other| Arc::ptr_eq(one, other)) {
            return 0;
        }
        let Children::Partitions(children) = &one.children else { return 1 };
        let others = other.map(|other| &other.children);
        let count = |(child, node): (usize, &Option<Arc<Partition>>)| {
            let other = match others {
                Some(Children::Partitions(others)) => others[child].as_ref(),
                _ => None,
            };
            node.as_ref().map_or(0, |node| unshared(node, other))
        };
        1 + children.iter().enumerate().map(count).sum::<usize>()
    }

    #[test]
    fn checkpoint_costs_what_changed() {
        let mut state = State::default();
        (0..20_000u64).for_each(|page| state.write(page, &page.to_be_bytes()));
        let (before, _) = state.snapshot(&SCOPE);
        assert_eq!(PAGES_HASHED.take(), 20_000);
        PARTITIONS_HASHED.set(0);
        assert_eq!(state.snapshot(&SCOPE).1, before.digest_at(LEVELS, 0));
        assert_eq!((PAGES_HASHED.take(), PARTITIONS_HASHED.take()), (0, 0), "nothing changed");
        // Ten pages that have nothing but the root in common, and one of them twice.
        (0..10).for_each(|part| state.write(part * 2000, b"new"));
        state.write(0, b"newer");
        let (after, _) = state.snapshot(&SCOPE);
        assert_eq!(PAGES_HASHED.take(), 10);
        let depth = after.depth as usize;
        assert!(PARTITIONS_HASHED.take() <= 10 * depth);
        let (after, before) = (after.root.expect("pages"), before.root.expect("pages"));
        assert!(unshared(&after, Some(&before)) <= 10 * depth, "a copy was made of what did not change");
    }
}
