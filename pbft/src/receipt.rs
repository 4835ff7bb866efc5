//! Receipts: what a client can show to anybody.
//!
//! A [`Receipt`] proves that a group executed an operation, at which place in its history, and
//! with which result. It is checked with the configuration alone: no network, no state, and no
//! trust in whoever hands it over (Shamis et al., *IA-CCF*, NSDI 2022, on receipts of this kind).
//!
//! It holds the leaf, its path, and signatures of 2f+1 replicas over the root that they lead to.
//! With at most f liars one honest signature, so f+1, would make it true; with 2f+1, any two
//! receipts of a group have f+1 signers in common, so that two which contradict each other name
//! at least one whose word can't be honest, by signatures that anybody can check.

#[cfg(any(test, feature = "sim"))]
mod signers;

use bytes::{Buf, BufMut as _};
use thiserror::Error;

use crate::{
    crypto::{Digest, Domain, Kind, Principal, SIGNATURE_BYTES_MAX, Signature},
    group::{
        ClientId, Configuration, Group, GroupId, Incarnation, REPLICAS_MAX, ReplicaId, Sequence, Timestamp,
        Voters,
    },
    history::root_of,
    message::{Ending, Leaf, root_statement, wire::PATH_DIGESTS_MAX},
};

#[cfg(any(test, feature = "sim"))]
pub use signers::Signers;

/// The encoding that this version writes and reads.
const FORMAT: u8 = 1;

/// Proof that an operation was executed with this result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The group that executed it.
    pub group: GroupId,
    /// The number of the configuration whose replicas signed.
    pub configuration: u64,
    /// What was executed, for whom, with which result.
    pub leaf: Leaf,
    /// The leaf's position in the history.
    pub position: u64,
    /// The number of leaves that the root covers.
    pub size: u64,
    /// The last batch that the root covers.
    pub sequence: Sequence,
    /// The digests that lead from the leaf to the root.
    pub path: Vec<Digest>,
    /// Signatures over the root, in the order of the replicas' indices.
    pub signatures: Vec<(ReplicaId, Signature)>,
}

/// What two receipts do not agree in, and who signed both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// At least f+1 replicas: any two quorums have as many in common.
    pub liars: Voters,
    /// What they signed two versions of.
    pub differing: Differing,
}

/// What two receipts do not agree in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differing {
    /// Two histories of one size.
    Roots {
        /// The number of leaves.
        size: u64,
    },
    /// A history that has fewer leaves after a later batch, or two sizes after one batch.
    Sizes {
        /// The later batch.
        sequence: Sequence,
    },
    /// Two leaves at one position.
    Leaves {
        /// The position.
        position: u64,
    },
    /// One operation at two positions.
    Positions {
        /// Both of them.
        positions: [u64; 2],
    },
}

/// Why a receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidReceipt {
    /// It is of another group, or another life of the same set.
    #[error("receipt is of another group")]
    Group,
    /// It is of another configuration of the group.
    #[error("receipt is of configuration {found}, not {expected}")]
    Configuration {
        /// The receipt's.
        found: u64,
        /// The one it is checked with.
        expected: u64,
    },
    /// The leaf stands in no such history.
    #[error("path of {digests} digests does not lead from leaf {position} of {size} to a root")]
    Path {
        /// The path's length.
        digests: usize,
        /// The leaf's position.
        position: u64,
        /// The number of leaves.
        size: u64,
    },
    /// The leaf claims a later batch than the root covers.
    #[error("batch {leaf} of the leaf is after batch {root} of the root")]
    Sequence {
        /// The leaf's.
        leaf: Sequence,
        /// The root's.
        root: Sequence,
    },
    /// There are too few signatures.
    #[error("{count} signatures are under the quorum of {quorum}")]
    Quorum {
        /// How many there are.
        count: usize,
        /// How many it takes.
        quorum: u32,
    },
    /// A signer is unknown, or stands twice or out of order.
    #[error("replica {0} is unknown, or stands twice or out of order among the signers")]
    Signer(ReplicaId),
    /// A signature doesn't verify.
    #[error("signature of replica {0} does not verify")]
    Signature(ReplicaId),
    /// The operation or the result is not the one of the leaf.
    #[error("the receipt is for another {0}")]
    Content(&'static str),
    /// The bytes are of an unknown format.
    #[error("receipt format {0} is unknown; this version reads {FORMAT}")]
    Format(u8),
    /// The bytes are not a receipt.
    #[error("bytes are not a receipt: {field} is cut short, too long or unknown")]
    Malformed {
        /// Where reading stopped.
        field: &'static str,
    },
}

