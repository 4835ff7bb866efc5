//! Members are replaced under faults, one seed after another.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_pbft::membership::{Reconfigure, ReconfigureRefused, Succession};
use quorate_pbft::message::{Message, Proof, Unverified, wire};
use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::{Adversary, Cluster, Ledger, Random, Setup, Weather};
use quorate_pbft::{
    ClientId, Incarnation, Limits, Options, ReplicaId, Sequence, Settings, crypto::Principal,
};

/// A run: what clients do, what fails, and whose places are given away.
struct Run {
    seed: u64,
    real_keys: bool,
    cluster: Cluster<Ledger>,
    random: Random,
    names: u64,
    /// Operations without an answer, by client and timestamp, with their names.
    open: BTreeMap<(u32, u64), u64>,
    /// The order that is under way, by timestamp of client 0, and whom it replaces.
    order: Option<(u64, ReplicaId)>,
    /// A replica that does not come back: its disk is lost.
    lost: Option<ReplicaId>,
    /// Places that were given away and not taken yet.
    vacant: Vec<ReplicaId>,
    /// A place that was taken before the order's result came.
    taken: Option<ReplicaId>,
    acknowledged: Vec<(ClientId, u64)>,
    replaced: u32,
    incarnation: u64,
}

const CLIENTS: u32 = 2;

impl Run {
    /// One run in a hundred is on real keys.
    fn new(seed: u64) -> Self {
        Self::begin(seed, seed % 100 == 99)
    }

