//! Every kind of liar alone and beside every other, as many as a group bears: whatever they do, all
//! correct replicas agree, nobody correct is accused, and once the network is calm, clients are
//! answered. With more of them than that it may go wrong, and then the checkers say so.
//!
//! `PBFT_SEEDS=from..to` runs other seeds than the usual ones.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_pbft::crypto::{Domain, Keychain, Kind, Principal};
use quorate_pbft::message::{Ending, Message, PrePrepare, Proof, Request, Unverified, wire};
use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::checker::Violation;
use quorate_pbft::sim::run::{self, Failed, Reason};
use quorate_pbft::sim::{Adversary, Cluster, Ledger, Random, Setup, Weather};
use quorate_pbft::{ClientId, Ignored, Incarnation, Options, ReplicaId, Sequence, Timestamp, View};

/// Clients of each group.
const CLIENTS: u32 = 2;
/// How long clients may wait for all their answers once everything is healed.
const PATIENCE: Duration = Duration::from_secs(5);

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("PBFT_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// A group with small windows under bad weather.
fn setup(f: u32, random: &mut Random) -> Setup {
    let mut setup = Setup::new(f, CLIENTS);
    setup.seed = random.number();
    setup.through_wire = random.chance(250);
    let limits = &mut setup.configuration.limits;
    limits.checkpoint_period = 1 + random.below(4);
    limits.window = limits.checkpoint_period * (2 + random.below(2));
    limits.client_window = 32;
    setup.settings.view_timeout = Duration::from_millis(40 + random.below(80));
    setup.settings.snapshot_bytes_min = random.below(10_000);
    setup.settings.fetch_timeout = Duration::from_millis(100);
    setup.client_settings.retry_max = Duration::from_secs(1);
    setup.weather = Weather {
        delay_min: Duration::from_micros(200),
        delay_max: Duration::from_millis(1 + random.below(10)),
        loss: random.below(40),
        duplication: random.below(40),
    };
    setup
}

/// A run that may fail in one way only: by what it finds.
struct Run {
    cluster: Cluster<Ledger>,
    random: Random,
    names: u64,
    submitted: usize,
    answered: usize,
}

impl Run {
    fn new(f: u32, liars: &[Adversary], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(setup(f, &mut random), Ledger);
        // Often the first primary is among them.
        let n = 3 * f + 1;
        let first = if random.chance(600) { 0 } else { random.below(n.into()) };
        for (liar, offset) in liars.iter().zip(0..) {
            let id = (u32::try_from(first).expect("small") + offset * (1 + f / 2)) % n;
            cluster.corrupt_as(ReplicaId(id), *liar);
        }
        if random.chance(400) {
            let side = random.number();
            let some: Vec<_> = cluster.replica_ids().filter(|id| side >> id.0 & 1 == 1).collect();
            cluster.withhold(ClientId(0), some);
        }
        Self { cluster, random, names: 0, submitted: 0, answered: 0 }
    }

    fn submit(&mut self) {
        let client = ClientId(u32::try_from(self.random.below(CLIENTS.into())).expect("small"));
        let mut operation = BytesMut::new();
        operation.put_u64(self.names);
        self.names += 1;
        if self.random.chance(300) {
            operation.put_bytes(b'.', 1500); // beside its request
        }
        if self.cluster.submit(client, operation.freeze(), Options::default()).is_ok() {
            self.submitted += 1;
        }
    }

    /// Something happens to a correct replica.
    fn harm(&mut self) {
        let count = self.cluster.replica_ids().count() as u64;
        let id = ReplicaId(u32::try_from(self.random.below(count)).expect("small"));
        match self.random.below(10) {
            0 => self.cluster.crash(id),
            1 | 2 => {
                let primary = self.cluster.replica(id).map(|replica| replica.primary());
                primary.into_iter().for_each(|primary| self.cluster.crash(primary));
            }
            3 | 4 => self.cluster.replica_ids().for_each(|id| self.cluster.restart(id)),
            5 => {
                for other in self.cluster.replica_ids() {
                    self.cluster.cut(Principal::Replica(id), Principal::Replica(other));
                }
            }
            6 | 7 => self.cluster.mend(),
            _ => {}
        }
    }

    fn collect(&mut self) -> Result<(), String> {
        for (client, outcome) in self.cluster.take_outcomes() {
            self.answered += 1;
            let count = outcome.result().and_then(|result| result.get(..8)?.try_into().ok());
            let count = count.map(u64::from_be_bytes);
            if outcome.ending != Ending::Done || count.is_some_and(|count| count != 1) {
                return Err(format!("client {client} was told {outcome:?}"));
            }
        }
        self.cluster.violation().map_or(Ok(()), |violation| Err(violation.to_string()))
    }

    fn is_converged(&self) -> bool {
        let correct = self.cluster.replica_ids().filter(|id| self.cluster.is_correct(*id));
        let places = correct.map(|id| self.cluster.replica(id).map(|replica| replica.executed()));
        places.collect::<BTreeSet<_>>().len() == 1
    }

    /// Bad weather with work, then calm: all of it is answered, and all correct replicas get there.
    fn whole(&mut self) -> Result<(), String> {
        for _ in 0..12 {
            for _ in 0..self.random.below(3) {
                self.submit();
            }
            self.harm();
            let pause = self.random.between(Duration::from_millis(1), Duration::from_millis(80));
            self.cluster.run_for(pause);
            self.collect()?;
        }
        self.cluster.mend();
        self.cluster.set_weather(Weather::calm());
        self.cluster.replica_ids().for_each(|id| self.cluster.restart(id));
        let until = self.cluster.now() + PATIENCE;
        let mut tenths = 0;
        while self.answered < self.submitted || !self.is_converged() {
            if self.cluster.now() >= until {
                let places = self.cluster.replica_ids().map(|id| {
                    let replica = self.cluster.replica(id).expect("all are up");
                    (replica.view().0, replica.executed().0, replica.stable().0)
                });
                let places: Vec<_> = places.collect();
                let (answered, submitted) = (self.answered, self.submitted);
                return Err(format!("{answered} of {submitted} are answered; replicas are at {places:?}"));
            }
            self.cluster.run_for(Duration::from_millis(100));
            self.collect()?;
            // Whoever was left behind may have to wait for the next request.
            tenths += 1;
            if tenths % 10 == 0 && self.answered == self.submitted {
                self.submit();
            }
        }
        Ok(())
    }
}

/// What a group of `3f + 1` does with these liars; says how often each of them lied.
fn bear(f: u32, liars: &[Adversary], seed: u64) -> Vec<u64> {
    let mut run = Run::new(f, liars, seed);
    if let Err(error) = run.whole() {
        panic!("f = {f}, {liars:?}, seed {seed}: {error}");
    }
    let ids: Vec<_> = run.cluster.replica_ids().collect();
    let lied = |kind: &Adversary| {
        let mine = ids.iter().filter(|id| run.cluster.adversary(**id) == Some(*kind));
        mine.map(|id| run.cluster.lies(*id)).sum()
    };
    liars.iter().map(lied).collect()
}

/// Each kind alone; all of them really do lie.
fn bear_each(f: u32) {
    for kind in Adversary::ALL {
        let lies: u64 = seeds(0..12).flat_map(|seed| bear(f, &[kind], seed)).sum();
        assert!(lies > 0, "{kind} did nothing at f = {f}");
    }
}

#[test]
fn four_bear_each_kind_of_liar() {
    bear_each(1);
}

#[test]
fn seven_bear_each_kind_of_liar() {
    bear_each(2);
}

/// Every pair of kinds, also of the same, in four parts.
fn bear_pairs(part: usize) {
    let pairs = Adversary::ALL.iter().enumerate();
    let pairs = pairs.flat_map(|(index, one)| Adversary::ALL[index..].iter().map(move |two| [*one, *two]));
    for (number, pair) in (0..).zip(pairs) {
        if number % 4 == part {
            for seed in seeds(0..4) {
                bear(2, &pair, seed * 1000 + number as u64);
            }
        }
    }
}

#[test]
fn seven_bear_each_pair_of_liars_1() {
    bear_pairs(0);
}

#[test]
fn seven_bear_each_pair_of_liars_2() {
    bear_pairs(1);
}

#[test]
fn seven_bear_each_pair_of_liars_3() {
    bear_pairs(2);
}

#[test]
fn seven_bear_each_pair_of_liars_4() {
    bear_pairs(3);
}

#[test]
fn equal_seeds_give_equal_hashes_whoever_lies() {
    for kind in Adversary::ALL {
        let hash = || {
            let mut run = Run::new(1, &[kind], 7);
            run.whole().map(|()| run.cluster.hash())
        };
        assert_eq!(hash(), hash(), "{kind}");
    }
}

#[test]
fn primary_that_is_just_not_too_slow_stays() {
    let mut cluster = suffer(1, &[(0, Adversary::Slowness)], 10);
    assert_eq!(cluster.take_outcomes().len(), 10);
    assert!(cluster.lies(ReplicaId(0)) >= 30, "each batch was held back from each backup");
    assert_eq!(cluster.replica(ReplicaId(1)).expect("it is up").view(), View(0));
}

#[test]
fn kinds_have_different_names() {
    let names: BTreeSet<_> = Adversary::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Adversary::ALL.len());
}

