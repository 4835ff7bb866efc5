//! What a replica holds in memory and the most that it may hold, collection by collection: a run shows
//! that no peer and no client makes it hold more. Each part of a replica counts its own.

use super::Replica;
use crate::group::Configuration;
use crate::message::wire;
use crate::service::Service;

/// How much there is of something, and the most that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is counted.
    pub what: &'static str,
    /// How many there are, or how many bytes.
    pub held: u64,
    /// The most that follows from the limits.
    pub most: u64,
}

impl Held {
    pub(super) fn new(what: &'static str, held: usize, most: u64) -> Self {
        Self { what, held: held as u64, most }
    }
}

/// The bytes of the largest request in a batch: its operations, their framing and digests, its fields and
/// tags.
pub(super) fn request_bytes_max(configuration: &Configuration) -> u64 {
    let limits = &configuration.limits;
    let tags = u64::from(configuration.n()) * crate::crypto::TAG_BYTES as u64;
    u64::from(limits.batch_bytes_max) + (6 + 32) * u64::from(limits.batch_operations_max) + tags + 128
}

/// The bytes of the largest batch: one large request alone may take more than `batch_bytes_max`.
pub(super) fn batch_bytes_max(configuration: &Configuration) -> u64 {
    request_bytes_max(configuration) + wire::BATCH_FIELDS_BYTES as u64
}

impl<S: Service> Replica<S> {
    /// What this replica holds, beside the replicated state, which is the service's.
    #[must_use]
    pub fn footprint(&self) -> Vec<Held> {
        let (configuration, settings) = (&self.configuration, &self.settings);
        let limits = &configuration.limits;
        let (n, window) = (u64::from(self.group.n()), limits.window);
        let checkpoints = window / limits.checkpoint_period + 2;
        let mut held = self.log.footprint(configuration);
        held.extend(self.admission.footprint(configuration, settings));
        held.extend(self.checkpoints.footprint(n));
        held.extend(self.views.footprint(n, window));
        held.extend(self.execution.table().footprint());
        held.extend(self.transfer.footprint(n, self.execution.pages_bytes(), settings));
        held.extend(self.succeeding.footprint(configuration));
        held.extend(self.vouching.footprint(n, configuration.clients.len() as u64));
        held.push(self.marks.footprint(configuration.clients.len() as u64));
        held.push(self.late.footprint(configuration.clients.len() as u64));
        // One for each replica and kind of evidence: eight that are somebody's word, seven that are proven.
        held.push(Held::new("accusations", self.accused.len(), n * 15));
        // Three promises for each place, one for each checkpoint, two for each view: of the window
        // that is there, and of one that a fetched state took the place of while the disk was slow.
        held.push(self.outbox.footprint(2 * (3 * window + checkpoints + 2 * n)));
        // One message can make a whole window of batches ready: then each is answered, and so is each
        // request for a receipt. What waits may be passed on besides, to a new primary.
        let answers = window * (2 * u64::from(limits.batch_operations_max) + 8);
        let passed_on = configuration.clients.len() as u64 * settings.queue_requests_max as u64;
        held.push(Held::new(
            "actions",
            self.actions.len(),
            answers + passed_on + 4 * (window + n + checkpoints),
        ));
        held
    }
}
