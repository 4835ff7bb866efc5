//! The history: a Merkle mountain range over the leaves of everything that was executed.
//!
//! A range of `size` leaves is a row of perfect binary trees, one for each bit of `size`, the
//! largest first (P. Todd, *Merkle mountain ranges*, OpenTimestamps, 2012; Crosby & Wallach,
//! *Efficient data structures for tamper-evident logging*, USENIX Security 2009, on what such a log
//! proves). Only their roots, the peaks, are kept: at most 64 digests, whatever was executed. They
//! are part of the replicated state.
//!
//! * branch = digest in [`Kind::Branch`] of (left, right);
//! * root = digest in [`Kind::Root`] of (size as 8 bytes big-endian, peaks from left to right).
//!
//! The shape follows from the size alone, and the root covers the size. So position and size say
//! how many digests a path has and on which side each stands: a path has one form.

use crate::crypto::{Digest, Domain, Kind, Scope};

/// A history that grows.
///
/// Paths are given for leaves appended since the last [`forget`](History::forget), which its owner
/// calls before every batch: that bounds what is kept beside the peaks.
///
/// ```
/// use quorate_pbft::{crypto::{Digest, Scope}, history::{self, History}};
/// let scope = Scope { group: [1; 16], configuration: 0, algorithm: Default::default() };
/// let mut history = History::new(scope);
/// history.append(Digest([1; 32]));
/// history.forget();
/// let position = history.append(Digest([2; 32]));
/// history.append(Digest([3; 32]));
/// let path = history.path(position).expect("appended since");
/// let root = history::root_of(&scope, Digest([2; 32]), position, history.size(), &path);
/// assert_eq!(root, Some(history.root()));
/// assert_eq!(history.path(0), None);
/// ```
#[derive(Clone, Debug)]
pub struct History {
    scope: Scope,
    size: u64,
    /// Leaves that were forgotten: no path is given below this position.
    forgotten: u64,
    /// By height: the perfect trees that were made since, and the peaks before.
    levels: Vec<Level>,
}

/// Neighbouring perfect trees of one height.
#[derive(Clone, Debug, Default)]
struct Level {
    /// The index of the first one among all of this height.
    first: u64,
    digests: Vec<Digest>,
}

impl Level {
    fn get(&self, index: u64) -> Option<Digest> {
        let offset = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.digests.get(offset).copied()
    }
}

impl History {
    /// A history with no leaves.
    pub fn new(scope: Scope) -> Self {
        Self { scope, size: 0, forgotten: 0, levels: Vec::new() }
    }

    /// The history of `size` leaves with these `peaks`; none when there are not as many peaks as
    /// `size` has bits set.
    pub fn from_peaks(scope: Scope, size: u64, peaks: &[Digest]) -> Option<Self> {
        if usize::try_from(size.count_ones()) != Ok(peaks.len()) {
            return None;
        }
        let mut peaks = peaks.iter().rev().copied();
        let level = |height: u32| {
            let trees = size >> height;
            if trees & 1 == 1 {
                Level { first: trees - 1, digests: peaks.next().into_iter().collect() }
            } else {
                Level { first: trees, digests: Vec::new() }
            }
        };
        let levels = (0..u64::BITS - size.leading_zeros()).map(level).collect();
        Some(Self { scope, size, forgotten: size, levels })
    }

    /// The number of leaves. The next one gets this position.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The peaks, the highest mountain first.
    pub fn peaks(&self) -> Vec<Digest> {
        let levels = self.levels.iter().enumerate().rev();
        let peaks = levels.filter(|(height, _)| self.size >> height & 1 == 1);
        peaks.map(|(_, level)| *level.digests.last().expect("a peak is kept")).collect()
    }

    /// The digest that stands for the whole history.
    pub fn root(&self) -> Digest {
        root(&self.scope, self.size, &self.peaks())
    }