// What follows is what no group has to bear. A checker that says nothing to it says nothing at all.

/// A calm group with these liars, where every operation is submitted at the beginning of a second.
fn suffer(f: u32, liars: &[(u32, Adversary)], seconds: u64) -> Cluster<Ledger> {
    let mut setup = Setup::new(f, 1);
    setup.configuration.limits.checkpoint_period = 2;
    setup.configuration.limits.window = 4;
    let mut cluster = Cluster::new(setup, Ledger);
    for (id, kind) in liars {
        cluster.corrupt_as(ReplicaId(*id), *kind);
    }
    for name in 0..seconds {
        let operation = Bytes::copy_from_slice(&name.to_be_bytes());
        cluster.submit(ClientId(0), operation, Options::default()).expect("the window has room");
        cluster.run_for(Duration::from_secs(1));
    }
    cluster
}

fn violation(cluster: &Cluster<Ledger>) -> &Violation {
    cluster.violation().expect("a checker objects")
}

#[test]
fn one_more_equivocation_than_f_breaks_agreement() {
    use Adversary::{Equivocation, VotesForAll};
    let four = suffer(1, &[(0, Equivocation), (1, Equivocation)], 1);
    assert!(matches!(violation(&four), Violation::Order { .. }), "{}", violation(&four));
    let four = suffer(1, &[(0, Equivocation), (1, VotesForAll)], 1);
    assert!(matches!(violation(&four), Violation::Order { .. }), "{}", violation(&four));
    let seven = suffer(2, &[(0, Equivocation), (1, Equivocation), (2, Equivocation)], 1);
    assert!(matches!(violation(&seven), Violation::Order { .. }), "{}", violation(&seven));
    assert_eq!(suffer(1, &[(0, Equivocation)], 1).violation(), None, "one of four does not");
}

