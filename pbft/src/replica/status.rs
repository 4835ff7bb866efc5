//! Saying how far one is when nothing moves, and sending again what others lack (TOCS 5.2).

use std::time::Duration;

use bytes::Bytes;

use super::log::Slot;
use super::settings::Settings;
use super::{Ignored, Replica};
use crate::crypto::Principal;
use crate::group::{Group, ReplicaId, Sequence};
use crate::message::{Commit, Committed, Message, Prepare, Progress, Status};
use crate::service::Service;
use crate::time::Instant;

/// When to ask, and whom was answered when.
#[derive(Debug)]
pub(super) struct Retransmission {
    period: Duration,
    idle: Duration,
    /// How long to wait now; doubles from `period` to `idle` while nothing moves.
    patience: Duration,
    /// When the next STATUS is due, unless something moves before.
    due: Instant,
    /// Something was executed, or became stable, since the last tick.
    moved: bool,
    /// The highest batch that somebody says it has heard of.
    ahead: Sequence,
    /// When each replica's STATUS was answered last.
    answered: Vec<Option<Instant>>,
}

/// Bytes of pre-prepares that one STATUS is answered with.
const PRE_PREPARE_BYTES: usize = 1 << 20;

impl Retransmission {
    pub(super) fn new(group: &Group, settings: &Settings) -> Self {
        Self {
            period: settings.status_period,
            idle: settings.status_idle.max(settings.status_period),
            patience: settings.status_period,
            due: Instant(0), // at once: whoever starts asks what it missed
            moved: false,
            ahead: Sequence(0),
            answered: vec![None; group.n() as usize],
        }
    }

    /// There was progress: no reason to ask.
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// Others may know what is missing: ask them at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.patience = self.period;
        self.due = self.due.min(now + self.period);
    }

    /// Something has begun that should not take long.
    pub(super) fn wake(&mut self, now: Instant) {
        self.due = self.due.min(now + self.patience);
    }
}

impl<S: Service> Replica<S> {
    pub(super) fn status_due(&self) -> Instant {
        self.retransmission.due
    }

    /// Tells the others how far this replica is, if it waits for something or all is quiet.
    pub(super) fn on_status_tick(&mut self) {
        if self.now < self.retransmission.due {
            return;
        }
        if self.is_halted() {
            self.retransmission.due = self.now + self.retransmission.idle;
            return;
        }
        self.ask_for_operations();
        let waits = self.waits();
        let pace = &mut self.retransmission;
        let moved = std::mem::take(&mut pace.moved);
        if moved || !waits {
            pace.patience = pace.period;
        }
        pace.due = self.now + if waits { pace.patience } else { pace.idle };
        if waits && moved {
            return; // it comes by itself
        }
        if waits {
            pace.patience = (pace.patience * 2).min(pace.idle);
        }
        self.check_left_behind();
        self.ask_for_chosen();
        self.relay_oldest();
        self.start_view_timer();
        let status = self.status();
        self.broadcast(Message::Status(status));
    }

    /// Whether something has begun that is not finished.
    fn waits(&self) -> bool {
        let next = self.settled().next();
        let above = next.0..=self.log.high().0;
        self.transfer.is_active()
            || self.is_changing()
            || self.checkpoints.ahead().is_some()
            || self.retransmission.ahead > self.executed()
            || self.checkpoints.vouched(self.log.low(), 1).is_some()
            || !self.admission.is_empty()
            || above.into_iter().any(|place| self.log.slot(Sequence(place)).is_some_and(Slot::is_touched))
    }

    /// The last place up to which nothing is left to do: what a new view chose has to be agreed on
    /// again, also by those that executed it before. Others may need their votes.
    fn settled(&self) -> Sequence {
        let executed = self.executed();
        if self.is_changing() {
            return executed;
        }
        let base = self.log.low().max(self.views.base().min(executed));
        let committed = |place: &u64| self.log.slot(Sequence(*place)).is_some_and(Slot::is_done);
        Sequence((base.0 + 1..=executed.0).take_while(committed).last().unwrap_or(base.0))
    }

