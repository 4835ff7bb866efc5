//! What must hold in every run, looked at after every step: one invariant a file.

use bytes::Bytes;

use super::Executed;
use super::disk::Disk;
use crate::client::Outcome;
use crate::crypto::{Digest, Scope};
use crate::evidence::{Evidence, InvalidProof};
use crate::group::{ClientId, Configuration, ReplicaId, Sequence};
use crate::message::Message;

pub mod agreement;
pub mod durability;
pub mod evidence;
pub mod exactly_once;
pub mod linearizability;
pub mod promise;
pub mod validity;

use agreement::Agreement;
use durability::Durability;
use exactly_once::ExactlyOnce;
use promise::Promises;
use validity::Validity;

/// What a checker objected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two replicas executed different operations in one batch.
    #[error("agreement: replica {replica} executed batch {sequence} differently from others")]
    Order {
        /// The later one.
        replica: ReplicaId,
        /// The batch.
        sequence: Sequence,
    },
    /// Two replicas have different states after one batch.
    #[error("agreement: replica {replica} has another state after batch {sequence} than others")]
    State {
        /// The later one.
        replica: ReplicaId,
        /// The batch.
        sequence: Sequence,
    },
    /// Something was executed that no client asked for.
    #[error("validity: replica {replica} executed in batch {sequence} what client {client} never sent")]
    Unasked {
        /// Who did.
        replica: ReplicaId,
        /// In which batch.
        sequence: Sequence,
        /// In whose name.
        client: ClientId,
    },
    /// An operation was executed in two places.
    #[error("exactly once: an operation of client {client} was executed in batches {first} and {second}")]
    Twice {
        /// Whose.
        client: ClientId,
        /// The first place.
        first: Sequence,
        /// The second place.
        second: Sequence,
    },
    /// A client was told of an execution that is not in the order.
    #[error("durability: client {client} was told of an execution in batch {sequence} that is not there")]
    Lost {
        /// Who was told.
        client: ClientId,
        /// The batch.
        sequence: Sequence,
    },
    /// A replica said something before it was safe from a crash.
    #[error("promise: replica {replica} sent {what} for {sequence} before its record was durable")]
    Premature {
        /// Who did.
        replica: ReplicaId,
        /// The message.
        what: &'static str,
        /// The batch.
        sequence: Sequence,
    },
    /// A correct replica called another correct one faulty.
    #[error("evidence: replica {accuser} accuses replica {accused}, which did nothing wrong")]
    Slander {
        /// Who did.
        accuser: ReplicaId,
        /// Whom.
        accused: ReplicaId,
    },
    /// A client found a correct replica among those that answered otherwise than 2f+1 others.
    #[error("evidence: client {client} was answered otherwise by replica {accused}, which did nothing wrong")]
    Disagreed {
        /// Who did.
        client: ClientId,
        /// Whom.
        accused: ReplicaId,
    },
    /// A proof of misbehaviour does not convince others, or does not survive its own encoding.
    #[error("evidence: the proof of replica {accuser} against {accused} proves nothing: {why}")]
    Unconvincing {
        /// Whose it is.
        accuser: ReplicaId,
        /// Against whom.
        accused: ReplicaId,
        /// What is wrong with it.
        why: InvalidProof,
    },
    /// A replica contradicted what it had said before.
    #[error("promise: replica {replica} sent two different {what} for {sequence}")]
    Contradiction {
        /// Who did.
        replica: ReplicaId,
        /// The message.
        what: &'static str,
        /// The batch.
        sequence: Sequence,
    },
}

/// All checkers of a run.
#[derive(Debug, Default)]
pub(super) struct Checkers {
    agreement: Agreement,
    validity: Validity,
    exactly_once: ExactlyOnce,
    durability: Durability,
    promises: Promises,
    violation: Option<Violation>,
}

impl Checkers {
    pub(super) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn note(&mut self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            self.violation = Some(violation);
        }
    }

    pub(super) fn submitted(&mut self, client: ClientId, operation: &Bytes) {
        self.validity.submitted(client, operation);
    }

    /// A replica executed whole batches, now or again after a restart.
    pub(super) fn executed(&mut self, replica: ReplicaId, seen: Vec<Executed>) {
        for batch in seen.chunk_by(|a, b| a.sequence == b.sequence) {
            let sequence = batch[0].sequence;
            let verdict = self.validity.check(replica, batch);
            self.note(verdict);
            match self.agreement.check(replica, sequence, batch) {
                Ok(true) => {
                    let verdict = self.exactly_once.check(batch);
                    self.note(verdict);
                }
                Ok(false) => {}
                Err(violation) => self.note(Err(violation)),
            }
        }
    }

    /// A correct replica has evidence against another one, which may be without blame.
    pub(super) fn accused(
        &mut self,
        accuser: (ReplicaId, &Configuration),
        evidence: &Evidence,
        blameless: bool,
    ) {
        let verdict = evidence::check(accuser, evidence, blameless);
        self.note(verdict);
    }

    /// A client has an outcome, and perhaps a blameless replica disagrees with it on what was ordered.
    pub(super) fn answered(&mut self, client: ClientId, outcome: &Outcome, blameless: Option<ReplicaId>) {
        if let Some(accused) = blameless {
            self.note(Err(Violation::Disagreed { client, accused }));
        }
        let verdict = self.durability.check(client, outcome, &self.agreement);
        self.note(verdict);
    }

    /// A correct replica writes down what is committed in a place.
    pub(super) fn committed(&mut self, replica: ReplicaId, sequence: Sequence, digest: &Digest) {
        let verdict = self.agreement.check_batch(replica, sequence, digest);
        self.note(verdict);
    }

    /// A replica sends something.
    pub(super) fn says(
        &mut self,
        (replica, scope): (ReplicaId, Scope),
        (message, bytes): (&Message, &[u8]),
        disk: Option<&Disk>,
    ) {
        let verdict = self.promises.check((replica, scope), message, bytes, disk);
        self.note(verdict);
        if let Message::Checkpoint(checkpoint) = message {
            let verdict = self.agreement.check_state(replica, checkpoint.sequence, &checkpoint.state);
            self.note(verdict);
        }
    }
}
