//! Promises that wait for the journal.

use std::collections::VecDeque;

use super::record::{JournalPosition, Record};
use super::{Action, Replica};
use crate::crypto::Digest;
use crate::group::{Sequence, View};
use crate::mutation::{self, Mutation};
use crate::service::Service;

/// What may happen once a record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// As primary, send the PRE-PREPARE; as backup, the PREPARE. Void once the view is left.
    SendProposal(View, Sequence),
    /// Send the COMMIT, and count it. Void once the view is left.
    SendCommit(View, Sequence),
    /// Execute a batch that others committed: what is answered must not be taken back by a crash.
    Execute(Sequence),
    /// Send the VIEW-CHANGE, and count it.
    SendViewChange(View),
    /// Pass the NEW-VIEW on; as its primary, send it to all.
    SendNewView(View),
    /// Send the CHECKPOINT, and count it. Void once another state took its place.
    SendCheckpoint(Sequence, Digest),
    /// Let go of what a copy of the state supersedes.
    Truncate(JournalPosition),
}

/// Records that were handed to the journal and what they hold back.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Without a journal, promises leave at once.
    journal: bool,
    /// Of the last record.
    last: JournalPosition,
    /// In the order of their positions. At most three for each slot and one for each checkpoint
    /// between the watermarks and for each view, beside those of slots that were dropped since.
    waiting: VecDeque<(JournalPosition, Then)>,
    /// Bytes appended since the last copy of the state, about.
    pub(super) bytes_since_snapshot: u64,
    /// Bytes of the last copy of the state, about.
    pub(super) snapshot_bytes: u64,
}

impl Outbox {
    pub(super) fn new(journal: bool) -> Self {
        Self {
            journal,
            last: JournalPosition(0),
            waiting: VecDeque::new(),
            bytes_since_snapshot: 0,
            snapshot_bytes: 0,
        }
    }

    /// Goes on after the records that a journal holds already.
    pub(super) fn resume(&mut self, last: JournalPosition) {
        self.last = last;
    }

    /// Another configuration is in force: nothing is said any more that was promised in the former one.
    pub(super) fn forget_promises(&mut self) {
        self.waiting.retain(|(_, then)| matches!(then, Then::Truncate(_)));
    }

    /// Whether anything was ever written down.
    pub(super) fn has_history(&self) -> bool {
        self.last > JournalPosition(0)
    }

    #[cfg(feature = "sim")]
    pub(super) fn footprint(&self, most: u64) -> super::footprint::Held {
        super::footprint::Held::new("promises that wait for the journal", self.waiting.len(), most)
    }

    pub(super) fn has_journal(&self) -> bool {
        self.journal
    }
}

impl<S: Service> Replica<S> {
    /// Hands a record to the journal, and holds back what must not happen before it is durable.
    pub(super) fn append(&mut self, record: Record, then: Option<Then>) -> JournalPosition {
        if self.outbox.journal {
            self.outbox.last = self.outbox.last.next();
            self.outbox.bytes_since_snapshot += record.weight();
            self.actions.push_back(Action::Append { position: self.outbox.last, record });
        }
        if let Some(then) = then {
            self.once_durable(then);
        }
        self.outbox.last
    }

    /// Holds something back until the last record that was appended is durable.
    pub(super) fn once_durable(&mut self, then: Then) {
        if !self.outbox.journal || mutation::is_on(Mutation::SkipDurableWait) {
            return self.act(then);
        }
        self.outbox.waiting.push_back((self.outbox.last, then));
    }

    pub(super) fn on_durable(&mut self, position: JournalPosition) {
        assert!(position <= self.outbox.last, "only what was appended can be durable");
        while let Some((waits_for, then)) = self.outbox.waiting.front().copied() {
            if waits_for > position {
                break;
            }
            self.outbox.waiting.pop_front();
            self.act(then);
        }
    }

    fn act(&mut self, then: Then) {
        if self.is_halted() && !matches!(then, Then::SendCheckpoint(..) | Then::Truncate(_)) {
            return;
        }
        match then {
            Then::SendProposal(view, sequence) => self.proposal_is_durable(view, sequence),
            Then::SendCommit(view, sequence) => self.prepared_is_durable(view, sequence),
            Then::Execute(sequence) => self.learned_is_durable(sequence),
            Then::SendViewChange(view) => self.view_change_is_durable(view),
            Then::SendNewView(view) => self.new_view_is_durable(view),
            Then::SendCheckpoint(sequence, state) => self.checkpoint_is_durable(sequence, state),
            Then::Truncate(before) => self.actions.push_back(Action::Truncate { before }),
        }
    }
}
