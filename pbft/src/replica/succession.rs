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

use super::allowance::Allowances;
use super::log::Log;
use super::record::Record;
use super::status::Retransmission;
use super::view_change::Views;
use super::vouching::Vouching;
use super::{Action, Ignored, Replica, Settings};
use crate::crypto::{Keychain, Principal};
use crate::group::{Configuration, Group, ReplicaId, Sequence, View};
use crate::membership::{Chain, Succession};
use crate::message::{Certificate, Configured, Message, Unverified};
use crate::mutation::{self, Mutation};
use crate::service::{LEVELS, Service};
use crate::time::Instant;

/// SUCCESSIONs that prove nothing, of one replica, that are looked at in a status period.
const WRONG_PER_PERIOD_MAX: u32 = 8;

/// How this replica came into its configuration.
#[derive(Debug, Default)]
pub(super) struct Succeeding {
    /// The proofs of all configurations from the genesis to the one in force: whoever lags is shown them,
    /// however far. As many as the operator gave orders, of a few kilobytes each.
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
    pub(super) fn new(successions: &[Succession]) -> Self {
        Self { successions: successions.to_vec(), ..Self::default() }
    }

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
    /// `chain` leads from the genesis to the configuration that gave it the place: the newcomer finds its
    /// way to later ones by itself, and can show whoever knows the genesis only all of it. Whoever has run
    /// before with this identity must come back by [`Replica::recover`].
    ///
    /// # Panics
    /// When the end of the chain gives no place to `me`, or the keychain is another's.
    #[must_use]
    pub fn join(chain: &Chain, me: ReplicaId, keychain: Keychain, service: S, settings: Settings) -> Self {
        // A member from before has promised something, and would forget it here.
        let given = chain.last().is_some_and(|succession| succession.reconfigure.replaces(me));
        assert!(given, "the end of the chain gives the place of {me} to another key");
        let mut replica = Self::begin(chain, me, keychain, service, settings);
        replica.seek_beginning();
        replica.assert_invariants();
        replica
    }

    /// A replica without promises at the end of a chain. Where that is not the genesis, it has no state, and
    /// does not look for it yet.
    pub(super) fn begin(
        chain: &Chain,
        me: ReplicaId,
        keychain: Keychain,
        service: S,
        settings: Settings,
    ) -> Self {
        let mut replica = Self::empty(chain.latest().clone(), me, keychain, service, settings);
        replica.succeeding = Succeeding::new(chain.successions());
        if chain.last().is_some() {
            replica.views.not_witnessed();
        }
        replica
    }

    /// Whether another key has this replica's index: it takes part in nothing any more, but shows whoever is
    /// left behind the way. It may be the only one who can, until 2f+1 others are in a later configuration.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.succeeding.retired
    }

    /// The proofs of all configurations from the genesis to the one that this replica is in.
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
            self.allowances[replaced.index()] = Allowances::default();
        }
        self.outbox.forget_promises();
        self.retransmission = Retransmission::new(&self.group, &self.settings);
        self.compare_boundary(&succession.certificate(&self.configuration));
        if self.is_joining() || self.checkpoints.has_diverged() {
            self.views.not_witnessed();
            self.seek(&succession);
        }
        if succession.reconfigure.replaces(self.me) {
            self.succeeding.retired = true;
        }
        self.succeeding.successions.push(succession);
    }

    /// Looks for the state at the beginning of the configuration, if it is not here.
    pub(super) fn seek_beginning(&mut self) {
        if let Some(succession) = self.succeeding.successions.last().cloned().filter(|_| self.is_joining()) {
            self.seek(&succession);
        }
    }

    /// The state at the beginning of the configuration is not here: it has to be fetched.
    fn seek(&mut self, succession: &Succession) {
        let certificate = succession.certificate(&self.configuration);
        self.checkpoints.look_ahead(certificate);
    }

    /// Which configuration this is.
    pub(crate) fn configured(&self) -> Unverified<Message> {
        let number = self.configuration.number;
        self.for_all(Message::Configured(Configured { number }))
    }

    /// What to show somebody who is in the configuration with this number: what followed it, or else which
    /// one this is.
    #[cfg(feature = "runtime")]
    pub(crate) fn way_from(&self, number: u64) -> Unverified<Message> {
        match self.following(number) {
            Some(succession) => self.for_all(Message::Succession(succession.clone())),
            None => self.configured(),
        }
    }

    fn following(&self, number: u64) -> Option<&Succession> {
        // The one at an index makes the configuration with the next number.
        self.succeeding.successions.get(usize::try_from(number).ok()?)
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
        let succession = self.following(theirs.number).expect("all of the way is known").clone();
        if self.may_tell(from, Hint::Succession(succession.reconfigure.number)) {
            self.send(from, Message::Succession(succession));
        }
    }

    /// Says which configuration this is, where members can be replaced.
    pub(super) fn tell_configuration(&mut self, to: Principal) {
        if self.configuration.operator.is_some() && self.may_tell(to, Hint::Configured) {
            let message = self.configured();
            self.actions.push_back(Action::Send { to, message });
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

    /// Is shown the next configuration by a replica.
    ///
    /// A genuine order with wrong votes costs digests of two configurations, with all their keys. So each
    /// replica may be wrong so often only; a driver takes care that nobody speaks in another's name.
    pub(super) fn on_succession(&mut self, from: Principal, succession: &Succession) {
        let from = match from {
            Principal::Replica(from) if self.group.has(from) && from != self.me => from,
            _ => return self.put_aside(Ignored::NotForUs),
        };
        if self.is_halted() {
            return self.put_aside(Ignored::Halted); // it shows its CHECKPOINTs, and does nothing else
        }
        if succession.reconfigure.number <= self.configuration.number {
            return self.put_aside(Ignored::Repeated);
        }
        let (now, period) = (self.now, self.settings.status_period);
        let allowance = &mut self.allowances[from.index()].wrong;
        if allowance.is_used_up(now, period, WRONG_PER_PERIOD_MAX) {
            return self.put_aside(Ignored::TooOften);
        }
        let next = match succession.verify_by(&self.configuration, &self.keychain) {
            Ok(next) => next,
            Err(_) if mutation::is_on(Mutation::TrustSuccession) => {
                succession.reconfigure.apply(&self.configuration, succession.start)
            }
            Err(_) => {
                allowance.take(now, period, 1, WRONG_PER_PERIOD_MAX);
                return self.put_aside(Ignored::Unproven);
            }
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
