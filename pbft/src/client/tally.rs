//! Counting what replicas answer to one operation.

use bytes::Bytes;

use crate::crypto::{Digest, Signature};
use crate::group::{ReplicaId, Sequence, Voters};
use crate::message::Ending;

/// What must be equal in matching answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) sequence: Sequence,
    pub(super) position: u64,
    pub(super) ending: Ending,
    pub(super) digest: Digest,
}

/// The answers to one operation; of each replica the latest counts, so there are at most n.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) verdict: Verdict,
    pub(super) voters: Voters,
    /// The result itself, as soon as one replica sent it.
    pub(super) result: Option<Bytes>,
}

impl Tally {
    pub(super) fn record(&mut self, voter: ReplicaId, verdict: Verdict, result: Option<Bytes>) {
        let mut found = None;
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if entry.verdict == verdict {
                found = Some(index);
            } else {
                entry.voters.remove(voter);
            }
        }
        match found.map(|index| &mut self.entries[index]) {
            Some(entry) => {
                entry.voters.insert(voter);
                if entry.result.is_none() {
                    entry.result = result;
                }
            }
            None => {
                self.entries.retain(|entry| entry.voters.count() > 0);
                let voters = Voters::from_iter([voter]);
                self.entries.push(Entry { verdict, voters, result });
            }
        }
    }

    /// The digest of a result that some replica sent before: equal bytes are not digested twice.
    pub(super) fn digest_of(&self, result: &Bytes) -> Option<Digest> {
        let known = self.entries.iter().find(|entry| entry.result.as_ref() == Some(result));
        known.map(|entry| entry.verdict.digest)
    }

    /// The answer that `needed` replicas agree on.
    pub(super) fn winner(&self, needed: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.voters.count() >= needed)
    }

    /// Who answered, and who answered something else than `verdict`.
    pub(super) fn disagreed(&self, verdict: &Verdict) -> Voters {
        let others = self.entries.iter().filter(|entry| entry.verdict != *verdict);
        others.flat_map(|entry| entry.voters.iter()).collect()
    }

    /// The most answers that are equal, and how many there are in all.
    pub(super) fn best(&self) -> (u32, u32) {
        let counts = self.entries.iter().map(|entry| entry.voters.count());
        (counts.clone().max().unwrap_or(0), counts.sum())
    }

    /// How many say that the operation is not read-only.
    pub(super) fn not_read_only(&self) -> u32 {
        let refusals = self.entries.iter().filter(|entry| entry.verdict.ending == Ending::NotReadOnly);
        refusals.map(|entry| entry.voters.count()).sum()
    }
}

/// One replica's signature under a root, and its path from the operation's leaf to it.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) signer: ReplicaId,
    pub(super) sequence: Sequence,
    pub(super) size: u64,
    pub(super) root: Digest,
    pub(super) position: u64,
    pub(super) path: Vec<Digest>,
    pub(super) signature: Signature,
}
