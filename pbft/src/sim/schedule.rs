//! A run as data: what clients want and what goes wrong, step by step, known before it begins.
//!
//! A schedule is drawn from a seed by one of the [`Scheme`]s, or read from text, one step a line:
//!
//! ```text
//! group seed=7 f=1 clients=2 keys=fast wire=no primaries=identity history=yes k=4 l=12 batch=7
//!       in-flight=2 snapshot=900 view-timeout=250000us bundle=3        (in one line)
//! weather delay=100us..7000us loss=30 duplication=12     losses and duplicates per mille
//! disk 2 20us..90000us           the time that a sync of this replica's disk takes from now on
//! clock 1 leap=1500000us ticks=1020000   leaps ahead, and counts so many ticks in a million from now on
//! withhold c0 1,2                client 0 sends its large operations to all but these from now on, until it asks
//!                                once more
//! lie 3                          this replica lies from now on; the seed decides how
//! refresh                        everybody's session keys are refreshed
//! submit c0 17 size=56           client 0 submits the operation 17; ends in `receipt` when it wants one
//! read c1 18                     a client reads
//! wait 31200us                   time passes
//! crash 1 / restart 1            a crash takes what was not synced, or a part of it
//! cut 0>1 c0>2                   nothing gets from the one to the other any more (`c0` is a client)
//! mend                           all cuts are gone
//! restart c0                     a client's process ends and another one takes its place
//! strike network round=9 side=0,1                 faults of the fuzzer
//! strike process round=9 replica=3 to=0,2 seed=77
//! away 2                         this replica stays away when all is healed in the end
//! ```
//!
//! A schedule that fails is [shortened](super::shorten) and printed so, and runs again as it stands.

use std::time::Duration;

use super::byzzfuzz::{self, Fault};
use super::{Random, Setup, Weather};
use crate::client::ClientSettings;
use crate::crypto::Principal;
use crate::group::{ClientId, Limits, Permutation, ReplicaId};
use crate::replica::Settings;

mod draw;
mod text;

pub(super) use draw::Draw;
pub use text::ScheduleError;

/// What is drawn from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Crashes, cuts, storms, clocks, disks and liars, by the clock.
    Faults,
    /// [`byzzfuzz`]'s: faults by the protocol's rounds.
    ByzzFuzz,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What the group is like.
    pub terms: Terms,
    /// What happens, in order. In the end all is healed, but for those that stay away.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// The run that a seed stands for. It has so many operations.
    #[must_use]
    pub fn draw(scheme: Scheme, seed: u64, operations: u64) -> Self {
        match scheme {
            Scheme::Faults => draw::faults(seed, operations),
            Scheme::ByzzFuzz => byzzfuzz::schedule(seed, operations),
        }
    }
}

/// What a run's group is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the schedule leaves open follows from it: delays, losses, what a crash takes.
    pub seed: u64,
    /// Replicas that may be faulty.
    pub f: u32,
    /// Clients.
    pub clients: u32,
    /// Whether keys are real ones.
    pub real_keys: bool,
    /// Whether messages are encoded and decoded on their way.
    pub through_wire: bool,
    /// Whether primaries take turns in an order that follows from the group's name.
    pub seeded: bool,
    /// Whether there is a history, and receipts.
    pub history: bool,
    /// K.
    pub checkpoint_period: u64,
    /// L.
    pub window: u64,
    /// Operations in a batch.
    pub batch: u32,
    /// Batches on their way.
    pub in_flight: u64,
    /// Bytes after which a copy of the state goes into the journal.
    pub snapshot: u64,
    /// The first view time-out.
    pub view_timeout: Duration,
    /// Operations in a bundle.
    pub bundle: u32,
}

/// Operations that a client may have in flight: few, so that windows fill.
pub(super) const CLIENT_WINDOW: u32 = 16;

impl Terms {
    /// The cluster that a run begins with.
    #[must_use]
    pub fn setup(&self) -> Setup {
        let mut setup = Setup::new(self.f, self.clients);
        setup.seed = self.seed;
        setup.through_wire = self.through_wire;
        setup.configuration.permutation =
            if self.seeded { Permutation::Seeded } else { Permutation::Identity };
        setup.configuration.history = self.history;
        setup.configuration.limits = Limits {
            checkpoint_period: self.checkpoint_period,
            window: self.window,
            batch_operations_max: self.batch,
            client_window: CLIENT_WINDOW,
            ..Limits::default()
        };
        setup.settings = Settings {
            batches_in_flight: self.in_flight,
            snapshot_bytes_min: self.snapshot,
            status_idle: Duration::from_millis(500),
            view_timeout: self.view_timeout,
            fetch_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        setup.client_settings = ClientSettings {
            retry_max: Duration::from_secs(1),
            bundle_operations_max: self.bundle,
            ..ClientSettings::default()
        };
        if self.real_keys { setup.with_real_keys() } else { setup }
    }
}

/// Something that happens in a run. Times are whole microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client wants an operation executed, and submits it as soon as its window has room. What one
    /// client wants in steps that follow one another, it submits at once.
    Submit {
        /// Who.
        client: ClientId,
        /// The operation's name: no two are alike.
        name: u64,
        /// Bytes behind the name.
        size: usize,
        /// Whether it asks for a receipt.
        receipt: bool,
    },
    /// A client reads, without ordering when that will do.
    Read {
        /// Who.
        client: ClientId,
        /// The read's name.
        name: u64,
    },
    /// Time passes.
    Wait(Duration),
    /// A replica stops at once.
    Crash(ReplicaId),
    /// A replica starts again from its disk.
    Restart(ReplicaId),
    /// A client's process ends, and another one takes its place.
    RestartClient(ClientId),
    /// Nothing gets from the first of each pair to the second any more.
    Cut(Vec<(Principal, Principal)>),
    /// All cuts are gone.
    Mend,
    /// The weather from now on.
    Weather(Weather),
    /// A clock leaps ahead, and counts so many ticks in a million from now on.
    Clock {
        /// Whose.
        replica: ReplicaId,
        /// How far it leaps.
        leap: Duration,
        /// How fast it is then.
        ticks: u64,
    },
    /// The shortest and the longest time that a sync takes from now on.
    Disk {
        /// Whose disk.
        replica: ReplicaId,
        /// From so long …
        least: Duration,
        /// … to so long.
        most: Duration,
    },
    /// A client sends its large operations to all but these replicas from now on, until it asks once more.
    Withhold {
        /// Who.
        client: ClientId,
        /// From whom.
        replicas: Vec<ReplicaId>,
    },
    /// A replica lies from now on.
    Lie(ReplicaId),
    /// Everybody's session keys are refreshed.
    Refresh,
    /// A fault of the fuzzer.
    Strike(Fault),
    /// A replica stays away when all is healed.
    Away(ReplicaId),
}
