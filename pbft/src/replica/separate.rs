//! Batches that name operations instead of holding them (TOCS 5.1, "separate request transmission").
//!
//! Clients send large operations to all replicas themselves, and the primary orders their digests. The
//! rules, as events:
//!
//! * *upon a tagged request that names its operations*, as backup, for the first time: keep it. Upon the
//!   same again: its client is late, so vouch for it and relay it, as any other.
//! * *upon a pre-prepare that names operations which are not here*: keep it back. Accept it as soon as they
//!   come.
//! * *when they have not come for a status period*: ask the primary for the batch, and then everybody. Who
//!   made a batch wait so long is not waited for again soon: the primary is asked at once.
//!
//! Whoever accepts a batch has all of it, and writes all of it down. So whoever prepares it can bring it into
//! later views and to whoever lacks it, like any other batch (condition A2).
//!
//! A faulty client that sends its operations to the primary alone costs others a wait now and then. One that
//! sends them to nobody is not ordered, and a primary that orders what nobody has is left like one
//! that orders nothing.

use std::collections::BTreeMap;

use super::Replica;
use crate::crypto::{Digest, Principal};
use crate::group::{ClientId, Sequence};
use crate::message::{Batch, Message, PrePrepare, Want};
use crate::mutation::{self, Mutation};
use crate::service::Service;

/// Requests of a late client that have to come in time before it is waited for again: a busy machine makes
/// correct ones late, too, and to be asked for a batch makes it no less busy. Twice as many each time that it
/// is late again, up to [`STRIKES_MAX`]: who is late on purpose soon costs nobody a wait.
const IN_TIME_MIN: u32 = 64;
const STRIKES_MAX: u32 = 16;

/// Clients whose operations had to be asked for; at most all of them.
#[derive(Debug, Default)]
pub(super) struct Late(BTreeMap<ClientId, Probation>);

#[derive(Debug, Default)]
struct Probation {
    /// How many requests have to come in time now; none when the client is waited for.
    left: u32,
    strikes: u32,
}

impl Late {
    /// Whether a client is not waited for.
    fn has(&self, client: ClientId) -> bool {
        self.0.get(&client).is_some_and(|probation| probation.left > 0)
    }

    /// A client's operations came before anybody ordered them.
    pub(super) fn in_time(&mut self, client: ClientId) {
        if let Some(probation) = self.0.get_mut(&client) {
            probation.left = probation.left.saturating_sub(1);
        }
    }

    /// A client's operations had to be asked for.
    fn strike(&mut self, client: ClientId) {
        let probation = self.0.entry(client).or_default();
        if probation.left == 0 {
            probation.left = IN_TIME_MIN << probation.strikes;
            probation.strikes = (probation.strikes + 1).min(STRIKES_MAX);
        }
    }

    #[cfg(feature = "sim")]
    pub(super) fn footprint(&self, clients: u64) -> super::footprint::Held {
        super::footprint::Held::new("clients whose operations came late", self.0.len(), clients)
    }
}

/// Whether a batch must not be accepted because it names operations that are not here.
pub(super) fn lacks_operations(batch: &Batch) -> bool {
    !batch.is_whole() && !mutation::is_on(Mutation::AcceptWithoutOperations)
}

impl<S: Service> Replica<S> {
    /// A pre-prepare with the operations that it names, as far as their clients sent them here.
    pub(super) fn with_operations(&self, mut message: PrePrepare) -> PrePrepare {
        message.batch = message.batch.with(|request| {
            if request.body.is_whole() { None } else { self.admission.operations_of(request) }
        });
        message
    }

    /// Places whose pre-prepare is kept back because it names operations that are not here.
    fn incomplete(&self) -> Vec<Sequence> {
        let lacks = |sequence: &Sequence| {
            self.log.kept_back(*sequence).is_some_and(|kept| kept.lacking().next().is_some())
        };
        self.log.doubted().filter(lacks).collect()
    }

    /// A client's operations came: perhaps a pre-prepare waits for them.
    pub(super) fn operations_came(&mut self, client: ClientId) {
        let incomplete = self.incomplete();
        if incomplete.is_empty() {
            self.late.in_time(client);
        }
        for sequence in incomplete {
            // The last one that lacked decides: a batch is not gone through anew for each of them.
            let is_here = |request| self.admission.has_operations_of(request);
            if self.log.kept_back(sequence).is_some_and(|kept| kept.lacking().all(is_here)) {
                self.settle_doubts(sequence);
            }
        }
    }

    /// A batch was brought that was asked for: says whether a pre-prepare waits for it.
    pub(super) fn complete(&mut self, sequence: Sequence, digest: &Digest, batch: Batch) -> bool {
        let kept = self.log.kept_back_mut(sequence).filter(|kept| kept.digest == *digest);
        let Some(kept) = kept.filter(|kept| kept.lacking().next().is_some()) else { return false };
        kept.pre_prepare.batch = batch;
        self.settle_doubts(sequence);
        true
    }

    /// Asks for the operations of a pre-prepare that came just now, if one of their clients is known to be
    /// late.
    pub(super) fn ask_if_late(&mut self, sequence: Sequence) {
        let Some(kept) = self.log.kept_back(sequence) else { return };
        if kept.lacking().next().is_none() {
            return;
        }
        if kept.lacking().any(|request| self.late.has(request.body.client)) {
            self.ask_for(sequence);
        }
        // However long nothing moved before: they are asked for well within a view time-out.
        self.retransmission.hurry(self.now);
    }

    /// Asks for operations that should have come by now.
    pub(super) fn ask_for_operations(&mut self) {
        if self.is_changing() {
            return;
        }
        for sequence in self.incomplete() {
            let Some(kept) = self.log.kept_back(sequence) else { continue };
            if self.now.since(kept.since) < self.settings.status_period {
                continue; // they may be on their way
            }
            kept.lacking().for_each(|request| self.late.strike(request.body.client));
            self.ask_for(sequence);
        }
    }

    /// The primary first: it has them, or is faulty.
    fn ask_for(&mut self, sequence: Sequence) {
        let Some(kept) = self.log.kept_back_mut(sequence) else { return };
        let want = Message::Want(Want { sequence, digest: kept.digest });
        if std::mem::replace(&mut kept.asked, true) {
            return self.broadcast(want);
        }
        let primary = self.group.primary(kept.pre_prepare.view);
        self.send(Principal::Replica(primary), want);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_again_has_to_be_in_time_twice_as_often() {
        let (mut late, client) = (Late::default(), ClientId(7));
        for times in [64, 128, 256] {
            assert!(!late.has(client));
            late.strike(client);
            late.strike(client); // for another request of the same batch
            for _ in 0..times {
                assert!(late.has(client));
                late.in_time(client);
            }
        }
        assert!(!late.has(client) && !late.has(ClientId(8)));
    }

    #[test]
    fn strikes_do_not_overflow() {
        let (mut late, client) = (Late::default(), ClientId(7));
        for _ in 0..100 {
            late.strike(client);
            late.0.get_mut(&client).unwrap().left = 0;
        }
        late.strike(client);
        assert_eq!(late.0[&client].left, IN_TIME_MIN << STRIKES_MAX);
    }
}
