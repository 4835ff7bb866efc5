//! Electing another primary (TOCS 4.5).
//!
//! The rules, as events:
//!
//! * *when a request that is signed, or that 2f+1 replicas vouch for, or a place that holds a batch has
//!   waited for the view timeout and none was executed meanwhile*, or a request eight times as long
//!   whatever was executed, as backup: leave the view. Mark the clients that kept it from going on
//!   (`marks`). Write down what was prepared and pre-prepared, sign it, send VIEW-CHANGE. The primary
//!   leaves, too, when what it ordered gets nowhere.
//! * *upon VIEW-CHANGEs of f+1 others for later views*: leave for the lowest of them. One of the
//!   senders is correct; fewer than f+1 move nobody.
//! * *upon 2f+1 VIEW-CHANGEs for the view or later ones*, one's own among them: start the timer for
//!   the view after it. Each view that comes to nothing doubles the time-out, up to a limit; execution resets it.
//! * *when they decide every place* ([`decide`]), as the view's primary: write NEW-VIEW down, send it,
//!   and go on as primary.
//! * *upon a NEW-VIEW that follows from the VIEW-CHANGEs in it*: write it down, enter the view, send
//!   PREPARE for all that it chose, and ask for the batches of it that are not here.
//!
//! Between leaving a view and entering the next one a replica votes for nothing. It goes on
//! executing what 2f+1 others commit, so whoever timed out alone falls behind in nothing but votes.
//!
//! # Where this differs from the paper
//!
//! * VIEW-CHANGE and NEW-VIEW are signed, so there are no acknowledgements, anyone may pass them on,
//!   and a NEW-VIEW carries the VIEW-CHANGEs that it follows from: no replica has to ask for them.
//! * What the new primary chose is not in the NEW-VIEW: it follows from the VIEW-CHANGEs.
//! * A request that few can check moves no timer. For any other request the primary is to blame: all
//!   correct replicas get to hear of the words that it lacks.
//! * A new primary need not hold the batches that were chosen; it asks for them like everybody. So a
//!   NEW-VIEW is not its word that they are there: in the places that were chosen it sends PREPARE like
//!   the backups, and 2f+1 of them make a prepared certificate. Else f correct replicas alone might
//!   hold a batch that was prepared, and no later view could choose it (condition A2).

use std::collections::BTreeMap;
use std::time::Duration;

use super::decision::{Decision, decide, follows, is_well_formed, null_batch};
use super::durable::Then;
use super::record::Record;
use super::{Action, Ignored, Misbehaviour, Replica};
use crate::crypto::{Digest, Domain, Kind, Principal, Scope};
use crate::evidence::{Lie, Signed};
use crate::group::{ClientId, ReplicaId, Sequence, Timestamp, View};
use crate::message::{
    Batch, Body, Message, NewView, PrePrepare, Proof, Status, Unverified, ViewChange, Want, wire,
};
use crate::mutation::{self, Mutation};
use crate::service::Service;
use crate::time::Instant;

/// How many view time-outs a request may wait while others are executed.
const PATIENCE: u32 = 8;
/// VIEW-CHANGEs that one replica may send in a view time-out, for each member. A correct one leaves a view
/// when its timer runs out, once in that time, or when a correct other's did.
const VIEW_CHANGES_PER_MEMBER: u32 = 2;
/// Bytes of batches that one replica is sent in a status period because it wants them.
const BODY_BYTES_PER_PERIOD: u32 = 8 << 20;
/// What the smallest of them counts for: so many of them are sent at most.
const BODY_WEIGHT_MIN: u32 = BODY_BYTES_PER_PERIOD / 256;

