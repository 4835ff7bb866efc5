//! A lock that ends with its holder, and a token by which what it protects can refuse a late one.

use super::{StoreError, held::Held};
use crate::engine::Engine;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Where locks lie in the store; a lock's key is this and its name.
pub const LOCKS: &str = "locks/";

/// A lock that is held until this is dropped, or until [`lost`](Self::lost).
///
/// A holder that was stopped for longer than the lock's time to live finds that another has it. Whatever
/// the lock protects should therefore be told the [`token`](Self::token) and refuse one that is less than
/// the greatest it has seen.
pub struct Lock(Held);

impl Lock {
    /// Waits for the lock and takes it. It is gone `ttl` after the holder was last heard of.
    ///
    /// # Errors
    /// When the engine can't be reached. [`LockError::Held`] when another had it for all of `wait`.
    pub async fn acquire(
        engine: &Arc<dyn Engine>,
        name: &str,
        holder: &str,
        ttl: Duration,
        wait: Duration,
    ) -> Result<Self, LockError> {
        let key = format!("{LOCKS}{name}");
        let value = Bytes::copy_from_slice(holder.as_bytes());
        match tokio::time::timeout(wait, Held::take_when_free(engine, &key, value, ttl)).await {
            Ok(held) => Ok(Self(held?)),
            Err(_) => Err(LockError::Held { name: name.into(), wait }),
        }
    }

    /// Grows from holder to holder.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.0.revision().0
    }

    /// Whether the lock is not held any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Returns once the lock is not held any more, though it was not released.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Releases the lock, and returns when another may have it. Dropping does the same in the background.
    pub async fn release(self) {
        self.0.release().await;
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another has it.
    #[error("lock {name} was held by another for all of {wait:?}")]
    Held {
        /// The lock.
        name: String,
        /// How long it was waited for.
        wait: Duration,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
