//! Fetching a state when the batches that lead to it are gone, or when the own one is wrong, and serving it to
//! others (TOCS 5.3 and 6.2).
//!
//! The rules, as events:
//!
//! * *when this replica is left behind, or finds that it diverged*: aim at the digest of the certified state,
//!   and begin from the pages that are here.
//! * *while something is wanted and somebody may be asked*: FETCH some partitions, or some pages, from one of
//!   those who signed the certificate: the one with the least to do, and among those the fastest. So many
//!   at once of each, and of all; so many bytes a second of each.
//! * *upon META-DATA*: compare it with the digest that is known of its partition. Of the children, those whose
//!   digests are the own ones are here already; those that are empty are emptied; the others are wanted.
//! * *upon DATA*: compare each page with its digest, and put it in.
//! * *upon an answer that does not fit its digest*: say who gave it, and ask that one nothing more.
//! * *when an answer does not come*: ask somebody else, and leave that one in peace for a while.
//! * *upon the certificate of a later state*: aim at that one. What was put in stays: where the two states
//!   are equal its digests are the wanted ones.
//! * *when nothing is wanted any more*: the pages are the state. Write a copy of it down, and vouch for it.
//!
//! Nothing is on the disk before the end: after a crash it begins again, from the pages that the disk has.
//!
//! * *upon FETCH*: answer with as many of the places as fit a message, if the state is here and this
//!   replica's own is the group's; if the state is here no more, show the certificate of a later one. One
//!   replica gets so many bytes in a second; what goes beyond is put aside.
//!
//! # Where this differs from the paper
//!
//! * META-DATA carries no sequence numbers of last changes: digests alone tell what differs. The one for the
//!   root comes from a certificate, so nothing has to be asked of f+1 replicas.
//! * A partition's children are told by everybody who is asked, not by a designated replier with the others
//!   as witnesses: one answer is proven right or wrong by itself.

use super::checkpoint::PAGES_BYTES;
use super::execution::Image;
use super::{Ignored, Misbehaviour, Replica};
use crate::crypto::{Digest, Principal};
use crate::group::{ReplicaId, Sequence};
use crate::message::{Certificate, Data, Fetch, Message, MetaData, Page, PageCursor, Space};
use crate::mutation::{self, Mutation};
use crate::service::{Branch, LEVELS, Service};
use crate::time::Instant;

mod descent;
mod sources;

use descent::{Descent, Found, NEXT, STATE_LEVEL, Want};
use sources::{Pace, SERVING_BURST, Sources};

/// The state of a transfer.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    active: Option<Active>,
    /// What is known of those who can be asked.
    sources: Sources,
    /// What others were given; at most one for each of them.
    served: std::collections::BTreeMap<ReplicaId, Pace>,
}

#[derive(Debug)]
struct Active {
    /// What 2f+1 replicas hold.
    certificate: Certificate,
    descent: Descent,
    /// At most `fetches_max`, and `fetches_per_source_max` for each source.
    asked: Vec<Asked>,
    /// The state cannot be taken over: a later one perhaps can.
    stuck: bool,
}

/// A FETCH without an answer.
#[derive(Debug)]
struct Asked {
    source: ReplicaId,
    at: Instant,
    due: Instant,
    /// At least one; all of one level.
    wants: Vec<Want>,
}

/// What a FETCH costs at least, in bytes of the answer: looking something up is work, too.
const FETCH_COST_MIN: u64 = 1 << 12;

impl Transfer {
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Gives up, whatever is under way.
    pub(super) fn stop(&mut self) {
        self.active = None;
    }

    /// Somebody else has the place of a replica: what was known of the former one says nothing of it.
    pub(super) fn forget(&mut self, id: ReplicaId) {
        self.sources.forget(id);
        self.served.remove(&id);
    }

    /// When an answer is overdue, or somebody may be asked who may not be now.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let active = self.active.as_ref().filter(|active| !active.stuck)?;
        let overdue = active.asked.iter().map(|asked| asked.due);
        let wants = !active.descent.is_idle();
        let ready = wants.then(|| self.sources.next_ready(now, active.certificate.voters())).flatten();
        overdue.chain(ready).min()
    }

    pub(super) fn sequence(&self) -> Option<Sequence> {
        self.active.as_ref().map(|active| active.certificate.sequence)
    }
}

