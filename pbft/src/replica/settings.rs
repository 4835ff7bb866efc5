//! What a replica may choose for itself: none of it has to be the same in the whole group.

use std::time::Duration;

/// A replica's own settings. None of them touches safety.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is a journal. Without one, promises leave at once, and a replica that crashed
    /// must not come back under its old key.
    pub journal: bool,
    /// The Unix time, in nanoseconds, at this replica's [`Instant`](crate::Instant) zero.
    pub unix_at_zero: u64,
    /// How far ahead of the clock here a batch's agreed time may be.
    pub time_ahead_max: Duration,
    /// As primary, how many batches may be on their way: more of them hide latency, fewer make
    /// batches larger.
    pub batches_in_flight: u64,
    /// How many requests of one client may wait; more are answered `Busy`.
    pub queue_requests_max: usize,
    /// The same, in bytes of its requests; one request is always taken. A backup has room for the batches
    /// that are on their way beside.
    pub queue_bytes_max: usize,
    /// How long nothing may move before others are asked for what is missing. Doubles while
    /// nothing comes of it, up to `status_idle`.
    pub status_period: Duration,
    /// How often others are told how far this replica is when all is quiet.
    pub status_idle: Duration,
    /// How long a backup waits for a request to be executed, with nothing executed meanwhile, before
    /// it wants another primary. Longer than a batch takes on a bad day: changing a view too often
    /// costs more than changing it late. Doubles with each view that comes to nothing.
    pub view_timeout: Duration,
    /// The longest such wait.
    pub view_timeout_max: Duration,
    /// How long an answer to FETCH may take before it is asked for again, or elsewhere. Grows while nobody
    /// answers in time.
    pub fetch_timeout: Duration,
    /// How many FETCHes may be under way.
    pub fetches_max: usize,
    /// How many of them to one replica.
    pub fetches_per_source_max: usize,
    /// Bytes of states that are moved from one replica to another in a second, at most: this one asks
    /// for no more from each, and gives no more to each.
    pub fetch_bytes_per_second: u64,
    /// A copy of the state goes into the journal when this many bytes, and at least as many as the
    /// last copy had, were written since: so copies at most double what is written.
    pub snapshot_bytes_min: u64,
    /// A state of more bytes than this is not fetched, those counted that are here and not replaced yet.
    pub transfer_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            journal: true,
            unix_at_zero: 0,
            time_ahead_max: Duration::from_secs(10),
            batches_in_flight: 4,
            queue_requests_max: 1024,
            queue_bytes_max: 8 << 20,
            status_period: Duration::from_millis(50),
            status_idle: Duration::from_secs(1),
            view_timeout: Duration::from_millis(250),
            view_timeout_max: Duration::from_secs(8),
            fetch_timeout: Duration::from_millis(500),
            fetches_max: 8,
            fetches_per_source_max: 2,
            fetch_bytes_per_second: 64 << 20,
            snapshot_bytes_min: 8 << 20,
            transfer_bytes_max: 1 << 34,
        }
    }
}
