//! Hash-consing: the number of an operation that was seen before.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::function::Function;

use super::Ref;

/// Operations by function and operands, in open addressing.
///
/// A byte of its hash stands for each operation in groups of eight, of which one word is compared at
/// once (as in Abseil's Swiss tables, without their vector instructions): a million operations have
/// a megabyte of bytes to look through, which stays near the processor, and the numbers behind them
/// are read only where a byte is equal.
///
/// The hash is keyed anew for each table: text from outside must not be able to choose operations
/// that collide. What a table answers does not depend on its key.
pub(super) struct Table {
    /// A byte for each slot, [`EMPTY`] or 7 bits of the hash. A power of two long.
    groups: Vec<u64>,
    numbers: Vec<u32>,
    keys: Keys,
    len: usize,
}

/// What makes two operations the same one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) code: u8,
    pub(super) left: Ref,
    pub(super) right: Ref,
}

impl Operation {
    pub(super) fn new(function: Function, left: Ref, right: Ref) -> Self {
        Self { code: function as u8, left, right }
    }
}

const GROUP: usize = 8;
const ONES: u64 = u64::MAX / 0xff;
/// The top bit of a byte that stands for nothing.
const EMPTY: u64 = ONES << 7;

impl Table {
    pub(super) fn with_capacity(operations: usize) -> Self {
        let groups = (operations * 8 / 7 / GROUP + 1).next_power_of_two();
        Self { groups: vec![EMPTY; groups], numbers: vec![0; groups * GROUP], keys: Keys::default(), len: 0 }
    }

    /// The number of an equal operation, else `next`, which is kept. `known` gives the operation of
    /// a number that was kept.
    #[inline]
    pub(super) fn find_or_insert(
        &mut self,
        operation: Operation,
        next: u32,
        known: impl Fn(u32) -> Operation,
    ) -> u32 {
        // An eighth stays empty, so that every search ends.
        if self.len >= self.numbers.len() / GROUP * (GROUP - 1) {
            self.grow(&known);
        }
        let hash = self.keys.hash(operation);
        let byte = hash >> 57;
        let mut group = self.home(hash);
        loop {
            let word = self.groups[group];
            // A byte that is equal becomes zero, whose borrow reaches its top bit. A byte above one that
            // is equal may be found in vain.
            let differs = word ^ (ONES * byte);
            let mut equal = differs.wrapping_sub(ONES) & !differs & EMPTY;
            while equal != 0 {
                let number = self.numbers[slot(group, equal)];
                if known(number) == operation {
                    return number;
                }
                equal &= equal - 1;
            }
            let empty = word & EMPTY;
            if empty != 0 {
                self.put(group, empty, byte, next);
                return next;
            }
            group = (group + 1) & (self.groups.len() - 1);
        }
    }

    /// The group at which the search for a hash begins.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        let low = usize::try_from(hash & u64::from(u32::MAX)).expect("32 bits fit a usize");
        low & (self.groups.len() - 1)
    }

    /// Keeps a number in the first empty slot of a group.
    #[inline]
    fn put(&mut self, group: usize, empty: u64, byte: u64, number: u32) {
        let shift = empty.trailing_zeros() / 8 * 8;
        let word = &mut self.groups[group];
        *word = *word & !(0xff << shift) | byte << shift;
        self.numbers[slot(group, empty)] = number;
        self.len += 1;
    }

    #[cold]
    fn grow(&mut self, known: impl Fn(u32) -> Operation) {
        let twice = self.groups.len() * 2;
        let groups = std::mem::replace(&mut self.groups, vec![EMPTY; twice]);
        let numbers = std::mem::replace(&mut self.numbers, vec![0; twice * GROUP]);
        self.len = 0;
        for (place, number) in numbers.into_iter().enumerate() {
            if groups[place / GROUP] >> (place % GROUP * 8) & 0x80 != 0 {
                continue;
            }
            let hash = self.keys.hash(known(number));
            let mut group = self.home(hash);
            while self.groups[group] & EMPTY == 0 {
                group = (group + 1) & (twice - 1);
            }
            self.put(group, self.groups[group] & EMPTY, hash >> 57, number);
        }
    }
}

/// The slot of the lowest top bit that is set.
#[inline]
fn slot(group: usize, bits: u64) -> usize {
    group * GROUP + (bits.trailing_zeros() / 8) as usize
}

/// Random keys of a hash of two folded multiplications: the high half of a product depends on every
/// bit of both factors.
#[derive(Clone, Copy)]
pub(super) struct Keys([u64; 2]);

impl Default for Keys {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(1u8);
        Self([seed, fold(seed, 0x9e37_79b9_7f4a_7c15) | 1])
    }
}

impl Keys {
    #[inline]
    fn hash(&self, operation: Operation) -> u64 {
        let operands = u64::from(operation.left.0) << 32 | u64::from(operation.right.0);
        let once = fold(operands ^ self.0[0], self.0[1]);
        fold(once ^ u64::from(operation.code), self.0[0] | 1)
    }
}

/// For maps of what is hashed in few words.
impl BuildHasher for Keys {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.0[0], key: self.0[1] }
    }
}

pub(super) struct Folded {
    state: u64,
    key: u64,
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key);
    }

    #[inline]
    fn write_i64(&mut self, word: i64) {
        self.write_u64(word.cast_unsigned());
    }

    #[inline]
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.state, self.key)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let low = u64::try_from(product & u128::from(u64::MAX)).expect("masked to 64 bits");
    let high = u64::try_from(product >> 64).expect("shifted to 64 bits");
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::NodeId;
    use crate::plan::Target;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn a_table_is_a_map(
            codes in prop::collection::vec((0u8..5, 0u32..9, 0u32..9), 0..600),
            capacity in 0usize..40,
        ) {
            let mut table = Table::with_capacity(capacity);
            let mut kept: Vec<Operation> = Vec::new();
            let mut model: HashMap<(u8, u32, u32), u32> = HashMap::new();
            for key in codes {
                let node = |number| Ref::new(Target::Node(NodeId::new(number)));
                let operation = Operation { code: key.0, left: node(key.1), right: node(key.2) };
                let next = u32::try_from(kept.len()).expect("small");
                let number = table.find_or_insert(operation, next, |number| kept[number as usize]);
                prop_assert_eq!(number, *model.entry(key).or_insert(next));
                if number == next {
                    kept.push(operation);
                }
            }
        }
    }
}