impl<S: Service> Replica<S> {
    /// Begins to fetch a state that f+1 correct replicas can bring back at least, or goes over to it.
    pub(super) fn start_transfer(&mut self, certificate: Certificate) {
        let current = self.transfer.sequence();
        if self.is_halted() || current.is_some_and(|current| current >= certificate.sequence) {
            return;
        }
        let state = certificate.state;
        let mut descent = match self.transfer.active.take() {
            Some(active) if !active.stuck => active.descent,
            _ => {
                self.transfer.sources.forgive();
                let (protocol, service) = self.execution.pages();
                Descent::new(self.configuration.scope(), protocol, service)
            }
        };
        descent.aim(state);
        self.transfer.active = Some(Active { certificate, descent, asked: Vec::new(), stuck: false });
        self.ask();
    }

    /// Asks for what is wanted, as far as anybody may be asked.
    fn ask(&mut self) {
        let (now, me, settings) = (self.now, self.me, &self.settings);
        let Transfer { active, sources, .. } = &mut self.transfer;
        let Some(active) = active.as_mut().filter(|active| !active.stuck) else { return };
        let (voters, sequence) = (active.certificate.voters(), active.certificate.sequence);
        let patience = sources.patience(me, voters, settings.fetch_timeout);
        let mut fetches = Vec::new();
        while active.asked.len() < settings.fetches_max && !active.descent.is_idle() {
            let load = |id| active.asked.iter().filter(|asked| asked.source == id).count();
            let Some(source) = sources.pick(now, me, voters, load, settings.fetches_per_source_max) else {
                break;
            };
            let wants = active.descent.take();
            let Want { space, level, .. } = wants[0];
            let indexes = wants.iter().map(|want| want.index).collect();
            fetches.push((source, Fetch { sequence, space, level, indexes }));
            active.asked.push(Asked { source, at: now, due: now + patience, wants });
        }
        // Correct ones are among them: whoever is left with liars only was shown no certificate.
        let hopeless = voters.iter().all(|id| id == me || sources.has_lied(id));
        if hopeless {
            self.transfer.stop();
        }
        for (source, fetch) in fetches {
            self.send(Principal::Replica(source), Message::Fetch(fetch));
        }
    }

    /// Asks elsewhere when an answer is late.
    pub(super) fn on_transfer_tick(&mut self) {
        let (now, timeout) = (self.now, self.settings.fetch_timeout);
        let Transfer { active, sources, .. } = &mut self.transfer;
        let Some(active) = active else { return };
        for late in active.asked.extract_if(.., |asked| asked.due <= now) {
            sources.missed(late.source, now, timeout);
            active.descent.give_back(late.wants);
        }
        self.ask();
    }

    /// Serves parts of a checkpoint that is still here; else says which ones are.
    pub(super) fn on_fetch(&mut self, from: ReplicaId, message: &Fetch) {
        let whole = !self.checkpoints.has_diverged() && !self.transfer.is_active();
        if !whole && !mutation::is_on(Mutation::ServeDiverged) {
            return self.put_aside(Ignored::Stale);
        }
        let (now, rate) = (self.now, self.settings.fetch_bytes_per_second);
        let pace = self.transfer.served.entry(from).or_default();
        if pace.ready(SERVING_BURST) > now {
            return self.put_aside(Ignored::TooOften);
        }
        let image = self.checkpoints.image(message.sequence);
        let answer = image.and_then(|image| image.answer(message));
        let cost = answer.as_ref().map_or(0, |(_, bytes)| *bytes).max(FETCH_COST_MIN);
        pace.charge(now, cost, rate);
        match answer {
            Some((answer, _)) => self.send(Principal::Replica(from), answer),
            None => {
                self.put_aside(Ignored::Stale);
                self.send_checkpoints(from, message.sequence);
            }
        }
    }

