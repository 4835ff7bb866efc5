//! Hash-consing: the number of an operation that was seen before.

use std::hash::{BuildHasher, RandomState};

use crate::function::Function;

use super::Ref;

/// Operations by function and operands, in open addressing.
///
/// The hash is keyed anew for each table: text from outside must not be able to choose operations
/// that collide. What a table answers does not depend on its key.
pub(super) struct Table {
    /// `EMPTY`, or a number below 32 bits of its hash: what cannot be equal is told apart without a
    /// look at the operation. A power of two long.
    slots: Vec<u64>,
    keys: [u64; 2],
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

const EMPTY: u64 = u64::MAX;
const NUMBER: u64 = u32::MAX as u64;

impl Table {
    pub(super) fn with_capacity(operations: usize) -> Self {
        let seed = RandomState::new();
        Self {
            slots: vec![EMPTY; (operations * 2).next_power_of_two().max(8)],
            keys: [seed.hash_one(1u8), seed.hash_one(2u8) | 1],
            len: 0,
        }
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
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let hash = self.hash(operation);
        let mask = self.slots.len() - 1;
        let mut at = place(hash) & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                self.slots[at] = hash | u64::from(next);
                self.len += 1;
                return next;
            }
            if slot & !NUMBER == hash {
                let number = u32::try_from(slot & NUMBER).expect("masked to 32 bits");
                if known(number) == operation {
                    return number;
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let longer = vec![EMPTY; self.slots.len() * 2];
        let shorter = std::mem::replace(&mut self.slots, longer);
        let mask = self.slots.len() - 1;
        for slot in shorter.into_iter().filter(|slot| *slot != EMPTY) {
            let mut at = place(slot) & mask;
            while self.slots[at] != EMPTY {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }

    /// Two folded multiplications: the high half of a product depends on every bit of both factors.
    /// The lower 32 bits are left free.
    #[inline]
    fn hash(&self, operation: Operation) -> u64 {
        let operands = u64::from(operation.left.0) << 32 | u64::from(operation.right.0);
        let once = fold(operands ^ self.keys[0], self.keys[1]);
        fold(once ^ u64::from(operation.code), self.keys[0] | 1) & !NUMBER
    }
}

/// The slot at which the search for a hash begins.
#[inline]
fn place(hash: u64) -> usize {
    usize::try_from(hash >> 32).expect("32 bits fit a usize")
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let low = u64::try_from(product & u128::from(u64::MAX)).expect("masked to 64 bits");
    let high = u64::try_from(product >> 64).expect("shifted to 64 bits");
    low ^ high
}
