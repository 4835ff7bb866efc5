//! The store in etcd does what every store must: on one member, on three, and on three of which the leader is
//! killed in the middle of each check. And what becomes of it when members, connections and answers are lost.
#![cfg(feature = "etcd")]

#[allow(dead_code, unreachable_pub, reason = "other tests use the others")]
#[path = "servers/installed.rs"]
mod servers;

#[path = "etcd/faults.rs"]
mod faults;
#[path = "etcd/watches.rs"]
mod watches;
#[path = "etcd/wounded.rs"]
mod wounded;

use quorate::{
    clock::SystemClock,
    config::Durability,
    conformance::Subject,
    engine::{Assembled, Engine},
    sqlite::SqliteEngine,
    store::{
        Store,
        etcd::{EtcdOptions, EtcdStore},
    },
};
use servers::etcd::Etcd;
use std::sync::Arc;
use tokio::sync::RwLock;
use wounded::Wounded;

/// How far a watch may fall behind here.
const CAPACITY: u32 = 200;

async fn connect(etcd: &Etcd) -> EtcdStore {
    let options = EtcdOptions { watch_capacity: CAPACITY as usize, ..EtcdOptions::new(etcd.endpoints()) };
    EtcdStore::connect(options).await.expect("it answers")
}

/// An engine that keeps its queues and records in that folder.
fn on_etcd(store: impl Store, folder: &tempfile::TempDir) -> Arc<dyn Engine> {
    let rest = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).expect("it opens");
    Arc::new(Assembled { store: Box::new(store), ..rest.in_parts() })
}

fn subject(store: impl Store, etcd: Arc<RwLock<Etcd>>) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let compacted = Arc::clone(&etcd);
    Subject {
        engine: on_etcd(store, &folder),
        time: Box::new(SystemClock::default()),
        too_large: 0,
        changes_kept: CAPACITY,
        compact: Some(Box::new(move || {
            let etcd = Arc::clone(&compacted);
            Box::pin(async move {
                let etcd = etcd.read_owned().await;
                // Up to the newest but one: whether that to which etcd is compacted can be watched from
                // depends on what it was.
                let compact = move || etcd.compact(etcd.revision() - 1);
                tokio::task::spawn_blocking(compact).await.expect("it compacts");
            })
        })),
        keep: Box::new((folder, etcd)),
    }
}

async fn unharmed(members: usize) -> Subject {
    let etcd = Etcd::start(members);
    subject(connect(&etcd).await, Arc::new(RwLock::new(etcd)))
}

async fn wounded() -> Subject {
    let etcd = Etcd::start(3);
    let store = connect(&etcd).await;
    let etcd = Arc::new(RwLock::new(etcd));
    subject(Wounded::new(store, Arc::clone(&etcd)), etcd)
}

mod one_member {
    quorate::store_conformance!(super::unharmed(1));
}

mod three_members {
    quorate::store_conformance!(super::unharmed(3));
}

mod a_leader_that_is_killed {
    quorate::store_conformance!(super::wounded());
}
