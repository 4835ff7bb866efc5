//! Proofs of misbehaviour: what convicts, and what convicts nobody.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_pbft::{
    Configuration, GroupId, MisbehaviourProof, Permutation, ReplicaId, Sequence, View,
    crypto::{Digest, Domain, Identity, Keychain, Kind, Principal, SeedRng, Signature},
    evidence::{InvalidProof, Lie, Signed, SignedState},
    message::{Certificate, Claim, NewView, Proof, Unverified, ViewChange, state_statement, wire},
};

static GROUP: LazyLock<(Configuration, Vec<Keychain>)> = LazyLock::new(|| {
    let mut rng = SeedRng::new([9; 32]);
    let identities: Vec<_> = (0..4).map(|_| Identity::generate(&mut rng).expect("a key")).collect();
    let configuration = Configuration {
        number: 3,
        start: Sequence(128),
        permutation: Permutation::Identity,
        ..Configuration::genesis(
            GroupId([5; 16]),
            identities.iter().map(|identity| identity.public_key().clone()).collect(),
            vec![],
        )
    };
    let keychain = |(index, identity): (u32, Identity)| {
        let me = Principal::Replica(ReplicaId(index));
        Keychain::new(configuration.scope(), configuration.public_keys(), me, identity)
    };
    let keychains = (0..).zip(identities).map(keychain).collect();
    (configuration, keychains)
});

fn sign(by: u32, kind: Kind, view: u64, bytes: &[u8]) -> Signature {
    GROUP.1[by as usize].sign(Domain::new(kind, view), bytes)
}

fn state(by: u32, sequence: u64, byte: u8) -> SignedState {
    let state = Digest([byte; 32]);
    let statement = state_statement(Sequence(sequence), &state);
    SignedState { state, signature: sign(by, Kind::Checkpoint, 0, &statement) }
}

fn certificate(sequence: u64, byte: u8, by: &[u32]) -> Certificate {
    let votes = by.iter().map(|by| (ReplicaId(*by), state(*by, sequence, byte).signature));
    Certificate { sequence: Sequence(sequence), state: Digest([byte; 32]), votes: votes.collect() }
}

fn claim(sequence: u64, view: u64) -> Claim {
    // Above the place that the configuration begins after.
    Claim { sequence: Sequence(128 + sequence), view: View(view), digest: Digest([7; 32]) }
}

fn view_change(by: u32, view: u64, change: impl FnOnce(&mut ViewChange)) -> Unverified<ViewChange> {
    let mut body =
        ViewChange { view: View(view), stable: None, prepared: vec![], pre_prepared: vec![], marks: vec![] };
    change(&mut body);
    let bytes = wire::encode_view_change(&body);
    let proof = Proof::Signature(sign(by, Kind::ViewChange, view, &bytes));
    Unverified { sender: Principal::Replica(ReplicaId(by)), body, bytes, proof }
}

fn signed<M>(message: Unverified<M>) -> Signed {
    let Proof::Signature(signature) = message.proof else { panic!("is signed") };
    Signed { bytes: message.bytes, signature }
}

fn new_view(by: u32, view: u64, view_changes: Vec<Unverified<ViewChange>>) -> Signed {
    let bytes = wire::encode_new_view(&NewView { view: View(view), view_changes });
    let signature = sign(by, Kind::NewView, view, &bytes);
    Signed { bytes, signature }
}

fn plain(by: u32, view: u64) -> Unverified<ViewChange> {
    view_change(by, view, |_| {})
}

fn proof(culprit: u32, lie: Lie) -> MisbehaviourProof {
    let (configuration, _) = &*GROUP;
    MisbehaviourProof { group: configuration.group, configuration: 3, culprit: ReplicaId(culprit), lie }
}

/// What whoever gets a proof's bytes finds.
fn judge(culprit: u32, lie: Lie) -> Result<ReplicaId, InvalidProof> {
    let proof = proof(culprit, lie);
    let read = MisbehaviourProof::from_bytes(&proof.to_bytes()).expect("was written by us");
    assert_eq!(read, proof);
    read.verify(&GROUP.0)
}

#[track_caller]
fn guilty(culprit: u32, lie: Lie) {
    assert_eq!(judge(culprit, lie), Ok(ReplicaId(culprit)));
}

#[track_caller]
fn innocent(culprit: u32, lie: Lie) {
    assert_eq!(judge(culprit, lie), Err(InvalidProof::Innocent(ReplicaId(culprit))));
}