impl Receipt {
    /// Checks the receipt against the configuration of the group that it names.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify(&self, configuration: &Configuration) -> Result<(), InvalidReceipt> {
        if self.group != configuration.group {
            return Err(InvalidReceipt::Group);
        }
        if self.configuration != configuration.number {
            let (found, expected) = (self.configuration, configuration.number);
            return Err(InvalidReceipt::Configuration { found, expected });
        }
        if self.leaf.sequence > self.sequence {
            let (leaf, root) = (self.leaf.sequence, self.sequence);
            return Err(InvalidReceipt::Sequence { leaf, root });
        }
        let quorum = Group::new(configuration).quorum();
        if self.signatures.len() < quorum as usize {
            return Err(InvalidReceipt::Quorum { count: self.signatures.len(), quorum });
        }
        let scope = configuration.scope();
        let leaf = self.leaf.digest(&scope);
        let root = root_of(&scope, leaf, self.position, self.size, &self.path);
        let (position, size, digests) = (self.position, self.size, self.path.len());
        let root = root.ok_or(InvalidReceipt::Path { digests, position, size })?;

        let statement = root_statement(self.sequence, self.size, &root);
        let domain = Domain::new(Kind::Seal, 0);
        let mut last = None;
        for (replica, signature) in &self.signatures {
            let key = configuration.replicas.get(replica.index());
            let key = key.filter(|_| last < Some(*replica));
            let key = key.ok_or(InvalidReceipt::Signer(*replica))?;
            last = Some(*replica);
            scope
                .verify((Principal::Replica(*replica), key), domain, &statement, signature)
                .map_err(|_| InvalidReceipt::Signature(*replica))?;
        }
        Ok(())
    }

    /// As [`Receipt::verify`], and that the receipt is for this operation and this result.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify_contents(
        &self,
        configuration: &Configuration,
        operation: &[u8],
        result: &[u8],
    ) -> Result<(), InvalidReceipt> {
        self.verify(configuration)?;
        let digest = |kind, bytes| configuration.scope().digest(Domain::new(kind, 0), &[bytes]);
        if digest(Kind::Operation, operation) != self.leaf.operation {
            return Err(InvalidReceipt::Content("operation"));
        }
        if digest(Kind::Outcome, result) != self.leaf.result || self.leaf.ending != Ending::Done {
            return Err(InvalidReceipt::Content("result"));
        }
        Ok(())
    }

    /// Compares two receipts of one group. None when they don't contradict each other; else what does,
    /// and the f+1 replicas or more that signed both. Each of them lied: of a history that only grows
    /// and in which every operation stands once, nobody correct signs roots that say otherwise.
    ///
    /// Receipts over histories of different sizes contradict each other where they speak of the same
    /// position or the same operation. That they are silent about each other's leaves proves nothing
    /// either way: whether the shorter history is the beginning of the longer one could be said only
    /// with a path from root to root, which receipts don't carry.
    ///
    /// ```
    /// # use quorate_pbft::{Configuration, receipt::{InvalidReceipt, Receipt}};
    /// fn liars(a: &Receipt, b: &Receipt, genesis: &Configuration) -> Result<usize, InvalidReceipt> {
    ///     let contradiction = a.audit(b, genesis)?;
    ///     Ok(contradiction.map_or(0, |found| found.liars.iter().count()))
    /// }
    /// ```
    ///
    /// # Errors
    /// When one of the two does not verify: then it shows nothing about anybody.
    pub fn audit(
        &self,
        other: &Self,
        configuration: &Configuration,
    ) -> Result<Option<Contradiction>, InvalidReceipt> {
        self.verify(configuration)?;
        other.verify(configuration)?;
        let scope = configuration.scope();
        let root = |receipt: &Self| {
            root_of(&scope, receipt.leaf.digest(&scope), receipt.position, receipt.size, &receipt.path)
        };
        let [mine, theirs] = [self, other].map(|receipt| (receipt.sequence, receipt.size, root(receipt)));
        if mine == theirs {
            return Ok(None); // one statement; two leaves under it would be a collision of digests
        }
        let ((first, before, _), (last, after, _)) =
            if mine.0 <= theirs.0 { (mine, theirs) } else { (theirs, mine) };
        let same_operation = |a: &Leaf, b: &Leaf| {
            (a.client, a.incarnation, a.timestamp) == (b.client, b.incarnation, b.timestamp)
        };
        let differing = if mine.1 == theirs.1 && mine.2 != theirs.2 {
            Differing::Roots { size: mine.1 }
        } else if before > after || (first == last && before != after) {
            Differing::Sizes { sequence: last }
        } else if self.position == other.position && self.leaf != other.leaf {
            Differing::Leaves { position: self.position }
        } else if self.position != other.position && same_operation(&self.leaf, &other.leaf) {
            Differing::Positions { positions: [self.position, other.position] }
        } else {
            return Ok(None);
        };
        let liars = self.signers().iter().filter(|signer| other.signers().has(*signer)).collect();
        Ok(Some(Contradiction { liars, differing }))
    }

    /// The replicas that signed.
    pub fn signers(&self) -> Voters {
        let mut voters = Voters::default();
        for (replica, _) in self.signatures.iter().filter(|(id, _)| id.0 < REPLICAS_MAX) {
            voters.insert(*replica);
        }
        voters
    }

    /// The stable encoding: every receipt has one, and all numbers are big-endian.
    ///
    /// # Panics
    /// When there are more digests or signatures, or longer ones, than a receipt can have.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_slice(&self.group.0);
        out.put_u64(self.configuration);
        out.put_slice(&self.leaf.to_bytes());
        out.put_u64(self.position);
        out.put_u64(self.size);
        out.put_u64(self.sequence.0);
        out.put_u8(u8::try_from(self.path.len()).expect("a path has 128 digests at most"));
        self.path.iter().for_each(|digest| out.put_slice(&digest.0));
        out.put_u8(u8::try_from(self.signatures.len()).expect("a group has 127 replicas at most"));
        for (replica, signature) in &self.signatures {
            out.put_u32(replica.0);
            let bytes = signature.as_bytes();
            out.put_u16(u16::try_from(bytes.len()).expect("a signature has 512 bytes at most"));
            out.put_slice(bytes);
        }
        out
    }

    /// Reads what [`Receipt::to_bytes`] wrote. It is not verified yet.
    ///
    /// # Errors
    /// When the bytes are cut short, too long or of another version.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, InvalidReceipt> {
        let read = &mut bytes;
        let malformed = |field| InvalidReceipt::Malformed { field };
        match take(read, "format").map(|[format]| format)? {
            FORMAT => {}
            other => return Err(InvalidReceipt::Format(other)),
        }
        let group = GroupId(take(read, "group")?);
        let configuration = take_u64(read, "configuration")?;
        let leaf = take_leaf(read)?;
        let position = take_u64(read, "position")?;
        let size = take_u64(read, "size")?;
        let sequence = Sequence(take_u64(read, "sequence")?);
        let [digests] = take(read, "path")?;
        if usize::from(digests) > PATH_DIGESTS_MAX {
            return Err(malformed("path"));
        }
        let path = (0..digests).map(|_| take(read, "path").map(Digest)).collect::<Result<_, _>>()?;
        let [count] = take(read, "signatures")?;
        let mut signatures = Vec::new();
        for _ in 0..count {
            let replica = ReplicaId(u32::from_be_bytes(take(read, "signer")?));
            let length = usize::from(u16::from_be_bytes(take(read, "signature")?));
            if length > SIGNATURE_BYTES_MAX || length > read.len() {
                return Err(malformed("signature"));
            }
            signatures.push((replica, Signature(read.copy_to_bytes(length))));
        }
        if !read.is_empty() {
            return Err(malformed("end"));
        }
        Ok(Self { group, configuration, leaf, position, size, sequence, path, signatures })
    }
}

