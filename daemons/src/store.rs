//! Metadata with revisions: sets, daemons, faults, locks. The semantics are etcd's.

pub mod announce;
#[doc(hidden)]
pub mod conformance;
pub mod election;
#[cfg(feature = "etcd")]
pub mod etcd;
mod held;
pub mod lock;
pub(crate) mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Where metadata is kept.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Sets a key, whatever it was, and says its new revision. With a lease it goes when the lease ends.
    ///
    /// # Errors
    /// When the engine can't be reached or the lease is gone.
    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError>;

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn delete(&self, key: &str) -> Result<bool, StoreError>;

    /// All entries whose key begins with `prefix`, in order of their keys, and the revision at which
    /// this was true: a watch from the next one misses nothing.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError>;

    /// Sets or removes (`value` = `None`) a key if it still has the revision that was seen (`None`: if
    /// it does not exist).
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it has another by now.
    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError>;

    /// A lease that ends `ttl` after its last renewal.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseGone`] when it has ended.
    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Every change to keys that begin with `prefix`, from revision `from` on (inclusive), in order.
    /// The channel ends with [`StoreError::Compacted`] when `from` is older than what is kept, or when
    /// the receiver is too slow: list again.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;
}

/// Changes of a watched prefix.
pub type Watch = mpsc::Receiver<Result<Change, StoreError>>;

/// A point in the store's history; the whole store has one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// When it was last changed.
    pub revision: Revision,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key has a new value.
    Put(Entry),
    /// A key is gone.
    Deleted {
        /// The key.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Change {
    /// What changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine can't be reached, or failed; try again later.
    #[error("the store is not available: {source}")]
    Unavailable {
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key changed since it was read.
    #[error("key {key} has changed since it was read")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The lease has ended.
    #[error("lease {0:?} has ended")]
    LeaseGone(LeaseId),
    /// The history from that revision on is not kept any more; list again.
    #[error("changes since revision {} are no longer kept", .0.0)]
    Compacted(Revision),
}