#[test]
fn one_more_liar_than_f_has_a_made_up_request_executed() {
    use Adversary::{StuffedBatches, VotesForAll};
    let cluster = suffer(1, &[(0, StuffedBatches), (1, VotesForAll)], 20);
    assert!(matches!(violation(&cluster), Violation::Unasked { .. }), "{}", violation(&cluster));
    assert_eq!(suffer(1, &[(0, StuffedBatches)], 20).violation(), None, "one of four has not");
}

#[test]
fn clients_believe_2f_plus_1_liars_and_the_checker_does_not() {
    let liars = [0, 1, 2].map(|id| (id, Adversary::WrongResults));
    let cluster = suffer(1, &liars, 1);
    assert!(matches!(violation(&cluster), Violation::Answer { .. }), "{}", violation(&cluster));
}

#[test]
fn clients_that_take_f_plus_1_answers_believe_that_many_liars() {
    let liars = [0, 1].map(|id| (id, Adversary::WrongResults));
    let weak = || mutation::with(Mutation::AnswerAtWeakQuorum, || suffer(1, &liars, 4));
    let cluster = weak();
    assert!(matches!(violation(&cluster), Violation::Answer { .. }), "{}", violation(&cluster));
    assert_eq!(suffer(1, &liars, 4).violation(), None, "those that want 2f+1 do not");
}