#[test]
fn two_view_changes_for_one_view_convict() {
    let both =
        |first, second| Lie::ConflictingViewChanges { view: View(2), both: [signed(first), signed(second)] };
    let other = || view_change(3, 2, |body| body.pre_prepared = vec![claim(1, 0)]);
    guilty(3, both(plain(3, 2), other()));
    innocent(3, both(plain(3, 2), plain(3, 2)));
    // Of two views, of two replicas, or in another's name.
    for wrong in [both(plain(3, 2), plain(3, 1)), both(plain(3, 2), plain(1, 2)), both(plain(1, 2), other())]
    {
        assert_eq!(judge(3, wrong), Err(InvalidProof::Signature(ReplicaId(3))));
    }
    // What is signed as one kind of message is none of another kind.
    let as_new_views =
        Lie::ConflictingNewViews { view: View(2), both: [signed(plain(3, 2)), signed(other())] };
    assert_eq!(judge(3, as_new_views), Err(InvalidProof::Signature(ReplicaId(3))));
}

#[test]
fn view_change_that_contradicts_itself_convicts() {
    let wrong =
        |message: Unverified<ViewChange>| Lie::WrongViewChange { view: View(2), message: signed(message) };
    guilty(1, wrong(view_change(1, 2, |body| body.prepared = vec![claim(1, 2)])));
    guilty(1, wrong(view_change(1, 2, |body| body.prepared = vec![claim(2, 0), claim(1, 0)])));
    let with = |stable| wrong(view_change(1, 2, |body| body.stable = Some(stable)));
    guilty(1, with(certificate(128, 9, &[0, 1])));
    innocent(1, with(certificate(128, 9, &[0, 1, 3])));
    innocent(1, wrong(view_change(1, 2, |body| body.prepared = vec![claim(1, 1)])));
    // Nobody is guilty of what this version can't read.
    let bytes = Bytes::from_static(&[0xff; 9]);
    let signature = sign(1, Kind::ViewChange, 2, &bytes);
    let unread = Lie::WrongViewChange { view: View(2), message: Signed { bytes, signature } };
    assert!(matches!(judge(1, unread), Err(InvalidProof::Message(_))));
}

#[test]
fn new_view_that_does_not_follow_convicts() {
    let wrong = |message| Lie::WrongNewView { view: View(1), message };
    let right = || vec![plain(0, 1), plain(1, 1), plain(3, 1)];
    innocent(1, wrong(new_view(1, 1, right())));
    guilty(1, wrong(new_view(1, 1, vec![plain(0, 1), plain(1, 1)])));
    guilty(1, wrong(new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(1, 1)])));
    guilty(1, wrong(new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(3, 2)])));
    let alone = view_change(0, 1, |body| body.prepared = vec![claim(1, 0)]);
    guilty(1, wrong(new_view(1, 1, vec![alone, plain(1, 1), plain(3, 1)])));
    let mut forged = plain(3, 1);
    forged.sender = Principal::Replica(ReplicaId(0));
    guilty(1, wrong(new_view(1, 1, vec![forged, plain(1, 1), plain(3, 1)])));
    // Whoever is not the primary begins no view.
    guilty(2, wrong(new_view(2, 1, right())));
}

#[test]
fn two_new_views_for_one_view_convict() {
    let first = || new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(3, 1)]);
    let second = new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(2, 1)]);
    guilty(1, Lie::ConflictingNewViews { view: View(1), both: [first(), second] });
    innocent(1, Lie::ConflictingNewViews { view: View(1), both: [first(), first()] });
}

#[test]
fn two_states_after_one_batch_convict() {
    let both = |both| Lie::ConflictingStates { sequence: Sequence(128), both };
    guilty(2, both([state(2, 128, 1), state(2, 128, 2)]));
    innocent(2, both([state(2, 128, 1), state(2, 128, 1)]));
    // After two batches there may be two states.
    assert_eq!(
        judge(2, both([state(2, 128, 1), state(2, 256, 2)])),
        Err(InvalidProof::Signature(ReplicaId(2)))
    );
}

#[test]
fn state_that_2f_plus_1_contradict_convicts() {
    let wrong = |byte, signers: &[u32]| Lie::WrongState {
        said: state(2, 128, byte),
        certificate: certificate(128, 1, signers),
    };
    guilty(2, wrong(2, &[0, 1, 3]));
    innocent(2, wrong(1, &[0, 1, 3]));
    // f+1 may lie together and make no certificate.
    assert_eq!(judge(2, wrong(2, &[0, 1])), Err(InvalidProof::Certificate));
}

#[test]
fn proof_is_for_its_group_only() {
    let lie =
        || Lie::ConflictingStates { sequence: Sequence(128), both: [state(2, 128, 1), state(2, 128, 2)] };
    let mut other = GROUP.0.clone();
    other.group = GroupId([6; 16]);
    assert_eq!(proof(2, lie()).verify(&other), Err(InvalidProof::Group));
    other = GROUP.0.clone();
    other.number = 4;
    let refused = InvalidProof::Configuration { found: 3, expected: 4 };
    assert_eq!(proof(2, lie()).verify(&other), Err(refused));
    assert_eq!(judge(9, lie()), Err(InvalidProof::Culprit(ReplicaId(9))));
}

