//! View-changes and new-views that no correct replica sends: each is refused, and moves nobody.
#![cfg(feature = "sim")]

use bytes::Bytes;
use quorate_pbft::{
    Action, ClientId, Configuration, Evidence, Ignored, Instant, Replica, ReplicaId, Sequence, Settings,
    View,
    crypto::{Digest, Domain, Keychain, Kind, Principal, Signature},
    message::{
        Certificate, Claim, Message, NewView, Prepare, Proof, Unverified, ViewChange, state_statement, wire,
    },
    mutation::{self, Mutation},
    sim::{Ledger, Setup},
};

fn configuration() -> Configuration {
    Setup::new(1, 1).configuration
}

const fn replica(id: u32) -> Principal {
    Principal::Replica(ReplicaId(id))
}

fn keys(me: Principal) -> Keychain {
    let configuration = configuration();
    Keychain::fast(configuration.scope(), configuration.public_keys(), me)
}

/// What `from` signs, whatever it is.
fn signed<M>(from: u32, kind: Kind, view: u64, body: M, bytes: Bytes) -> Unverified<M> {
    let sender = replica(from);
    let proof = Proof::Signature(keys(sender).sign(Domain::new(kind, view), &bytes));
    Unverified { sender, body, bytes, proof }
}

fn view_change(from: u32, view: u64, change: impl FnOnce(&mut ViewChange)) -> Unverified<ViewChange> {
    let mut body = ViewChange {
        view: View(view),
        stable: None,
        prepared: Vec::new(),
        pre_prepared: Vec::new(),
        marks: Vec::new(),
    };
    change(&mut body);
    let bytes = wire::encode_view_change(&body);
    signed(from, Kind::ViewChange, body.view.0, body, bytes)
}

fn plain(from: u32, view: u64) -> Unverified<ViewChange> {
    view_change(from, view, |_| {})
}

fn claim(sequence: u64, view: u64, byte: u8) -> Claim {
    Claim { sequence: Sequence(sequence), view: View(view), digest: Digest([byte; 32]) }
}

fn new_view(from: u32, view: u64, view_changes: Vec<Unverified<ViewChange>>) -> Unverified<Message> {
    let body = NewView { view: View(view), view_changes };
    let bytes = wire::encode_new_view(&body);
    as_message(signed(from, Kind::NewView, view, body, bytes), Message::NewView)
}

fn as_message<M>(signed: Unverified<M>, wrap: impl FnOnce(M) -> Message) -> Unverified<Message> {
    let Unverified { sender, body, bytes, proof } = signed;
    Unverified { sender, body: wrap(body), bytes, proof }
}

/// Replica 2 of a group of four, and what it says of others.
struct Backup(Replica<Ledger>);

impl Backup {
    fn new() -> Self {
        let settings = Settings { journal: false, ..Settings::default() };
        Self(Replica::new(configuration(), ReplicaId(2), keys(replica(2)), Ledger, settings))
    }

    fn hear(&mut self, message: Unverified<Message>) -> &mut Self {
        self.0.handle_message(Instant(1), message);
        self
    }

    fn hear_view_change(&mut self, message: Unverified<ViewChange>) -> &mut Self {
        self.hear(as_message(message, Message::ViewChange))
    }

    /// Whom it convicts, and of what.
    fn evidence(&mut self) -> Vec<(u32, &'static str)> {
        let actions = std::iter::from_fn(|| self.0.poll_action(Instant(1)));
        let evidence = actions.filter_map(|action| match action {
            Action::Evidence(Evidence::Provable(proof)) => Some((proof.culprit.0, proof.lie.kind())),
            Action::Evidence(local @ Evidence::Local { .. }) => {
                panic!("what is signed can be proven: {local}")
            }
            _ => None,
        });
        evidence.collect()
    }

    fn ignored(&self) -> Vec<Ignored> {
        self.0.ignored().map(|(reason, _)| reason).collect()
    }

    fn is_in(&self, view: u64) -> bool {
        self.0.view() == View(view) && !self.0.is_changing()
    }
}

