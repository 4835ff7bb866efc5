//! A store that loses a member in the middle of what is done with it.

use crate::servers::etcd::Etcd;
use async_trait::async_trait;
use bytes::Bytes;
use quorate::store::{Entry, LeaseId, Revision, Store, StoreError, Watch, etcd::EtcdStore};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{RwLock, RwLockReadGuard};

/// The request before which the leader is killed. Most checks have more, and few are done by then.
const FATAL: u32 = 3;

/// A store whose leader is killed between two requests: with none under way, none of them may fail. Watches go
/// on meanwhile.
pub(crate) struct Wounded {
    store: EtcdStore,
    etcd: Arc<RwLock<Etcd>>,
    asked: AtomicU32,
    /// Held for reading by each request.
    calm: RwLock<()>,
}

impl Wounded {
    pub(crate) fn new(store: EtcdStore, etcd: Arc<RwLock<Etcd>>) -> Self {
        Self { store, etcd, asked: AtomicU32::new(0), calm: RwLock::new(()) }
    }

    async fn pass(&self) -> RwLockReadGuard<'_, ()> {
        if self.asked.fetch_add(1, Ordering::SeqCst) + 1 == FATAL {
            let _calm = self.calm.write().await;
            let mut etcd = self.etcd.write().await;
            let leader = etcd.leader();
            etcd.kill(leader);
            // It is answered by a new leader, whatever that takes.
            self.store.get("anything").await.expect("two of three are a quorum");
        }
        self.calm.read().await
    }
}

#[async_trait]
impl Store for Wounded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let _pass = self.pass().await;
        self.store.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        let _pass = self.pass().await;
        self.store.put(key, value, lease).await
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let _pass = self.pass().await;
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        let _pass = self.pass().await;
        self.store.list(prefix).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        let _pass = self.pass().await;
        self.store.compare_and_swap(key, seen, value, lease).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let _pass = self.pass().await;
        self.store.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _pass = self.pass().await;
        self.store.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _pass = self.pass().await;
        self.store.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let _pass = self.pass().await;
        self.store.watch(prefix, from).await
    }
}