    pub(super) fn on_meta_data(&mut self, from: ReplicaId, message: MetaData) {
        let MetaData { sequence, space, level, partitions } = message;
        let found = partitions.into_iter().map(|(index, branch)| (space, index, Found::Branch(branch)));
        self.on_found(from, sequence, level, found.collect());
    }

    pub(super) fn on_data(&mut self, from: ReplicaId, message: Data) {
        let pages = message.pages.into_iter();
        let found = pages.map(|Page { at, bytes }| (at.space, at.index, Found::Page(bytes)));
        self.on_found(from, message.sequence, 0, found.collect());
    }

    /// Takes in what was asked for, or the first part of it.
    fn on_found(&mut self, from: ReplicaId, sequence: Sequence, level: u32, found: Vec<(Space, u64, Found)>) {
        let (now, rate) = (self.now, self.settings.fetch_bytes_per_second);
        let Transfer { active, sources, .. } = &mut self.transfer;
        let answers = |asked: &Asked| {
            let first = &asked.wants[0];
            let place = found.first().map(|(space, index, _)| (*space, *index));
            asked.source == from && first.level == level && Some((first.space, first.index)) == place
        };
        let aimed = active.as_mut().filter(|active| active.certificate.sequence == sequence);
        let position = aimed.as_ref().and_then(|active| active.asked.iter().position(answers));
        let (Some(active), Some(position)) = (aimed, position) else {
            return self.put_aside(Ignored::Stale);
        };
        let Asked { at, mut wants, .. } = active.asked.remove(position);
        let rest = wants.split_off(found.len().min(wants.len()));
        let (mut right, mut bytes) = (found.len() <= wants.len(), FETCH_COST_MIN);
        for (want, (space, index, found)) in wants.into_iter().zip(found) {
            bytes += found.weight();
            right &= (space, index) == (want.space, want.index) && active.descent.take_in(&want, found);
            if !right {
                active.descent.give_back([want]);
            }
        }
        active.descent.give_back(rest);
        if right {
            sources.answered(from, now, now.since(at), (bytes, rate));
        } else {
            sources.lied(from);
            let (theirs, others) =
                active.asked.drain(..).partition::<Vec<_>, _>(|asked| asked.source == from);
            active.asked = others;
            active.descent.give_back(theirs.into_iter().flat_map(|asked| asked.wants));
            self.accuse(Misbehaviour::WrongState { replica: from, sequence });
        }
        self.go_on();
    }

    /// Something was taken in.
    fn go_on(&mut self) {
        let bytes_max = self.settings.transfer_bytes_max;
        let Some(active) = &mut self.transfer.active else { return };
        if active.descent.bytes() > bytes_max && !active.stuck {
            active.stuck = true;
            let sequence = active.certificate.sequence;
            return self.accuse(Misbehaviour::StateTooLarge { sequence, bytes_max });
        }
        if active.descent.is_idle() && active.asked.is_empty() {
            return self.finish_transfer();
        }
        self.ask();
    }

    /// Nothing is wanted any more: the pages are the state.
    fn finish_transfer(&mut self) {
        let Some(mut active) = self.transfer.active.take() else { return };
        let Certificate { sequence, state, .. } = active.certificate;
        let caught_up = sequence <= self.executed() && !self.checkpoints.has_diverged();
        if caught_up || sequence < self.log.low() {
            return; // by itself, meanwhile
        }
        let (protocol, service) = active.descent.states();
        let goal = (sequence, state);
        let Some(image) = self.execution.install(&self.configuration, goal, protocol, service) else {
            // Not what this version of the program reads; asking others again changes nothing.
            active.stuck = true;
            self.transfer.active = Some(active);
            return self.accuse(Misbehaviour::UnreadableState { sequence });
        };
        self.checkpoints.restart_from(image, active.certificate, false);
        if sequence > self.log.low() {
            self.log.advance(sequence);
        }
        self.close_log();
        // The copy comes before anything that is promised on top of it.
        self.write_snapshot();
        self.write_checkpoint(sequence, state);
        self.retransmission.moved();
        self.prune_all_requests();
        self.adopt_chosen();
        self.execute_committed();
    }
}