#[test]
fn wrong_place_is_not_durable() {
    // The second operation's result is right, and the batch that it is said to be in has nothing of it.
    let liars = [0, 1, 2].map(|id| (id, Adversary::WrongResults));
    let mut setup = Setup::new(1, 1);
    setup.client_settings.bundle_operations_max = 1;
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.submit(ClientId(0), Bytes::from_static(b"00000000"), Options::default()).expect("room");
    cluster.settle();
    liars.into_iter().for_each(|(id, kind)| cluster.corrupt_as(ReplicaId(id), kind));
    cluster.submit(ClientId(0), Bytes::from_static(b"00000001"), Options::default()).expect("room");
    cluster.run_for(Duration::from_secs(1));
    assert!(matches!(violation(&cluster), Violation::Lost { .. }), "{}", violation(&cluster));
}

#[test]
fn request_that_is_ordered_twice_and_executed_twice_is_noticed() {
    let twice = |seed| {
        let run = || Run::new(1, &[Adversary::StuffedBatches], seed).whole();
        mutation::with(Mutation::DropDedupe, run).is_err_and(|error| error.starts_with("exactly once"))
    };
    assert!((0..20).any(twice), "no seed has a batch with a request that was executed before");
}

#[test]
fn vote_that_no_crash_survives_is_noticed() {
    let cluster = mutation::with(Mutation::SkipDurableWait, || suffer(1, &[], 1));
    assert!(matches!(violation(&cluster), Violation::Premature { .. }), "{}", violation(&cluster));
}

#[test]
fn accusing_somebody_correct_is_noticed() {
    let cluster = || {
        let mut setup = Setup::new(1, 1);
        setup.weather.duplication = 500;
        let mut cluster = Cluster::new(setup, Ledger);
        let operation = Bytes::from_static(b"00000000");
        cluster.submit(ClientId(0), operation, Options::default()).expect("the window has room");
        cluster.run_for(Duration::from_secs(1));
        cluster
    };
    assert_eq!(cluster().violation(), None);
    let cluster = mutation::with(Mutation::BlameRepeated, cluster);
    assert!(matches!(violation(&cluster), Violation::Slander { .. }), "{}", violation(&cluster));
}

/// The first violation of the first seeds that `wanted` knows, if they have one.
fn seeds_find(mutation: Mutation, wanted: impl Fn(&Violation) -> bool) -> bool {
    (0..300).any(|seed| {
        let outcome = catch_unwind(AssertUnwindSafe(|| mutation::with(mutation, || run::seed(seed, 40))));
        matches!(outcome, Ok(Err(Failed { reason: Reason::Violation(violation), .. })) if wanted(&violation))
    })
}

#[test]
fn forgotten_promises_are_contradicted_and_that_is_noticed() {
    let contradicts = |violation: &Violation| matches!(violation, Violation::Contradiction { .. });
    assert!(seeds_find(Mutation::ForgetPromises, contradicts));
}

#[test]
fn wrong_state_that_was_fetched_without_a_look_is_noticed() {
    let mut setup = Setup::new(1, 1);
    setup.configuration.limits.checkpoint_period = 2;
    setup.configuration.limits.window = 4;
    let run = || {
        let mut cluster = Cluster::new(setup.clone(), Ledger);
        cluster.corrupt_as(ReplicaId(0), Adversary::WrongPages);
        for name in 0..12u64 {
            match name {
                0 => cluster.crash(ReplicaId(3)),
                6 => cluster.restart(ReplicaId(3)),
                _ => {}
            }
            let operation = Bytes::copy_from_slice(&name.to_be_bytes());
            cluster.submit(ClientId(0), operation, Options::default()).expect("the window has room");
            cluster.run_for(Duration::from_secs(1));
        }
        cluster
    };
    assert_eq!(run().violation(), None);
    let cluster = mutation::with(Mutation::TrustPages, run);
    assert!(matches!(violation(&cluster), Violation::State { .. }), "{}", violation(&cluster));
}

