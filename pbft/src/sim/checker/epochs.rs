//! Old epochs: what is tagged under session keys that were refreshed, and whose grace has ended, is counted as
//! unproven and dropped.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Violation;
use crate::group::ReplicaId;
use crate::message::{Message, Proof, Unverified};

/// When messages were tagged, in a run on real keys.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// How often everybody's keys were refreshed.
    refreshed: u64,
    /// What was tagged before so many refreshments is void.
    expired: u64,
    /// For each authenticator, how often keys had been refreshed when it was sent first.
    said: BTreeMap<Bytes, u64>,
}

impl Epochs {
    pub(super) fn refresh(&mut self) {
        self.refreshed += 1;
    }

    /// The grace of all epochs but the latest ends.
    pub(super) fn expire(&mut self) {
        self.expired = self.refreshed;
    }

    pub(super) fn says(&mut self, message: &Unverified<Message>) {
        if let Proof::Authenticator(tags) = &message.proof {
            self.said.entry(tags.0.clone()).or_insert(self.refreshed);
        }
    }

    /// Whether no correct replica may take it in. Requests are another matter: one whose tag is void is good
    /// all the same when others vouch for it.
    pub(super) fn is_void(&self, message: &Unverified<Message>) -> bool {
        let Proof::Authenticator(tags) = &message.proof else { return false };
        let is_request = matches!(message.body, Message::Request(_));
        !is_request && self.said.get(&tags.0).is_some_and(|said| *said < self.expired)
    }

    /// How many messages a replica had counted as unproven before it heard a void one, and after.
    pub(super) fn check(replica: ReplicaId, (before, after): (u64, u64)) -> Result<(), Violation> {
        if after == before + 1 { Ok(()) } else { Err(Violation::OldEpoch { replica }) }
    }
}
