//! The core alone: four replicas and the clients of one group take turns in this thread, and what one
//! says is handed to the other as it is. No network, no encoding of frames, no journal.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_pbft::{
    Action, Client, ClientAction, ClientId, ClientSettings, Configuration, Incarnation, Options, Replica,
    ReplicaId, Settings,
    crypto::{Identity, Keychain, Principal, SeedRng},
    message::{Message, Unverified},
};

use crate::{
    Asked, Outcome,
    group::{Empty, configure},
    load::Meter,
    report::{Report, Row},
    split,
};

/// What stands behind the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tags {
    /// Keyed hashes of 64 bits without cryptography, as in the simulator: what is left when
    /// authentication costs nothing. Batches, operations and results are digested all the same.
    Fast,
    /// HMAC-SHA-256, as between processes.
    Hmac,
}

#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    tags: Tags,
    history: bool,
    clients: usize,
    /// Of each client: 256 operations in all are ordered as one batch.
    outstanding: usize,
}

const HMAC: Scenario =
    Scenario { name: "core, HMAC", tags: Tags::Hmac, history: true, clients: 256, outstanding: 1 };
const FAST: Scenario = Scenario { name: "core, fast tags", tags: Tags::Fast, ..HMAC };

const SCENARIOS: &[Scenario] = &[
    FAST,
    Scenario { name: "core, fast tags, no history", history: false, ..FAST },
    Scenario { name: "core, fast tags, one client", clients: 1, outstanding: 256, ..FAST },
    Scenario {
        name: "core, fast tags, one client, no history",
        clients: 1,
        outstanding: 256,
        history: false,
        ..FAST
    },
    HMAC,
    Scenario { name: "core, HMAC, no history", history: false, ..HMAC },
    Scenario { name: "core, HMAC, one client", clients: 1, outstanding: 256, ..HMAC },
    Scenario {
        name: "core, HMAC, one client, no history",
        clients: 1,
        outstanding: 256,
        history: false,
        ..HMAC
    },
];

pub(crate) fn names() -> impl Iterator<Item = String> {
    SCENARIOS.iter().map(|scenario| scenario.name.to_owned())
}

pub(crate) fn measure(
    asked: &Asked,
    identities: &[Identity],
    rng: &mut SeedRng,
    report: &mut Report,
) -> Outcome<()> {
    let lasts = Duration::from_secs_f64(asked.seconds() / 4.0);
    for scenario in SCENARIOS.iter().filter(|scenario| asked.wants(scenario.name, true)) {
        report.print(&run(scenario, identities, rng, lasts, asked.operations)?)?;
    }
    Ok(())
}

/// Lasts for so long, or for so many `operations`.
fn run(
    scenario: &Scenario,
    identities: &[Identity],
    rng: &mut SeedRng,
    lasts: Duration,
    operations: Option<usize>,
) -> Outcome<Row> {
    let configuration = configure(identities, rng.next_seed(), scenario.clients, scenario.history)?;
    let mut turns = Turns::new(&configuration, scenario.tags, identities, rng)?;
    let warm_up = Instant::now() + lasts / 4;
    while operations.is_none() && Instant::now() < warm_up {
        turns.round(scenario.outstanding)?;
    }
    let (begin, before) = (Instant::now(), own_cpu()?);
    // As many operations take as long as they take.
    let lasts = if operations.is_some() { Duration::from_secs(3600) } else { lasts };
    let mut meter = Meter::new(begin, begin + lasts)?;
    let mut done = 0;
    loop {
        let submitted = Instant::now();
        if submitted >= begin + lasts || operations.is_some_and(|most| done >= most) {
            break;
        }
        let answered = turns.round(scenario.outstanding)?;
        (0..answered).for_each(|_| _ = meter.record(submitted));
        done += answered;
    }
    let after = own_cpu()?;
    let lasts = lasts.min(begin.elapsed());
    let measured = meter.measured();
    let operations = measured.operations as f64;
    Ok(Row {
        name: scenario.name.to_owned(),
        clients: scenario.clients,
        outstanding: Some(scenario.outstanding),
        ops_per_s: operations / lasts.as_secs_f64(),
        cpu_us_per_op: Some((after - before).as_secs_f64() * 1e6 / operations),
        p50_us: measured.p50_us,
        p99_us: measured.p99_us,
        ..Row::default()
    })
}

/// A whole group, fed and polled by turns.
struct Turns {
    replicas: Vec<Replica<Empty>>,
    clients: Vec<Client>,
    /// By index: what replicas, and clients, have not heard yet.
    to_replicas: Vec<VecDeque<Unverified<Message>>>,
    to_clients: Vec<VecDeque<Unverified<Message>>>,
    start: Instant,
}