    /// Appends a leaf and gives its position.
    ///
    /// # Panics
    /// After 2^64 - 1 leaves.
    pub fn append(&mut self, leaf: Digest) -> u64 {
        let position = self.size;
        let mut tree = leaf;
        // Adding one carries through the trailing ones of the size, as in binary counting.
        for height in 0..=position.trailing_ones() {
            let height = height as usize;
            if height == self.levels.len() {
                self.levels.push(Level::default());
            }
            let left = self.levels[height].digests.last().copied();
            self.levels[height].digests.push(tree);
            if position >> height & 1 == 1 {
                let left = left.expect("the peak that this tree completes is kept");
                tree = branch(&self.scope, left, tree);
            }
        }
        self.size = position.checked_add(1).expect("nobody executes 2^64 operations");
        position
    }

    /// The digests that lead from the leaf at `position` to the [root](History::root): the
    /// siblings from the leaf upwards, then the other peaks from left to right. None when the leaf
    /// is not there or was forgotten.
    pub fn path(&self, position: u64) -> Option<Vec<Digest>> {
        let own = mountain(position, self.size).filter(|_| position >= self.forgotten)?;
        let sibling = |height: u32| {
            let level = &self.levels[height as usize];
            level.get(position >> height ^ 1).expect("made by or before a leaf that is kept")
        };
        let mut path: Vec<_> = (0..own.height).map(sibling).collect();
        let peaks = self.peaks().into_iter().enumerate();
        path.extend(peaks.filter(|(index, _)| *index != own.index).map(|(_, peak)| peak));
        Some(path)
    }

    /// Keeps the peaks only: from here on, paths are given for leaves still to come.
    pub fn forget(&mut self) {
        for (height, level) in self.levels.iter_mut().enumerate() {
            let trees = self.size >> height;
            let peaks = usize::from(trees & 1 == 1);
            level.digests.drain(..level.digests.len() - peaks);
            level.first = trees - peaks as u64;
        }
        self.forgotten = self.size;
    }
}

/// The root that `path` leads to from the leaf at `position` of a history of `size` leaves; none
/// when a path between them has another length. It proves the leaf to whoever trusts the root.
pub fn root_of(scope: &Scope, leaf: Digest, position: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    let own = mountain(position, size)?;
    let peaks = usize::try_from(size.count_ones()).ok()?;
    let height = usize::try_from(own.height).ok()?;
    if path.len() != height + peaks - 1 {
        return None;
    }
    let (siblings, others) = path.split_at(height);
    let mut peak = leaf;
    for (level, &sibling) in siblings.iter().enumerate() {
        let is_right = (position - own.start) >> level & 1 == 1;
        peak = if is_right { branch(scope, sibling, peak) } else { branch(scope, peak, sibling) };
    }
    let mut peaks = others.to_vec();
    peaks.insert(own.index, peak);
    Some(root(scope, size, &peaks))
}

/// One perfect tree of a history.
struct Mountain {
    /// Which one from the left.
    index: usize,
    /// The position of its first leaf.
    start: u64,
    /// The number of branches above each of its leaves.
    height: u32,
}

/// The mountain that the leaf at `position` stands in.
fn mountain(position: u64, size: u64) -> Option<Mountain> {
    let (mut index, mut start) = (0, 0);
    for height in (0..u64::BITS).rev().filter(|height| size >> height & 1 == 1) {
        if position - start < 1 << height {
            return Some(Mountain { index, start, height });
        }
        start += 1 << height;
        index += 1;
        if position < start {
            break;
        }
    }
    None
}

fn branch(scope: &Scope, left: Digest, right: Digest) -> Digest {
    scope.digest(Domain::new(Kind::Branch, 0), &[&left.0, &right.0])
}

