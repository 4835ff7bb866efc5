//! What a daemon does when something fails that may work again: a full disk, a store that is away.
//!
//! It says so once in a while and tries again, at longer and longer intervals. It does not end: the other daemons of
//! its process would end with it, and the gateway is one of them.

use crate::shutdown::{self, Shutdown};
use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// The first pause; each is twice the one before, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Between two words about it: what fails may work for a moment and fail again, many times a second.
const SILENCE: Duration = Duration::from_secs(60);

/// What a daemon knows of its failures.
pub(crate) struct Trouble {
    daemon: &'static str,
    /// In a row.
    failures: u32,
    said: Option<Instant>,
}

impl Trouble {
    pub(crate) fn of(daemon: &'static str) -> Self {
        Self { daemon, failures: 0, said: None }
    }

    /// It failed: returns when it is to be tried again, or the daemon has to end.
    pub(crate) async fn pause(&mut self, error: &(dyn Display + Sync), shutdown: &mut Shutdown) {
        if self.said.is_none_or(|said| said.elapsed() >= SILENCE) {
            self.said = Some(Instant::now());
            tracing::error!(daemon = self.daemon, %error, "something failed; it is tried again until it works");
        } else {
            tracing::debug!(daemon = self.daemon, %error, "it failed again");
        }
        let pause = self.next_pause();
        tokio::select! {
            () = shutdown::requested(shutdown) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = PAUSE.0.saturating_mul(2u32.saturating_pow(self.failures)).min(PAUSE.1);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// It worked.
    pub(crate) fn over(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_once_it_worked() {
        let mut trouble = Trouble::of("admin");
        let pauses: Vec<_> = (0..40).map(|_| trouble.next_pause().as_millis()).collect();
        assert_eq!(pauses[..3], [50, 100, 200]);
        assert_eq!(pauses[7..], [5000; 33]);
        trouble.over();
        assert_eq!(trouble.next_pause(), PAUSE.0);
    }

    #[tokio::test]
    async fn who_has_to_end_does_not_wait() {
        let (_end, mut shutdown) = watch::channel(true);
        let mut trouble = Trouble { failures: 40, ..Trouble::of("admin") };
        let pause = trouble.pause(&"the disk is full", &mut shutdown);
        tokio::time::timeout(PAUSE.1 / 2, pause).await.expect("returns at once");
    }
}
