//! Going over to the next configuration ([`membership`](crate::membership)).
//!
//! The rules, as events:
//!
//! * *upon executing a RECONFIGURE that the operator signed*: its boundary is the first checkpoint that
//!   is L batches on. Nothing is ordered beyond it. As primary, fill the places up to it, with empty
//!   batches where nothing waits.
//! * *upon executing the boundary's batch*: answer no more reads that are not ordered.
//! * *when the checkpoint at the boundary is stable here*: its certificate is the SUCCESSION. Write it
//!   down, and begin anew under the next configuration: view 0, no votes, no view-changes, nothing
//!   between the watermarks. The state, the client table and the history go on.
//! * *upon what nothing proves*: tell its sender which configuration this replica is in (CONFIGURED), now
//!   and then. *Upon CONFIGURED of an earlier one*: send the SUCCESSION that follows it; *of a later one*:
//!   say which one this is.
//! * *upon a SUCCESSION that follows the configuration here*: go over to it, and fetch the state at the
//!   boundary if it was not reached.
//! * *when one's own index was given to another key*: take part no more, but show others the way.
//!
//! **Why nothing is lost or voted for twice.** Whoever votes for a place beyond the boundary has
//! executed up to the boundary less L, and the order with it: so it knows better. What was committed up to
//! the boundary is in the state that 2f+1 signed there, of whom f+1 are correct and at most f are
//! replaced. Votes of the two configurations never meet, because every tag and signature names its own.
//! Requests that wait at the boundary are forgotten: their tags are void, and clients send again. Seals that
//! were made before are kept, and signed again when a client still asks for them: a receipt has 2f+1 signatures
//! of one configuration.
//!
//! **Why no read misses an acknowledged write.** Quorums of the two configurations need not share a correct
//! replica. But when something is acknowledged in the next one, f+1 correct members of the former one have
//! executed up to the boundary, and answer no reads there; 2f+1 answers need one of them. And in the next
//! one only those answer who have the state at its beginning.

use std::collections::BTreeMap;

use super::log::Log;
use super::record::Record;
use super::status::Retransmission;
use super::view_change::Views;
use super::vouching::Vouching;
use super::{Ignored, Replica, Settings};
use crate::crypto::{Keychain, Principal};
use crate::group::{Configuration, Group, ReplicaId, Sequence, View};
use crate::membership::Succession;
use crate::message::{Certificate, Configured, Message};
use crate::mutation::{self, Mutation};
use crate::service::{LEVELS, Service};
use crate::time::Instant;

/// How this replica came into its configuration.
#[derive(Debug, Default)]
pub(super) struct Succeeding {
    /// The proofs of the configurations since the one that it began with, and of that one unless it was
    /// the genesis: whoever lags is shown them. As many as the operator gave orders.
    successions: Vec<Succession>,
    /// Another key has this replica's index.
    retired: bool,
    /// When each peer and client was told something last. Hints come in anybody's name, so what one asks
    /// for must not keep back what another one needs: at most one entry for each peer or client and each
    /// thing to be told.
    told: BTreeMap<(Principal, Hint), Instant>,
}

/// What is told to whoever proved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hint {
    /// Which configuration this is.
    Configured,
    /// What led to the configuration with this number.
    Succession(u64),
}

impl Succeeding {
    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    pub(super) fn successions(&self) -> &[Succession] {
        &self.successions
    }
}

impl<S: Service> Replica<S> {
    /// A replica that takes an index over in a configuration that replaced members: it has no state,
    /// fetches the one at the boundary from the others, and votes for nothing below.
    ///
    /// `configuration` is what `succession` leads to, as [`Chain::latest`](crate::membership::Chain::latest)
    /// and [`Chain::last`](crate::membership::Chain::last) give it when the place was just given away: it
    /// finds its way to later ones by itself. Whoever has run before with this identity must come back by
    /// [`Replica::recover`].
    ///
    /// # Panics
    /// When the configuration is not valid or not the one of the succession, the succession gives no place
    /// to `me`, or the keychain is another's.
    #[must_use]
    pub fn join(
        configuration: Configuration,
        succession: Succession,
        me: ReplicaId,
        keychain: Keychain,
        service: S,
        settings: Settings,
    ) -> Self {
        assert_eq!(
            (configuration.number, configuration.start),
            (succession.reconfigure.number, succession.start),
            "the succession leads to the configuration"
        );
        // A member from before has promised something, and would forget it here.
        assert!(succession.reconfigure.replaces(me), "the succession gives the place of {me} to another key");
        let mut replica = Self::empty(configuration, me, keychain, service, settings);
        replica.append(Record::Succession(Box::new(succession.clone())), None);
        replica.seek(&succession);
        replica.succeeding.successions.push(succession);
        replica.assert_invariants();
        replica
    }

