//! A disk: it keeps what was synced, and of the rest whatever it likes.
//!
//! What a crash left is read by the same code that reads a real journal's files.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::random::Random;
use crate::crypto::Digest;
use crate::group::{Configuration, Group, ReplicaId, Sequence, View};
use crate::journal::{self, HEADER_BYTES, Owner, Segment};
use crate::message::Certificate;
use crate::replica::{JournalPosition, Record, decide};

/// One replica's journal.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    group: Group,
    owner: Owner,
    /// The shortest and the longest time that a sync takes.
    pub(super) sync_time: (Duration, Duration),
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
    /// The empty disk of a replica that begins in a configuration.
    pub(super) fn new(
        configuration: &Configuration,
        replica: ReplicaId,
        sync_time: (Duration, Duration),
    ) -> Self {
        let era = Era { number: configuration.number, start: configuration.start };
        Self {
            group: Group::new(configuration),
            owner: Owner { group: configuration.group, configuration: configuration.digest(), replica },
            sync_time,
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

    /// A crash: of what was not synced, some bytes may have reached the disk all the same. Says
    /// whether a record among them was torn.
    pub(super) fn crash(&mut self, random: &mut Random) -> bool {
        if self.last == self.durable {
            return false;
        }
        let mut bytes = self.bytes(self.durable.next());
        tear(&mut bytes, random);
        let length = bytes.len();
        let Segment { records, valid_bytes, .. } = self.read(bytes);
        let survives = JournalPosition(self.durable.0 + records.len() as u64);
        self.records.retain(|(position, _)| *position <= survives);
        self.promises.retain(|_, position| *position <= survives);
        self.eras.retain(|(position, _)| *position <= survives);
        self.durable = survives;
        self.last = survives;
        valid_bytes < length
    }

    /// What a replica that starts finds.
    pub(super) fn records(&self) -> impl Iterator<Item = (JournalPosition, Record)> + use<> {
        let first = self.records.front().map_or(self.last.next(), |(position, _)| *position);
        let records = self.read(self.bytes(first)).records;
        assert_eq!(records.len(), self.records.len(), "all that is left can be read");
        (first.0..).map(JournalPosition).zip(records)
    }

    /// The records from `first` on, as they lie on the disk.
    fn bytes(&self, first: JournalPosition) -> Vec<u8> {
        let mut bytes = journal::encode_header(&self.owner, first);
        for (position, record) in self.records.iter().filter(|(position, _)| *position >= first) {
            journal::encode_record(&mut bytes, *position, self.durable, record);
        }
        bytes
    }

    fn read(&self, bytes: Vec<u8>) -> Segment {
        let segment = journal::recover(&bytes.into(), &self.owner, true);
        segment.expect("what was durable is whole, and the rest is a torn tail")
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

/// The unit in which a disk writes, in bytes.
const SECTOR: usize = 512;

/// A crash leaves of what follows the header all, a part, or some sectors.
fn tear(bytes: &mut Vec<u8>, random: &mut Random) {
    let written = (bytes.len() - HEADER_BYTES) as u64;
    let some = HEADER_BYTES + usize::try_from(random.below(written)).expect("a length");
    match random.below(4) {
        0 => {}
        1 => bytes.truncate(HEADER_BYTES),
        2 => bytes.truncate(some),
        _ => bytes[HEADER_BYTES..].chunks_mut(SECTOR).for_each(|sector| {
            if random.chance(500) {
                sector.fill(0);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Setup;

    fn disk(records: u64, durable: u64) -> Disk {
        let setup = Setup::new(1, 1);
        let mut disk = Disk::new(&setup.configuration, ReplicaId(2), setup.sync);
        for position in 1..=records {
            let record = Record::SnapshotBegin { sequence: Sequence(position), successions: Vec::new() };
            disk.append(JournalPosition(position), record);
        }
        disk.sync(JournalPosition(durable));
        disk
    }

    #[test]
    fn crash_keeps_what_was_durable_and_a_beginning_of_the_rest() {
        let (mut torn, mut lengths) = (0, std::collections::BTreeSet::new());
        for seed in 0..200 {
            let mut disk = disk(60, 20);
            torn += u64::from(disk.crash(&mut Random::new(seed)));
            let left: Vec<_> = disk.records().collect();
            assert!(left.len() >= 20, "seed {seed}: {} of 20 durable records are left", left.len());
            for (number, (position, record)) in (1..).zip(&left) {
                let written = Record::SnapshotBegin { sequence: Sequence(number), successions: Vec::new() };
                assert_eq!((position.0, record), (number, &written));
            }
            assert_eq!(disk.last(), disk.durable());
            lengths.insert(left.len());
        }
        assert!(torn > 50, "{torn} of 200 crashes tore a record");
        assert!(lengths.len() > 10, "crashes leave different lengths: {lengths:?}");
    }

    #[test]
    fn crash_takes_nothing_when_all_is_synced() {
        let mut disk = disk(5, 5);
        assert!(!disk.crash(&mut Random::new(1)));
        assert_eq!(disk.records().count(), 5);
    }
}
