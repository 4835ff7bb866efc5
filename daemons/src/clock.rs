//! Time, passed in: what is stored with a lease is stored in milliseconds since 1970.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970, never going back while the process lives.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time.
    fn now_ms(&self) -> u64;

    /// Asks to be called whenever time jumps, because whoever sleeps until a moment would oversleep it.
    /// A clock that only flows needs nothing.
    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>) {
        drop(wake);
    }
}

/// The machine's clock as it was when this was made, and monotonic from there: setting the clock while
/// the process runs neither ends leases early nor makes them last.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    started_ms: u64,
}

impl Default for SystemClock {
    fn default() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_ms: saturating_ms(since_1970) }
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.started_ms.saturating_add(saturating_ms(self.started.elapsed()))
    }
}

/// Milliseconds since 1970 as the machine's clock has it now, for what processes tell one another.
pub(crate) fn epoch_ms() -> u64 {
    saturating_ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A clock that stands still until it is told to advance: for tests of what happens when a lease ends.
#[derive(Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
    wakes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// A clock that stands at `now_ms`.
    #[must_use]
    pub fn at(now_ms: u64) -> Self {
        Self { now_ms: now_ms.into(), ..Self::default() }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(saturating_ms(by), Ordering::SeqCst);
        for wake in self.wakes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            wake();
        }
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).push(wake);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("ManualClock").field("now_ms", &self.now_ms()).finish_non_exhaustive()
    }
}

/// A duration in whole milliseconds.
fn saturating_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
