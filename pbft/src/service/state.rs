//! State as pages with a digest tree: copy-on-write, so that a checkpoint costs what changed.

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::{Digest, Domain, Kind, Scope};

/// The most bytes that one page may hold.
pub const PAGE_BYTES_MAX: usize = 1 << 16;

/// Children of a partition. Wide, so that the tree is flat: three levels hold 262,144 pages.
const FAN_OUT: usize = 64;

/// The most levels of partitions above the pages; 64^5 pages are 2^30.
const DEPTH_MAX: u32 = 5;

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
    /// Levels of partitions above the pages; 0 when there is no page yet.
    depth: u32,
    root: Option<Arc<Partition>>,
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
        assert!(index < capacity(DEPTH_MAX), "page {index} is over {}", capacity(DEPTH_MAX) - 1);
        let new = (!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes));
        let old = self.tree.replace(index, new);
        if let Some(undo) = &mut self.undo {
            undo.push((index, old));
        }
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
            self.tree.replace(index, old);
        }
    }

    /// Digests what changed, and shares all pages as they are now.
    pub(crate) fn snapshot(&mut self, scope: &Scope) -> (Snapshot, Digest) {
        let digest = self.tree.digest(scope);
        (self.tree.clone(), digest)
    }
}

impl Snapshot {
    /// The page's bytes; empty when it was never written.
    #[must_use]
    pub fn page(&self, index: u64) -> &[u8] {
        if index >= capacity(self.depth) {
            return &[];
        }
        let mut node = self.root.as_ref();
        for level in (0..self.depth).rev() {
            let Some(partition) = node else { return &[] };
            let child = child_of(index, level);
            match &partition.children {
                Children::Partitions(partitions) => node = partitions[child].as_ref(),
                Children::Pages(pages) => {
                    return pages[child].as_ref().map_or(&[], |page| &page.bytes);
                }
            }
        }
        &[]
    }

    /// The first page at `from` or after it that is not empty.
    #[must_use]
    pub(crate) fn next_page(&self, from: u64) -> Option<(u64, Bytes)> {
        fn search(node: &Partition, level: u32, base: u64, from: u64) -> Option<(u64, Bytes)> {
            let width = capacity(level);
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
        search(root, self.depth - 1, 0, from)
    }

    /// Puts a page in; gives back what was there.
    fn replace(&mut self, index: u64, new: Option<Bytes>) -> Option<Bytes> {
        if new.is_none() && index >= capacity(self.depth) {
            return None;
        }
        while self.depth == 0 || index >= capacity(self.depth) {
            let mut root = Partition::empty(self.depth);
            if let (Children::Partitions(partitions), Some(old)) = (&mut root.children, self.root.take()) {
                partitions[0] = Some(old);
            }
            self.root = Some(Arc::new(root));
            self.depth += 1;
        }
        let mut node = Arc::make_mut(self.root.as_mut().expect("made above"));
        for level in (0..self.depth).rev() {
            node.digest = None;
            let child = child_of(index, level);
            match &mut node.children {
                Children::Pages(pages) => {
                    let slot = new.map(|bytes| PageSlot { bytes, digest: None });
                    return std::mem::replace(&mut pages[child], slot).map(|page| page.bytes);
                }
                Children::Partitions(partitions) => {
                    let next = partitions[child].get_or_insert_with(|| Arc::new(Partition::empty(level - 1)));
                    node = Arc::make_mut(next);
                }
            }
        }
        unreachable!("the lowest level holds pages")
    }

    /// The digest of all pages, whatever order they were written in and however deep the tree has
    /// grown on the way.
    fn digest(&mut self, scope: &Scope) -> Digest {
        self.root.as_mut().map_or(Digest::ZERO, |root| digest_of(root, self.depth - 1, scope))
    }
}

impl Partition {
    fn empty(level: u32) -> Self {
        let children = if level == 0 {
            Children::Pages(vec![None; FAN_OUT])
        } else {
            Children::Partitions(vec![None; FAN_OUT])
        };
        Self { digest: None, children }
    }
}

/// How many pages `depth` levels of partitions hold.
fn capacity(depth: u32) -> u64 {
    (FAN_OUT as u64).pow(depth)
}

/// Which child of a partition at `level` holds page `index`.
fn child_of(index: u64, level: u32) -> usize {
    usize::try_from(index / capacity(level) % FAN_OUT as u64).expect("below the fan-out")
}

/// An empty partition has the digest zero, and a partition whose only child is its first one has
/// that child's digest: so neither cleared pages nor a tree that grew and shrank leave a trace.
fn digest_of(node: &mut Arc<Partition>, level: u32, scope: &Scope) -> Digest {
    if let Some(digest) = node.digest {
        return digest;
    }
    let node = Arc::make_mut(node);
    let mut present = 0;
    let mut only_first = Digest::ZERO;
    let mut hasher = scope.hasher(Domain::new(Kind::Partition, u64::from(level)));
    let mut add = |child: usize, digest: Digest| {
        if digest == Digest::ZERO {
            return;
        }
        hasher.update(&[u8::try_from(child).expect("below the fan-out")]);
        hasher.update(&digest.0);
        present += 1;
        only_first = if child == 0 && level > 0 { digest } else { Digest::ZERO };
    };
    match &mut node.children {
        Children::Pages(pages) => {
            for (child, page) in pages.iter_mut().enumerate() {
                if let Some(page) = page {
                    let digest = *page
                        .digest
                        .get_or_insert_with(|| scope.digest(Domain::new(Kind::Page, 0), &[&page.bytes]));
                    add(child, digest);
                }
            }
        }
        Children::Partitions(partitions) => {
            for (child, partition) in partitions.iter_mut().enumerate() {
                if let Some(partition) = partition {
                    add(child, digest_of(partition, level - 1, scope));
                }
            }
        }
    }
    let digest = if present == 0 {
        Digest::ZERO
    } else if present == 1 && only_first != Digest::ZERO {
        only_first
    } else {
        hasher.finish()
    };
    node.digest = Some(digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::DigestAlgorithm;

    const SCOPE: Scope = Scope { group: [1; 16], configuration: 0, algorithm: DigestAlgorithm::Sha256 };

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
        assert_ne!(digest(&[(0, b"a")]), digest(&[(1, b"a")]));
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
        assert_eq!((state.page(1), state.page(2)), (&b"a"[..], &b""[..]));
        assert_eq!(state.snapshot(&SCOPE).1, before);
    }

    #[test]
    fn pages_are_found_in_order() {
        let mut state = State::default();
        for index in [0, 63, 64, 4096, 300_000] {
            state.write(index, b"x");
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((index, _)) = state.tree.next_page(from) {
            found.push(index);
            from = index + 1;
        }
        assert_eq!(found, [0, 63, 64, 4096, 300_000]);
    }
}
