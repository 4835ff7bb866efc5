//! Memory of the last few ticks, with the room taken once.

use std::collections::VecDeque;

/// The last `length` values, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub(crate) struct Recent<T>(VecDeque<T>);

impl<T: Copy> Recent<T> {
    pub(crate) fn new(length: usize) -> Self {
        Self(VecDeque::with_capacity(length))
    }

    /// Takes a value in and returns the one that is `length` values older. With a smaller length than before, what
    /// is too old goes.
    pub(crate) fn push(&mut self, value: T, length: usize) -> Option<T> {
        let mut oldest = None;
        while self.0.len() >= length.max(1) {
            oldest = self.0.pop_front();
        }
        if length > 0 {
            self.0.push_back(value);
        }
        oldest
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// A stored state is input: as many values as are kept, with room for the rest.
    pub(crate) fn fit(&mut self, length: usize) {
        self.0.drain(..self.0.len().saturating_sub(length));
        self.0.reserve_exact(length - self.0.len());
    }
}

/// The largest value of the last `length` ticks: a queue in which every value is over all later ones, so
/// that a tick costs amortised constant time.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub(crate) struct Peak<T> {
    ticks: u64,
    /// Tick and value, both in order: ticks rise, values fall.
    falling: VecDeque<(u64, T)>,
}

impl<T: Copy + PartialOrd> Peak<T> {
    /// Takes a value in and returns the largest of the last `length`, this one among them.
    pub(crate) fn push(&mut self, value: T, length: usize) -> T {
        self.ticks = self.ticks.wrapping_add(1);
        let oldest = self.ticks.saturating_sub(length.max(1) as u64);
        while self.falling.front().is_some_and(|(tick, _)| *tick <= oldest) {
            self.falling.pop_front();
        }
        while self.falling.back().is_some_and(|(_, last)| *last <= value) {
            self.falling.pop_back();
        }
        self.falling.push_back((self.ticks, value));
        self.falling.front().map_or(value, |(_, largest)| *largest)
    }

    /// A stored state is input: only what a push could have left is kept.
    pub(crate) fn fit(&mut self, length: usize, is_value: impl Fn(T) -> bool) {
        let mut last = None;
        self.falling.retain(|&(tick, value)| {
            let follows = last.is_none_or(|(before, larger)| tick > before && value < larger);
            let kept = follows && tick <= self.ticks && is_value(value);
            if kept {
                last = Some((tick, value));
            }
            kept
        });
        self.falling.drain(..self.falling.len().saturating_sub(length));
        self.falling.reserve_exact(length - self.falling.len());
    }
}
