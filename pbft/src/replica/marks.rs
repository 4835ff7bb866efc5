//! Clients whose tags hold views up: from then on they have to sign.
//!
//! A client that tags a request well for the primary and for few others brings the group to a halt that
//! only another view ends. It may do so once. The rules, as events:
//!
//! * *upon leaving a view in which a place stayed open because of a request that f+1 replicas doubt*:
//!   mark its client. The VIEW-CHANGE carries the marks.
//! * *upon a NEW-VIEW in which f+1 VIEW-CHANGEs mark a client*: its tags are worth nothing any more. Its
//!   tagged requests are let go of, and answered with BUSY, which asks for a signature. What the view
//!   chose goes on as it is.
//!
//! The client signs once f+1 replicas ask for it. Of f+1 marks a correct replica made one; but a
//! primary that is faulty may propose a made-up request in the name of a client that is not, and then the
//! client has to sign: that costs it time, and nothing else.
//!
//! Marks say how much a tag is worth *here*. Replicas that do not have the same ones, because some have
//! not heard of a view yet, are in no other position than when a tag is good for some of them only.

use std::collections::BTreeSet;

use super::{Record, Replica};
use crate::group::ClientId;
use crate::mutation::{self, Mutation};
use crate::service::Service;

/// What a replica knows about clients; for ever.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Clients that f+1 replicas marked, as some NEW-VIEW told.
    bound: BTreeSet<ClientId>,
    /// Clients that this replica marked itself.
    suspected: BTreeSet<ClientId>,
}

impl Marks {
    #[cfg(feature = "sim")]
    pub(super) fn footprint(&self, clients: u64) -> super::footprint::Held {
        super::footprint::Held::new("marks", self.bound.len() + self.suspected.len(), 2 * clients)
    }

    /// Whether a client's tags are worth nothing.
    pub(super) fn binds(&self, client: ClientId) -> bool {
        self.bound.contains(&client)
    }

    pub(super) fn bind_anybody(&self) -> bool {
        !self.bound.is_empty()
    }

    /// What a VIEW-CHANGE carries. Those that are bound are among them: whoever missed the NEW-VIEW that
    /// bound them learns of them by a later one.
    pub(super) fn all(&self) -> Vec<ClientId> {
        self.bound.union(&self.suspected).copied().collect()
    }

    /// What a journal needs beside the view that it ends in.
    pub(super) fn record(&self) -> Option<Record> {
        let [bound, suspected] = [&self.bound, &self.suspected].map(|set| set.iter().copied().collect());
        let is_empty = self.bound.is_empty() && self.suspected.is_empty();
        (!is_empty).then_some(Record::Marks { bound, suspected })
    }

    pub(super) fn suspect(&mut self, clients: impl IntoIterator<Item = ClientId>) {
        self.suspected.extend(clients);
    }
}

impl<S: Service> Replica<S> {
    /// Whether a client's tags are not taken any more.
    #[must_use]
    pub fn has_marked(&self, client: ClientId) -> bool {
        self.marks.binds(client)
    }

    /// A view begins with these clients marked by f+1 replicas.
    pub(super) fn bind_marks(&mut self, clients: &[ClientId]) {
        for client in clients {
            if self.marks.bound.insert(*client) {
                self.vouching.forget(*client);
            }
        }
    }

    /// The journal says who was marked.
    pub(super) fn replay_marks(&mut self, bound: &[ClientId], suspected: &[ClientId]) {
        if !mutation::is_on(Mutation::ForgetMarks) {
            self.bind_marks(bound);
            self.marks.suspect(suspected.iter().copied());
        }
    }
}
