//! The smallest embedding over a transport of one's own: no runtime, no sockets, nothing but threads
//! and channels of the standard library. Four replicas with real keys and journals in files, and a
//! client, in one process; a replica is killed, comes back from its journal, and is needed.
//!
//! ```text
//! cargo run -p quorate-pbft --example embed
//! ```
//!
//! To make it yours, replace the inboxes (a transport may lose, repeat and reorder what it likes) and
//! the service. The rest is the loop that a replica and a client need around them.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_pbft::crypto::{Identity, Keychain, Principal, SeedRng};
use quorate_pbft::journal::{Journal, JournalSetup, Owner, SyncPolicy};
use quorate_pbft::membership::Chain;
use quorate_pbft::message::{Message, Unverified, wire};
use quorate_pbft::{
    Action, Client, ClientAction, ClientId, Configuration, Context, GroupId, Incarnation, Instant,
    JournalPosition, Options, Outcome, Permutation, Replica, ReplicaId, Service, Settings, State,
};

type Failed = Box<dyn Error + Send + Sync>;

/// The service: counts operations in page 0.
struct Counter;

impl Service for Counter {
    fn execute(&self, _: &Context, _: &[u8], state: &mut State) -> Bytes {
        let next = state.page(0).try_into().map_or(0, u64::from_be_bytes) + 1;
        state.write(0, &next.to_be_bytes());
        Bytes::copy_from_slice(&next.to_be_bytes())
    }
}

// A frame is one byte that says what it is, and that.
const NEW_KEY: &[u8] = &[0];
const MESSAGE: &[u8] = &[1];

/// What everybody has in common: the genesis, a transport, and the clock.
struct World {
    configuration: Configuration,
    inboxes: Mutex<HashMap<Principal, Sender<Bytes>>>,
    start: std::time::Instant,
}

impl World {
    fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    fn replicas(&self) -> impl Iterator<Item = Principal> {
        (0..self.configuration.n()).map(|index| Principal::Replica(ReplicaId(index)))
    }

    fn send_frame(&self, to: Principal, kind: &[u8], body: &[u8]) {
        if let Some(inbox) = self.inboxes.lock().expect("nobody panics with it").get(&to) {
            let _ = inbox.send([kind, body].concat().into()); // whoever is not there misses it
        }
    }

    fn send(&self, to: Principal, message: &Unverified<Message>) {
        self.send_frame(to, MESSAGE, &wire::encode(message));
    }

    /// Opens an inbox and makes session keys, of which all others are told.
    fn join(&self, me: Principal, identity: Identity) -> (Receiver<Bytes>, Keychain) {
        let (inbox, frames) = channel();
        self.inboxes.lock().expect("nobody panics with it").insert(me, inbox);
        let (scope, keys) = (self.configuration.scope(), self.configuration.public_keys());
        let mut keychain = Keychain::new(scope, keys, me, identity);
        let hello = wire::encode_new_key(keychain.renew(unix_nanos(), secret()));
        for to in self.replicas().chain([Principal::Client(ClientId(0))]).filter(|to| *to != me) {
            self.send_frame(to, NEW_KEY, &hello);
        }
        (frames, keychain)
    }

    /// Takes a frame in. Gives the message, if it is one; to check it is the state machine's business.
    fn receive(&self, keychain: &mut Keychain, frame: &Bytes) -> Option<Unverified<Message>> {
        let (kind, body) = (frame.get(..1)?, frame.slice(1..));
        if kind == MESSAGE {
            return wire::decode(body).ok();
        }
        let new_key = wire::decode_new_key(body).ok()?;
        if keychain.accept(&new_key).ok()? {
            // It has just begun, or begun again, and may not know ours.
            self.send_frame(new_key.sender, NEW_KEY, &wire::encode_new_key(keychain.announcement()?));
        }
        None
    }
}

