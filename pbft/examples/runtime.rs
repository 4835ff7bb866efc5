//! The short start with `runtime`: a group over loopback TCP with journals in files, a client, one
//! operation.
//!
//! ```text
//! cargo run -p quorate-pbft --example runtime
//! ```

use std::error::Error;
use std::net::Ipv4Addr;

use bytes::Bytes;
use quorate_pbft::{
    ClientId, Configuration, Context, GroupId, Incarnation, ReplicaId, Service, State,
    crypto::SeedRng,
    runtime::{
        AddressBook, Client, ClientSetup, JournalSetup, ReplicaSetup, SyncPolicy, generate_identities, serve,
    },
};
use tokio::{net::TcpListener, sync::watch};

/// Appends each operation to what page 0 holds, and gives all of it.
struct Notebook;

impl Service for Notebook {
    fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
        let notes = [state.page(0), operation].concat();
        state.write(0, &notes);
        notes.into()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Who takes part. In life everybody makes its own identity, and hands out the public half.
    let secret = ring::rand::generate(&ring::rand::SystemRandom::new()).expect("the system has randomness");
    let mut rng = SeedRng::new(secret.expose());
    let mut identities = generate_identities(5, &mut rng)?;
    let keys: Vec<_> = identities.iter().map(|identity| identity.public_key().clone()).collect();
    let group = GroupId(*b"one for notebook");
    let genesis = Configuration::genesis(group, keys[..4].to_vec(), keys[4..].to_vec());
    let client_identity = identities.pop().expect("five were made");

    // Four replicas: in life on four machines, each with this loop's body.
    let folder = tempfile::tempdir()?;
    let (book, peers) = watch::channel(AddressBook::default());
    let mut replicas = Vec::new();
    for (id, identity) in (0..).map(ReplicaId).zip(identities) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        book.send_modify(|book| book.set(id, listener.local_addr().expect("it is bound")));
        let path = folder.path().join(format!("replica-{id}"));
        let mut setup =
            ReplicaSetup::new(genesis.clone(), id, identity, listener, peers.clone(), rng.next_seed());
        setup.journal = Some(JournalSetup { path, sync: SyncPolicy::Data, create: true }); // the first start
        replicas.push(serve(setup, Notebook)?);
    }

    // A client, and one operation.
    let seed = rng.next_seed();
    let setup = ClientSetup::new(genesis, ClientId(0), client_identity, Incarnation(1), peers, seed);
    let reply = Client::connect(setup)?.invoke(Bytes::from_static(b"hello")).await?;
    let agreed: Vec<_> = reply.agreed.iter().map(|id| id.0).collect();
    println!("{:?} in batch {}, say replicas {agreed:?}", reply.result, reply.sequence);
    assert_eq!(reply.result, "hello");
    for replica in replicas {
        replica.shutdown().await?; // what it promised is in its journal
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_operation_is_answered() -> Result<(), Box<dyn std::error::Error>> {
        super::main()
    }
}