/// Which views a replica has left and entered, and what others say of theirs.
#[derive(Debug)]
pub(super) struct Views {
    /// The batch of a place in which nothing was ordered, and its digest.
    null: (Batch, Digest),
    /// The last view that was entered, or that began after it was left. The replica votes in it if
    /// it has not left it, and learns from it either way.
    active: View,
    /// The own VIEW-CHANGE while the view that it is for has not begun.
    own: Option<Unverified<ViewChange>>,
    /// The NEW-VIEW that began the last view; none for view 0.
    new_view: Option<Unverified<NewView>>,
    /// Its record is durable: others may be shown it.
    new_view_durable: bool,
    /// Of each replica the VIEW-CHANGE for the highest view; the own one once it is durable.
    received: BTreeMap<ReplicaId, Unverified<ViewChange>>,
    /// What the NEW-VIEW chose for places above the low watermark. At most L.
    chosen: BTreeMap<Sequence, Digest>,
    /// The checkpoint that the NEW-VIEW began from.
    base: Sequence,
    /// The last place that the NEW-VIEW decided: behind it the primary is free.
    decided: Sequence,
    /// The highest place that a batch was proposed for in this view.
    proposed: Sequence,
    /// The view was entered in this life: a tag that is wrong was not made before a crash.
    is_witnessed: bool,
    /// When this view has lasted too long without progress.
    timer: Option<Instant>,
    /// The request that has waited here longest, and until when it may, whatever else is executed.
    watched: Option<(ClientId, Timestamp, Instant)>,
    /// Views that were begun since something was executed: each doubles the time-out.
    failures: u32,
}

impl Views {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            null: null_batch(scope),
            active: View(0),
            own: None,
            new_view: None,
            new_view_durable: false,
            received: BTreeMap::new(),
            chosen: BTreeMap::new(),
            base: Sequence(0),
            decided: Sequence(0),
            proposed: Sequence(0),
            is_witnessed: true,
            timer: None,
            watched: None,
            failures: 0,
        }
    }

    /// The view began without this replica: clients may have made tags before they had its keys.
    pub(super) fn not_witnessed(&mut self) {
        self.is_witnessed = false;
    }

    /// The last view that was entered, or heard to have begun.
    pub(super) fn active(&self) -> View {
        self.active
    }

    /// The checkpoint that the NEW-VIEW began from.
    pub(super) fn base(&self) -> Sequence {
        self.base
    }

    /// The last place that the NEW-VIEW decided.
    pub(super) fn decided(&self) -> Sequence {
        self.decided
    }

    /// What a journal needs to come back into this view.
    pub(super) fn record(&self) -> Option<Record> {
        let left = self.own.clone().map(Record::ViewChange);
        left.or_else(|| self.new_view.clone().map(Record::NewView))
    }

    /// A batch was proposed for a place in this view.
    pub(super) fn proposed(&mut self, sequence: Sequence) {
        self.proposed = self.proposed.max(sequence);
    }

    /// A view began of which nothing is known but that.
    fn forget_decision(&mut self) {
        self.chosen.clear();
        (self.base, self.decided) = (Sequence(0), Sequence(0));
    }

    fn enter(&mut self, message: Unverified<NewView>, decision: &Decision, low: Sequence) {
        self.active = message.body.view;
        self.own = None;
        self.new_view = Some(message);
        self.new_view_durable = false;
        self.received.retain(|_, other| other.body.view > self.active);
        self.chosen = decision.chosen.iter().copied().filter(|(sequence, _)| *sequence > low).collect();
        (self.base, self.decided) = (decision.base(), decision.end());
        self.proposed = Sequence(0);
        self.is_witnessed = true;
        self.timer = None;
        self.watched = None;
    }
}