    /// Whether another key has this replica's index: it takes part in nothing any more, but shows whoever is
    /// left behind the way. It may be the only one who can, until 2f+1 others are in a later configuration.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.succeeding.retired
    }

    /// The proofs of the configurations since the one that this replica began with.
    #[must_use]
    pub fn successions(&self) -> &[Succession] {
        &self.succeeding.successions
    }

    /// Whether the state at the beginning of the configuration is still to be fetched.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        self.executed() < self.configuration.start
    }

    /// The checkpoint after which the next configuration is in force, once it is known.
    #[must_use]
    pub fn boundary(&self) -> Option<Sequence> {
        let (order, boundary) = self.execution.pending()?;
        (order.number > self.configuration.number).then_some(*boundary)
    }

    /// Whether all that this configuration orders is executed here.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.boundary().is_some_and(|end| self.executed() >= end)
    }

    /// Nothing is ordered beyond a boundary once it is known: by executing the order, or by its place in a
    /// state from elsewhere.
    pub(super) fn close_log(&mut self) {
        self.log.close_at(self.boundary());
    }

    /// The certificate of the low watermark, if the members of this configuration made it: where the
    /// configuration begins is proven by how one came there.
    pub(super) fn proven_stable(&self) -> Option<&Certificate> {
        self.checkpoints.stable().filter(|stable| stable.sequence > self.configuration.start)
    }

    /// Goes over if the low watermark is a boundary, and the state there durable. Whoever crashed between the
    /// two records finds the certificate in its journal, and the SUCCESSION in that.
    pub(super) fn succeed_if_due(&mut self) {
        let may = self.checkpoints.is_durable() && !self.is_halted();
        let Some(boundary) = self.boundary().filter(|_| may) else { return };
        let Some(certificate) = self.checkpoints.stable().filter(|stable| stable.sequence == boundary) else {
            return;
        };
        let image = self.checkpoints.image(certificate.sequence).expect("what is stable is kept");
        let (order, start) = self.execution.pending().expect("there is a boundary");
        let [protocol, service] = [&image.protocol, &image.service].map(|pages| pages.digest_at(LEVELS, 0));
        let (reconfigure, votes) = (order.clone(), std::sync::Arc::clone(&certificate.votes));
        let succession = Succession { reconfigure, start: *start, protocol, service, votes };
        let next = succession.reconfigure.apply(&self.configuration, succession.start);
        self.succeed(succession, next);
    }

    fn succeed(&mut self, succession: Succession, next: Configuration) {
        self.append(Record::Succession(Box::new(succession.clone())), None);
        self.adopt(succession, next);
        self.retransmission.hurry(self.now);
        if let Some(ahead) = self.checkpoints.ahead().cloned() {
            self.start_transfer(ahead);
        }
    }

    /// Begins anew under the next configuration.
    fn adopt(&mut self, succession: Succession, next: Configuration) {
        let start = next.start;
        self.keychain.succeed(next.scope(), next.public_keys());
        self.group = Group::new(&next);
        self.configuration = next;
        self.view = View(0);
        self.views = Views::new(&self.configuration.scope());
        self.log = Log::new(self.configuration.limits.window, start);
        self.vouching = Vouching::default();
        self.admission.begin_anew();
        self.last_proposed = start;
        self.checkpoints.begin_at(start);
        self.transfer.stop();
        for (replaced, _) in &succession.reconfigure.replacements {
            self.accused.retain(|(culprit, _)| culprit != replaced);
            self.transfer.forget(*replaced);
            self.succeeding.told.retain(|(who, _), _| *who != Principal::Replica(*replaced));
        }
        self.outbox.forget_promises();
        self.retransmission = Retransmission::new(&self.group, &self.settings);
        self.compare_boundary(&succession.certificate(&self.configuration));
        if self.is_joining() || self.checkpoints.has_diverged() {
            self.seek(&succession);
        }
        if succession.reconfigure.replaces(self.me) {
            self.succeeding.retired = true;
        }
        self.succeeding.successions.push(succession);
    }

    /// The state at the beginning of the configuration is not here: it has to be fetched.
    fn seek(&mut self, succession: &Succession) {
        let certificate = succession.certificate(&self.configuration);
        self.checkpoints.look_ahead(certificate);
    }

    /// Hears which configuration somebody is in; anybody may say anything.
    pub(super) fn on_configured(&mut self, from: Principal, theirs: Configured) {
        let ours = self.configuration.number;
        if theirs.number == ours {
            return self.put_aside(Ignored::Repeated);
        }
        if theirs.number > ours {
            return self.tell_configuration(from);
        }
        let next = |succession: &&Succession| succession.reconfigure.number == theirs.number + 1;
        let Some(succession) = self.succeeding.successions.iter().find(next).cloned() else {
            return self.put_aside(Ignored::Stale);
        };
        if self.may_tell(from, Hint::Succession(succession.reconfigure.number)) {
            self.send(from, Message::Succession(succession));
        }
    }

    /// Says which configuration this is, where members can be replaced.
    pub(super) fn tell_configuration(&mut self, to: Principal) {
        if self.configuration.operator.is_some() && self.may_tell(to, Hint::Configured) {
            let number = self.configuration.number;
            self.send(to, Message::Configured(Configured { number }));
        }
    }

    /// Whether somebody may be told something that nothing was proven for.
    fn may_tell(&mut self, to: Principal, what: Hint) -> bool {
        let known = match to {
            Principal::Replica(id) => self.group.has(id) && id != self.me,
            Principal::Client(id) => id.index() < self.configuration.clients.len(),
        };
        let period = self.settings.status_period / 2;
        let told = self.succeeding.told.get(&(to, what)).copied();
        if !known || told.is_some_and(|told| self.now.since(told) < period) {
            self.put_aside(Ignored::TooOften);
            return false;
        }
        self.succeeding.told.insert((to, what), self.now);
        true
    }

    /// Is shown the next configuration.
    pub(super) fn on_succession(&mut self, succession: &Succession) {
        if self.is_halted() {
            return self.put_aside(Ignored::Halted); // it shows its CHECKPOINTs, and does nothing else
        }
        if succession.reconfigure.number <= self.configuration.number {
            return self.put_aside(Ignored::Repeated);
        }
        let next = match succession.verify_by(&self.configuration, &self.keychain) {
            Ok(next) => next,
            Err(_) if mutation::is_on(Mutation::TrustSuccession) => {
                succession.reconfigure.apply(&self.configuration, succession.start)
            }
            Err(_) => return self.put_aside(Ignored::Unproven),
        };
        if self.executed() < succession.start || self.checkpoints.has_diverged() {
            return self.succeed(succession.clone(), next);
        }
        // It is all here but for others' votes, perhaps; or the state here is another one.
        self.learn(succession.certificate(&next));
    }

    /// The journal says that a configuration followed.
    pub(super) fn replay_succession(&mut self, succession: Succession) {
        if succession.reconfigure.number == self.configuration.number + 1 {
            let next = succession.reconfigure.apply(&self.configuration, succession.start);
            self.adopt(succession, next);
        } else if succession.reconfigure.number == self.configuration.number
            && self.succeeding.successions.is_empty()
        {
            // The one that this replica joined by.
            if self.is_joining() {
                self.seek(&succession);
            }
            self.succeeding.successions.push(succession);
        }
    }
}

#[cfg(feature = "sim")]
impl Succeeding {
    pub(super) fn footprint(&self, configuration: &Configuration) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        let everybody = u64::from(configuration.n()) + configuration.clients.len() as u64;
        vec![
            Held::new("successions", self.successions.len(), configuration.number),
            Held::new(
                "what principals were told of configurations",
                self.told.len(),
                everybody * (1 + configuration.number),
            ),
        ]
    }
}
