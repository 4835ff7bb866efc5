//! A group of four replica processes, and what all its processes are told.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use quorate_pbft::{
    Configuration, Context, GroupId, ReplicaId, Service, State,
    crypto::Identity,
    runtime::{AddressBook, JournalSetup, ReplicaSetup, SyncPolicy, serve},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    CLIENT_KEYS, Outcome,
    process::{Process, seed, wait_for_parent},
    split,
};

/// Takes any operation and answers nothing.
pub(crate) struct Empty;

impl Service for Empty {
    fn execute(&self, _: &Context, _: &[u8], _: &mut State) -> Bytes {
        Bytes::new()
    }
}

/// The configuration of a group with these members; its clients take turns with the keys.
pub(crate) fn configure(
    identities: &[Identity],
    group: [u8; 32],
    clients: usize,
    history: bool,
) -> Outcome<Configuration> {
    let (replicas, keys) = split(identities);
    Ok(Configuration {
        history,
        ..Configuration::genesis(
            GroupId(*group.first_chunk().ok_or("a seed has 32 bytes")?),
            replicas.iter().map(|identity| identity.public_key().clone()).collect(),
            (0..clients).map(|index| keys[index % CLIENT_KEYS].public_key().clone()).collect(),
        )
    })
}

/// A directory in which the processes of a group find its configuration and their keys.
pub(crate) fn prepare(configuration: &Configuration, identities: &[Identity]) -> Outcome<TempDir> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("configuration"), configuration.to_bytes())?;
    for (index, identity) in identities.iter().enumerate() {
        fs::write(key_path(directory.path(), index), identity.to_pkcs8().as_slice())?;
    }
    Ok(directory)
}

/// Takes the addresses of the first four processes, which are the replicas, and tells them to all.
pub(crate) fn introduce(processes: &mut [Process]) -> Outcome<()> {
    let mut book = String::new();
    for replica in &mut processes[..4] {
        book.push_str(&replica.line()?);
        book.push('\n');
    }
    processes.iter_mut().try_for_each(|process| process.tell(&book))
}

/// The addresses of the four replicas, as the parent tells them.
pub(crate) fn read_book() -> Outcome<AddressBook> {
    let lines = std::io::stdin().lines().take(4).collect::<Result<Vec<_>, _>>()?;
    Ok((0..).map(ReplicaId).zip(lines).collect())
}

fn key_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("key-{index}"))
}

pub(crate) fn identity(directory: &Path, index: usize) -> Outcome<Identity> {
    Ok(Identity::from_pkcs8(&fs::read(key_path(directory, index))?)?)
}

/// The identity of a client.
pub(crate) fn client_identity(directory: &Path, index: usize) -> Outcome<Identity> {
    identity(directory, 4 + index % CLIENT_KEYS)
}

pub(crate) fn configuration(directory: &Path) -> Outcome<Configuration> {
    Ok(Configuration::from_bytes(&fs::read(directory.join("configuration"))?)?)
}

/// A replica's process: tells its address, is told the others', and serves until its input ends.
pub(crate) fn replica(directory: &Path, index: u32, journal: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (book, peers) = watch::channel(AddressBook::default());
    let handle = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        let (configuration, id) = (configuration(directory)?, ReplicaId(index));
        let identity = identity(directory, id.index())?;
        let mut setup = ReplicaSetup::new(configuration, id, identity, listener, peers, seed()?);
        // A connection for every client, and those of the other replicas.
        setup.transport.connections_max = 4096;
        let sync = match journal {
            "data" => Some(SyncPolicy::Data),
            "process" => Some(SyncPolicy::Process),
            _ => None,
        };
        let path = directory.join(format!("journal-{index}"));
        setup.journal = sync.map(|sync| JournalSetup { path, sync, create: true });
        Outcome::Ok(serve(setup, Empty)?)
    })?;
    book.send_replace(read_book()?);
    wait_for_parent()?;
    runtime.block_on(handle.shutdown())?;
    Ok(())
}