    fn begin(seed: u64, real_keys: bool) -> Self {
        let mut random = Random::new(seed ^ 0x6d65_6d62_6572);
        let mut setup = Setup::new(1, CLIENTS);
        setup.seed = seed;
        setup.with_operator();
        setup.through_wire = random.chance(200);
        let period = 1 + random.below(4);
        setup.configuration.limits = Limits {
            checkpoint_period: period,
            window: period * (2 + random.below(2)),
            batch_operations_max: 8,
            client_window: 16,
            ..Limits::default()
        };
        setup.settings = Settings {
            batches_in_flight: 1 + random.below(4),
            snapshot_bytes_min: random.below(10_000),
            status_idle: Duration::from_millis(300),
            view_timeout: Duration::from_millis(80 + random.below(200)),
            fetch_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        setup.client_settings.retry_max = Duration::from_secs(1);
        setup.weather = Weather {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(200 + random.below(10_000)),
            loss: random.below(50),
            duplication: random.below(50),
        };
        if real_keys {
            setup = setup.with_real_keys();
        }
        Self {
            seed,
            real_keys,
            cluster: Cluster::new(setup, Ledger),
            random,
            names: 0,
            open: BTreeMap::new(),
            order: None,
            lost: None,
            vacant: Vec::new(),
            taken: None,
            acknowledged: Vec::new(),
            replaced: 0,
            incarnation: 1,
        }
    }

    fn replica(&mut self) -> ReplicaId {
        ReplicaId(u32::try_from(self.random.below(4)).expect("below 4"))
    }

    fn submit(&mut self, client: ClientId) {
        let mut operation = BytesMut::new();
        operation.put_u64(self.names);
        if let Ok(id) = self.cluster.submit(client, operation.freeze(), Options::default()) {
            self.open.insert((client.0, id.0.0), self.names);
            self.names += 1;
        }
    }

    /// The operator has some replica replaced: often one that is gone for good.
    fn order(&mut self) {
        if self.order.is_some() || !self.vacant.is_empty() {
            return;
        }
        let liar = (0..4).map(ReplicaId).find(|id| !self.cluster.is_correct(*id));
        let id = liar.filter(|_| self.random.chance(600)).unwrap_or_else(|| self.replica());
        self.replace(id);
        // The group has to do without f at most: one that lies, or one whose disk is lost.
        if self.order.is_some() && liar.is_none_or(|liar| liar == id) && self.random.chance(700) {
            self.cluster.crash(id);
            self.lost = Some(id);
        }
    }

    fn replace(&mut self, id: ReplicaId) {
        if let Ok(order) = self.cluster.order_replacement(ClientId(0), &[id]) {
            self.order = Some((order.0.0, id));
        }
    }

    /// Newcomers start as soon as somebody can show them the way; what was ordered in vain for a replica that
    /// is lost is ordered again.
    fn fill(&mut self) {
        if let Some(lost) = self.lost.filter(|lost| self.order.is_none() && !self.vacant.contains(lost)) {
            self.replace(lost);
        }
        // The proof of the next configuration may be there before the order's result is.
        let ordered = self.order.map(|(_, id)| id);
        let mut places: Vec<_> = std::mem::take(&mut self.vacant);
        places.extend(ordered.filter(|id| !places.contains(id)));
        for id in places {
            if self.cluster.replace(id) {
                self.replaced += 1;
                self.lost.take_if(|lost| *lost == id);
                self.taken = self.taken.or(ordered.filter(|ordered| *ordered == id));
            } else if ordered != Some(id) {
                self.vacant.push(id);
            }
        }
    }

    fn harm(&mut self) {
        match self.random.below(12) {
            0 | 1 => {
                let id = self.replica();
                self.cluster.crash(id);
            }
            2 if self.random.chance(300) => (0..4).for_each(|id| self.cluster.crash(ReplicaId(id))),
            3..=5 => self.restart(),
            6 => {
                let (from, to) = (self.replica(), self.replica());
                self.cluster.cut(Principal::Replica(from), Principal::Replica(to));
            }
            7 | 8 => self.cluster.mend(),
            9 if self.random.chance(200) => {
                self.incarnation += 1;
                self.cluster.restart_client(ClientId(1), Incarnation(self.incarnation));
                self.open.retain(|(client, _), _| *client != 1);
            }
            _ => {}
        }
    }

    /// Restarts all but the one whose disk is lost.
    fn restart(&mut self) {
        for id in (0..4).map(ReplicaId) {
            if self.lost != Some(id) {
                self.cluster.restart(id);
            }
        }
    }

    fn collect(&mut self) {
        for (client, outcome) in self.cluster.take_outcomes() {
            let request = outcome.request.0.0;
            if client == ClientId(0)
                && let Some((order, id)) = self.order
                && order == request
            {
                let result = outcome.result().expect("an order has a result");
                self.order = None;
                match Reconfigure::outcome(result) {
                    Ok(_) if self.taken.take() == Some(id) => {}
                    Ok(_) => self.vacant.push(id),
                    Err(ReconfigureRefused::Pending | ReconfigureRefused::OtherBase) => {}
                    Err(refused) => panic!("seed {}: {refused}", self.seed),
                }
                continue;
            }
            let Some(name) = self.open.remove(&(client.0, request)) else { continue };
            let count = outcome.result().and_then(|result| result.get(..8)?.try_into().ok());
            let count = count.map_or(0, u64::from_be_bytes);
            assert_eq!(count, 1, "seed {}: operation {name} was executed {count} times", self.seed);
            self.acknowledged.push((client, name));
        }
        if let Some(violation) = self.cluster.violation() {
            panic!("seed {}: {violation}", self.seed);
        }
    }

    fn whole(mut self) -> u32 {
        if self.random.chance(400) {
            let liar = self.replica();
            self.cluster.corrupt(liar);
        }
        for _ in 0..120 {
            let client = ClientId(u32::try_from(self.random.below(CLIENTS.into())).expect("few"));
            for _ in 0..self.random.below(4) {
                self.submit(client);
            }
            if self.random.chance(120) {
                self.order();
            }
            self.fill();
            if self.random.chance(250) {
                self.harm();
            }
            if self.real_keys && self.random.chance(100) {
                self.cluster.refresh_keys();
            }
            let pause = Duration::from_micros(100 + self.random.below(50_000));
            self.cluster.run_for(pause);
            self.collect();
        }
        self.cluster.mend();
        self.cluster.set_weather(Weather::calm());
        for tenth in 0..900 {
            self.restart();
            self.fill();
            self.cluster.run_for(Duration::from_millis(100));
            self.collect();
            let places = self.places();
            let one = places.windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1]);
            if self.open.is_empty() && self.order.is_none() && self.vacant.is_empty() && one {
                return self.finish();
            }
            // Whoever was away hears of a boundary when there is something to do.
            if tenth % 10 == 9 && self.open.is_empty() {
                self.submit(ClientId(0));
                self.submit(ClientId(1));
            }
        }
        panic!(
            "seed {}: {} operations open, order {:?}, vacant {:?}, at {:?}",
            self.seed,
            self.open.len(),
            self.order,
            self.vacant,
            self.places()
        );
    }

    /// Where everybody is: configuration, batch, view.
    fn places(&self) -> Vec<Option<(u64, Sequence)>> {
        let place = |id| {
            let replica = self.cluster.replica(id)?;
            (!replica.is_retired()).then(|| (replica.configuration().number, replica.executed()))
        };
        let correct = (0..4).map(ReplicaId).filter(|id| self.cluster.is_correct(*id));
        correct.map(place).collect()
    }

    fn finish(self) -> u32 {
        for id in (0..4).map(ReplicaId).filter(|id| self.cluster.is_correct(*id)) {
            let replica = self.cluster.replica(id).expect("all are up");
            for (client, name) in &self.acknowledged {
                let count = Ledger::count(replica.state(), *client, *name);
                assert_eq!(count, 1, "seed {}: replica {id} lost operation {name}", self.seed);
            }
        }
        self.replaced
    }
}