#[test]
fn new_view_of_three_view_changes_begins_a_view() {
    let mut backup = Backup::new();
    backup.hear(new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(3, 1)]));
    assert!(backup.is_in(1));
    assert_eq!(backup.evidence(), []);
}

#[test]
fn new_view_that_does_not_follow_is_evidence() {
    let wrong = [
        vec![],
        vec![plain(0, 1), plain(1, 1)],
        vec![plain(0, 1), plain(1, 1), plain(1, 1)],
        vec![plain(0, 1), plain(1, 1), plain(3, 2)],
        // Somebody says alone that it prepared something: the others could be hiding it.
        vec![view_change(0, 1, |body| body.prepared = vec![claim(1, 0, 7)]), plain(1, 1), plain(3, 1)],
        vec![view_change(0, 1, |body| body.prepared = vec![claim(1, 1, 7)]), plain(1, 1), plain(3, 1)],
    ];
    // One's own words again and again, about a place beyond all: no reason to look at all before it.
    let far = || view_change(1, 1, |body| body.prepared = vec![claim(u64::MAX, 0, 7)]);
    let wrong = wrong.into_iter().chain([vec![far(), far(), far()], vec![far(); 4]]);
    for view_changes in wrong {
        let mut backup = Backup::new();
        backup.hear(new_view(1, 1, view_changes));
        assert!(backup.is_in(0));
        assert_eq!(backup.evidence(), [(1, "wrong-new-view")]);
    }
    let trusting =
        mutation::with(Mutation::TrustNewView, || Backup::new().hear(new_view(1, 1, vec![])).is_in(1));
    assert!(trusting, "this test sees a replica that believes anything");
}

#[test]
fn client_that_two_replicas_mark_has_to_sign() {
    let marking = |from| view_change(from, 1, |body| body.marks = vec![ClientId(0)]);
    let is_marked = |view_changes| {
        let mut backup = Backup::new();
        backup.hear(new_view(1, 1, view_changes));
        assert!(backup.is_in(1));
        backup.0.has_marked(ClientId(0))
    };
    assert!(is_marked(vec![marking(0), plain(1, 1), marking(3)]));
    let one = || vec![plain(0, 1), plain(1, 1), marking(3)];
    assert!(!is_marked(one()), "one replica alone may lie");
    assert!(mutation::with(Mutation::MarkAlone, || is_marked(one())), "this test sees what one mark does");
}

#[test]
fn view_change_carries_marks_that_a_new_view_told_of() {
    let marking = |from| view_change(from, 1, |body| body.marks = vec![ClientId(0)]);
    let mut backup = Backup::new();
    backup.hear(new_view(1, 1, vec![marking(0), plain(1, 1), marking(3)]));
    backup.hear_view_change(plain(0, 2)).hear_view_change(plain(3, 2));
    let actions = std::iter::from_fn(|| backup.0.poll_action(Instant(1)));
    let own = actions.filter_map(|action| match action {
        Action::Broadcast { message: Unverified { body: Message::ViewChange(own), .. } } => Some(own.marks),
        _ => None,
    });
    assert_eq!(own.collect::<Vec<_>>(), [[ClientId(0)]]);
}

#[test]
fn new_view_of_somebody_else_is_evidence() {
    let mut backup = Backup::new();
    backup.hear(new_view(3, 1, vec![plain(0, 1), plain(1, 1), plain(3, 1)]));
    assert!(backup.is_in(0));
    assert_eq!(backup.evidence(), [(3, "wrong-new-view")]);
}

#[test]
fn new_view_with_a_forged_view_change_is_not_proven() {
    let mut forged = plain(3, 1);
    forged.sender = replica(0);
    let mut without = plain(3, 1);
    without.proof = Proof::Signature(Signature(Bytes::new()));
    for wrong in [forged, without] {
        let mut backup = Backup::new();
        backup.hear(new_view(1, 1, vec![wrong, plain(1, 1), plain(3, 1)]));
        assert!(backup.is_in(0));
        assert_eq!(backup.ignored(), [Ignored::Unproven]);
    }
}

