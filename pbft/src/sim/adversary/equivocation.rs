//! As primary, orders one batch for half of the replicas and another one for the rest, and votes on
//! both sides for what it told them.

use std::collections::BTreeMap;

use super::{Lie, Said, is_odd};
use crate::crypto::{Digest, Domain, Kind, Principal, Scope};
use crate::group::{Sequence, View};
use crate::message::{Commit, Message, PrePrepare, Prepare, wire};

#[derive(Debug)]
pub(super) struct Equivocation {
    scope: Scope,
    /// The batch that the odd ones were told of.
    other: BTreeMap<(View, Sequence), Digest>,
}

impl Equivocation {
    pub(super) fn new(scope: Scope) -> Self {
        Self { scope, other: BTreeMap::new() }
    }
}

impl Lie for Equivocation {
    fn instead(&mut self, to: Principal, message: &Message) -> Said {
        if !is_odd(to) {
            return Said::Truth;
        }
        let lie = match message {
            Message::PrePrepare(PrePrepare { view, sequence, batch }) => {
                let batch = wire::batch(batch.time + 1, batch.seal, batch.requests.clone());
                let digest = self.scope.digest(Domain::new(Kind::Batch, 0), &[&batch.bytes]);
                self.other.insert((*view, *sequence), digest);
                Message::PrePrepare(PrePrepare { view: *view, sequence: *sequence, batch })
            }
            Message::Prepare(Prepare { view, sequence, .. }) => match self.other.get(&(*view, *sequence)) {
                Some(digest) => {
                    Message::Prepare(Prepare { view: *view, sequence: *sequence, digest: *digest })
                }
                None => return Said::Truth,
            },
            Message::Commit(Commit { view, sequence, .. }) => match self.other.get(&(*view, *sequence)) {
                Some(digest) => Message::Commit(Commit { view: *view, sequence: *sequence, digest: *digest }),
                None => return Said::Truth,
            },
            _ => return Said::Truth,
        };
        Said::Lie(Box::new(lie))
    }
}
