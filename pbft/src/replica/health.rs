//! Whether a replica is of use, and what it does when the group is beyond repair.
//!
//! The rules, as events:
//!
//! * *upon the certificate of a state that differs from the own one after the same batch*: say so, serve and
//!   answer nobody, vouch for nothing, and fetch what differs (`transfer`).
//! * *upon CHECKPOINTs for one batch, of which more than f differ from the most*: no state can get 2f+1
//!   votes there any more, whatever those say who are silent yet. More than f replicas are faulty, so nobody
//!   can tell which state is right: halt. A replica that has halted orders, executes and answers nothing; all
//!   that it does is to show its CHECKPOINTs to whoever asks how far it is, so that all of the group halt,
//!   those too that come back from a crash.
//!
//! The operator decides which state is right, and begins a new group with it.

use std::fmt;

use super::{Misbehaviour, Replica};
use crate::group::Sequence;
use crate::service::Service;
use crate::time::Instant;

/// Whether a replica is of use to its group and clients, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    #[default]
    Ready,
    /// It has left a view and not entered the next one.
    Changing,
    /// It is fetching a state because it cannot follow from its own.
    Transferring,
    /// Its state is not the group's; it is about to repair it.
    Diverged,
    /// Requests wait, or batches are under way, and none was executed for
    /// [`view_timeout_max`](crate::Settings::view_timeout_max): as long as any primary is given.
    Stalled,
    /// It has executed all that its configuration orders, and waits for 2f+1 replicas to vouch for the state
    /// there: then the next configuration is in force, in which members are replaced.
    Crossing,
    /// More than f replicas have diverged ([`Misbehaviour::Split`]).
    Halted,
    /// Another key has its place. It takes part in nothing any more; once 2f+1 others are in a later
    /// configuration nobody needs it.
    Retired,
}

impl fmt::Display for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ready => "ready",
            Self::Changing => "changing the view",
            Self::Transferring => "fetching a state",
            Self::Diverged => "diverged",
            Self::Stalled => "stalled",
            Self::Crossing => "waiting at the boundary of a configuration",
            Self::Halted => "halted",
            Self::Retired => "retired: another key has its place",
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Health {
    /// The group is beyond repair.
    halted: bool,
    /// The last batch that was executed.
    executed: Sequence,
    /// Since when something waits behind it.
    waits_since: Option<Instant>,
}

impl<S: Service> Replica<S> {
    /// Whether this replica is of use now, and if not, why.
    #[must_use]
    pub fn readiness(&self, now: Instant) -> Readiness {
        let since = self.health.waits_since;
        if self.is_retired() {
            Readiness::Retired
        } else if self.is_halted() {
            Readiness::Halted
        } else if self.checkpoints.has_diverged() {
            Readiness::Diverged
        } else if self.transfer.is_active() || self.is_joining() {
            Readiness::Transferring
        } else if since.is_some_and(|since| now.since(since) > self.settings.view_timeout_max) {
            Readiness::Stalled
        } else if self.is_at_boundary() {
            Readiness::Crossing
        } else if self.is_changing() {
            Readiness::Changing
        } else {
            Readiness::Ready
        }
    }

    /// Whether this replica does nothing any more.
    pub(super) fn is_halted(&self) -> bool {
        self.health.halted
    }

    /// Notes whether something waits, and what was executed meanwhile; gives up on a state that was reached
    /// without fetching it.
    pub(super) fn watch_progress(&mut self) {
        let executed = self.executed();
        // Not what waits because its client made it so that few can check it: that is no fault of the group's.
        let ordered = self.is_primary() && !self.admission.is_empty();
        let waits = self.waits_for_primary() || ordered;
        let health = &mut self.health;
        if !waits {
            health.waits_since = None;
        } else if health.waits_since.is_none() || executed != health.executed {
            health.waits_since = Some(self.now);
        }
        health.executed = executed;
        let overtaken = self.transfer.sequence().is_some_and(|sequence| sequence <= executed);
        if overtaken && !self.checkpoints.has_diverged() {
            self.transfer.stop();
        }
    }

    /// Upon votes of which more than f differ from the most.
    pub(super) fn check_split(&mut self, sequence: Sequence) {
        let states = self.checkpoints.standings(sequence);
        let votes = states.iter().map(|(_, voters)| voters.count());
        let apart = votes.clone().sum::<u32>() - votes.max().unwrap_or(0);
        if apart <= self.group.f() || self.is_halted() {
            return;
        }
        let states = states.into();
        self.health.halted = true;
        self.transfer.stop();
        self.accuse(Misbehaviour::Split { sequence, states });
    }
}
