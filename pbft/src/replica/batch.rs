//! The primary's queue becomes ordered batches.

use super::Replica;
use crate::group::View;
use crate::message::{Batch, PrePrepare, wire};
use crate::service::Service;

impl<S: Service> Replica<S> {
    /// Gives all that waits a place in the order, as far as batches may be on their way: an idle
    /// group orders at once, a busy one gathers while earlier batches are on their way.
    pub(super) fn propose(&mut self) {
        if !self.is_primary() || self.is_changing() || self.transfer.is_active() {
            return;
        }
        while !self.admission.is_empty() || self.must_fill() {
            let sequence = self.last_proposed.max(self.executed()).next();
            let in_flight = sequence.0 - self.executed().0;
            if in_flight > self.settings.batches_in_flight || !self.log.has(sequence) {
                return;
            }
            let batch = self.next_batch();
            let digest = self.batch_digest(&batch);
            self.last_proposed = sequence;
            self.retransmission.wake(self.now);
            self.accept(PrePrepare { view: self.view, sequence, batch }, digest);
        }
    }

    /// Whether places up to a boundary are to be filled, if need be with empty batches.
    fn must_fill(&self) -> bool {
        self.boundary().is_some_and(|end| self.last_proposed.max(self.executed()) < end)
    }

    fn next_batch(&mut self) -> Batch {
        let limits = &self.configuration.limits;
        let mut operations = limits.batch_operations_max as usize;
        // The first request always fits: its own limits are no wider.
        let mut bytes = usize::MAX;
        let room = limits.batch_bytes_max as usize - wire::BATCH_FIELDS_BYTES;
        let mut requests = Vec::new();
        while let Some(request) = self.admission.next(bytes, operations) {
            bytes = bytes.min(room).saturating_sub(request.batched_bytes());
            operations -= request.body.count();
            requests.push(request);
        }
        let time = self.execution.next_time(self.unix_now());
        let seal = self.configuration.history && requests.iter().any(|request| request.body.receipt);
        wire::batch(time, seal, requests.into())
    }

    /// The clock here, as Unix time in nanoseconds.
    pub(super) fn unix_now(&self) -> u64 {
        self.settings.unix_at_zero.saturating_add(self.now.0)
    }

    /// Goes on behind the last batch that has a place in this view, which began after the `former` one.
    pub(super) fn resume_proposing(&mut self, former: Option<View>) {
        let bound = self.log.proposals().map(|(sequence, ..)| sequence).max();
        let last = bound.into_iter().chain([self.views.decided(), self.log.low()]).max();
        self.last_proposed = last.unwrap_or_default();
        self.sort_requests(former);
    }
}
