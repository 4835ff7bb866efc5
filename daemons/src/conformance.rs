//! What every engine must do, whatever it is made of: the ground on which the suites beside the traits
//! stand. A test crate runs them with `queue_conformance!`, `records_conformance!` and
//! `store_conformance!`, each check a test of its own.

use crate::{
    clock::{Clock, ManualClock, SystemClock},
    engine::Engine,
    queue::{Queue, QueueName},
};
use async_trait::async_trait;
use std::{any::Any, fmt::Debug, sync::Arc, time::Duration};

/// Longer than any check waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An engine to be checked, with nothing in it that another check sees.
pub struct Subject {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Its time.
    pub time: Box<dyn Time>,
    /// A size in bytes that is over its limits for records, outcomes and receipts.
    pub too_large: usize,
    /// How many changes its store keeps, or a watch may fall behind, whichever is more.
    pub changes_kept: u32,
    /// Lets go of the changes that need not be kept, when the store does not do that by itself.
    pub compact: Option<Compact>,
    /// Whatever must live as long (a folder, a server).
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Lets go of a store's old changes.
pub type Compact = Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// An engine's time, by which its leases end.
#[async_trait]
pub trait Time: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Lets time pass: an engine with a clock of its own is waited for.
    async fn pass(&self, time: Duration);
}

/// The machine's own, which is waited for.
#[async_trait]
impl Time for SystemClock {
    fn now_ms(&self) -> u64 {
        Clock::now_ms(self)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl Time for Arc<ManualClock> {
    fn now_ms(&self) -> u64 {
        Clock::now_ms(&**self)
    }

    async fn pass(&self, time: Duration) {
        self.advance(time);
    }
}

impl Subject {
    /// A queue.
    pub async fn queue(&self, name: &str) -> Arc<dyn Queue> {
        self.engine.queue(&QueueName::named(name)).await.expect("the queue is there")
    }
}

/// The outcome of something that must happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens within PATIENCE")
}

/// The error, of a kind that the pattern describes.
pub fn refused<T: Debug, E>(result: Result<T, E>) -> E {
    match result {
        Ok(value) => panic!("not refused: {value:?}"),
        Err(error) => error,
    }
}

/// One test for each check of a suite. `$subject` makes a future of a fresh [`Subject`].
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($area:ident, $subject:expr; $($check:ident,)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let subject: $crate::conformance::Subject = $subject.await;
                $crate::$area::conformance::$check(&subject).await;
            }
        )*
    };
}
