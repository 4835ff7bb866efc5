//! A disk: it keeps what was synced, and of the rest whatever it likes.

use std::collections::{BTreeMap, VecDeque};

use super::random::Random;
use crate::crypto::Digest;
use crate::group::{Configuration, Group, Sequence, View};
use crate::message::Certificate;
use crate::replica::{JournalPosition, Record, decide};

/// One replica's journal.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    group: Group,
    /// The configurations that the records led to, and where they begin; at least one.
    eras: Vec<(JournalPosition, Era)>,
    records: VecDeque<(JournalPosition, Record)>,
    durable: JournalPosition,
    last: JournalPosition,
    /// Where the record behind each promise is, or was before something superseded it.
    promises: BTreeMap<(u64, Promise, View, Sequence), JournalPosition>,
}

/// The time of one configuration.
#[derive(Clone, Copy, Debug)]
struct Era {
    number: u64,
    start: Sequence,
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
    /// VIEW-CHANGE.
    ViewChange,
    /// NEW-VIEW.
    NewView,
}

impl Disk {
    pub(super) fn new(group: Group, configuration: &Configuration) -> Self {
        let era = Era { number: configuration.number, start: configuration.start };
        Self {
            group,
            eras: vec![(JournalPosition(0), era)],
            records: VecDeque::new(),
            durable: JournalPosition(0),
            last: JournalPosition(0),
            promises: BTreeMap::new(),
        }
    }

    pub(super) fn append(&mut self, position: JournalPosition, record: Record) {
        assert_eq!(position, self.last.next(), "records come in order and without gaps");
        self.last = position;
        let nowhere = Sequence(0);
        let Era { number, start } = self.era();
        let mut promise = |promise, view, sequence| {
            self.promises.entry((number, promise, view, sequence)).or_insert(position);
        };
        match &record {
            Record::PrePrepared(m) => promise(Promise::Proposal, m.view, m.sequence),
            Record::Prepared { view, sequence, .. } => promise(Promise::Prepared, *view, *sequence),
            // A copy of the state is as good as the record that it can be brought back.
            Record::Checkpoint { sequence, .. } | Record::SnapshotEnd(Certificate { sequence, .. }) => {
                promise(Promise::Checkpoint, View(0), *sequence);
            }
            Record::ViewChange(m) => promise(Promise::ViewChange, m.body.view, nowhere),
            Record::NewView(m) => {
                let view = m.body.view;
                promise(Promise::NewView, view, nowhere);
                let set: Vec<_> = m.body.view_changes.iter().map(|one| &one.body).collect();
                let decision = decide(&self.group, Digest([0; 32]), start, &set).expect("it was decided");
                for (sequence, _) in decision.chosen {
                    promise(Promise::Proposal, view, sequence);
                }
            }
            Record::Succession(succession) => {
                let era = Era { number: succession.reconfigure.number, start: succession.start };
                self.eras.push((position, era));
            }
            _ => {}
        }
        self.records.push_back((position, record));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn era(&self) -> Era {
        self.eras.last().expect("the first is never lost").1
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
        self.eras.retain(|(position, _)| *position <= survives);
        self.durable = survives;
        self.last = survives;
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (JournalPosition, Record)> {
        self.records.iter().cloned()
    }

    /// Whether a crash cannot take the record behind a promise away.
    pub(super) fn holds(&self, number: u64, promise: Promise, view: View, sequence: Sequence) -> bool {
        // What was said at the boundary may be on its way while the next configuration is in force.
        let said_in = [Some(number), number.checked_sub(1)];
        let mut positions = said_in
            .into_iter()
            .flatten()
            .filter_map(|number| self.promises.get(&(number, promise, view, sequence)));
        positions.any(|position| *position <= self.durable)
    }
}
