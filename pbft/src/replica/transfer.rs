//! Fetching a whole state when the batches that lead to it are gone, and serving it to others
//! (after TOCS 5.3; all pages come from one replica at a time).

use super::checkpoint::PAGES_BYTES;
use super::record::Record;
use super::{Ignored, Misbehaviour, Replica};
use crate::crypto::Principal;
use crate::group::{ReplicaId, Sequence, Voters};
use crate::message::{Certificate, Data, Fetch, Message, PageCursor, Space};
use crate::service::{PAGE_BYTES_MAX, Service, State};
use crate::time::Instant;

/// The state of a transfer.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    active: Option<Active>,
    /// Whom the last transfer was from: the next one begins with somebody else, so that nobody can
    /// hold this replica back by answering slowly.
    last: Option<ReplicaId>,
}

#[derive(Debug)]
struct Active {
    /// What 2f+1 replicas hold.
    certificate: Certificate,
    /// Those that have not failed us yet.
    sources: Voters,
    source: ReplicaId,
    /// The next page that is wanted.
    cursor: PageCursor,
    /// Pages that came; nothing of them is believed before the last one is here.
    protocol: State,
    service: State,
    bytes: u64,
    /// When the stretch that is wanted was asked for, and how often.
    asked: Instant,
    times: u32,
    due: Instant,
}

/// How often a stretch is asked for from one replica.
const TRIES: u32 = 3;

impl Transfer {
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.active.as_ref().map(|active| active.due)
    }

    pub(super) fn sequence(&self) -> Option<Sequence> {
        self.active.as_ref().map(|active| active.certificate.sequence)
    }
}

impl<S: Service> Replica<S> {
    /// Begins to fetch a state that f+1 correct replicas can bring back at least.
    pub(super) fn start_transfer(&mut self, certificate: Certificate) {
        let sources = certificate.voters();
        self.start_transfer_from(certificate, sources);
    }

    fn start_transfer_from(&mut self, certificate: Certificate, sources: Voters) {
        if self.transfer.sequence().is_some_and(|current| current >= certificate.sequence) {
            return;
        }
        let sources: Voters = sources.iter().filter(|source| *source != self.me).collect();
        self.transfer.active = self.pick(sources).map(|source| Active {
            certificate,
            sources,
            source,
            cursor: PageCursor::default(),
            protocol: State::default(),
            service: State::default(),
            bytes: 0,
            asked: self.now,
            times: 0,
            due: self.now,
        });
        self.transfer.last = self.transfer.active.as_ref().map(|active| active.source);
        self.ask();
    }

    /// The first source after the last one, or after this replica, in the order of indices: so not
    /// all laggards ask one.
    fn pick(&self, sources: Voters) -> Option<ReplicaId> {
        let last = self.transfer.last.unwrap_or(self.me);
        sources.iter().find(|source| *source > last).or_else(|| sources.iter().next())
    }

    fn ask(&mut self) {
        let (now, timeout) = (self.now, self.settings.fetch_timeout);
        let Some(active) = &mut self.transfer.active else { return };
        active.times += 1;
        (active.asked, active.due) = (now, now + timeout);
        let sequence = active.certificate.sequence;
        let (source, fetch) = (active.source, Fetch { sequence, from: active.cursor });
        self.send(Principal::Replica(source), Message::Fetch(fetch));
    }

    /// Asks again, or elsewhere, when an answer is late; gives up on a state that nobody serves.
    pub(super) fn on_transfer_tick(&mut self) {
        let Some(active) = &self.transfer.active else { return };
        if self.now < active.due {
            return;
        }
        if active.times < TRIES {
            return self.ask();
        }
        self.leave_source();
    }

    /// Begins again with another source; with none left, waits for newer checkpoints.
    fn leave_source(&mut self) {
        let Some(active) = self.transfer.active.take() else { return };
        let left = active.sources.iter().filter(|source| *source != active.source).collect();
        self.start_transfer_from(active.certificate, left);
    }