    fn status(&self) -> Status {
        let executed = self.settled();
        let mut slots: Vec<u8> = (executed.0 + 1..=self.log.high().0)
            .map(|place| self.log.slot(Sequence(place)).map_or(0, |slot| slot.progress() as u8))
            .collect();
        while slots.last() == Some(&0) {
            slots.pop();
        }
        let (view, active, stable) = (self.view, self.views.active(), self.log.low());
        Status { view, active, stable, executed, slots: Bytes::from(slots) }
    }

    /// Batches below a checkpoint that 2f+1 hold may be gone everywhere. Nothing moved for a while,
    /// so they do not come by themselves: fetch that state.
    fn check_left_behind(&mut self) {
        if let Some(certificate) = self.left_behind() {
            self.start_transfer(certificate);
        }
    }

    /// Sends again what a replica lacks and this one may say.
    pub(super) fn on_status(&mut self, from: ReplicaId, message: &Status) {
        let halted = self.is_halted();
        let pace = &mut self.retransmission;
        let answered = &mut pace.answered[from.index()];
        if answered.is_some_and(|at| self.now.since(at) < pace.period / 2) {
            return self.put_aside(Ignored::TooOften);
        }
        *answered = Some(self.now);
        if halted {
            // Whoever comes back is told why.
            return self.send_checkpoints(from, message.stable);
        }
        // What the sender has heard of and this replica has not: reason to ask, for a while.
        let heard = message.executed.0.saturating_add(message.slots.len() as u64);
        let ahead = Sequence(heard.min(self.log.high().0));
        if ahead > pace.ahead.max(self.execution.executed()) {
            pace.ahead = ahead;
            pace.wake(self.now);
        }
        self.help_with_view(from, message);
        self.send_checkpoints(from, message.stable);
        if message.executed >= self.log.high() {
            return; // it lacks nothing that is here, or says any number
        }
        // Whoever has left this view may still learn from it what was committed.
        let together = message.active == self.view && !self.is_changing();
        let mut bytes_left = PRE_PREPARE_BYTES;
        let first = message.executed.max(self.log.low()).next();
        for place in first.0..=self.log.high().0 {
            let offset = usize::try_from(place - message.executed.0 - 1).unwrap_or(usize::MAX);
            let has = message.slots.get(offset).copied().unwrap_or(Progress::Empty as u8);
            self.attest(from, Sequence(place), has);
            if together {
                self.send_again(from, Sequence(place), has, &mut bytes_left);
            }
        }
    }

    /// Tells a replica what a place holds for good, whatever its view.
    fn attest(&mut self, to: ReplicaId, sequence: Sequence, has: u8) {
        let known = self.log.slot(sequence).and_then(|slot| slot.known);
        if let Some(digest) = known.filter(|_| has < Progress::Committed as u8) {
            self.send(Principal::Replica(to), Message::Committed(Committed { sequence, digest }));
        }
    }

    fn send_again(&mut self, to: ReplicaId, sequence: Sequence, has: u8, bytes_left: &mut usize) {
        let Some(slot) = self.log.slot(sequence) else { return };
        if has < Progress::Prepared as u8
            && let Some(doubt) = self.own_doubt(sequence)
        {
            return self.send(Principal::Replica(to), Message::Doubt(doubt));
        }
        let Some(proposal) = &slot.proposal else { return };
        let (view, digest) = (proposal.pre_prepare.view, proposal.digest);
        let (promised, prepared) = (slot.proposal_durable, slot.prepared_durable);
        let lacks_batch = promised && self.is_primary() && has == Progress::Empty as u8;
        let pre_prepare = lacks_batch.then(|| proposal.pre_prepare.clone().in_brief());
        let to = Principal::Replica(to);
        let votes = !self.is_primary() || sequence <= self.views.decided();
        if promised && votes && has < Progress::Prepared as u8 {
            self.send(to, Message::Prepare(Prepare { view, sequence, digest }));
        }
        if let Some(pre_prepare) = pre_prepare {
            let bytes = pre_prepare.batch.bytes.len();
            // At least one: a single batch may be larger than the bound.
            if bytes <= *bytes_left || *bytes_left == PRE_PREPARE_BYTES {
                *bytes_left = bytes_left.saturating_sub(bytes.max(1));
                self.send(to, Message::PrePrepare(pre_prepare));
            }
        }
        if prepared && has < Progress::Committed as u8 {
            self.send(to, Message::Commit(Commit { view, sequence, digest }));
        }
    }
}
