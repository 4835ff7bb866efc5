//! Faults as they are published and kept: what struck whom, what speaks for it, and what was done.
//!
//! A pod that ended or hangs is seen by the control plane itself. That a replica lies is said by those
//! who see it ([`crate::witness`]): the other replicas of its set, each of which may lie too, and the
//! set's worker, which may not. It is believed when there is a proof that anyone can check, when f+1
//! replicas say so, or when the worker does.

use crate::{
    engine::Engine,
    hex,
    receipt::{Keys, UnprovenReceipt},
    store::StoreError,
};
use quorate_pbft::{
    MisbehaviourProof,
    evidence::InvalidProof,
    membership::{Chain, InvalidSuccession},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where faults lie in the store: this and a UUIDv7, so that they list in order of time.
pub const FAULTS: &str = "faults/";

/// Where proofs of faults lie: this and the fault's id.
pub const PROOFS: &str = "proofs/";

/// Faults kept in the store for people to look at; the oldest go.
const HISTORY_MAX: usize = 1000;

/// A fault as it was published on the event bus and kept in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// UUIDv7: unique, and in order of time.
    pub id: Uuid,
    /// 1: a worker; 2: the primary; 3: a backup; 4: the control plane.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The set it struck; empty for type 4.
    pub set: String,
    /// The pod it struck.
    pub pod: String,
    /// The incarnation of that pod, so that a late event does not strike its successor.
    pub incarnation: u64,
    /// What was seen: `probe missed`, `process ended`, …
    pub seen: String,
    /// In which way the pod fails.
    #[serde(default)]
    pub how: How,
    /// Who says that it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lie: Option<Testimony>,
    /// How long it took until what was struck was replaced, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_ms: Option<u64>,
}

/// In which way a pod fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Its process ended.
    #[default]
    Killed,
    /// It does not answer.
    Stopped,
    /// It says what is not so.
    Lying,
}

/// What speaks against a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// The PBFT group, hexadecimal: a set that is made anew under the same name is another one.
    pub group: String,
    /// What it did, by the names of `quorate_pbft::Evidence::kind`; one of each.
    pub kinds: Vec<String>,
    /// The pods that say so.
    pub accusers: Vec<String>,
    /// How many replicas have to say so when there is no proof: f+1.
    pub needed: u32,
    /// The pod that brought the proof, if there is one: it lies under [`PROOFS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_by: Option<String>,
    /// Whether that is enough, so that the replica is replaced.
    pub convicted: bool,
}

/// Keeps a fault in the store for people to look at, and forgets the oldest.
///
/// # Errors
/// When the store is gone.
pub async fn keep(engine: &dyn Engine, fault: &Fault) -> Result<(), StoreError> {
    let value = serde_json::to_vec(fault).expect("a fault is plain data");
    engine.store().put(&format!("{FAULTS}{}", fault.id), value.into(), None).await?;
    let (kept, _) = engine.store().list(FAULTS).await?;
    for entry in kept.iter().take(kept.len().saturating_sub(HISTORY_MAX)) {
        engine.store().delete(&entry.key).await?;
        engine.store().delete(&entry.key.replacen(FAULTS, PROOFS, 1)).await?;
    }
    Ok(())
}

/// The format that this version writes and reads.
const FORMAT: u32 = 2;

/// A proof that a replica lied, as it is written to a file: with what proves who its set's members are, so
/// that it can be checked where there is no platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultProof {
    /// Of this format.
    format: u32,
    /// The set.
    set: String,
    /// Its PBFT [`Chain`], hexadecimal.
    chain: String,
    /// A [`MisbehaviourProof`], hexadecimal.
    proof: String,
}

/// What a verified proof shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guilty {
    /// The set.
    pub set: String,
    /// The index of the replica that lied.
    pub replica: u32,
    /// What it did, as a name.
    pub kind: String,
    /// What it did, in words.
    pub what: String,
    /// Whether the set is made of the replicas that the verifier's own keys name. Otherwise the proof is
    /// only consistent in itself: anybody could have signed it.
    pub trusted: bool,
}

/// Why a proof of a fault proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It is not a proof.
    #[error("not the proof of a fault: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version.
    #[error("format {found} is not known; this version verifies {FORMAT}")]
    Version {
        /// The proof's.
        found: u32,
    },
    /// A field is not hexadecimal.
    #[error("{0} is not hexadecimal in lower case")]
    Hexadecimal(&'static str),
    /// The set's members are not proven.
    #[error("set `{set}`: {source}")]
    Chain {
        /// The set.
        set: String,
        /// Why.
        source: InvalidSuccession,
    },
    /// The set's keys are not those that were given.
    #[error(transparent)]
    Keys(#[from] UnprovenReceipt),
    /// What was signed proves nothing.
    #[error(transparent)]
    Proof(#[from] InvalidProof),
}

impl FaultProof {
    /// Puts together what a platform has kept.
    #[must_use]
    pub fn new(set: &str, chain: &Chain, proof: &[u8]) -> Self {
        let chain = hex::encode(&chain.to_bytes());
        Self { format: FORMAT, set: set.into(), chain, proof: hex::encode(proof) }
    }

    /// Reads a proof's file. Nothing is verified yet.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, Unproven> {
        Ok(serde_json::from_slice(text)?)
    }

    /// Verifies it: with `keys`, that the set is made of the replicas that they name; without, only that
    /// it is consistent in itself.
    ///
    /// # Errors
    /// What it does not prove.
    pub fn verify(&self, keys: Option<&Keys>) -> Result<Guilty, Unproven> {
        if self.format != FORMAT {
            return Err(Unproven::Version { found: self.format });
        }
        let bytes = |field, text: &str| {
            let bytes = hex::decode(text).filter(|bytes| hex::encode(bytes) == text);
            bytes.ok_or(Unproven::Hexadecimal(field))
        };
        let chain = Chain::from_bytes(&bytes("the set's chain", &self.chain)?)
            .map_err(|source| Unproven::Chain { set: self.set.clone(), source })?;
        if let Some(keys) = keys {
            keys.check(&self.set, chain.genesis())?;
        }
        let proof = MisbehaviourProof::from_bytes(&bytes("the proof", &self.proof)?)?;
        let members = chain.get(proof.configuration).unwrap_or_else(|| chain.latest());
        let culprit = proof.verify(members)?;
        Ok(Guilty {
            set: self.set.clone(),
            replica: culprit.0,
            kind: proof.lie.kind().into(),
            what: proof.to_string(),
            trusted: keys.is_some(),
        })
    }
}
