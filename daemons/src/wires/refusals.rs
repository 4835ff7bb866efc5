//! What is said of connections that were not made: little, however many they are.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(5);

/// Counts what is not said, and says something now and then.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Refusals {
    /// Says it, with how many were not said since the last time; or counts it.
    pub(super) fn note(&self, say: impl FnOnce(u64)) {
        if let Some(unsaid) = self.count(Instant::now()) {
            say(unsaid);
        }
    }

    fn count(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().expect("nobody panics with it");
        if said.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_number() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.count(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.count(start + EVERY / 2), None);
        }
        assert_eq!(refusals.count(start + EVERY), Some(1000));
        assert_eq!(refusals.count(start + 2 * EVERY), Some(0));
    }
}