fn root(scope: &Scope, size: u64, peaks: &[Digest]) -> Digest {
    let mut hasher = scope.hasher(Domain::new(Kind::Root, 0));
    hasher.update(&size.to_be_bytes());
    for peak in peaks {
        hasher.update(&peak.0);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::DigestAlgorithm;

    const SCOPE: Scope = Scope { group: [3; 16], configuration: 1, algorithm: DigestAlgorithm::Sha256 };

    fn leaf(number: u64) -> Digest {
        Digest::of(DigestAlgorithm::Sha256, &[&number.to_be_bytes()])
    }

    fn history(size: u64) -> History {
        let mut history = History::new(SCOPE);
        for number in 0..size {
            assert_eq!(history.append(leaf(number)), number);
        }
        history
    }

    /// The peak over `leaves`, by the definition.
    fn peak_by_halves(leaves: &[Digest]) -> Digest {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                branch(&SCOPE, peak_by_halves(left), peak_by_halves(right))
            }
        }
    }

    #[test]
    fn peaks_are_those_of_the_definition() {
        let leaves: Vec<_> = (0..11).map(leaf).collect();
        let expected = [&leaves[..8], &leaves[8..10], &leaves[10..]].map(peak_by_halves);
        assert_eq!(history(11).peaks(), expected);
        assert_eq!(history(0).root(), root(&SCOPE, 0, &[]));
        assert!(History::from_peaks(SCOPE, 10, &expected).is_none());
    }

    /// A history of `before + count` leaves that remembers the last `count`.
    fn grown(before: u64, count: u64) -> History {
        let mut history = history(before);
        history.forget();
        (before..before + count).for_each(|number| _ = history.append(leaf(number)));
        history
    }

    proptest! {
        #[test]
        fn every_remembered_leaf_has_a_path_to_the_root(before in 0..300u64, count in 0..80u64) {
            let history = grown(before, count);
            prop_assert_eq!(history.root(), super::tests::history(before + count).root());
            for position in before..before + count {
                let path = history.path(position).unwrap();
                let reached = root_of(&SCOPE, leaf(position), position, history.size(), &path);
                prop_assert_eq!(reached, Some(history.root()));
            }
            prop_assert!(history.path(before + count).is_none());
            prop_assert!(before == 0 || history.path(before - 1).is_none());
        }

        #[test]
        fn peaks_carry_a_history_over(before in 0..300u64, count in 0..80u64) {
            let first = history(before);
            let mut second = History::from_peaks(SCOPE, before, &first.peaks()).unwrap();
            prop_assert_eq!(first.root(), second.root());
            (before..before + count).for_each(|number| _ = second.append(leaf(number)));
            prop_assert_eq!(second.root(), history(before + count).root());
            let paths = |history: &History| {
                (before..before + count).map(|at| history.path(at)).collect::<Vec<_>>()
            };
            prop_assert_eq!(paths(&second), paths(&grown(before, count)));
        }

        #[test]
        fn another_leaf_position_size_or_path_misses_the_root(
            before in 0..100u64, count in 1..40u64, pick in any::<prop::sample::Index>(),
            bit in 0..256usize, other in 0..200u64,
        ) {
            let history = grown(before, count);
            let (root, size) = (Some(history.root()), history.size());
            let position = before + pick.index(usize::try_from(count).unwrap()) as u64;
            let path = history.path(position).unwrap();
            let digest = leaf(position);
            prop_assert_ne!(root_of(&SCOPE, leaf(size), position, size, &path), root);
            if other != position {
                prop_assert_ne!(root_of(&SCOPE, digest, other, size, &path), root);
            }
            if other != size {
                prop_assert_ne!(root_of(&SCOPE, digest, position, other, &path), root);
            }
            if !path.is_empty() {
                let mut wrong = path.clone();
                wrong[pick.index(path.len())].0[bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(root_of(&SCOPE, digest, position, size, &wrong), root);
                prop_assert_ne!(root_of(&SCOPE, digest, position, size, &path[1..]), root);
            }
        }

        #[test]
        fn any_numbers_give_a_root_or_none(position in any::<u64>(), size in any::<u64>()) {
            prop_assert_eq!(mountain(position, size).is_some(), position < size);
            let _ = root_of(&SCOPE, leaf(0), position, size, &[]);
        }
    }
}