/// `PBFT_SEEDS=from..to` runs others than the usual ones.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PBFT_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn members_are_replaced_and_nothing_is_lost() {
    let replaced: u32 = seeds(0..60).map(|seed| Run::new(seed).whole()).sum();
    println!("{replaced} replicas were replaced");
    assert!(replaced > 0, "the runs did what they are for");
}

#[test]
fn members_are_replaced_on_real_keys() {
    let replaced: u32 = (0..4).map(|seed| Run::begin(seed, true).whole()).sum();
    assert!(replaced > 0, "the runs did what they are for");
}

/// A calm group with an operator, in which replica 3 was replaced, and the proof of it.
fn replaced() -> (Cluster<Ledger>, Succession) {
    let mut cluster = calm(1);
    cluster.order_replacement(ClientId(0), &[ReplicaId(3)]).expect("there is room");
    cluster.run_for(Duration::from_secs(1));
    let replica = cluster.replica(ReplicaId(0)).expect("it is up");
    let succession = replica.successions().first().expect("the order was followed").clone();
    (cluster, succession)
}

fn calm(clients: u32) -> Cluster<Ledger> {
    let mut setup = Setup::new(1, clients);
    setup.with_operator();
    setup.configuration.limits = Limits { checkpoint_period: 2, window: 4, ..Limits::default() };
    Cluster::new(setup, Ledger)
}

#[test]
fn whoever_takes_a_liars_place_lies_no_more() {
    for kind in Adversary::ALL {
        let mut cluster = calm(1);
        let submit = |cluster: &mut Cluster<Ledger>, names: std::ops::Range<u64>| {
            for name in names {
                let operation = Bytes::copy_from_slice(&name.to_be_bytes());
                cluster.submit(ClientId(0), operation, Options::default()).expect("there is room");
                cluster.run_for(Duration::from_secs(1));
            }
            assert_eq!(cluster.violation(), None, "{kind}");
        };
        cluster.corrupt_as(ReplicaId(3), kind);
        submit(&mut cluster, 0..4);
        cluster.order_replacement(ClientId(0), &[ReplicaId(3)]).expect("there is room");
        let followed = |cluster: &Cluster<Ledger>| {
            cluster.replica(ReplicaId(0)).is_some_and(|replica| replica.configuration().number == 1)
        };
        while !followed(&cluster) {
            assert!(cluster.step(), "{kind}");
        }
        cluster.run_for(Duration::from_millis(1));
        assert!(!cluster.is_correct(ReplicaId(3)), "{kind}");
        assert!(cluster.replace(ReplicaId(3)), "{kind}");
        assert!(cluster.is_correct(ReplicaId(3)) && cluster.adversary(ReplicaId(3)).is_none(), "{kind}");
        submit(&mut cluster, 4..8);
        // The group needs the newcomer now.
        cluster.crash(ReplicaId(1));
        submit(&mut cluster, 8..12);
        assert_eq!(cluster.take_outcomes().len(), 13, "{kind}: the order, and what came around it");
        assert_eq!(cluster.lies(ReplicaId(3)), 0, "{kind}");
    }
}

/// Nobody of the genesis is left, and whoever knows that only finds its way all the same: each newcomer can
/// show all of it.
#[test]
fn every_member_proves_the_whole_way_from_the_genesis() {
    let mut cluster = calm(2);
    let client = ClientId(0);
    let mut names = 0u64..;
    let mut answered = |cluster: &mut Cluster<Ledger>, client| {
        let name = names.next().expect("there are more");
        let operation = Bytes::copy_from_slice(&name.to_be_bytes());
        cluster.submit(client, operation, Options::default()).expect("there is room");
        cluster.run_for(Duration::from_secs(2));
        assert_eq!(cluster.violation(), None);
        cluster.take_outcomes().len()
    };
    for id in (0..4).map(ReplicaId) {
        cluster.order_replacement(client, &[id]).expect("there is room");
        cluster.run_for(Duration::from_secs(2));
        assert!(cluster.replace(id), "{id}");
        cluster.run_for(Duration::from_secs(2));
        cluster.take_outcomes();
        assert_eq!(answered(&mut cluster, client), 1);
    }
    let prove = |cluster: &Cluster<Ledger>| {
        for id in (0..4).map(ReplicaId) {
            let successions = cluster.replica(id).expect("it is up").successions();
            let numbers: Vec<_> = successions.iter().map(|one| one.reconfigure.number).collect();
            assert_eq!(numbers, [1, 2, 3, 4], "{id}");
        }
    };
    prove(&cluster);
    for id in (0..4).map(ReplicaId) {
        cluster.crash(id);
        cluster.restart(id);
    }
    prove(&cluster);
    // It has said nothing so far, and heard nothing.
    assert_eq!(answered(&mut cluster, ClientId(1)), 1);
}

