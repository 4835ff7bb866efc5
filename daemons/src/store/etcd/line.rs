//! The changes of one watch on their way to its receiver.

use crate::store::{Change, StoreError, Watch};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// A channel, and what does not fit into it yet.
///
/// What had happened before the watch began may wait here for room, however much it is: the receiver has not
/// had the time to be slow. What happens since then must find room, or the receiver is too slow.
pub(super) struct Line {
    to: mpsc::Sender<Result<Change, StoreError>>,
    /// Each with whether it has happened since.
    waiting: VecDeque<(Change, bool)>,
    /// How many of those have.
    late: usize,
    capacity: usize,
}

/// The receiver has fallen behind too far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Line {
    /// One whose receiver may fall behind by `capacity` changes.
    pub(super) fn new(capacity: usize) -> (Self, Watch) {
        let capacity = capacity.max(1);
        // One place more: the last is for saying why the watch ends.
        let (to, watch) = mpsc::channel(capacity + 1);
        (Self { to, waiting: VecDeque::new(), late: 0, capacity }, watch)
    }

    /// Puts a change at the end.
    pub(super) fn push(&mut self, change: Change, since: bool) {
        self.waiting.push_back((change, since));
        self.late += usize::from(since);
    }

    /// Hands on what there is room for.
    pub(super) fn settle(&mut self) -> Result<(), TooSlow> {
        while !self.waiting.is_empty()
            && let Ok(mut places) = self.to.try_reserve_many(2)
        {
            let place = places.next().expect("two were reserved");
            place.send(Ok(pop(&mut self.waiting, &mut self.late)));
        }
        // Behind changes of the past, new ones wait as they do in the channel.
        let may_wait = if self.late < self.waiting.len() { self.capacity } else { 0 };
        if self.late > may_wait { Err(TooSlow) } else { Ok(()) }
    }

    /// Hands on what waits, as there comes room for it. Returns when the receiver is gone; what was handed on
    /// before it is dropped stays handed on.
    pub(super) async fn feed(&mut self) {
        self.drain().await;
        self.to.closed().await;
    }

    /// Hands on all that waits, unless the receiver goes before.
    async fn drain(&mut self) {
        while !self.waiting.is_empty() {
            let Ok(mut places) = self.to.reserve_many(2).await else { return };
            let place = places.next().expect("two were reserved");
            place.send(Ok(pop(&mut self.waiting, &mut self.late)));
        }
    }

    /// Hands on what waits and then why it ends, unless the receiver goes before.
    pub(super) async fn end(mut self, error: StoreError) {
        self.drain().await;
        let _ = self.to.send(Err(error)).await; // into the place that was kept for it
    }
}

fn pop(waiting: &mut VecDeque<(Change, bool)>, late: &mut usize) -> Change {
    let (change, since) = waiting.pop_front().expect("something waits");
    *late -= usize::from(since);
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn change(revision: u64) -> Change {
        Change::Deleted { key: "a".into(), revision: Revision(revision) }
    }

    async fn all(watch: &mut Watch) -> (Vec<u64>, Option<StoreError>) {
        let mut got = Vec::new();
        while let Some(change) = watch.recv().await {
            match change {
                Ok(change) => got.push(change.revision().0),
                Err(end) => return (got, Some(end)),
            }
        }
        (got, None)
    }

    #[tokio::test]
    async fn the_past_waits_for_room() {
        let (mut line, mut watch) = Line::new(2);
        for revision in 1..=10 {
            line.push(change(revision), false);
        }
        assert_eq!(line.settle(), Ok(()));
        for revision in 11..=12 {
            line.push(change(revision), true);
            assert_eq!(line.settle(), Ok(()), "behind the past it may wait");
        }
        let (got, end) = tokio::join!(all(&mut watch), line.end(StoreError::Compacted(Revision(13)))).0;
        assert_eq!(got, (1..=12).collect::<Vec<_>>());
        assert!(matches!(end, Some(StoreError::Compacted(Revision(13)))));
    }

    #[tokio::test]
    async fn what_happens_since_must_find_room() {
        let (mut line, mut watch) = Line::new(2);
        for revision in 1..=2 {
            line.push(change(revision), true);
            assert_eq!(line.settle(), Ok(()));
        }
        line.push(change(3), true);
        assert_eq!(line.settle(), Err(TooSlow));
        let (got, end) = tokio::join!(all(&mut watch), line.end(StoreError::Compacted(Revision(4)))).0;
        assert_eq!(got, [1, 2, 3]);
        assert!(matches!(end, Some(StoreError::Compacted(Revision(4)))));
    }

    #[tokio::test]
    async fn behind_the_past_no_more_than_the_capacity_waits() {
        let (mut line, _watch) = Line::new(2);
        for revision in 1..=10 {
            line.push(change(revision), false);
        }
        for revision in 11..=12 {
            line.push(change(revision), true);
            assert_eq!(line.settle(), Ok(()));
        }
        line.push(change(13), true);
        assert_eq!(line.settle(), Err(TooSlow));
    }

    #[tokio::test]
    async fn a_dropped_receiver_ends_it() {
        let (mut line, watch) = Line::new(2);
        for revision in 1..=10 {
            line.push(change(revision), false);
        }
        drop(watch);
        line.feed().await;
        line.end(StoreError::Compacted(Revision(1))).await;
    }
}
