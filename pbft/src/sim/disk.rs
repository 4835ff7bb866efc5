//! A disk: it keeps what was synced, and of the rest whatever it likes.

use std::collections::{BTreeMap, VecDeque};

use super::random::Random;
use crate::group::Sequence;
use crate::replica::{JournalPosition, Record};

/// One replica's journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    records: VecDeque<(JournalPosition, Record)>,
    durable: JournalPosition,
    last: JournalPosition,
    /// Where the record behind each promise is, or was before something superseded it.
    promises: BTreeMap<(Promise, Sequence), JournalPosition>,
}

/// What a replica must not say before its record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Promise {
    /// PRE-PREPARE or PREPARE.
    Proposal,
    /// COMMIT.
    Prepared,
    /// CHECKPOINT.
    Checkpoint,
}

impl Disk {
    pub(super) fn append(&mut self, position: JournalPosition, record: Record) {
        assert_eq!(position, self.last.next(), "records come in order and without gaps");
        self.last = position;
        let promise = match &record {
            Record::PrePrepared(pre_prepare) => Some((Promise::Proposal, pre_prepare.sequence)),
            Record::Prepared { sequence, .. } => Some((Promise::Prepared, *sequence)),
            // A copy of the state is as good as the record that it can be brought back.
            Record::Checkpoint { sequence, .. } | Record::SnapshotEnd { sequence, .. } => {
                Some((Promise::Checkpoint, *sequence))
            }
            _ => None,
        };
        if let Some(promise) = promise {
            self.promises.entry(promise).or_insert(position);
        }
        self.records.push_back((position, record));
    }

    pub(super) fn last(&self) -> JournalPosition {
        self.last
    }

    pub(super) fn durable(&self) -> JournalPosition {
        self.durable
    }

    pub(super) fn sync(&mut self, position: JournalPosition) {
        self.durable = self.durable.max(position);
    }

    pub(super) fn truncate(&mut self, before: JournalPosition) {
        assert!(before <= self.durable, "what is not durable cannot replace anything");
        while self.records.front().is_some_and(|(position, _)| *position < before) {
            self.records.pop_front();
        }
    }

    /// A crash: some of what was not synced may have reached the disk all the same, as a prefix.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let unsynced = self.last.0 - self.durable.0;
        let survives = JournalPosition(self.durable.0 + random.below(unsynced + 1));
        self.records.retain(|(position, _)| *position <= survives);
        self.promises.retain(|_, position| *position <= survives);
        self.durable = survives;
        self.last = survives;
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (JournalPosition, Record)> {
        self.records.iter().cloned()
    }

    /// Whether a crash cannot take the record behind a promise away.
    pub(super) fn holds(&self, promise: Promise, sequence: Sequence) -> bool {
        self.promises.get(&(promise, sequence)).is_some_and(|position| *position <= self.durable)
    }
}
