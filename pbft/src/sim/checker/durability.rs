//! Durability: what a client was told of is in the order. The order outlives every crash, and
//! agreement holds each later life to it; so an acknowledged operation is never lost.

use super::Violation;
use super::agreement::Agreement;
use crate::client::Outcome;
use crate::group::{ClientId, Sequence};

/// Looks at outcomes as clients get them.
#[derive(Debug, Default)]
pub(super) struct Durability {
    answered: u64,
}

impl Durability {
    pub(super) fn check(
        &mut self,
        client: ClientId,
        outcome: &Outcome,
        agreement: &Agreement,
    ) -> Result<(), Violation> {
        self.answered += 1;
        let sequence = outcome.sequence;
        let is_there = agreement.batch(sequence).iter().any(|executed| executed.client == client);
        // A read that was not ordered has no place.
        if sequence == Sequence(0) || is_there { Ok(()) } else { Err(Violation::Lost { client, sequence }) }
    }
}
