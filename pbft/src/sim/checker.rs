//! What must hold in every run, looked at after every step: one invariant a file. Only correct replicas
//! are looked at; of each invariant there is a test that breaks it and sees the checker object.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::Disk;
use super::{Executed, Setup, keys};
use crate::client::Outcome;
use crate::crypto::{Digest, Domain, Keychain};
use crate::evidence::{Evidence, InvalidProof};
use crate::group::{ClientId, Configuration, ReplicaId, Sequence};
use crate::message::{Message, Proof, Unverified};
use crate::replica::Replica;
use crate::service::Service;

pub mod agreement;
pub mod durability;
pub mod epochs;
pub mod evidence;
pub mod exactly_once;
pub mod linearizability;
pub mod memory;
pub mod promise;
pub mod soundness;
pub mod validity;

use agreement::Agreement;
use durability::Durability;
use epochs::Epochs;
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
    /// A client was told a result that nothing in the batch had.
    #[error("durability: client {client} was told a result that nothing of it in batch {sequence} has")]
    Answer {
        /// Who was told.
        client: ClientId,
        /// The batch.
        sequence: Sequence,
    },
    /// A replica took in what was tagged under an epoch that is over.
    #[error("old epochs: replica {replica} took in what was tagged under session keys that are refreshed")]
    OldEpoch {
        /// Who did.
        replica: ReplicaId,
    },
    /// A replica showed a proof that proves nothing.
    #[error(
        "soundness: replica {replica} sent {what} with a certificate for {sequence} that convinces nobody"
    )]
    Unproven {
        /// Who did.
        replica: ReplicaId,
        /// The message.
        what: &'static str,
        /// The batch.
        sequence: Sequence,
    },
    /// A replica holds more than it may, whatever others send.
    #[error("memory: replica {replica} holds {held} {what}, more than {most}")]
    Unbounded {
        /// Who does.
        replica: ReplicaId,
        /// Of what.
        what: &'static str,
        /// How many, or how many bytes.
        held: u64,
        /// The most that follows from the limits.
        most: u64,
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
#[derive(Debug)]
pub(super) struct Checkers {
    agreement: Agreement,
    validity: Validity,
    exactly_once: ExactlyOnce,
    durability: Durability,
    promises: Promises,
    epochs: Epochs,
    /// Whether proofs are real ones.
    real_keys: bool,
    /// To check proofs with, which anybody can: for each configuration.
    keychains: BTreeMap<u64, Keychain>,
    /// Messages that correct replicas took in.
    heard: u64,
    violation: Option<Violation>,
}

impl Checkers {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            agreement: Agreement::default(),
            validity: Validity::default(),
            exactly_once: ExactlyOnce::default(),
            durability: Durability::default(),
            promises: Promises::default(),
            epochs: Epochs::default(),
            real_keys: setup.real_keys,
            keychains: BTreeMap::new(),
            heard: 0,
            violation: None,
        }
    }

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

    /// Everybody's session keys are refreshed.
    pub(super) fn keys_refreshed(&mut self) {
        self.epochs.refresh();
    }

    /// Those of before are over.
    pub(super) fn keys_expired(&mut self) {
        self.epochs.expire();
    }

    /// A message sets out, or sets out again.
    pub(super) fn sent(&mut self, message: &Unverified<Message>) {
        if self.real_keys {
            self.epochs.says(message);
        }
    }

    /// Whether a message is tagged under an epoch that is over.
    pub(super) fn is_void(&self, message: &Unverified<Message>) -> bool {
        self.real_keys && self.epochs.is_void(message)
    }

    /// A correct replica heard such a message; with what it had counted as unproven before and after.
    pub(super) fn heard_void(&mut self, replica: ReplicaId, unproven: (u64, u64)) {
        self.note(Epochs::check(replica, unproven));
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

    /// A correct replica took a message in. Looks at what it holds now and then: to look costs more
    /// than to take a message in.
    pub(super) fn holds<S: Service>(&mut self, replica: &Replica<S>) {
        self.heard += 1;
        if self.heard.is_multiple_of(16) {
            let verdict = memory::check(replica);
            self.note(verdict);
        }
    }

    /// A client has an outcome, and perhaps a blameless replica disagrees with it on what was ordered.
    pub(super) fn answered(&mut self, client: ClientId, outcome: &Outcome, blameless: Option<ReplicaId>) {
        if let Some(accused) = blameless {
            self.disagreed(client, accused);
        }
        let verdict = self.durability.check(client, outcome, &self.agreement);
        self.note(verdict);
    }

    /// A client was answered by a correct replica otherwise than by 2f+1.
    pub(super) fn disagreed(&mut self, client: ClientId, accused: ReplicaId) {
        self.note(Err(Violation::Disagreed { client, accused }));
    }

    /// A correct replica writes down what is committed in a place.
    pub(super) fn committed(&mut self, replica: ReplicaId, sequence: Sequence, digest: &Digest) {
        let verdict = self.agreement.check_batch(replica, sequence, digest);
        self.note(verdict);
    }

    /// The keys that a message may have been said under. What was said before a boundary may leave after it,
    /// when the next configuration is in force; a signature tells.
    fn said_under(&mut self, configuration: &Configuration, message: &Unverified<Message>) -> Vec<&Keychain> {
        let real = self.real_keys;
        self.keychains.entry(configuration.number).or_insert_with(|| keys::silent(real, configuration));
        let numbers = configuration.number.saturating_sub(1)..=configuration.number;
        let domain = Domain::new(message.body.kind(), message.body.view().0);
        let fits = |keys: &&Keychain| match &message.proof {
            Proof::Signature(one) => keys.verify(message.sender, domain, &message.bytes, one).is_ok(),
            _ => true,
        };
        self.keychains.range(numbers).map(|(_, keys)| keys).filter(fits).collect()
    }

    /// A replica sends something, in its configuration.
    pub(super) fn says(
        &mut self,
        (replica, configuration): (ReplicaId, &Configuration),
        message: &Unverified<Message>,
        disk: Option<&Disk>,
    ) {
        let keys = self.said_under(configuration, message);
        let scope = keys.last().map_or_else(|| configuration.scope(), |keys| *keys.scope());
        let verdict = soundness::check(replica, &message.body, &keys);
        self.note(verdict);
        let verdict = self.promises.check((replica, scope), &message.body, &message.bytes, disk);
        self.note(verdict);
        if let Message::Checkpoint(checkpoint) = &message.body {
            let verdict = self.agreement.check_state(replica, checkpoint.sequence, &checkpoint.state);
            self.note(verdict);
        }
    }
}