#[test]
fn checkpoint_without_a_certificate_is_not_proven() {
    let (sequence, state) = (Sequence(128), Digest([9; 32]));
    let vote = |by: u32| {
        let statement = state_statement(sequence, &state);
        (ReplicaId(by), keys(replica(by)).sign(Domain::new(Kind::Checkpoint, 0), &statement))
    };
    let with = |votes: &[(ReplicaId, Signature)]| {
        let stable = Certificate { sequence, state, votes: votes.into() };
        view_change(3, 1, |body| body.stable = Some(stable))
    };
    let wrong = [
        vec![],
        vec![vote(0), vote(1)],
        vec![vote(0), vote(0), vote(0)],
        vec![vote(0), vote(1), (ReplicaId(2), vote(0).1)],
        vec![vote(0), vote(1), (ReplicaId(200), vote(0).1)],
    ];
    for votes in wrong {
        let mut backup = Backup::new();
        backup.hear_view_change(with(&votes));
        assert_eq!(backup.ignored(), [Ignored::Unproven], "{votes:?}");
    }
    let mut backup = Backup::new();
    backup.hear_view_change(with(&[vote(0), vote(1), vote(3)]));
    assert_eq!((backup.ignored(), backup.evidence()), (vec![], vec![]));
}

#[test]
fn view_change_that_contradicts_itself_is_evidence() {
    let window = configuration().limits.window;
    let twice = vec![claim(1, 0, 7), claim(1, 0, 8)];
    let many = (0..17).map(|byte| claim(1, 0, byte)).collect();
    for (prepared, pre_prepared) in [
        (vec![claim(0, 0, 7)], vec![]),
        (vec![claim(window + 1, 0, 7)], vec![]),
        (vec![claim(1, 1, 7)], vec![]),
        (vec![claim(2, 0, 7), claim(1, 0, 7)], vec![]),
        (twice, vec![]),
        (vec![], vec![claim(1, 0, 7), claim(1, 0, 7)]),
        (vec![], many),
    ] {
        let mut backup = Backup::new();
        backup.hear_view_change(view_change(3, 1, |body| {
            (body.prepared, body.pre_prepared) = (prepared.clone(), pre_prepared);
        }));
        assert_eq!(backup.evidence(), [(3, "wrong-view-change")], "{prepared:?}");
    }
}

#[test]
fn two_view_changes_for_one_view_are_evidence() {
    let mut backup = Backup::new();
    backup.hear_view_change(plain(3, 1));
    backup.hear_view_change(view_change(3, 1, |body| body.pre_prepared = vec![claim(1, 0, 7)]));
    assert_eq!(backup.evidence(), [(3, "conflicting-view-changes")]);
}

#[test]
fn primary_was_told_something_else() {
    // Replica 3 tells this one nothing and the next primary something: the NEW-VIEW shows both words,
    // whichever comes first.
    let other = || view_change(3, 1, |body| body.pre_prepared = vec![claim(1, 0, 7)]);
    let begin = || new_view(1, 1, vec![plain(0, 1), plain(1, 1), other()]);
    let mut backup = Backup::new();
    backup.hear_view_change(plain(3, 1)).hear(begin());
    assert!(backup.is_in(1));
    assert_eq!(backup.evidence(), [(3, "conflicting-view-changes")]);
    let mut backup = Backup::new();
    backup.hear(begin()).hear_view_change(plain(3, 1));
    assert_eq!(backup.evidence(), [(3, "conflicting-view-changes")]);
    let mut backup = Backup::new();
    backup.hear(begin()).hear_view_change(other());
    assert_eq!(backup.evidence(), [], "the same again is nothing");
}

#[test]
fn two_new_views_for_one_view_are_evidence() {
    let mut backup = Backup::new();
    let begin = || new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(3, 1)]);
    backup.hear(begin()).hear(begin());
    assert_eq!(backup.evidence(), []);
    backup.hear(new_view(1, 1, vec![plain(0, 1), plain(1, 1), plain(2, 1)]));
    assert!(backup.is_in(1));
    assert_eq!(backup.evidence(), [(1, "conflicting-new-views")]);
}