#[test]
fn wrong_operation_that_was_taken_without_a_look_is_noticed() {
    let wrong = |seed| {
        let run = || Run::new(1, &[Adversary::WrongOperations], seed).whole();
        mutation::with(Mutation::TrustOperations, run).is_err()
    };
    assert!((0..40).any(wrong), "no seed has a wrong operation brought to anybody");
}

#[test]
fn certificate_that_convinces_nobody_is_noticed() {
    let unsound = |seed| {
        let run = || Run::new(1, &[Adversary::Silence], seed).whole();
        mutation::with(Mutation::ShortCertificate, run).is_err_and(|error| error.starts_with("soundness"))
    };
    assert!((0..20).any(unsound), "no seed has anybody shown a certificate");
}

/// Whoever recorded what was said has nothing of it once the keys are refreshed.
#[test]
fn what_is_tagged_under_an_old_epoch_is_void() {
    let run = || {
        let mut cluster = Cluster::new(Setup::new(1, 1).with_real_keys(), Ledger);
        cluster.corrupt(ReplicaId(3));
        for name in 0..8u64 {
            let operation = Bytes::copy_from_slice(&name.to_be_bytes());
            cluster.submit(ClientId(0), operation, Options::default()).expect("the window has room");
            cluster.run_for(Duration::from_millis(400));
            cluster.refresh_keys();
        }
        cluster
    };
    let mut cluster = run();
    assert_eq!(cluster.violation(), None);
    assert_eq!(cluster.take_outcomes().len(), 8);
    assert_eq!(cluster.adversary(ReplicaId(3)), Some(Adversary::OldEpochs));
    assert!(cluster.lies(ReplicaId(3)) > 10);
    for id in (0..3).map(ReplicaId) {
        let mut ignored = cluster.replica(id).expect("it is up").ignored();
        assert!(ignored.any(|(reason, count)| reason == Ignored::Unproven && count > 3), "at {id}");
    }
    let cluster = mutation::with(Mutation::AcceptOldEpoch, run);
    assert!(matches!(violation(&cluster), Violation::OldEpoch { .. }), "{}", violation(&cluster));
}

#[test]
fn liars_that_are_one_too_many_stop_a_group() {
    let mut run = Run::new(1, &[Adversary::Silence, Adversary::Silence], 0);
    let error = run.whole().expect_err("two of four cannot do without the others");
    assert!(error.contains("are answered"), "{error}");
}

/// A client without shame: a new incarnation with each request, so that none takes the place of
/// another, to a group that orders nothing because two of its four are away.
fn flood_with_requests() -> Cluster<Ledger> {
    let mut setup = Setup::new(1, 1);
    setup.settings.queue_requests_max = 16;
    let configuration = setup.configuration.clone();
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.crash(ReplicaId(2));
    cluster.crash(ReplicaId(3));
    let client = Principal::Client(ClientId(0));
    let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), client);
    for incarnation in 1..200 {
        let body = Request {
            client: ClientId(0),
            incarnation: Incarnation(incarnation),
            floor: Timestamp::FIRST,
            first: Timestamp::FIRST,
            named: Vec::new(),
            operations: vec![Bytes::copy_from_slice(&incarnation.to_be_bytes())],
            read_only: false,
            receipt: false,
            replier: ReplicaId(0),
            reconfigure: false,
        };
        for to in [0, 1].map(|id| Principal::Replica(ReplicaId(id))) {
            cluster.inject(client, to, Message::Request(body.clone()).proven_by(&keys, to));
        }
        cluster.run_for(Duration::from_millis(1));
    }
    cluster
}

#[test]
fn client_that_floods_a_group_fills_its_own_queue_and_no_more() {
    let cluster = flood_with_requests();
    assert_eq!(cluster.violation(), None);
    let held = cluster.replica(ReplicaId(1)).expect("it is up").footprint();
    let waiting = held.iter().find(|one| one.what == "waiting requests of one client").expect("counted");
    assert_eq!((waiting.held, waiting.most), (16, 16), "it was full");
    let cluster = mutation::with(Mutation::QueueEverything, flood_with_requests);
    assert!(matches!(violation(&cluster), Violation::Unbounded { .. }), "{}", violation(&cluster));
}

