//! Receipts compared with each other: f+1 who collude can sign what they like, and are named for it.
#![cfg(feature = "sim")]

use std::sync::LazyLock;

use proptest::prelude::*;
use quorate_pbft::{
    ClientId, GroupId, Incarnation, MisbehaviourProof, ReplicaId, Sequence, Timestamp,
    crypto::Digest,
    evidence::{InvalidProof, Lie},
    history::History,
    message::{Ending, Leaf},
    receipt::{Differing, InvalidReceipt, Receipt, Signers},
};

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers::new(8));

/// A leaf of operation `t`, the `t`th of its client, in the batch of that number.
fn leaf(t: u64, result: u8) -> Leaf {
    Leaf {
        sequence: Sequence(t),
        client: ClientId(0),
        incarnation: Incarnation(1),
        timestamp: Timestamp(t),
        ending: Ending::Done,
        operation: Digest([1; 32]),
        result: Digest([result; 32]),
    }
}

/// What replicas say was executed, an operation a batch: operation and result of each leaf.
#[derive(Clone)]
struct World(Vec<(u64, u8)>);

impl World {
    /// Operations 1, 2, … with result 0.
    fn honest(size: u64) -> Self {
        Self((1..=size).map(|t| (t, 0)).collect())
    }

    fn with(mut self, position: usize, leaf: (u64, u8)) -> Self {
        self.0[position] = leaf;
        self
    }

    /// The receipt of the leaf at a position, over all that there is, after batch `sequence`.
    fn receipt_after(&self, sequence: u64, position: u64, signers: &[u32]) -> Receipt {
        let scope = SIGNERS.configuration.scope();
        let mut history = History::new(scope);
        for (t, result) in &self.0 {
            history.append(leaf(*t, *result).digest(&scope));
        }
        let (t, result) = self.0[usize::try_from(position).expect("small")];
        SIGNERS.receipt((position, leaf(t, result)), &history, Sequence(sequence), signers)
    }

    fn receipt(&self, position: u64, signers: &[u32]) -> Receipt {
        self.receipt_after(self.0.len() as u64, position, signers)
    }
}

/// What two receipts contradict each other in, if they do; 0 and 1 signed both.
fn check(a: &Receipt, b: &Receipt) -> Option<Differing> {
    let configuration = &SIGNERS.configuration;
    let found = a.audit(b, configuration).expect("both verify");
    assert_eq!(
        found,
        b.audit(a, configuration).expect("both verify").map(|other| {
            let differing = match other.differing {
                Differing::Positions { positions: [p, q] } => Differing::Positions { positions: [q, p] },
                same => same,
            };
            quorate_pbft::receipt::Contradiction { differing, ..other }
        }),
        "the order does not matter"
    );
    let contradiction = found?;
    assert_eq!(contradiction.liars.iter().collect::<Vec<_>>(), [ReplicaId(0), ReplicaId(1)], "f+1 of them");
    for replica in (0..4).map(ReplicaId) {
        let lie = Lie::ConflictingReceipts(Box::new([a.clone(), b.clone()]));
        let proof = MisbehaviourProof { group: configuration.group, configuration: 0, culprit: replica, lie };
        let verdict = MisbehaviourProof::from_bytes(&proof.to_bytes())
            .expect("was written by us")
            .verify(configuration);
        let expected = if replica.0 < 2 { Ok(replica) } else { Err(InvalidProof::Innocent(replica)) };
        assert_eq!(verdict, expected);
    }
    Some(contradiction.differing)
}

#[test]
fn two_results_of_one_operation_name_those_who_signed_both() {
    let (honest, lying) = (World::honest(5), World::honest(5).with(2, (3, 7)));
    let (a, b) = (honest.receipt(2, &[0, 1, 2]), lying.receipt(2, &[0, 1, 3]));
    assert_eq!(check(&a, &b), Some(Differing::Roots { size: 5 }));
    // Whatever the two are about: of one size there is one history.
    let b = lying.receipt(0, &[0, 1, 3]);
    assert_eq!(check(&a, &b), Some(Differing::Roots { size: 5 }));
}

#[test]
fn two_leaves_at_one_position_do_so_whatever_the_sizes() {
    let lying = World::honest(9).with(2, (3, 7));
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), lying.receipt(2, &[0, 1, 3]));
    assert_eq!(check(&a, &b), Some(Differing::Leaves { position: 2 }));
}

#[test]
fn one_operation_at_two_positions_does_so() {
    let lying = World::honest(9).with(7, (3, 0));
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), lying.receipt(7, &[0, 1, 3]));
    assert_eq!(check(&a, &b), Some(Differing::Positions { positions: [2, 7] }));
}

#[test]
fn history_that_shrinks_does_so() {
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), World::honest(4).receipt_after(6, 0, &[0, 1, 3]));
    assert_eq!(check(&a, &b), Some(Differing::Sizes { sequence: Sequence(6) }));
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), World::honest(6).receipt_after(5, 0, &[0, 1, 3]));
    assert_eq!(check(&a, &b), Some(Differing::Sizes { sequence: Sequence(5) }));
}

#[test]
fn receipts_that_are_silent_about_each_other_s_leaves_prove_nothing() {
    // The second one denies what the first one says, but not at a place that both show.
    let lying = World::honest(9).with(2, (3, 7));
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), lying.receipt(8, &[0, 1, 3]));
    assert_eq!(check(&a, &b), None);
}

#[test]
fn batches_without_operations_leave_the_history_as_it_is() {
    let (a, b) = (World::honest(5).receipt(2, &[0, 1, 2]), World::honest(5).receipt_after(8, 4, &[0, 1, 3]));
    assert_eq!(check(&a, &b), None);
}

#[test]
fn receipt_that_does_not_verify_accuses_nobody() {
    let configuration = &SIGNERS.configuration;
    let a = World::honest(5).receipt(2, &[0, 1, 2]);
    let few = World::honest(5).with(2, (3, 7)).receipt(2, &[0, 1]);
    assert_eq!(a.audit(&few, configuration), Err(InvalidReceipt::Quorum { count: 2, quorum: 3 }));
    let mut other = a.clone();
    other.group = GroupId([6; 16]);
    assert_eq!(a.audit(&other, configuration), Err(InvalidReceipt::Group));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of one history, whatever its sizes and whoever signs, no two receipts contradict each other.
    #[test]
    fn honest_receipts_never_contradict_each_other(
        sizes in [1..40u64, 1..40u64], at in [any::<prop::sample::Index>(), any::<prop::sample::Index>()],
        quorums in [0..4usize, 0..4usize],
    ) {
        const QUORUMS: [[u32; 3]; 4] = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]];
        let receipt = |which: usize| {
            let position = at[which].index(usize::try_from(sizes[which]).unwrap()) as u64;
            World::honest(sizes[which]).receipt(position, &QUORUMS[quorums[which]])
        };
        prop_assert_eq!(receipt(0).audit(&receipt(1), &SIGNERS.configuration), Ok(None));
    }
}