    /// Serves a stretch of a checkpoint that is still here; else says which ones are.
    pub(super) fn on_fetch(&mut self, from: ReplicaId, message: Fetch) {
        if self.checkpoints.has_diverged() || self.transfer.is_active() {
            return self.put_aside(Ignored::Stale);
        }
        let Fetch { sequence, from: begin } = message;
        let Some(image) = self.checkpoints.image(sequence) else {
            self.put_aside(Ignored::Stale);
            return self.send_checkpoints(from, sequence);
        };
        let (pages, next) = image.pages(begin, PAGES_BYTES);
        let data = Data { sequence, from: begin, pages, next };
        self.send(Principal::Replica(from), Message::Data(data));
    }

    /// Takes in the stretch that was asked for.
    pub(super) fn on_data(&mut self, from: ReplicaId, message: Data) {
        let limit = self.settings.transfer_bytes_max;
        let Some(active) = &mut self.transfer.active else { return self.put_aside(Ignored::Stale) };
        let sequence = active.certificate.sequence;
        if (from, message.sequence, message.from) != (active.source, sequence, active.cursor) {
            return self.put_aside(Ignored::Stale);
        }
        let mut at = active.cursor;
        let before = active.bytes;
        let in_order = message.pages.iter().all(|page| {
            let fits = page.at >= at && page.at.index < 1 << 30 && page.bytes.len() <= PAGE_BYTES_MAX;
            at = PageCursor { index: page.at.index.saturating_add(1), ..page.at };
            active.bytes += page.bytes.len() as u64;
            fits
        });
        // Each stretch but the last is as full as pages allow, so that their number is bounded by
        // the bytes of a state, and a transfer ends however long somebody draws it out.
        let full = active.bytes - before + PAGE_BYTES_MAX as u64 > PAGES_BYTES as u64;
        let moves_on = message.next.is_none_or(|next| full && next >= at && next > active.cursor);
        if !in_order || !moves_on || active.bytes > limit {
            self.accuse(Misbehaviour::WrongState { replica: from, sequence });
            return self.leave_source();
        }
        for page in &message.pages {
            match page.at.space {
                Space::Protocol => active.protocol.write(page.at.index, &page.bytes),
                Space::Service => active.service.write(page.at.index, &page.bytes),
            }
        }
        match message.next {
            Some(next) => {
                active.cursor = next;
                active.times = 0;
                self.ask();
            }
            None => self.finish_transfer(),
        }
    }

    /// All pages are here: they are the state that was asked for, or their sender lied.
    fn finish_transfer(&mut self) {
        let Some(active) = self.transfer.active.take() else { return };
        let Certificate { sequence, state, .. } = active.certificate;
        if sequence <= self.executed() && !self.checkpoints.has_diverged() {
            return; // caught up by itself meanwhile
        }
        let (protocol, service) = (active.protocol.clone(), active.service.clone());
        let goal = (sequence, state);
        let Some(image) = self.execution.install(&self.configuration, goal, protocol, service) else {
            self.accuse(Misbehaviour::WrongState { replica: active.source, sequence });
            self.transfer.active = Some(active);
            return self.leave_source();
        };
        self.checkpoints.restart_from(image, active.certificate, false);
        if sequence > self.log.low() {
            self.log.advance(sequence);
        }
        // The copy comes before anything that is promised on top of it.
        self.write_snapshot();
        let then = super::durable::Then::SendCheckpoint(sequence);
        self.append(Record::Checkpoint { sequence, state }, Some(then));
        self.retransmission.moved();
        self.prune_all_requests();
        self.adopt_chosen();
        self.execute_committed();
    }
}

#[cfg(feature = "sim")]
impl Transfer {
    /// The bytes of a state that is being fetched; what is over the limit is only found when it is here.
    pub(super) fn footprint(&self, settings: &super::Settings) -> super::footprint::Held {
        let bytes = self.active.as_ref().map_or(0, |active| active.bytes);
        super::footprint::Held {
            what: "bytes of a fetched state",
            held: bytes,
            most: settings.transfer_bytes_max,
        }
    }
}