#[test]
fn replica_that_floods_a_group_is_kept_within_bounds() {
    let run = || suffer(1, &[(3, Adversary::Flood)], 10);
    let cluster = run();
    assert_eq!(cluster.violation(), None);
    let held = cluster.replica(ReplicaId(1)).expect("it is up").footprint();
    let votes = held.iter().find(|one| one.what == "votes for checkpoints").expect("counted");
    assert!(votes.held >= 4, "some of the flood is kept: {votes:?}");
    let cluster = mutation::with(Mutation::KeepEveryVote, run);
    assert!(matches!(violation(&cluster), Violation::Unbounded { .. }), "{}", violation(&cluster));
}

#[test]
fn vote_that_makes_room_for_another_takes_its_own_signature_along() {
    // Replica 3 vouches for the second checkpoint, then for many far away, then for the first: the
    // last one has no room. With the signature of another one gone instead, the second checkpoint
    // would be stable under a certificate that convinces nobody.
    for seed in 0..100 {
        let mut setup = Setup::new(1, 1);
        setup.seed = seed;
        setup.configuration.limits.checkpoint_period = 2;
        setup.configuration.limits.window = 4;
        setup.weather.delay_max = Duration::from_millis(20);
        let mut cluster = Cluster::new(setup, Ledger);
        cluster.corrupt_as(ReplicaId(3), Adversary::WrongCheckpoints);
        cluster.crash(ReplicaId(2));
        for name in 0..12u64 {
            let operation = Bytes::copy_from_slice(&name.to_be_bytes());
            cluster.submit(ClientId(0), operation, Options::default()).expect("the window has room");
            cluster.run_for(Duration::from_millis(10));
        }
        cluster.run_for(Duration::from_secs(5));
        let answered = cluster.take_outcomes().len();
        assert_eq!((cluster.violation(), answered), (None, 12), "seed {seed}");
    }
}

#[test]
fn batches_that_are_too_large_are_not_kept_by_who_has_left_the_view() {
    let mut setup = Setup::new(1, 1);
    let limits = &mut setup.configuration.limits;
    (limits.checkpoint_period, limits.window) = (2, 4);
    (limits.batch_bytes_max, limits.operation_bytes_max, limits.batch_operations_max) = (1024, 1024, 1);
    let configuration = setup.configuration.clone();
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.crash(ReplicaId(0));
    cluster.submit(ClientId(0), Bytes::from_static(b"00000000"), Options::default()).expect("room");
    // The three have vouched for the request by then, and have not waited long enough yet.
    cluster.run_for(Duration::from_millis(220));
    [2, 3].into_iter().for_each(|id| cluster.crash(ReplicaId(id)));
    cluster.run_for(Duration::from_secs(1));
    assert!(cluster.replica(ReplicaId(1)).expect("it is up").is_changing());
    let primary = Principal::Replica(ReplicaId(0));
    let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), primary);
    for sequence in (1..=4).map(Sequence) {
        let body = Request {
            client: ClientId(0),
            incarnation: Incarnation(1),
            floor: Timestamp::FIRST,
            first: Timestamp::FIRST,
            named: Vec::new(),
            operations: vec![Bytes::from(vec![7; 1 << 20])],
            read_only: false,
            receipt: false,
            replier: ReplicaId(0),
            reconfigure: false,
        };
        let (sender, bytes) = (Principal::Client(ClientId(0)), wire::encode_request(&body));
        let proof = Proof::Authenticator(keys.authenticator(Domain::new(Kind::Request, 0), &bytes));
        let batch = wire::batch(1, false, [Unverified { sender, body, bytes, proof }].into());
        let body = Message::PrePrepare(PrePrepare { view: View(0), sequence, batch });
        let to = Principal::Replica(ReplicaId(1));
        let message = body.proven_by(&keys, to);
        // More than once: not every step is looked at.
        (0..32).for_each(|_| cluster.inject(primary, to, message.clone()));
    }
    cluster.take_evidence();
    cluster.settle();
    assert_eq!(cluster.violation(), None);
    assert!(cluster.take_evidence().iter().all(|(_, what)| what.culprit() == Some(ReplicaId(0))));
}
