//! The ready nodes, best first: a bitset over places in the order of rank.
//!
//! Ranks stand still while a graph runs, so that one sort at the start replaces a heap: putting a
//! node in, taking it out and finding the best are each a few words, whatever the width.

use crate::graph::NodeId;

/// Level 0 has a bit for each place; a bit of level k + 1 says that a word of level k is not zero.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    levels: Vec<Vec<u64>>,
    /// The place of each node.
    place: Vec<u32>,
    /// The node of each place.
    node: Vec<NodeId>,
    len: usize,
}

impl Ready {
    /// The largest rank first; equal ranks by number, so that a run is the same each time.
    pub(super) fn new(ranks: &[u64]) -> Self {
        let node = descending(ranks);
        let mut place = vec![0u32; ranks.len()];
        for (at, node) in (0u32..).zip(&node) {
            place[node.index()] = at;
        }
        let mut levels = Vec::new();
        let mut words = ranks.len().div_ceil(64).max(1);
        loop {
            levels.push(vec![0u64; words]);
            if words == 1 {
                break;
            }
            words = words.div_ceil(64);
        }
        Self { levels, place, node, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The node must not be in it.
    #[inline]
    pub(super) fn insert(&mut self, node: NodeId) {
        let mut at = self.place[node.index()] as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let before = *word;
            *word |= 1 << (at % 64);
            if before != 0 {
                break; // the levels above know of this word
            }
            at /= 64;
        }
        self.len += 1;
    }

    /// The node must be in it.
    #[inline]
    pub(super) fn remove(&mut self, node: NodeId) {
        let mut at = self.place[node.index()] as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                break;
            }
            at /= 64;
        }
        self.len -= 1;
    }

    #[inline]
    pub(super) fn first(&self) -> Option<NodeId> {
        if self.len == 0 {
            return None;
        }
        let place =
            self.levels.iter().rev().fold(0usize, |at, level| at * 64 + level[at].trailing_zeros() as usize);
        Some(self.node[place])
    }

    /// Best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let place = self.at_or_after(next)?;
            next = place + 1;
            Some(self.node[place])
        })
    }

    fn at_or_after(&self, place: usize) -> Option<usize> {
        let mut at = place;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(at / 64)? & (u64::MAX << (at % 64));
            if word != 0 {
                let found = at / 64 * 64 + word.trailing_zeros() as usize;
                return Some(
                    self.levels[..height]
                        .iter()
                        .rev()
                        .fold(found, |at, level| at * 64 + level[at].trailing_zeros() as usize),
                );
            }
            at = at / 64 + 1;
        }
        None
    }
}

/// Node numbers by falling rank, stable: by comparison when few, else by digits (LSD radix).
fn descending(ranks: &[u64]) -> Vec<NodeId> {
    const DIGIT: u32 = 11;
    let count = u32::try_from(ranks.len()).expect("a graph has under 2^29 nodes");
    let mut nodes: Vec<NodeId> = (0..count).map(NodeId::new).collect();
    let largest = ranks.iter().copied().max().unwrap_or(0);
    if nodes.len() < 2048 {
        nodes.sort_by_key(|node| std::cmp::Reverse(ranks[node.index()]));
        return nodes;
    }
    // Ranks in nanoseconds need not be told apart beyond 22 bits of the longest path.
    let shift = (64 - largest.leading_zeros()).saturating_sub(2 * DIGIT);
    let mut from: Vec<u64> = nodes
        .iter()
        .map(|node| {
            let key = (largest - ranks[node.index()]) >> shift;
            key << 32 | u64::from(node.get())
        })
        .collect();
    let mut to = vec![0u64; from.len()];
    for pass in 0..2 {
        let digit = |entry: u64| (entry >> (32 + pass * DIGIT) & ((1 << DIGIT) - 1)) as usize;
        let mut starts = [0usize; 1 << DIGIT];
        for &entry in &from {
            starts[digit(entry)] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for &entry in &from {
            let start = &mut starts[digit(entry)];
            to[*start] = entry;
            *start += 1;
        }
        std::mem::swap(&mut from, &mut to);
    }
    for (node, entry) in nodes.iter_mut().zip(from) {
        *node = NodeId::new(u32::try_from(entry & u64::from(u32::MAX)).expect("masked to 32 bits"));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_by_rank_then_number(ranks in proptest::collection::vec(0u64..50, 0..5000)) {
            let nodes = descending(&ranks);
            let mut expected = nodes.clone();
            expected.sort_by_key(|node| (std::cmp::Reverse(ranks[node.index()]), *node));
            prop_assert_eq!(nodes, expected);
        }

        #[test]
        fn long_ranks_are_in_order_as_far_as_22_bits_of_the_longest_tell(
            ranks in proptest::collection::vec(any::<u64>(), 2048..4000), shift in 0u32..64,
        ) {
            let ranks: Vec<u64> = ranks.into_iter().map(|rank| rank >> shift).collect();
            let largest = ranks.iter().copied().max().unwrap_or(0);
            let told = |node: &NodeId| (largest - ranks[node.index()]) >> (64 - largest.leading_zeros()).saturating_sub(22);
            let nodes = descending(&ranks);
            let mut expected: Vec<NodeId> = nodes.clone();
            expected.sort_by_key(|node| (told(node), *node));
            prop_assert_eq!(nodes, expected);
        }

        #[test]
        fn ready_is_a_sorted_set(
            ranks in proptest::collection::vec(0u64..1000, 1..6000),
            picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..300),
        ) {
            let mut ready = Ready::new(&ranks);
            let mut model = std::collections::BTreeSet::new();
            for pick in picks {
                let node = NodeId::new(u32::try_from(pick.index(ranks.len())).expect("small"));
                let key = (std::cmp::Reverse(ranks[node.index()]), node);
                if model.remove(&key) {
                    ready.remove(node);
                } else {
                    model.insert(key);
                    ready.insert(node);
                }
                prop_assert_eq!(ready.first(), model.first().map(|key| key.1));
                prop_assert_eq!(ready.len(), model.len());
            }
            let all: Vec<NodeId> = model.iter().map(|key| key.1).collect();
            prop_assert_eq!(ready.iter().collect::<Vec<_>>(), all);
        }
    }
}
