//! Durability: what a client was told of is in the order, with the result that it was told. The order
//! outlives every crash, and agreement holds each later life to it; so an acknowledged operation is
//! never lost.

use super::Violation;
use super::agreement::Agreement;
use crate::client::Outcome;
use crate::group::{ClientId, Sequence};
use crate::message::{Content, Ending};

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
        if sequence == Sequence(0) {
            return Ok(()); // a read that was not ordered has no place
        }
        let batch = agreement.batch(sequence).iter();
        let mut executed = batch.filter(|executed| executed.client == client).peekable();
        if executed.peek().is_none() {
            return Err(Violation::Lost { client, sequence });
        }
        let came_out = executed.any(|executed| match (outcome.ending, &outcome.content) {
            (Ending::Done, Content::Full(result)) => executed.result.as_ref() == Some(result),
            (Ending::Done, Content::Digest(_)) => executed.result.is_some(),
            _ => executed.result.is_none(),
        });
        if came_out { Ok(()) } else { Err(Violation::Answer { client, sequence }) }
    }
}
