//! Replicas that lie: each is a real replica whose words are twisted on their way out, one kind of
//! lie a file. It knows its own keys and nobody else's, so what it says is proven to be its own.

use crate::crypto::{Domain, Keychain, Principal};
use crate::message::{Checkpoint, Form, Message, Proof, Unverified, ViewChange, state_statement, wire};

use super::random::Random;

mod checkpoints;
mod equivocation;
mod results;
mod silence;
mod state;
mod view_changes;

/// What becomes of a message of a faulty replica.
trait Lie: std::fmt::Debug {
    /// What it says to `to` instead of `message`; nothing when it keeps silent.
    fn instead(&mut self, to: Principal, message: &Message) -> Said;
}

/// What a lie does with one message to one receiver.
enum Said {
    /// It goes out as it is.
    Truth,
    /// This goes out.
    Lie(Box<Message>),
    /// Nothing goes out.
    Nothing,
}

/// A replica that is faulty in one way.
#[derive(Debug)]
pub(super) struct Adversary {
    lie: Box<dyn Lie>,
    keychain: Keychain,
}

impl Adversary {
    /// The kinds of lies.
    const KINDS: u64 = 6;

    /// One of the kinds.
    pub(super) fn some(random: &mut Random, keychain: Keychain) -> Self {
        let scope = *keychain.scope();
        let lie: Box<dyn Lie> = match random.below(Self::KINDS) {
            0 => Box::new(silence::Silence),
            1 => Box::new(equivocation::Equivocation::new(scope)),
            2 => Box::new(results::WrongResults),
            3 => Box::new(checkpoints::WrongCheckpoints),
            4 => Box::new(view_changes::HidesFromSome),
            _ => Box::new(state::WrongPages),
        };
        Self { lie, keychain }
    }

    /// What reaches the network instead of a message, if anything does.
    pub(super) fn twist(
        &mut self,
        to: Principal,
        message: Unverified<Message>,
    ) -> Option<Unverified<Message>> {
        if message.sender != self.keychain.me() {
            return Some(message); // somebody else's words, passed on
        }
        match self.lie.instead(to, &message.body) {
            Said::Truth => Some(message),
            Said::Nothing => None,
            Said::Lie(body) => Some(prove(&self.keychain, to, *body)),
        }
    }
}

/// A message to `to` as whoever holds the keys can prove it.
pub(super) fn prove(keychain: &Keychain, to: Principal, mut body: Message) -> Unverified<Message> {
    if let Message::Checkpoint(Checkpoint { sequence, state, vote, .. }) = &mut body {
        let domain = Domain::new(crate::crypto::Kind::Checkpoint, 0);
        *vote = keychain.sign(domain, &state_statement(*sequence, state));
    }
    let bytes = wire::encode_body(&body);
    let domain = Domain::new(body.kind(), body.view().0);
    let proof = match body.form() {
        Form::Tag => Proof::Tag(keychain.tag(to, domain, &bytes)),
        Form::Authenticator => Proof::Authenticator(keychain.authenticator(domain, &bytes)),
        Form::Signature => Proof::Signature(keychain.sign(domain, &bytes)),
    };
    Unverified { sender: keychain.me(), body, bytes, proof }
}

/// Half of the replicas, to tell one thing, where the others are told another.
fn is_odd(principal: Principal) -> bool {
    matches!(principal, Principal::Replica(id) if id.0 % 2 == 1)
}

/// A VIEW-CHANGE that says nothing of what was prepared.
fn forgetful(message: &ViewChange) -> ViewChange {
    ViewChange { prepared: Vec::new(), pre_prepared: Vec::new(), ..message.clone() }
}
