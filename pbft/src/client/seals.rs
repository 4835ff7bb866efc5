//! Receipts from replicas' seals.

use super::Client;
use super::tally::{Sealed, Verdict};
use crate::crypto::{Domain, Kind, Principal};
use crate::group::{ReplicaId, Timestamp};
use crate::history::root_of;
use crate::message::{Leaf, Seal, operation_digest, root_statement};
use crate::receipt::Receipt;

impl Client {
    pub(super) fn on_seal(&mut self, from: ReplicaId, seal: Seal) {
        let Seal { incarnation, sequence, size, root, signature, paths, .. } = seal;
        let statement = root_statement(sequence, size, &root);
        let domain = Domain::new(Kind::Seal, 0);
        let signer = Principal::Replica(from);
        if incarnation != self.incarnation
            || self.keychain.verify(signer, domain, &statement, &signature).is_err()
        {
            self.ignored += 1;
            return;
        }
        for path in paths {
            let Some(operation) = self.operation_mut(path.timestamp) else { continue };
            if !operation.options.receipt {
                continue;
            }
            operation.seals.retain(|sealed| sealed.signer != from);
            operation.seals.push(Sealed {
                signer: from,
                sequence,
                size,
                root,
                position: path.position,
                path: path.path,
                signature: signature.clone(),
            });
            self.settle(path.timestamp);
        }
    }

    /// The receipt for what was agreed on, once 2f+1 signed one root that the leaf leads to.
    pub(super) fn receipt(&mut self, timestamp: Timestamp, verdict: &Verdict) -> Option<Receipt> {
        let (scope, quorum) = (*self.keychain.scope(), self.group.quorum() as usize);
        let (client, incarnation) = (self.me, self.incarnation);
        let (group, configuration) = (self.configuration.group, self.configuration.number);
        let operation = self.operation_mut(timestamp)?;
        let digest = operation_digest(&scope, &operation.bytes);
        let leaf = Leaf {
            sequence: verdict.sequence,
            client,
            incarnation,
            timestamp,
            ending: verdict.ending,
            operation: digest,
            result: verdict.digest,
        };
        let leads = |sealed: &&Sealed| {
            sealed.position == verdict.position
                && root_of(&scope, leaf.digest(&scope), sealed.position, sealed.size, &sealed.path)
                    == Some(sealed.root)
        };
        let candidates: Vec<_> = operation.seals.iter().filter(leads).collect();
        for one in &candidates {
            let alike = |other: &&&Sealed| {
                (other.sequence, other.size, other.root) == (one.sequence, one.size, one.root)
            };
            let mut signatures: Vec<_> = candidates
                .iter()
                .filter(alike)
                .map(|sealed| (sealed.signer, sealed.signature.clone()))
                .collect();
            if signatures.len() >= quorum {
                signatures.sort_by_key(|(signer, _)| *signer);
                return Some(Receipt {
                    group,
                    configuration,
                    leaf,
                    position: one.position,
                    size: one.size,
                    sequence: one.sequence,
                    path: one.path.clone(),
                    signatures,
                });
            }
        }
        None
    }
}
