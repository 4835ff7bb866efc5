//! Leader election: of several instances of a daemon one leads, and another takes over when it ends.

use super::{StoreError, held::Held};
use crate::engine::Engine;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Where leaders lie in the store; an election's key is this and its name, its value the leader's
/// instance.
pub const LEADERS: &str = "leaders/";

/// Leadership, until this is dropped, or until [`lost`](Self::lost).
///
/// ```no_run
/// # async fn example(engine: std::sync::Arc<dyn quorate::engine::Engine>) {
/// use quorate::store::election::Leadership;
/// use std::time::Duration;
///
/// loop {
///     let leadership = Leadership::campaign(&engine, "autoscaler", "a1b2", Duration::from_secs(2)).await;
///     let Ok(leadership) = leadership else { continue };
///     tokio::select! {
///         () = leadership.lost() => {}        // campaign again
///         () = async { /* what a leader does */ } => {}
///     }
/// }
/// # }
/// ```
pub struct Leadership(Held);

impl Leadership {
    /// Waits until no other leads, and leads. Dropping the future ends the campaign.
    ///
    /// # Errors
    /// When the engine can't be reached.
    pub async fn campaign(
        engine: &Arc<dyn Engine>,
        election: &str,
        instance: &str,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        let value = Bytes::copy_from_slice(instance.as_bytes());
        Ok(Self(Held::take_when_free(engine, &key(election), value, ttl).await?))
    }

    /// Grows from leader to leader.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.0.revision().0
    }

    /// Whether another may lead by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Returns once another may lead: the lease was not renewed in time, or was taken away.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Steps down, and returns when another may lead. Dropping does the same in the background.
    pub async fn resign(self) {
        self.0.release().await;
    }
}

/// The instance that leads, if one does.
///
/// # Errors
/// When the engine can't be reached.
pub async fn leader(engine: &Arc<dyn Engine>, election: &str) -> Result<Option<String>, StoreError> {
    let entry = engine.store().get(&key(election)).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

fn key(election: &str) -> String {
    format!("{LEADERS}{election}")
}
