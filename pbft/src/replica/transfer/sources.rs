//! Whom to ask, and how much may be moved in a time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::group::{ReplicaId, Voters};
use crate::time::Instant;

/// The wait after an answer that did not come doubles no more often than this.
const DOUBLINGS_MAX: u32 = 5;

/// How much may be moved at once after a pause, by whoever asks.
const ASKING_BURST: Duration = Duration::from_millis(100);
/// The same by whoever is asked: more, since the two do not see the same times.
pub(super) const SERVING_BURST: Duration = Duration::from_secs(1);

/// A debt of bytes that time pays off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When all that was moved is paid for.
    paid: Instant,
}

impl Pace {
    /// When more may be moved.
    pub(super) fn ready(&self, burst: Duration) -> Instant {
        Instant(self.paid.0.saturating_sub(u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// So much was moved.
    pub(super) fn charge(&mut self, now: Instant, bytes: u64, per_second: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.max(1));
        self.paid = self.paid.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

/// What is known of those who can be asked, from one transfer to the next.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<ReplicaId, Source>);

#[derive(Debug, Default)]
struct Source {
    /// It gave a wrong answer in this transfer.
    lied: bool,
    /// How long it took to answer last.
    lag: Duration,
    /// Answers in a row that did not come.
    missed: u32,
    /// It is left in peace until then.
    rests: Instant,
    pace: Pace,
}

impl Sources {
    /// A transfer begins: who was wrong before may have been repaired.
    pub(super) fn forgive(&mut self) {
        self.0.values_mut().for_each(|source| source.lied = false);
    }

    /// Somebody else has its place.
    pub(super) fn forget(&mut self, id: ReplicaId) {
        self.0.remove(&id);
    }

    pub(super) fn lied(&mut self, id: ReplicaId) {
        self.0.entry(id).or_default().lied = true;
    }

    /// How many of them something is known of.
    #[cfg(feature = "sim")]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has_lied(&self, id: ReplicaId) -> bool {
        self.0.get(&id).is_some_and(|source| source.lied)
    }

    /// How long to wait for an answer: longer than the best of those who can be asked took, or than all of
    /// them were given in vain. On a slow way every answer would come too late for ever. One who does not
    /// answer makes nobody wait for it as long as another one does.
    pub(super) fn patience(&self, me: ReplicaId, voters: Voters, timeout: Duration) -> Duration {
        let asked = voters.iter().filter(|id| *id != me && !self.has_lied(*id));
        let known = asked.map(|id| self.0.get(&id).map_or_else(Default::default, |it| (it.missed, it.lag)));
        let (missed, lag) = known.min().unwrap_or_default();
        timeout.max(2 * lag).saturating_mul(1 << missed.min(DOUBLINGS_MAX))
    }

    /// It did not answer in time. The more often that happens, the less it is asked.
    pub(super) fn missed(&mut self, id: ReplicaId, now: Instant, timeout: Duration) {
        let source = self.0.entry(id).or_default();
        source.lag = timeout;
        source.rests = now + timeout.saturating_mul(1 << source.missed.min(DOUBLINGS_MAX));
        source.missed += 1;
    }

    pub(super) fn answered(&mut self, id: ReplicaId, now: Instant, lag: Duration, (bytes, rate): (u64, u64)) {
        let source = self.0.entry(id).or_default();
        (source.lag, source.missed, source.rests) = (lag, 0, Instant(0));
        source.pace.charge(now, bytes, rate);
    }

    /// When each of some replicas may be asked again, and how long its last answer took.
    fn ready(&self, id: ReplicaId) -> (Instant, Duration) {
        let Some(source) = self.0.get(&id) else { return Default::default() };
        (source.rests.max(source.pace.ready(ASKING_BURST)), source.lag)
    }

    /// Whom to ask now: the one with the fewest requests in `load`, none with `load_max`; among equals the
    /// fastest, and then the first after `me`, so that not all laggards ask one.
    pub(super) fn pick(
        &self,
        now: Instant,
        me: ReplicaId,
        voters: Voters,
        load: impl Fn(ReplicaId) -> usize,
        load_max: usize,
    ) -> Option<ReplicaId> {
        let free = voters.iter().filter(|id| *id != me && !self.has_lied(*id) && load(*id) < load_max);
        let ready = free.filter(|id| self.ready(*id).0 <= now);
        ready.min_by_key(|id| (load(*id), self.ready(*id).1, *id < me, *id))
    }

    /// When the next of some replicas may be asked that may not be now.
    pub(super) fn next_ready(&self, now: Instant, voters: Voters) -> Option<Instant> {
        let waiting = voters.iter().filter(|id| !self.has_lied(*id)).map(|id| self.ready(id).0);
        waiting.filter(|at| *at > now).min()
    }
}
