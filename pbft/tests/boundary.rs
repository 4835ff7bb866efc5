//! What replicas and clients take along over the boundary of a configuration, and what they leave behind.
#![cfg(feature = "sim")]

use std::time::Duration;

use bytes::Bytes;
use quorate_pbft::crypto::Principal;
use quorate_pbft::message::Message;
use quorate_pbft::sim::{Cluster, Ledger, Setup};
use quorate_pbft::{ClientId, Limits, Options, Readiness, ReplicaId, Sequence};

const CLIENT: ClientId = ClientId(0);
/// Which page is written when an operation goes wrong.
const STRAY_PAGE: u64 = (1 << 30) - 1;
/// Where an order that is executed in batch 1 is in force.
const BOUNDARY: Sequence = Sequence(6);

fn setup() -> Setup {
    let mut setup = Setup::new(1, 1);
    setup.with_operator();
    setup.configuration.limits = Limits { checkpoint_period: 2, window: 4, ..Limits::default() };
    // One batch at a time, so that there is a place for a request before the boundary.
    setup.settings.batches_in_flight = 1;
    setup
}

fn submit(cluster: &mut Cluster<Ledger>, name: u64, receipt: bool) {
    let operation = Bytes::copy_from_slice(&name.to_be_bytes());
    cluster.submit(CLIENT, operation, Options { receipt, ..Options::default() }).expect("there is room");
}

fn until(cluster: &mut Cluster<Ledger>, is_so: impl Fn(&Cluster<Ledger>) -> bool) {
    while !is_so(cluster) {
        assert!(cluster.step(), "nothing happens any more");
    }
}

fn executed(cluster: &Cluster<Ledger>, id: ReplicaId) -> Sequence {
    cluster.replica(id).expect("it is up").executed()
}

fn number(cluster: &Cluster<Ledger>, id: ReplicaId) -> u64 {
    cluster.replica(id).expect("it is up").configuration().number
}

fn readiness(cluster: &Cluster<Ledger>, id: ReplicaId) -> Readiness {
    cluster.replica(id).expect("it is up").readiness(cluster.now())
}

/// Nothing gets to a replica from the others, nor from it to them.
fn isolate(cluster: &mut Cluster<Ledger>, id: ReplicaId) {
    for other in cluster.replica_ids().filter(|other| *other != id) {
        let (one, other) = (Principal::Replica(id), Principal::Replica(other));
        cluster.cut(one, other);
        cluster.cut(other, one);
    }
}

/// Its journal leads to the wrong state again, and no checkpoint of the next configuration is there yet that
/// could tell: the proof of the configuration does.
#[test]
fn state_that_was_wrong_at_the_boundary_is_known_to_be_wrong_after_a_crash() {
    let wrong = ReplicaId(3);
    let mut cluster = Cluster::new(setup(), Ledger);
    cluster.order_replacement(CLIENT, &[ReplicaId(2)]).expect("there is room");
    until(&mut cluster, |cluster| executed(cluster, ReplicaId(0)) == Sequence(4));
    cluster.stray(wrong);
    submit(&mut cluster, 7, false);
    until(&mut cluster, |cluster| number(cluster, wrong) == 1);
    assert_eq!((executed(&cluster, wrong), readiness(&cluster, wrong)), (BOUNDARY, Readiness::Diverged));
    isolate(&mut cluster, wrong);
    cluster.run_for(Duration::from_millis(10)); // its disk holds all of it
    cluster.crash(wrong);
    cluster.stray(wrong); // and the machine goes wrong in the same place again
    cluster.restart(wrong);
    assert_eq!((number(&cluster, wrong), executed(&cluster, wrong)), (1, BOUNDARY));
    assert_eq!(readiness(&cluster, wrong), Readiness::Diverged);
    assert!(!cluster.replica(wrong).expect("it is up").state().page(STRAY_PAGE).is_empty());
    cluster.mend();
    cluster.run_for(Duration::from_secs(2));
    assert_eq!((executed(&cluster, wrong), readiness(&cluster, wrong)), (BOUNDARY, Readiness::Ready));
    let stray = cluster.replica(wrong).expect("it is up").state().page(STRAY_PAGE);
    assert!(stray.is_empty(), "what went wrong is repaired");
}

/// All replies and seals are lost, and the group goes over. Those who stay sign again.
#[test]
fn receipt_that_was_asked_for_before_the_boundary_arrives_behind_it() {
    let mut cluster = Cluster::new(setup().with_real_keys(), Ledger);
    cluster.order_replacement(CLIENT, &[ReplicaId(3)]).expect("there is room");
    until(&mut cluster, |cluster| executed(cluster, ReplicaId(0)) == Sequence(4));
    for id in cluster.replica_ids() {
        cluster.cut(Principal::Replica(id), Principal::Client(CLIENT));
    }
    submit(&mut cluster, 7, true);
    until(&mut cluster, |cluster| (0..3).all(|id| number(cluster, ReplicaId(id)) == 1));
    cluster.run_for(Duration::from_millis(300));
    cluster.take_outcomes();
    cluster.mend();
    cluster.run_for(Duration::from_secs(3));
    let outcomes = cluster.take_outcomes();
    let outcome = outcomes.iter().map(|(_, outcome)| outcome).find(|outcome| outcome.receipt.is_some());
    let outcome = outcome.expect("a receipt");
    let receipt = outcome.receipt.as_ref().expect("found by it");
    assert!(outcome.sequence <= BOUNDARY && receipt.sequence <= BOUNDARY, "executed before");
    let configuration = cluster.replica(ReplicaId(0)).expect("it is up").configuration();
    assert_eq!((receipt.configuration, receipt.verify(configuration)), (1, Ok(())));
}

/// The former one did not answer for so long that it would be left in peace.
#[test]
fn whoever_takes_a_place_is_asked_for_a_state_at_once() {
    let (laggard, place) = (ReplicaId(2), ReplicaId(3));
    let mut setup = setup();
    setup.settings.fetch_timeout = Duration::from_secs(10);
    let mut cluster = Cluster::new(setup, Ledger);
    let mut names = 0;
    let mut lag = |cluster: &mut Cluster<Ledger>| {
        isolate(cluster, laggard);
        for _ in 0..8 {
            submit(cluster, names, false);
            names += 1;
            cluster.run_for(Duration::from_millis(50));
        }
    };
    lag(&mut cluster);
    cluster.crash(place); // it vouches for the state, and serves it to nobody
    cluster.take_sent();
    cluster.mend();
    let fetches = |cluster: &mut Cluster<Ledger>| {
        let sent = cluster.take_sent().into_iter();
        let fetches = sent.filter(|sent| {
            let parties = (Principal::Replica(laggard), Principal::Replica(place));
            matches!(sent.message, Message::Fetch(_)) && (sent.from, sent.to) == parties
        });
        fetches.count()
    };
    until(&mut cluster, |cluster| executed(cluster, laggard) == executed(cluster, ReplicaId(0)));
    assert!(fetches(&mut cluster) > 0, "it was asked in vain");
    cluster.order_replacement(CLIENT, &[place]).expect("there is room");
    cluster.run_for(Duration::from_secs(1));
    assert_eq!(number(&cluster, laggard), 1);
    assert!(cluster.replace(place));
    cluster.run_for(Duration::from_secs(1));
    assert_eq!(readiness(&cluster, place), Readiness::Ready);
    lag(&mut cluster);
    cluster.take_sent();
    cluster.mend();
    cluster.run_for(Duration::from_secs(2));
    assert!(fetches(&mut cluster) > 0, "the newcomer is not asked");
    assert_eq!(cluster.violation(), None);
}