impl Found {
    /// The bytes that it takes up in a message, about.
    fn weight(&self) -> u64 {
        match self {
            Self::Branch(branch) => 32 * branch.children.len() as u64,
            Self::Page(bytes) => bytes.len() as u64,
        }
    }
}

impl Image {
    /// The first of the places that a FETCH asks for, as many as fit a message, and the bytes of that; none
    /// when there is no such place.
    fn answer(&self, fetch: &Fetch) -> Option<(Message, u64)> {
        let Fetch { sequence, space, level, ref indexes } = *fetch;
        let snapshot = match space {
            Space::Protocol => &self.protocol,
            Space::Service => &self.service,
        };
        let mut bytes = 0;
        let mut take = |weight: u64| {
            let fits = bytes == 0 || bytes + weight <= PAGES_BYTES as u64;
            bytes += if fits { weight } else { 0 };
            fits
        };
        if level == 0 {
            let page = |index: &u64| {
                let bytes = snapshot.page_bytes(*index)?;
                let fits = take(Found::Page(bytes.clone()).weight());
                fits.then_some(Page { at: PageCursor { space, index: *index }, bytes })
            };
            let pages: Vec<_> = indexes.iter().map_while(page).collect();
            return (!pages.is_empty()).then_some((Message::Data(Data { sequence, pages }), bytes));
        }
        let partition = |index: &u64| {
            let branch = match (level, index) {
                (1..=LEVELS, _) => snapshot.branch(level, *index)?,
                (STATE_LEVEL, 0) => self.branch(),
                _ => return None,
            };
            take(Found::Branch(branch.clone()).weight()).then_some((*index, branch))
        };
        let partitions: Vec<_> = indexes.iter().map_while(partition).collect();
        let answer = MetaData { sequence, space, level, partitions };
        (!answer.partitions.is_empty()).then_some((Message::MetaData(answer), bytes))
    }

    /// The digests of both arrays, and of the next configuration at a boundary.
    fn branch(&self) -> Branch {
        let spaces = [(0, &self.protocol), (1, &self.service)];
        let digests = spaces.map(|(child, snapshot)| (child, snapshot.digest_at(LEVELS, 0)));
        let next = self.next.map(|digest| (NEXT, digest));
        let children =
            digests.into_iter().chain(next).filter(|(_, digest)| *digest != Digest::ZERO).collect();
        Branch { level: STATE_LEVEL, children }
    }
}

#[cfg(feature = "sim")]
impl Transfer {
    /// `here` are the bytes of the own state, which a descent begins from.
    pub(super) fn footprint(
        &self,
        n: u64,
        here: u64,
        settings: &super::Settings,
    ) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        use crate::message::wire::FETCH_PLACES_MAX;
        use crate::service::{FAN_OUT, PAGE_BYTES_MAX};

        let active = self.active.as_ref();
        let bytes = active.map_or(0, |active| active.descent.bytes());
        let (asked, wanted) =
            active.map_or((0, 0), |active| (active.asked.len(), active.descent.wanted_count()));
        let under_way = active.iter().flat_map(|active| &active.asked).map(|asked| asked.wants.len()).sum();
        let fetches = settings.fetches_max as u64;
        let places = fetches * FETCH_PLACES_MAX as u64;
        vec![
            // What is over the limit is only found when it is here: one answer more.
            Held {
                what: "bytes of a fetched state",
                held: bytes,
                most: settings.transfer_bytes_max.max(here) + (FETCH_PLACES_MAX * PAGE_BYTES_MAX) as u64,
            },
            Held::new("unanswered fetches", asked, fetches),
            Held::new("places that others were asked for", under_way, places),
            // The deepest come first, so of each level there are no more than what was asked for at once
            // above it led to; those of all levels, once more when they come back unanswered.
            Held::new("wanted places", wanted, 2 * u64::from(STATE_LEVEL) * places * FAN_OUT as u64),
            Held::new("sources of states", self.sources.count(), n),
            Held::new("replicas that states were served to", self.served.len(), n),
        ]
    }
}