fn show(cluster: &mut Cluster<Ledger>, to: ReplicaId, succession: &Succession) -> u64 {
    let body = Message::Succession(succession.clone());
    let (sender, bytes) = (Principal::Replica(ReplicaId(1)), wire::encode_body(&body));
    let message = Unverified { sender, body, bytes, proof: Proof::Nothing };
    cluster.inject(sender, Principal::Replica(to), message);
    cluster.run_for(Duration::from_millis(5));
    cluster.replica(to).expect("it is up").configuration().number
}

#[test]
fn a_replica_that_was_replaced_takes_part_no_more() {
    let (mut cluster, _) = replaced();
    let former = cluster.replica(ReplicaId(3)).expect("it was not crashed");
    assert!(former.is_retired() && former.configuration().number == 1);
    cluster.take_sent();
    cluster.submit(ClientId(0), Bytes::from_static(b"12345678"), Options::default()).expect("there is room");
    cluster.run_for(Duration::from_secs(1));
    let sent = cluster.take_sent();
    let by_it = sent.iter().filter(|sent| sent.from == Principal::Replica(ReplicaId(3)));
    let shows_the_way =
        |message: &Message| matches!(message, Message::Configured(_) | Message::Succession(_));
    assert!(by_it.map(|sent| &sent.message).all(shows_the_way));
    assert_eq!(cluster.take_outcomes().len(), 2, "the order, and what came after it");
}

#[test]
fn only_a_proven_succession_is_followed() {
    let (_, genuine) = replaced();
    let forged = Succession { votes: genuine.votes.iter().take(2).cloned().collect(), ..genuine.clone() };
    let elsewhere = Succession { start: Sequence(genuine.start.0 + 2), ..genuine.clone() };
    for void in [&forged, &elsewhere] {
        assert_eq!(show(&mut calm(1), ReplicaId(2), void), 0);
        let trusted = mutation::with(Mutation::TrustSuccession, || show(&mut calm(1), ReplicaId(2), void));
        assert_eq!(trusted, 1, "the check is what held it back");
    }
    assert_eq!(show(&mut calm(1), ReplicaId(2), &genuine), 1);
}

#[test]
fn only_the_operator_replaces_members() {
    let order = |mutate: &dyn Fn(&mut Reconfigure)| {
        let (_, succession) = replaced();
        let mut order = succession.reconfigure;
        mutate(&mut order);
        let mut cluster = calm(1);
        cluster.submit_reconfigure(ClientId(0), &order).expect("there is room");
        cluster.run_for(Duration::from_secs(1));
        let (_, outcome) = cluster.take_outcomes().remove(0);
        Reconfigure::outcome(outcome.result().expect("an order has a result"))
    };
    let moved = |order: &mut Reconfigure| order.replacements[0].0 = ReplicaId(2);
    assert_eq!(order(&moved), Err(ReconfigureRefused::Signature));
    assert_eq!(order(&|order| order.number = 2), Err(ReconfigureRefused::OtherBase));
    assert!(order(&|_| ()).is_ok());
    assert!(mutation::with(Mutation::TrustReconfigure, || order(&moved)).is_ok());
}

/// One of the first seeds fails, or an assertion stops it.
fn seeds_notice(mutation: Mutation) {
    let fails = |seed| {
        let run = || mutation::with(mutation, || Run::new(seed).whole());
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    assert!((0..100).any(fails), "100 seeds do not notice {mutation:?}");
}

#[test]
fn a_boundary_that_comes_too_early_is_noticed() {
    seeds_notice(Mutation::BoundaryTooEarly);
}

#[test]
fn forgetting_a_succession_in_a_crash_is_noticed() {
    seeds_notice(Mutation::ForgetSuccession);
}