fn take_leaf(read: &mut &[u8]) -> Result<Leaf, InvalidReceipt> {
    Ok(Leaf {
        sequence: Sequence(take_u64(read, "leaf sequence")?),
        client: ClientId(u32::from_be_bytes(take(read, "client")?)),
        incarnation: Incarnation(take_u64(read, "incarnation")?),
        timestamp: Timestamp(take_u64(read, "timestamp")?),
        ending: match take(read, "ending")? {
            [0] => Ending::Done,
            [1] => Ending::Panicked,
            [2] => Ending::NotReadOnly,
            _ => return Err(InvalidReceipt::Malformed { field: "ending" }),
        },
        operation: Digest(take(read, "operation")?),
        result: Digest(take(read, "result")?),
    })
}

fn take_u64(read: &mut &[u8], field: &'static str) -> Result<u64, InvalidReceipt> {
    take(read, field).map(u64::from_be_bytes)
}

fn take<const N: usize>(read: &mut &[u8], field: &'static str) -> Result<[u8; N], InvalidReceipt> {
    let (bytes, rest) = read.split_first_chunk().ok_or(InvalidReceipt::Malformed { field })?;
    *read = rest;
    Ok(*bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::history::History;

    const OPERATION: &[u8] = b"add(1,2)";
    const RESULT: &[u8] = b"3";

    static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers::new(8));

    /// A receipt for [`OPERATION`], the sixth of eleven, signed by `signers`.
    fn receipt(signers: &[u32]) -> Receipt {
        let scope = SIGNERS.configuration.scope();
        let digest = |kind, bytes| scope.digest(Domain::new(kind, 0), &[bytes]);
        let leaf = Leaf {
            sequence: Sequence(3),
            client: ClientId(0),
            incarnation: Incarnation(1),
            timestamp: Timestamp(9),
            ending: Ending::Done,
            operation: digest(Kind::Operation, OPERATION),
            result: digest(Kind::Outcome, RESULT),
        };
        let mut history = History::new(scope);
        (0..5).for_each(|byte| _ = history.append(Digest([byte; 32])));
        let position = history.append(leaf.digest(&scope));
        (0..5).for_each(|byte| _ = history.append(Digest([byte; 32])));
        SIGNERS.receipt((position, leaf), &history, Sequence(4), signers)
    }

    #[test]
    fn receipt_of_a_quorum_verifies_after_travelling() {
        for signers in [&[0, 1, 2][..], &[0, 2, 3], &[0, 1, 2, 3]] {
            let sent = receipt(signers);
            let receipt = Receipt::from_bytes(&sent.to_bytes()).unwrap();
            assert_eq!(receipt, sent);
            assert_eq!(receipt.verify_contents(&SIGNERS.configuration, OPERATION, RESULT), Ok(()));
        }
    }

    #[test]
    fn receipt_counts_every_signer_once_and_needs_a_quorum() {
        let verify = |signers: &[u32]| receipt(signers).verify(&SIGNERS.configuration);
        assert_eq!(verify(&[0, 1]), Err(InvalidReceipt::Quorum { count: 2, quorum: 3 }));
        assert_eq!(verify(&[0, 1, 1]), Err(InvalidReceipt::Signer(ReplicaId(1))));
        assert_eq!(verify(&[1, 0, 2]), Err(InvalidReceipt::Signer(ReplicaId(0))));
        let mut outsider = receipt(&[0, 1, 2]);
        outsider.signatures[2].0 = ReplicaId(7);
        let refused = Err(InvalidReceipt::Signer(ReplicaId(7)));
        assert_eq!(outsider.verify(&SIGNERS.configuration), refused);
        let mut borrowed = receipt(&[0, 1, 2]);
        borrowed.signatures[2].0 = ReplicaId(3);
        let refused = Err(InvalidReceipt::Signature(ReplicaId(3)));
        assert_eq!(borrowed.verify(&SIGNERS.configuration), refused);
    }

    #[test]
    fn receipt_is_for_its_operation_and_result_only() {
        let receipt = receipt(&[0, 1, 2]);
        let verify = |operation: &[u8], result: &[u8]| {
            receipt.verify_contents(&SIGNERS.configuration, operation, result)
        };
        assert_eq!(verify(b"add(1,3)", RESULT), Err(InvalidReceipt::Content("operation")));
        assert_eq!(verify(OPERATION, b"4"), Err(InvalidReceipt::Content("result")));
        let mut other = SIGNERS.configuration.clone();
        other.group = GroupId([6; 16]);
        assert_eq!(receipt.verify(&other), Err(InvalidReceipt::Group));
    }

    #[test]
    fn every_flipped_bit_makes_a_receipt_void() {
        let bytes = receipt(&[0, 1, 3]).to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let verdict =
                Receipt::from_bytes(&wrong).and_then(|receipt| receipt.verify(&SIGNERS.configuration));
            assert!(verdict.is_err(), "bit {bit} of {} does not matter", bytes.len() * 8);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_receipt_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Receipt::from_bytes(&bytes);
        }

        #[test]
        fn cut_or_extended_bytes_are_no_receipt(cut in any::<prop::sample::Index>()) {
            let mut bytes = receipt(&[0, 1, 2]).to_bytes();
            let whole = bytes.clone();
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(Receipt::from_bytes(&bytes).is_err());
            bytes = whole;
            bytes.push(0);
            prop_assert!(Receipt::from_bytes(&bytes).is_err());
        }
    }
}