/// One replica, until its inbox is closed.
fn run_replica(world: &World, id: ReplicaId, identity: Identity, path: PathBuf) -> Result<(), Failed> {
    let (me, configuration) = (Principal::Replica(id), &world.configuration);
    let owner = Owner { group: configuration.group, configuration: configuration.digest(), replica: id };
    // Only a replica that never ran may begin a journal; in life the operator says so, not the disk.
    let journal = JournalSetup { create: !path.exists(), path, sync: SyncPolicy::Data };
    let (mut journal, first, records) = Journal::open(&journal, owner)?;
    let records = (first.0..).map(JournalPosition).zip(records);
    let (inbox, keychain) = world.join(me, identity);
    let settings = Settings { unix_at_zero: unix_nanos() - world.now().0, ..Settings::default() };
    let chain = Chain::new(configuration.clone()); // nobody was ever replaced
    let mut replica = Replica::recover(&chain, id, keychain, Counter, settings, records)?;
    loop {
        // Take: do what the replica wants. When what it wrote is safe, it wants more.
        loop {
            let mut wrote = false;
            while let Some(action) = replica.poll_action(world.now()) {
                match action {
                    Action::Send { to, message } => world.send(to, &message),
                    Action::Broadcast { message } => {
                        world.replicas().filter(|to| *to != me).for_each(|to| world.send(to, &message));
                    }
                    Action::Append { position, record } => {
                        journal.append(position, &record);
                        wrote = true;
                    }
                    Action::Truncate { before } => journal.truncate(before)?,
                    Action::Evidence(misbehaviour) => eprintln!("replica {id}: {misbehaviour}"),
                }
            }
            if !wrote {
                break;
            }
            let durable = journal.commit()?; // one sync, however much was written
            replica.handle_durable(world.now(), durable);
        }
        // Feed: all that is at hand, or the time.
        match inbox.recv_timeout(replica.poll_timeout().since(world.now())) {
            Ok(first) => {
                for frame in [first].into_iter().chain(inbox.try_iter()) {
                    if let Some(message) = world.receive(replica.keychain_mut(), &frame) {
                        replica.handle_message(world.now(), message);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => replica.handle_timeout(world.now()),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Has an operation executed, and waits for what 2f+1 replicas say came out.
fn invoke(world: &World, client: &mut Client, inbox: &Receiver<Bytes>) -> Result<Outcome, Failed> {
    let give_up = world.now() + Duration::from_secs(30);
    client.submit(world.now(), Bytes::from_static(b"count"), Options::default())?;
    while world.now() < give_up {
        while let Some(action) = client.poll_action(world.now()) {
            match action {
                ClientAction::Send { to, message } => world.send(Principal::Replica(to), &message),
                ClientAction::Broadcast { message } => {
                    world.replicas().for_each(|to| world.send(to, &message));
                }
                ClientAction::Outcome(outcome) => return Ok(outcome),
                ClientAction::Disagreed { replica, .. } => eprintln!("{replica} lies"),
                ClientAction::Succession(_) => {} // nobody is replaced here
            }
        }
        let due = client.poll_timeout().map_or(give_up, |due| due.min(give_up));
        match inbox.recv_timeout(due.since(world.now())) {
            Ok(frame) => {
                if let Some(message) = world.receive(client.keychain_mut(), &frame) {
                    client.handle_message(world.now(), message);
                }
            }
            Err(_) => client.handle_timeout(world.now()),
        }
    }
    Err("no quorum answered within 30 s".into())
}

fn main() -> Result<(), Failed> {
    // In life everybody makes an identity of its own, and hands out the public half.
    let mut rng = SeedRng::new(secret());
    let identities = (0..5).map(|_| Identity::generate(&mut rng)).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<_> = identities.iter().map(|identity| identity.public_key().clone()).collect();
    let group = GroupId(*b"one that embeds!"); // fresh for every genesis
    let mut configuration = Configuration::genesis(group, keys[..4].to_vec(), keys[4..].to_vec());
    configuration.permutation = Permutation::Identity; // replica 0 leads first
    let (genesis, start) = (configuration.clone(), std::time::Instant::now());
    let world = Arc::new(World { configuration, inboxes: Mutex::default(), start });
    let folder = tempfile::tempdir()?;
    let start = |index: u32| {
        let (world, identity) = (Arc::clone(&world), identities[index as usize].clone());
        let journal = folder.path().join(format!("replica-{index}"));
        thread::spawn(move || run_replica(&world, ReplicaId(index), identity, journal))
    };
    let kill = |index: u32, thread: JoinHandle<Result<(), Failed>>| {
        let me = Principal::Replica(ReplicaId(index));
        world.inboxes.lock().expect("nobody panics with it").remove(&me);
        thread.join().expect("a replica does not panic")
    };
    let (inbox, keychain) = world.join(Principal::Client(ClientId(0)), identities[4].clone());
    let mut client = Client::new(genesis, ClientId(0), Incarnation(1), keychain, Default::default());
    let mut count = |what: &str, expected: u64| -> Result<(), Failed> {
        let outcome = invoke(&world, &mut client, &inbox)?;
        let agreed: Vec<_> = outcome.agreed.iter().map(|id| id.0).collect();
        println!("{what}: {expected}, say replicas {agreed:?}");
        assert_eq!(outcome.result().map(|count| &count[..]), Some(&expected.to_be_bytes()[..]));
        Ok(())
    };

    let mut replicas: Vec<_> = (0..4).map(start).collect();
    count("four replicas", 1)?;
    kill(3, replicas.remove(3))?;
    count("without replica 3", 2)?;
    replicas.push(start(3));
    kill(0, replicas.remove(0))?;
    count("replica 3 is back from its journal, and 0 is gone", 3)?; // each quorum needs 3 now
    (1..).zip(replicas).try_for_each(|(index, thread)| kill(index, thread))
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Secret random bytes of the operating system.
fn secret() -> [u8; 32] {
    let bytes = ring::rand::generate(&ring::rand::SystemRandom::new());
    bytes.expect("the system has randomness").expose()
}

#[cfg(test)]
mod tests {
    #[test]
    fn killed_replica_comes_back_and_is_needed() -> Result<(), super::Failed> {
        super::main()
    }
}
