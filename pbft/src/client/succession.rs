//! Going over to the next configuration ([`membership`](crate::membership)).

use super::{Client, ClientAction, Options, RequestId, SubmitRefused, Tally};
use crate::crypto::Principal;
use crate::group::{Configuration, View};
use crate::membership::{Reconfigure, Succession};
use crate::message::{Configured, Message, Proof, Unverified, wire};
use crate::time::Instant;

impl Client {
    /// Has members replaced, as the operator orders it. The result is read by
    /// [`Reconfigure::outcome`].
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn submit_reconfigure(
        &mut self,
        now: Instant,
        order: &Reconfigure,
    ) -> Result<RequestId, SubmitRefused> {
        self.take(now, order.to_bytes(), Options::default(), true)
    }

    /// The configuration that this client takes for the one in force.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Hears which configuration a replica is in: whoever is ahead shows the way when it knows.
    pub(super) fn on_configured(&mut self, from: Principal, theirs: Configured) {
        self.ignored += 1;
        if theirs.number > self.configuration.number {
            self.tell_configuration(from);
        }
    }

    /// Says which configuration this is, where members can be replaced; now and then only.
    pub(super) fn tell_configuration(&mut self, to: Principal) {
        let Principal::Replica(to) = to else { return };
        if self.configuration.operator.is_none() || !self.group.has(to) {
            return;
        }
        let told = &mut self.told[to.index()];
        if told.is_some_and(|told| self.now.since(told) < self.settings.retry_after / 8) {
            return;
        }
        *told = Some(self.now);
        let message = self.configured();
        self.actions.push_back(ClientAction::Send { to, message });
    }

    /// What to send to a replica that has just been connected, where members can be replaced: a client that
    /// waits for a quorum of former members would else never hear of the others.
    #[must_use]
    pub fn greeting(&self) -> Option<Unverified<Message>> {
        self.configuration.operator.is_some().then(|| self.configured())
    }

    pub(super) fn configured(&self) -> Unverified<Message> {
        let body = Message::Configured(Configured { number: self.configuration.number });
        let (sender, bytes) = (Principal::Client(self.me), wire::encode_body(&body));
        Unverified { sender, body, bytes, proof: Proof::Nothing }
    }

    /// A replica shows the next configuration. It may know of more.
    pub(super) fn on_succession(&mut self, from: Principal, succession: &Succession) {
        let before = self.configuration.number;
        self.handle_succession(self.now, succession);
        if self.configuration.number > before {
            self.tell_configuration(from);
        }
    }

    /// Is shown the next configuration, by a replica or from a [`Chain`](crate::membership::Chain).
    /// Answers of former members count no more: a quorum of the new ones has to say all of it.
    pub fn handle_succession(&mut self, now: Instant, succession: &Succession) {
        self.now = now;
        let Ok(next) = succession.verify_by(&self.configuration, &self.keychain) else {
            self.ignored += 1;
            return;
        };
        self.keychain.succeed(next.scope(), next.public_keys());
        self.configuration = next;
        self.views.fill(View(0));
        self.told.fill(None);
        self.seeking = None;
        for operation in self.operations.iter_mut().flatten() {
            operation.tally = Tally::default();
            operation.seals.clear();
        }
        self.actions.push_back(ClientAction::Succession(Box::new(succession.clone())));
        // What was signed for the former members is void, and what is missing has all its tries before it again.
        self.bundles.values_mut().for_each(|bundle| (bundle.signature, bundle.attempts) = (None, 1));
        let open: Vec<_> = self.bundles.keys().copied().collect();
        for first in open {
            self.transmit(first, true);
        }
    }
}
