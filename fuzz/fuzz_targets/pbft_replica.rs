//! A replica that is fed what a faulty peer or client makes up: it never panics, keeps its
//! invariants, and what it does stays bounded.
//!
//! The input is a row of steps: who sends (u8), which kind (u8), a length (u8), the body. What one
//! of the faulty principals says is tagged with its own keys, so that it gets past the first check;
//! the kind 0 is a whole envelope as it comes from a socket.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use quorate_pbft::{
    Action, ClientId, Configuration, Context, GroupId, Instant, Limits, Permutation, Replica, ReplicaId,
    Sequence, Service, Settings, State,
    crypto::{Digest, Domain, Identity, Keychain, Kind, Principal, SeedRng, Signature},
    message::{Certificate, Message, Proof, Unverified, state_statement, wire},
};

struct Echo;

impl Service for Echo {
    fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
        state.write(u64::from(operation.len() as u8 % 4), &operation[..operation.len().min(64)]);
        Bytes::copy_from_slice(operation)
    }
}

static CONFIGURATION: LazyLock<Configuration> = LazyLock::new(|| {
    let mut rng = SeedRng::new([1; 32]);
    let identity = Identity::generate(&mut rng).expect("2048 bits are in range");
    let key = identity.public_key();
    // The same key everywhere: fast tags tell principals apart, not keys.
    Configuration {
        operator: Some(key.clone()),
        permutation: Permutation::Identity,
        limits: Limits { checkpoint_period: 2, window: 4, ..Limits::default() },
        ..Configuration::genesis(GroupId([5; 16]), vec![key.clone(); 4], vec![key.clone(); 2])
    }
});

fn keychain(of: Principal) -> Keychain {
    Keychain::fast(CONFIGURATION.scope(), CONFIGURATION.public_keys(), of)
}

fn message(sender: u8, kind: u8, bytes: Bytes, me: Principal) -> Option<Unverified<Message>> {
    if kind == 0 {
        return wire::decode(bytes).ok();
    }
    let sender = match sender % 5 {
        replica @ 0..3 => Principal::Replica(ReplicaId(u32::from(replica))),
        client => Principal::Client(ClientId(u32::from(client - 3))),
    };
    let mut body = wire::decode_body(u32::from(kind), bytes.clone()).ok()?;
    sign_within(sender, &mut body);
    let bytes = if body.kind() == Kind::Request { bytes } else { wire::encode_body(&body) };
    Some(body.proven_as(bytes, &keychain(sender), me))
}

/// Makes the signatures inside a message good: no fuzzer guesses one.
fn sign_within(sender: Principal, body: &mut Message) {
    match body {
        Message::Checkpoint(checkpoint) => {
            checkpoint.vote = vote(sender, checkpoint.sequence, &checkpoint.state);
        }
        Message::Stable(certificate) => sign_certificate(certificate),
        Message::ViewChange(view_change) => view_change.stable.iter_mut().for_each(sign_certificate),
        Message::NewView(new_view) => {
            for signed in &mut new_view.view_changes {
                signed.body.stable.iter_mut().for_each(sign_certificate);
                signed.bytes = wire::encode_view_change(&signed.body);
                let domain = Domain::new(Kind::ViewChange, signed.body.view.0);
                signed.proof = Proof::Signature(keychain(signed.sender).sign(domain, &signed.bytes));
            }
        }
        _ => {}
    }
}

fn sign_certificate(certificate: &mut Certificate) {
    let signed = |(voter, _): &(ReplicaId, Signature)| {
        let voter = ReplicaId(voter.0 % 4);
        (voter, vote(Principal::Replica(voter), certificate.sequence, &certificate.state))
    };
    certificate.votes = certificate.votes.iter().map(signed).collect();
}

fn vote(voter: Principal, sequence: Sequence, state: &Digest) -> Signature {
    keychain(voter).sign(Domain::new(Kind::Checkpoint, 0), &state_statement(sequence, state))
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, mut data)) = data.split_first() else { return };
    // As the primary of view 0, or as a backup; with a journal or without.
    let me = ReplicaId(if mode & 1 == 0 { 3 } else { 0 });
    let settings = Settings { journal: mode & 2 == 0, ..Settings::default() };
    let keys = keychain(Principal::Replica(me));
    let mut replica = Replica::new(CONFIGURATION.clone(), me, keys, Echo, settings);
    let mut now = Instant(1);
    while let [sender, kind, length, rest @ ..] = data {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        now.0 += 1_000_000;
        let bytes = Bytes::copy_from_slice(body);
        if let Some(message) = message(*sender, *kind, bytes, Principal::Replica(me)) {
            replica.handle_message(now, message);
        } else {
            now.0 += u64::from(*length) * 10_000_000;
            replica.handle_timeout(now);
        }
        let (mut durable, mut actions) = (None, 0);
        loop {
            match replica.poll_action(now) {
                Some(Action::Append { position, .. }) => durable = Some(position),
                Some(_) => {}
                None => match durable.take() {
                    Some(position) => replica.handle_durable(now, position),
                    None => break,
                },
            }
            actions += 1;
            assert!(actions < 10_000, "one message sets off no end of actions");
        }
    }
});