#[test]
fn every_flipped_bit_makes_a_proof_void() {
    let lie = Lie::ConflictingStates { sequence: Sequence(128), both: [state(2, 128, 1), state(2, 128, 2)] };
    let bytes = proof(2, lie).to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut wrong = bytes.to_vec();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let verdict = MisbehaviourProof::from_bytes(&wrong).and_then(|proof| proof.verify(&GROUP.0));
        assert!(verdict.is_err(), "bit {bit} of {} does not matter", bytes.len() * 8);
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_proof_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..9u8) {
        let _ = MisbehaviourProof::from_bytes(&bytes);
        // The same behind a head that makes sense.
        let mut whole = proof(2, Lie::WrongNewView { view: View(1), message: new_view(1, 1, vec![]) }).to_bytes()[..38].to_vec();
        whole[29] = kind;
        whole.extend(&bytes);
        if let Ok(proof) = MisbehaviourProof::from_bytes(&whole) {
            let _ = proof.verify(&GROUP.0);
        }
    }

    #[test]
    fn cut_or_extended_bytes_are_no_proof(cut in any::<prop::sample::Index>()) {
        let whole = proof(2, Lie::WrongState { said: state(2, 128, 2), certificate: certificate(128, 1, &[0, 1, 3]) }).to_bytes();
        let cut = cut.index(whole.len());
        prop_assert!(MisbehaviourProof::from_bytes(&whole[..cut]).is_err());
        prop_assert!(MisbehaviourProof::from_bytes(&[&whole[..], &[0]].concat()).is_err());
    }
}

/// What a replica finds in CHECKPOINTs that it hears.
#[cfg(feature = "sim")]
mod checkpoints {
    use quorate_pbft::{
        Action, Evidence, Instant, Replica, Settings,
        message::{Checkpoint, Message},
        mutation::{self, Mutation},
        sim::{Ledger, Setup},
    };

    use super::*;

    fn keys(me: u32) -> Keychain {
        let configuration = Setup::new(1, 1).configuration;
        let me = Principal::Replica(ReplicaId(me));
        Keychain::fast(configuration.scope(), configuration.public_keys(), me)
    }

    fn vote(by: u32, byte: u8) -> Signature {
        let statement = state_statement(Sequence(128), &Digest([byte; 32]));
        keys(by).sign(Domain::new(Kind::Checkpoint, 0), &statement)
    }

    fn proven(by: u32, body: Message) -> Unverified<Message> {
        body.proven_by(&keys(by), Principal::Replica(ReplicaId(2)))
    }

    fn checkpoint(by: u32, byte: u8) -> Unverified<Message> {
        let (state, vote) = (Digest([byte; 32]), vote(by, byte));
        let (root, signature) = (Digest([0; 32]), Signature(Bytes::new()));
        let body = Checkpoint { sequence: Sequence(128), state, size: 0, root, signature, vote };
        proven(by, Message::Checkpoint(body))
    }

    fn stable() -> Unverified<Message> {
        let votes = [0, 1, 2].map(|by| (ReplicaId(by), vote(by, 1)));
        let certificate =
            Certificate { sequence: Sequence(128), state: Digest([1; 32]), votes: votes.into() };
        proven(0, Message::Stable(certificate))
    }

    /// What replica 2 finds in what it hears.
    fn found(messages: &[Unverified<Message>]) -> Vec<(u32, &'static str)> {
        let configuration = Setup::new(1, 1).configuration;
        let settings = Settings { journal: false, ..Settings::default() };
        let mut backup = Replica::new(configuration, ReplicaId(2), keys(2), Ledger, settings);
        for message in messages {
            backup.handle_message(Instant(1), message.clone());
        }
        let actions = std::iter::from_fn(|| backup.poll_action(Instant(1)));
        let evidence = actions.filter_map(|action| match action {
            Action::Evidence(Evidence::Provable(proof)) => Some((proof.culprit.0, proof.lie.kind())),
            Action::Evidence(local @ Evidence::Local { .. }) => {
                panic!("what is signed can be proven: {local}")
            }
            _ => None,
        });
        evidence.collect()
    }

    #[test]
    fn two_states_of_one_replica_are_evidence() {
        let both = [(3, "conflicting-states")];
        assert_eq!(found(&[checkpoint(3, 1), checkpoint(3, 1)]), []);
        assert_eq!(found(&[checkpoint(3, 1), checkpoint(3, 2), checkpoint(3, 4)]), both);
    }

    #[test]
    fn state_that_differs_from_the_certified_one_is_evidence() {
        let told = [checkpoint(3, 7), checkpoint(0, 1), stable()];
        assert_eq!(found(&told), [(3, "wrong-state")]);
        assert_eq!(found(&told[1..]), []);
        let tolerant = mutation::with(Mutation::TolerateWrongStates, || found(&told));
        assert_eq!(tolerant, [], "this test sees a replica that does not compare");
    }
}
