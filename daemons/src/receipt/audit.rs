//! Two receipts of expressions, audited against each other.
//!
//! Each may verify by itself and the two may contradict each other all the same: more than f replicas
//! of a set lied, and signed another history for each of two who asked. Both receipts have at least f+1
//! of them in common, and what each of those signed convicts it.

use super::{ExpressionReceipt, Keys, UnprovenReceipt, from_hex, signers};
use quorate_pbft::{
    ReplicaId,
    membership::Chain,
    receipt::{Contradiction, Differing, Receipt},
};
use serde::Serialize;
use std::collections::BTreeSet;

/// What an audit of two receipts shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The sets that executed something for both: of others the receipts say nothing about each other.
    pub sets: Vec<String>,
    /// Those of them that contradict themselves.
    pub contradictions: Vec<Contradicted>,
    /// Whether the signers are those that the verifier's own keys name. Otherwise anybody could have made
    /// both receipts.
    pub trusted: bool,
}

/// A set that signed what cannot both be true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contradicted {
    /// The set.
    pub set: String,
    /// The indices of the replicas that lied: f+1 at least.
    pub replicas: Vec<u32>,
    /// The first thing that is contradicted, in words.
    pub what: String,
}

/// Why two receipts show nothing about anybody.
#[derive(Debug, thiserror::Error)]
#[error("{which} receipt: {source}")]
pub struct UnprovenAudit {
    /// Which of the two proves nothing.
    pub which: &'static str,
    /// Why.
    pub source: UnprovenReceipt,
}

impl ExpressionReceipt {
    /// Compares two receipts: with `keys`, of sets of the replicas that they name; without, of whatever
    /// sets they bring themselves.
    ///
    /// # Errors
    /// When one of the two proves nothing by itself.
    pub fn audit(&self, other: &Self, keys: Option<&Keys>) -> Result<Audit, UnprovenAudit> {
        self.verify(keys).map_err(|source| UnprovenAudit { which: "first", source })?;
        other.verify(keys).map_err(|source| UnprovenAudit { which: "second", source })?;
        let (mut sets, mut contradictions) = (Vec::new(), Vec::new());
        for set in self.sets.keys().filter(|set| other.sets.contains_key(*set)) {
            let [mine, theirs] = [self, other].map(|receipt| receipt.chain(set));
            // A set that was made anew under the same name is another one.
            if mine.genesis() != theirs.genesis() {
                continue;
            }
            sets.push(set.clone());
            let chain = if mine.latest().number < theirs.latest().number { theirs } else { mine };
            let receipts = [self, other].map(|receipt| receipt.receipts(set)).concat();
            let audit = |(one, two): (&Receipt, &Receipt)| {
                // An index may be another replica's in another configuration. And should the members have
                // signed two configurations of one number, one of the two does not verify.
                let of_one = one.configuration == two.configuration;
                of_one.then(|| one.audit(two, signers(&chain, one)).ok().flatten()).flatten()
            };
            let mut found = candidates(&receipts).into_iter().filter_map(audit);
            if let Some(first) = found.next() {
                let liars: BTreeSet<u32> = found.fold(liars(&first).collect(), |mut all, one| {
                    all.extend(liars(&one));
                    all
                });
                let (set, replicas) = (set.clone(), liars.into_iter().collect());
                contradictions.push(Contradicted { set, replicas, what: words(first.differing) });
            }
        }
        Ok(Audit { sets, contradictions, trusted: keys.is_some() })
    }

    /// A set's members in the course of time.
    fn chain(&self, set: &str) -> Chain {
        let chain = from_hex(&self.sets[set]).and_then(|bytes| Chain::from_bytes(&bytes).ok());
        chain.expect("the receipt was verified with it")
    }

    /// What a set signed.
    fn receipts(&self, set: &str) -> Vec<Receipt> {
        let signed = self.operations.iter().filter(|operation| operation.set == set);
        let read = |text: &str| from_hex(text).and_then(|bytes| Receipt::from_bytes(&bytes).ok());
        signed.map(|operation| read(&operation.receipt).expect("it was verified")).collect()
    }
}

/// Pairs that may contradict each other. Of all pairs there are too many, and each takes a dozen
/// signatures. But whatever is contradicted is so by neighbours: among those of one position, operation or
/// size, if not all of them agree; and in the order of batches, where histories have to grow.
fn candidates(receipts: &[Receipt]) -> Vec<(&Receipt, &Receipt)> {
    let mut pairs = Vec::new();
    let mut neighbours = |key: fn(&Receipt) -> [u64; 3], of_one_key: bool| {
        let mut sorted: Vec<_> = receipts.iter().collect();
        sorted.sort_by_key(|receipt| key(receipt));
        let beside = sorted.windows(2).map(|pair| (pair[0], pair[1]));
        pairs.extend(beside.filter(|(one, two)| one != two && (!of_one_key || key(one) == key(two))));
    };
    neighbours(|receipt| [receipt.position, 0, 0], true);
    neighbours(|Receipt { leaf, .. }| [leaf.client.0.into(), leaf.incarnation.0, leaf.timestamp.0], true);
    neighbours(|receipt| [receipt.size, 0, 0], true);
    neighbours(|receipt| [receipt.sequence.0, receipt.size, 0], false);
    pairs
}

fn liars(contradiction: &Contradiction) -> impl Iterator<Item = u32> {
    contradiction.liars.iter().map(|ReplicaId(index)| index)
}

fn words(differing: Differing) -> String {
    match differing {
        Differing::Leaves { position } => {
            format!("they signed two operations, or two results, at position {position} of their history")
        }
        Differing::Positions { positions: [one, two] } => {
            format!("they signed one operation at both position {one} and position {two} of their history")
        }
        Differing::Roots { size: 1 } => "they signed two histories of 1 operation".into(),
        Differing::Roots { size } => format!("they signed two histories of {size} operations"),
        Differing::Sizes { sequence } => {
            format!("they signed a history up to batch {sequence} that is too short or too long")
        }
    }
}