#[test]
fn what_a_liar_does_again_is_not_said_again() {
    let mut backup = Backup::new();
    for view in 1..100 {
        backup.hear_view_change(view_change(3, view, |body| body.prepared = vec![claim(1, view, 7)]));
    }
    assert_eq!(backup.evidence(), [(3, "wrong-view-change")]);
    assert_eq!(backup.0.wasted(), 98, "but the first");
}

#[test]
fn storm_of_view_changes_from_one_replica_moves_nobody() {
    let mut backup = Backup::new();
    for view in 1..1000 {
        backup.hear_view_change(plain(3, view));
    }
    backup.hear_view_change(plain(3, u64::MAX));
    assert!(backup.is_in(0));
    // A second one does, to the lower of the two views.
    backup.hear_view_change(plain(0, 5));
    assert_eq!((backup.0.view(), backup.0.is_changing()), (View(5), true));
}

#[test]
fn storm_of_view_changes_is_a_waste_until_the_next_period() {
    let mut backup = Backup::new();
    for view in 1..=8 {
        backup.hear_view_change(plain(3, view));
    }
    assert_eq!((backup.0.wasted(), backup.ignored()), (0, vec![]));
    for view in 9..=100 {
        backup.hear_view_change(plain(3, view));
    }
    assert_eq!((backup.0.wasted(), backup.ignored()), (92, vec![Ignored::TooOften]));
    // Another one's are taken meanwhile, and its own later on.
    backup.hear_view_change(plain(0, 7));
    assert_eq!(backup.0.view(), View(7));
    let later = Instant(1) + Settings::default().view_timeout;
    backup.0.handle_message(later, as_message(plain(3, 101), Message::ViewChange));
    assert_eq!(backup.0.wasted(), 92);
}

#[test]
fn what_a_laggard_cannot_use_yet_is_no_waste() {
    let mut backup = Backup::new();
    let tell = |sequence, view| {
        let vote = Prepare { view: View(view), sequence: Sequence(sequence), digest: Digest([9; 32]) };
        Message::Prepare(vote).proven_by(&keys(replica(3)), replica(2))
    };
    backup.hear(tell(1 << 20, 0)).hear(tell(1, 7));
    assert_eq!(backup.ignored(), [Ignored::WrongView, Ignored::OutsideWindow]);
    assert_eq!(backup.0.wasted(), 0);
    backup.hear(tell(1, 0)).hear(tell(1, 0));
    assert_eq!(backup.0.wasted(), 1, "the second time");
}

#[test]
fn last_view_of_all_is_no_end() {
    // f+1 that lie are more than the group bears; still, no number may make it panic.
    let mut backup = Backup::new();
    backup.hear_view_change(plain(3, u64::MAX)).hear_view_change(plain(0, u64::MAX));
    backup.hear_view_change(plain(1, u64::MAX));
    let due = backup.0.poll_timeout();
    for step in 0..100 {
        backup.0.handle_timeout(Instant(due.0 + step * 10_000_000_000));
    }
    assert_eq!(backup.0.view(), View(u64::MAX));
}

#[test]
fn votes_of_a_view_that_was_left_are_not_given() {
    let mut backup = Backup::new();
    backup.hear_view_change(plain(0, 1)).hear_view_change(plain(3, 1));
    assert!(backup.0.is_changing());
    let sent: Vec<_> = std::iter::from_fn(|| backup.0.poll_action(Instant(1))).collect();
    assert!(sent.iter().any(|action| matches!(action, Action::Broadcast { message } if matches!(message.body, Message::ViewChange(_)))));
    let batch = wire::batch(1, false, [].into());
    let body = Message::PrePrepare(quorate_pbft::message::PrePrepare {
        view: View(0),
        sequence: Sequence(1),
        batch,
    });
    backup.hear(body.proven_by(&keys(replica(0)), replica(1)));
    assert_eq!(std::iter::from_fn(|| backup.0.poll_action(Instant(1))).count(), 0, "nothing is promised");
}