impl Turns {
    fn new(
        configuration: &Configuration,
        tags: Tags,
        identities: &[Identity],
        rng: &mut SeedRng,
    ) -> Outcome<Self> {
        let (scope, keys) = (configuration.scope(), configuration.public_keys());
        let (replicas, clients) = split(identities);
        let replicas = (0..).map(|index| Principal::Replica(ReplicaId(index))).zip(replicas);
        let clients = clients.iter().cycle().take(configuration.clients.len());
        let clients = (0..).map(|index| Principal::Client(ClientId(index))).zip(clients);
        let mut chains: Vec<_> = replicas
            .chain(clients)
            .map(|(me, identity)| match tags {
                Tags::Fast => Keychain::fast(scope, keys.clone(), me),
                Tags::Hmac => {
                    let mut keychain = Keychain::new(scope, keys.clone(), me, identity.clone());
                    keychain.renew(1, rng.next_seed());
                    keychain
                }
            })
            .collect();
        let announced: Vec<_> =
            chains.iter().filter_map(|keychain| keychain.announcement().cloned()).collect();
        for keychain in &mut chains {
            let clients_too = matches!(keychain.me(), Principal::Replica(_));
            let peers = announced.iter().filter(|new_key| new_key.sender != keychain.me());
            let heard =
                peers.filter(|new_key| clients_too || matches!(new_key.sender, Principal::Replica(_)));
            heard.cloned().collect::<Vec<_>>().iter().try_for_each(|key| keychain.accept(key).map(drop))?;
        }
        let of_clients = chains.split_off(4);
        let settings = Settings { journal: false, ..Settings::default() };
        let replicas = (0..)
            .map(ReplicaId)
            .zip(chains)
            .map(|(me, keychain)| Replica::new(configuration.clone(), me, keychain, Empty, settings.clone()));
        let clients = (0..).map(ClientId).zip(of_clients).map(|(me, keychain)| {
            let settings = ClientSettings::default();
            Client::new(configuration.clone(), me, Incarnation(1), keychain, settings)
        });
        let (replicas, clients): (Vec<_>, Vec<_>) = (replicas.collect(), clients.collect());
        let (to_replicas, to_clients) =
            (vec![VecDeque::new(); replicas.len()], vec![VecDeque::new(); clients.len()]);
        Ok(Self { replicas, clients, to_replicas, to_clients, start: Instant::now() })
    }

    fn now(&self) -> quorate_pbft::Instant {
        quorate_pbft::Instant::default() + self.start.elapsed()
    }

    /// Every client asks `outstanding` times, and all are answered. Says how many that were.
    fn round(&mut self, outstanding: usize) -> Outcome<usize> {
        let now = self.now();
        for client in &mut self.clients {
            for _ in 0..outstanding {
                client.submit(now, Bytes::new(), Options::default())?;
            }
        }
        let (all, mut answered) = (outstanding * self.clients.len(), 0);
        while answered < all {
            let before = answered;
            answered += self.poll_clients();
            if !self.poll_replicas() && answered == before {
                return Err("the group stands still".into());
            }
        }
        Ok(answered)
    }

    fn poll_clients(&mut self) -> usize {
        let (now, mut answered) = (self.now(), 0);
        for (client, heard) in self.clients.iter_mut().zip(&mut self.to_clients) {
            heard.drain(..).for_each(|message| client.handle_message(now, message));
            while let Some(action) = client.poll_action(now) {
                match action {
                    ClientAction::Send { to, message } => self.to_replicas[to.index()].push_back(message),
                    ClientAction::Broadcast { message } => {
                        self.to_replicas.iter_mut().for_each(|queue| queue.push_back(message.clone()));
                    }
                    ClientAction::Outcome(_) => answered += 1,
                    ClientAction::Succession(_) | ClientAction::Disagreed { .. } => {} // nobody is replaced or lies
                }
            }
        }
        answered
    }

    /// Says whether any replica heard something.
    fn poll_replicas(&mut self) -> bool {
        let (now, mut heard_any) = (self.now(), false);
        for index in 0..self.replicas.len() {
            let replica = &mut self.replicas[index];
            for message in std::mem::take(&mut self.to_replicas[index]) {
                heard_any = true;
                replica.handle_message(now, message);
            }
            while let Some(action) = replica.poll_action(now) {
                match action {
                    Action::Send { to: Principal::Client(id), message } => {
                        self.to_clients[id.index()].push_back(message);
                    }
                    Action::Send { to: Principal::Replica(id), message } => {
                        self.to_replicas[id.index()].push_back(message);
                    }
                    Action::Broadcast { message } => {
                        let others = self.to_replicas.iter_mut().enumerate();
                        let others = others.filter(|(other, _)| *other != index);
                        others.for_each(|(_, queue)| queue.push_back(message.clone()));
                    }
                    Action::Append { .. } | Action::Truncate { .. } | Action::Evidence(_) => {}
                }
            }
        }
        heard_any
    }
}

/// What the kernel accounts to this thread.
fn own_cpu() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(stat.split(' ').next().ok_or("schedstat is empty")?.parse()?))
}