impl<S: Service> Replica<S> {
    /// Whether this replica has left a view and not entered the next one.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.view != self.views.active
    }

    pub(super) fn view_due(&self) -> Option<Instant> {
        self.views.timer
    }

    fn view_timeout(&self) -> std::time::Duration {
        let doubled = self.settings.view_timeout.saturating_mul(1 << self.views.failures.min(16));
        doubled.min(self.settings.view_timeout_max.max(self.settings.view_timeout))
    }

    /// Whether something should come to an end in this view. The primary counts what it ordered
    /// itself: when that gets nowhere, others may have left.
    pub(super) fn waits_for_primary(&self) -> bool {
        let requested = !self.is_primary() && self.admission.expected().is_some();
        match self.boundary() {
            // All of them want to get there; once there, they wait for a checkpoint, and for no primary.
            Some(end) => self.executed() < end,
            None => self.views.proposed > self.executed() || requested,
        }
    }

    /// Something has begun that should come to an end.
    pub(super) fn start_view_timer(&mut self) {
        if self.is_changing() || !self.waits_for_primary() {
            return;
        }
        // The primary hears of trouble first, and by itself it changes nothing: it leaves last.
        let timeout = self.view_timeout() * if self.is_primary() { PATIENCE / 2 } else { 1 };
        if self.views.watched.is_none_or(|(client, first, _)| !self.admission.waits(client, first)) {
            let oldest = self.admission.expected().filter(|_| !self.is_primary());
            let until = self.now + timeout * PATIENCE;
            self.views.watched = oldest.map(|oldest| (oldest.body.client, oldest.body.first, until));
        }
        if self.views.timer.is_none() {
            let until = self.views.watched.map_or(Instant(u64::MAX), |(.., until)| until);
            self.views.timer = Some((self.now + timeout).min(until));
        }
    }

    /// A batch was executed. Progress resets the timer, but an empty batch is none, and no request
    /// waits for ever because others are served.
    pub(super) fn on_progress(&mut self, batch: &Batch) {
        self.prune_requests(batch);
        if self.is_changing() {
            return; // the timer is the next view's
        }
        if !batch.requests.is_empty() || self.boundary().is_some() {
            self.views.failures = 0;
            self.views.timer = None;
        }
        if !self.waits_for_primary() {
            (self.views.timer, self.views.watched) = (None, None);
        }
        self.start_view_timer();
    }

    pub(super) fn on_view_tick(&mut self) {
        if self.views.timer.is_none_or(|due| self.now < due) {
            return;
        }
        self.views.timer = None;
        if self.is_changing() {
            return self.start_view_change(self.view.next());
        }
        if self.transfer.is_active() || self.left_behind().is_some() {
            // It is this replica that is late.
            self.views.watched = None;
            return self.start_view_timer();
        }
        if self.waits_for_primary() {
            self.start_view_change(self.view.next());
        }
    }

    /// Leaves every view below `view`. The last view of all cannot be left.
    fn start_view_change(&mut self, view: View) {
        if view <= self.view {
            return;
        }
        if !self.is_changing() && self.views.is_witnessed {
            let disputed = self.disputed();
            self.marks.suspect(disputed);
        }
        self.view = view;
        self.views.failures = self.views.failures.saturating_add(1);
        self.views.timer = None;
        let slots = || self.log.slots();
        let mut body = ViewChange {
            view,
            stable: self.proven_stable().cloned(),
            prepared: slots().filter_map(|(sequence, slot)| slot.past.prepared(sequence)).collect(),
            pre_prepared: slots().flat_map(|(sequence, slot)| slot.past.pre_prepared(sequence)).collect(),
            marks: self.marks.all(),
        };
        if mutation::is_on(Mutation::HidePrepared) {
            body.prepared.clear();
        }
        if mutation::is_on(Mutation::HidePrePrepared) {
            body.pre_prepared.clear();
        }
        let bytes = wire::encode_view_change(&body);
        let own = self.sign_message(Kind::ViewChange, view, body, bytes);
        self.views.own = Some(own.clone());
        self.retransmission.hurry(self.now);
        self.append(Record::ViewChange(own), Some(Then::SendViewChange(view)));
        // From now on 2f+1 others' commits are enough, and they may be here.
        let uncommitted: Vec<_> = self.log.proposals().map(|(sequence, ..)| sequence).collect();
        for sequence in uncommitted {
            self.check_committed(sequence);
        }
    }

    fn sign_message<M>(&self, kind: Kind, view: View, body: M, bytes: bytes::Bytes) -> Unverified<M> {
        let proof = Proof::Signature(self.keychain.sign(Domain::new(kind, view.0), &bytes));
        Unverified { sender: Principal::Replica(self.me), body, bytes, proof }
    }

    /// The record of the own VIEW-CHANGE is durable: from now on this replica keeps to it.
    pub(super) fn view_change_is_durable(&mut self, view: View) {
        let Some(own) = self.views.own.clone().filter(|own| own.body.view == view) else { return };
        self.views.received.insert(self.me, own.clone());
        self.actions.push_back(Action::Broadcast { message: own.into_message(Message::ViewChange) });
        self.check_view_changes();
    }

    /// Hears that a replica has left the views below one.
    pub(super) fn on_view_change(&mut self, from: ReplicaId, message: Unverified<ViewChange>) {
        let view = message.body.view;
        self.compare_view_change(from, &message);
        if view < self.view || (view == self.view && !self.is_changing()) {
            self.wasted += 1; // the sender is behind, not this replica
            return self.put_aside(Ignored::WrongView);
        }
        if !is_well_formed(&message.body, self.configuration.start, self.configuration.limits.window) {
            return self.prove(from, Lie::WrongViewChange { view, message: signed(&message) });
        }
        if self.views.received.get(&from).is_some_and(|known| known.body.view >= view) {
            return self.put_aside(Ignored::Repeated);
        }
        let most = VIEW_CHANGES_PER_MEMBER * self.group.n();
        // Others' time-outs may be shorter than the one here.
        let period = self.settings.view_timeout.min(Duration::from_secs(1));
        if !self.allowances[from.index()].leave.take(self.now, period, 1, most) {
            return self.put_aside(Ignored::TooOften); // a correct one says it again
        }
        if let Some(stable) = message.body.stable.clone().filter(|stable| stable.sequence > self.log.low()) {
            self.learn(stable);
        }
        self.views.received.insert(from, message);
        self.join_others();
        self.check_view_changes();
    }

    /// Compares a VIEW-CHANGE with another one of its sender for the same view: one that came before, or
    /// one that the present view was begun with.
    fn compare_view_change(&mut self, from: ReplicaId, message: &Unverified<ViewChange>) {
        let begun = self.views.new_view.iter().flat_map(|new_view| &new_view.body.view_changes);
        let begun = begun.filter(|one| one.sender == Principal::Replica(from));
        let known = self.views.received.get(&from).into_iter().chain(begun);
        let mut others = known.filter(|known| known.body.view == message.body.view);
        if let Some(other) = others.find(|known| known.bytes != message.bytes) {
            let both = [signed(other), signed(message)];
            self.prove(from, Lie::ConflictingViewChanges { view: message.body.view, both });
        }
    }

    /// Upon f+1 others who have left this view.
    fn join_others(&mut self) {
        loop {
            let others = self.views.received.iter().filter(|(sender, _)| **sender != self.me);
            let later = others.map(|(_, other)| other.body.view).filter(|view| *view > self.view);
            let later: Vec<_> = later.collect();
            let alone = mutation::is_on(Mutation::FollowOne);
            let needed = if alone { 1 } else { self.group.weak_quorum() as usize };
            match later.iter().min() {
                Some(lowest) if later.len() >= needed => {
                    self.start_view_change(*lowest);
                }
                _ => return,
            }
        }
    }

    /// Upon 2f+1 VIEW-CHANGEs for the view that this replica wants to enter.
    fn check_view_changes(&mut self) {
        if !self.is_changing() {
            return;
        }
        let view = self.view;
        let received = &self.views.received;
        // Whoever went further has left these views too, and will not say so again.
        let left = received.values().filter(|one| one.body.view >= view).count();
        if left < self.group.quorum() as usize || !received.contains_key(&self.me) {
            return;
        }
        let view_changes: Vec<_> = received.values().filter(|one| one.body.view == view).cloned().collect();
        if self.views.timer.is_none() {
            self.views.timer = Some(self.now + self.view_timeout());
        }
        if !self.is_primary() {
            return;
        }
        if let Some(decision) = self.decision(&view_changes) {
            let body = NewView { view, view_changes };
            let bytes = wire::encode_new_view(&body);
            let message = self.sign_message(Kind::NewView, view, body, bytes);
            self.enter_view(message, decision);
        }
    }

    pub(super) fn decision(&self, view_changes: &[Unverified<ViewChange>]) -> Option<Decision> {
        let set: Vec<_> = view_changes.iter().map(|one| &one.body).collect();
        decide(&self.group, self.views.null.1, self.configuration.start, &set)
    }

    /// The new primary begins its view.
    pub(super) fn on_new_view(&mut self, from: ReplicaId, message: Unverified<NewView>) {
        let view = message.body.view;
        if let Some(known) = self.views.new_view.as_ref().filter(|known| known.body.view == view)
            && known.sender == message.sender
            && known.bytes != message.bytes
        {
            let both = [signed(known), signed(&message)];
            return self.prove(from, Lie::ConflictingNewViews { view, both });
        }
        if view <= self.views.active {
            return self.put_aside(Ignored::WrongView);
        }
        if from != self.group.primary(view) {
            // Passed on or not, it is signed: a claim to lead where another one does.
            return self.prove(from, Lie::WrongNewView { view, message: signed(&message) });
        }
        let mut decision = follows(&self.group, &self.configuration, &message.body);
        if mutation::is_on(Mutation::TrustNewView) {
            decision = decision.or(Some(Decision {
                start: self.configuration.start,
                stable: None,
                chosen: Vec::new(),
                marked: Vec::new(),
            }));
        }
        match decision {
            Some(decision) => {
                // Whoever told its primary something else than this replica is found out here.
                for one in &message.body.view_changes {
                    if let Principal::Replica(sender) = one.sender {
                        self.compare_view_change(sender, one);
                    }
                }
                if view < self.view { self.listen_to(view) } else { self.enter_view(message, decision) }
            }
            None => self.prove(from, Lie::WrongNewView { view, message: signed(&message) }),
        }
    }

    /// A view began that this replica has left already: it may not vote in it, but learns from it what
    /// is committed.
    fn listen_to(&mut self, view: View) {
        self.views.active = view;
        (self.views.new_view, self.views.new_view_durable) = (None, false);
        self.views.forget_decision();
        self.last_proposed = self.log.low();
        self.log.begin_view();
        self.retransmission.hurry(self.now);
    }

    fn enter_view(&mut self, message: Unverified<NewView>, decision: Decision) {
        let view = message.body.view;
        // While the former view is still in force: what it promised is written down first.
        if let Some(stable) = decision.stable.clone().filter(|stable| stable.sequence > self.log.low()) {
            self.learn(stable);
        }
        let former = self.views.active;
        self.view = view;
        self.bind_marks(&decision.marked);
        self.views.enter(message.clone(), &decision, self.log.low());
        self.log.begin_view();
        let position = self.append(Record::NewView(message), None);
        let mut bound = Vec::new();
        for (sequence, digest) in decision.chosen.iter().copied() {
            let Some(slot) = self.log.slot_mut(sequence) else { continue };
            slot.note_position(position);
            if let Some(batch) = self.known_batch(sequence, &digest) {
                self.bind(PrePrepare { view, sequence, batch }, digest);
                bound.push(sequence);
            }
        }
        self.once_durable(Then::SendNewView(view));
        for sequence in bound {
            self.once_durable(Then::SendProposal(view, sequence));
        }
        self.resume_proposing(Some(former));
        self.retransmission.hurry(self.now);
        self.ask_for_chosen();
        self.start_view_timer();
        if decision.base() > self.executed() {
            // What leads there was let go of.
            self.left_behind().into_iter().for_each(|certificate| self.start_transfer(certificate));
        }
        self.join_others();
    }

    /// The record of the NEW-VIEW is durable.
    pub(super) fn new_view_is_durable(&mut self, view: View) {
        let Some(message) = self.views.new_view.clone().filter(|known| known.body.view == view) else {
            return;
        };
        self.views.new_view_durable = true;
        if self.view == view && self.is_primary() {
            self.actions.push_back(Action::Broadcast { message: message.into_message(Message::NewView) });
        }
    }

    /// The batch with this digest, if it is here.
    pub(super) fn known_batch(&self, sequence: Sequence, digest: &Digest) -> Option<Batch> {
        let (null, null_digest) = &self.views.null;
        if digest == null_digest {
            return Some(null.clone());
        }
        self.log.slot(sequence)?.past.batch(digest).cloned()
    }

    /// Chosen places that are between the watermarks and not bound yet.
    fn unbound(&self) -> Vec<(Sequence, Digest)> {
        let chosen = self.views.chosen.iter().map(|(sequence, digest)| (*sequence, *digest));
        chosen.filter(|(sequence, _)| self.log.is_free(*sequence)).collect()
    }

    /// Asks all others for chosen batches that are not here.
    pub(super) fn ask_for_chosen(&mut self) {
        const AT_ONCE: usize = 64;
        if self.is_changing() {
            return;
        }
        for (sequence, digest) in self.unbound().into_iter().take(AT_ONCE) {
            self.broadcast(Message::Want(Want { sequence, digest }));
        }
    }

    /// The window has moved: places that the NEW-VIEW decided may have come into it.
    pub(super) fn adopt_chosen(&mut self) {
        let low = self.log.low();
        self.views.chosen.retain(|sequence, _| *sequence > low);
        if self.is_changing() {
            return;
        }
        for (sequence, digest) in self.unbound() {
            // Accepting one may move the window, and bind others.
            let free = self.log.is_free(sequence);
            if let Some(batch) = self.known_batch(sequence, &digest).filter(|_| free) {
                self.accept(PrePrepare { view: self.view, sequence, batch }, digest);
            }
        }
    }

    /// A batch for a place that the NEW-VIEW decided; it was chosen, so somebody correct has checked
    /// its requests.
    pub(super) fn on_chosen(&mut self, from: ReplicaId, sequence: Sequence, digest: Digest, batch: Batch) {
        let view = self.view;
        match self.views.chosen.get(&sequence) {
            Some(chosen) if *chosen == digest => {
                if !batch.is_whole() {
                    self.put_aside(Ignored::Incomplete); // asked for like those that do not come
                } else if self.log.is_free(sequence) {
                    self.accept(PrePrepare { view, sequence, batch }, digest);
                } else {
                    self.put_aside(Ignored::Repeated);
                }
            }
            Some(chosen) => self.accuse(Misbehaviour::ConflictingPrePrepares {
                primary: from,
                view,
                sequence,
                first: *chosen,
                second: digest,
            }),
            None => self.put_aside(Ignored::OutsideWindow),
        }
    }

    /// Somebody lacks a batch.
    pub(super) fn on_want(&mut self, from: ReplicaId, message: Want) {
        let Want { sequence, digest } = message;
        let Some(batch) = self.known_batch(sequence, &digest) else {
            return self.put_aside(Ignored::Stale);
        };
        let weight = u32::try_from(batch.weight()).unwrap_or(u32::MAX).max(BODY_WEIGHT_MIN);
        let (now, period) = (self.now, self.settings.status_period);
        if !self.allowances[from.index()].want.take(now, period, weight, BODY_BYTES_PER_PERIOD) {
            return self.put_aside(Ignored::TooOften); // asked for again when it is still missing
        }
        self.send(Principal::Replica(from), Message::Body(Body { sequence, batch }));
    }

    /// A batch that was asked for, or any other.
    pub(super) fn on_body(&mut self, message: Body) {
        let Body { sequence, batch } = message;
        let digest = self.batch_digest(&batch);
        let attested = self.is_attested(sequence, &digest);
        if attested {
            self.learn_batch(sequence, digest, batch.clone());
        }
        if !self.is_changing() && self.unbound().contains(&(sequence, digest)) {
            self.accept(PrePrepare { view: self.view, sequence, batch }, digest);
        } else if !self.complete(sequence, &digest, batch) && !attested {
            self.put_aside(Ignored::Stale);
        }
    }

    /// Helps a replica into the view that this one is in, or wants to enter.
    pub(super) fn help_with_view(&mut self, from: ReplicaId, theirs: &Status) {
        let message = if self.is_changing() {
            let own = self.views.received.get(&self.me).filter(|own| theirs.view <= own.body.view);
            own.cloned().map(|own| own.into_message(Message::ViewChange))
        } else {
            let known = self.views.new_view.as_ref().filter(|_| theirs.active < self.view);
            let known = known.filter(|_| self.views.new_view_durable).cloned();
            known.map(|new_view| new_view.into_message(Message::NewView))
        };
        if let Some(message) = message {
            self.actions.push_back(Action::Send { to: Principal::Replica(from), message });
        }
    }

    /// The journal says that the views below one were left.
    pub(super) fn replay_view_change(&mut self, own: Unverified<ViewChange>) {
        self.replay_marks(&[], &own.body.marks);
        if own.body.view > self.view && !mutation::is_on(Mutation::ForgetViewChange) {
            self.view = own.body.view;
            self.views.own = Some(own);
        }
    }

    /// The journal speaks of a view that was entered, though the NEW-VIEW may stand further on.
    pub(super) fn replay_view(&mut self, view: View) {
        if view > self.views.active {
            self.views.active = view;
            self.views.own.take_if(|own| own.body.view <= view);
            self.views.new_view = None;
            self.views.forget_decision();
            self.view = self.view.max(view);
            self.log.begin_view();
        }
    }

    /// The journal says that a view was entered, and how; none when it says nothing useful.
    pub(super) fn replay_new_view(
        &mut self,
        position: super::JournalPosition,
        message: Unverified<NewView>,
    ) -> Option<()> {
        let view = message.body.view;
        let decision = self.decision(&message.body.view_changes)?;
        self.replay_marks(&decision.marked, &[]);
        let known = self.views.new_view.as_ref().map_or(View(0), |known| known.body.view);
        if view <= known {
            return Some(()); // a copy
        }
        self.replay_view(view);
        let own = self.views.own.take();
        self.views.enter(message, &decision, self.log.low());
        self.views.own = own.filter(|own| own.body.view > view);
        self.views.new_view_durable = true;
        for (sequence, digest) in decision.chosen {
            let batch = self.known_batch(sequence, &digest);
            if let Some(slot) = self.log.slot_mut(sequence) {
                slot.note_position(position);
                match (&slot.proposal, batch) {
                    // Bound by a record that stood before this copy: only now is it known as chosen.
                    (Some(_), _) => _ = slot.prepares.record(self.me, &digest),
                    (None, Some(batch)) => {
                        self.replay_bound(PrePrepare { view, sequence, batch }, digest);
                    }
                    (None, None) => {}
                }
            }
        }
        Some(())
    }

    /// The journal is read: goes on in the view that it ends in.
    pub(super) fn resume_view(&mut self) {
        if let Some(own) = self.views.own.clone() {
            self.views.received.insert(self.me, own.clone());
            self.actions.push_back(Action::Broadcast { message: own.into_message(Message::ViewChange) });
        }
        let bound = self.log.proposals().map(|(sequence, ..)| sequence).max();
        self.views.proposed = bound.unwrap_or_default();
        self.views.is_witnessed &= !self.outbox.has_history();
    }
}

/// What was signed, to be shown to others.
fn signed<M>(message: &Unverified<M>) -> Signed {
    let signature = match &message.proof {
        Proof::Signature(signature) => signature.clone(),
        Proof::Authenticator(_) | Proof::Tag(_) | Proof::Nothing => unreachable!("checked to be signed"),
    };
    Signed { bytes: message.bytes.clone(), signature }
}

#[cfg(feature = "sim")]
impl Views {
    pub(super) fn footprint(&self, n: u64, window: u64) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        let received = self.received.values().chain(&self.own);
        let began = self.new_view.iter().flat_map(|new_view| &new_view.body.view_changes);
        let claims = received.clone().chain(began.clone());
        let claims = claims.map(|one| one.body.prepared.len() + one.body.pre_prepared.len()).sum();
        let claims_max = (super::CLAIMS_PER_PLACE_MAX as u64 + 1) * window;
        vec![
            Held::new("view-changes", received.count(), n + 1),
            Held::new("view-changes of the new-view", began.count(), n),
            Held::new("claims in view-changes", claims, (2 * n + 1) * claims_max),
            Held::new("chosen batches", self.chosen.len(), window),
        ]
    }
}
