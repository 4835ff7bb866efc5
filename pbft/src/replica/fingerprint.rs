//! All that decides what a replica does next, for a model checker: it takes replicas of equal
//! fingerprints for one.

use std::fmt;

use super::Replica;
use crate::service::Service;

/// Prints what decides what a replica does next.
struct Fingerprint<'a, S>(&'a Replica<S>);

impl<S: Service + fmt::Debug> Replica<S> {
    /// Prints, as [`Debug`](fmt::Debug), all that decides what this replica does next: of two replicas of
    /// one configuration with the same index, settings and keys that print the same, either does what
    /// the other would. It is long, and means nothing to others.
    ///
    /// Every field's type derives `Debug`, so that nothing is left out; only digests, signatures and tags are
    /// abbreviated. Not in it are what only counts or was said already ([`ignored`](Self::ignored), whom this
    /// replica accused), and the time of the last call, which each call brings along.
    pub fn fingerprint(&self) -> impl fmt::Debug + '_ {
        Fingerprint(self)
    }
}

impl<S: fmt::Debug> fmt::Debug for Fingerprint<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In full, so that no new field is forgotten here.
        let Replica {
            configuration,
            group: _, // follows from the configuration
            succeeding,
            me,
            settings: _,
            keychain: _,
            view,
            views,
            log,
            admission,
            vouching,
            late,
            marks,
            last_proposed,
            execution,
            checkpoints,
            transfer,
            health,
            reads_from,
            outbox,
            retransmission,
            allowances,
            actions,
            now: _,
            ignored: _,
            wasted: _,
            accused: _,
        } = self.0;
        let order = (view, views, log, admission, vouching, late, marks, last_proposed);
        let state = (execution, checkpoints, transfer, health, reads_from);
        let outside = (outbox, retransmission, allowances, actions);
        write!(f, "{me:?} {} {succeeding:?} {order:?} {state:?} {outside:?}", configuration.number)
    }
}
