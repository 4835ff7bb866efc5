//! What a new view takes over from the views before: one calculation that the new primary and
//! every backup make from the same VIEW-CHANGEs (TOCS 4.5, figure 4).
//!
//! With S the set of VIEW-CHANGEs, 2f+1 of them or more:
//!
//! * The view begins from the highest stable checkpoint in S. Its certificate proves it.
//! * A place above gets the batch `d` of an entry `(d, v)` in some P when **A1**: 2f+1 in S have
//!   nothing in P there that is later than `v`, or of `v` with another batch, so nothing else was
//!   committed there after `v`; and **A2**: f+1 in S have `d` in Q with `v` or later, so a correct
//!   replica accepted it, and knows it to be authentic.
//! * It gets the null batch when **B**: 2f+1 in S have nothing in P there, so nothing was committed.
//! * When neither holds, S has to grow. With all correct replicas in it, one of them does.
//!
//! **Why nothing committed is lost.** A batch that was committed in a place was prepared by f+1
//! correct replicas, and every 2f+1 of S hold one of them: B fails, and A1 fails for whatever was
//! prepared there earlier. Later than the commit nothing else can have been prepared, because each
//! view in between was begun by the same rule.
//!
//! **Where this differs from the paper.** The paper's third condition, that the primary has the
//! batch at hand, is not asked for: whoever lacks it, primary or backup, gets it from one of the f+1
//! of A2. And checkpoints carry certificates, where the paper counts f+1 claims.

use std::collections::BTreeMap;

use super::past::CLAIMS_PER_PLACE_MAX;
use crate::crypto::{Digest, Domain, Kind, Scope};
use crate::group::{ClientId, Configuration, Group, Sequence, View};
use crate::message::{Batch, Certificate, Claim, NewView, ViewChange, wire};
use crate::mutation::{self, Mutation};

/// What a view begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Where the configuration begins.
    pub(crate) start: Sequence,
    /// The stable checkpoint that everything lies above; none for the beginning of the configuration.
    pub(crate) stable: Option<Certificate>,
    /// What belongs to the places above it, without a gap.
    pub(crate) chosen: Vec<(Sequence, Digest)>,
    /// Clients that f+1 replicas mark: their tags are not taken from this view on.
    pub(crate) marked: Vec<ClientId>,
}

impl Decision {
    /// The sequence number of the checkpoint.
    pub(crate) fn base(&self) -> Sequence {
        self.stable.as_ref().map_or(self.start, |stable| stable.sequence)
    }

    /// The last place that is decided.
    pub(crate) fn end(&self) -> Sequence {
        self.chosen.last().map_or(self.base(), |(sequence, _)| *sequence)
    }
}

/// What the VIEW-CHANGEs decide together; none while there are too few of them. `null` is the
/// digest of the null batch, `start` the place that the configuration begins after.
pub(crate) fn decide(group: &Group, null: Digest, start: Sequence, set: &[&ViewChange]) -> Option<Decision> {
    let quorum = group.quorum() as usize;
    if set.len() < quorum {
        return None;
    }
    let stable = set.iter().filter_map(|one| one.stable.as_ref()).max_by_key(|stable| stable.sequence);
    let base = stable.map_or(start, |stable| stable.sequence);
    // By place: what is in the Ps and in the Qs.
    let mut prepared: BTreeMap<Sequence, Vec<Claim>> = BTreeMap::new();
    for claim in set.iter().flat_map(|one| &one.prepared).filter(|claim| claim.sequence > base) {
        prepared.entry(claim.sequence).or_default().push(*claim);
    }
    let mut accepted: BTreeMap<(Sequence, Digest), Vec<View>> = BTreeMap::new();
    for claim in set.iter().flat_map(|one| &one.pre_prepared).filter(|claim| claim.sequence > base) {
        accepted.entry((claim.sequence, claim.digest)).or_default().push(claim.view);
    }
    let mut chosen = Vec::new();
    // Places up to the last one that was chosen for what was prepared there, be it the null batch.
    let mut kept = 0;
    let last = prepared.keys().next_back().copied().unwrap_or(base);
    for sequence in (base.0 + 1..=last.0).map(Sequence) {
        let claims = prepared.get(&sequence).map_or(&[][..], Vec::as_slice);
        let silent = set.len() - claims.len();
        let mut candidates: Vec<_> = claims.iter().map(|claim| (claim.view, claim.digest)).collect();
        // The latest first: any that passes would do, but all must choose the same one.
        candidates.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        candidates.dedup();
        let passes = |(view, digest): &(View, Digest)| {
            let not_later =
                |claim: &&Claim| claim.view < *view || (claim.view == *view && claim.digest == *digest);
            let a1 = silent + claims.iter().filter(not_later).count() >= quorum;
            let vouchers = accepted.get(&(sequence, *digest)).map_or(&[][..], Vec::as_slice);
            let a2 = vouchers.iter().filter(|voucher| **voucher >= *view).count();
            a1 && a2 >= group.weak_quorum() as usize
        };
        match candidates.into_iter().find(passes) {
            Some((_, digest)) if !mutation::is_on(Mutation::ForgetPrepared) => {
                chosen.push((sequence, digest));
                kept = chosen.len();
            }
            _ if silent >= quorum || mutation::is_on(Mutation::ForgetPrepared) => {
                chosen.push((sequence, null));
            }
            _ => return None,
        }
    }
    // Behind it nothing was committed: those places are free.
    chosen.truncate(kept);
    Some(Decision { start, stable: stable.cloned(), chosen, marked: marked(group, set) })
}

/// Clients that f+1 mark, so that one of them is correct.
fn marked(group: &Group, set: &[&ViewChange]) -> Vec<ClientId> {
    let mut counts: BTreeMap<ClientId, u32> = BTreeMap::new();
    for client in set.iter().flat_map(|one| &one.marks) {
        *counts.entry(*client).or_default() += 1;
    }
    let needed = if mutation::is_on(Mutation::MarkAlone) { 1 } else { group.weak_quorum() };
    counts.into_iter().filter(|(_, count)| *count >= needed).map(|(client, _)| client).collect()
}

/// The batch of a place in which nothing was ordered, and its digest.
pub(crate) fn null_batch(scope: &Scope) -> (Batch, Digest) {
    let null = wire::batch(0, false, [].into());
    let digest = scope.digest(Domain::new(Kind::Batch, 0), &[&null.bytes]);
    (null, digest)
}

/// What a NEW-VIEW begins with; none when it does not follow from the VIEW-CHANGEs in it, which are
/// known to be signed. Anyone who has the configuration comes to the same.
pub(crate) fn follows(group: &Group, configuration: &Configuration, message: &NewView) -> Option<Decision> {
    let (start, window) = (configuration.start, configuration.limits.window);
    let NewView { view, view_changes } = message;
    let fits = |one: &ViewChange| one.view == *view && is_well_formed(one, start, window);
    // In the order of their senders, so that nobody counts twice.
    let single = view_changes.is_sorted_by(|a, b| a.sender < b.sender);
    // Only then is the calculation bounded by the window.
    let sound = single && view_changes.iter().all(|one| fits(&one.body));
    let set: Vec<_> = view_changes.iter().map(|one| &one.body).collect();
    sound.then(|| decide(group, null_batch(&configuration.scope()).1, start, &set)).flatten()
}

/// Whether a VIEW-CHANGE is one that a correct replica could have sent: claims lie between its
/// watermarks, in order, speak of earlier views, and are no more than one replica makes.
pub(crate) fn is_well_formed(message: &ViewChange, start: Sequence, window: u64) -> bool {
    let base = message.stable.as_ref().map_or(start, |stable| stable.sequence).0;
    let fits = |claim: &Claim| {
        claim.view < message.view && claim.sequence.0 > base && claim.sequence.0 - base <= window
    };
    let in_order = |claims: &[Claim]| claims.is_sorted_by(|a, b| a.sequence <= b.sequence);
    let [p, q] = [&message.prepared, &message.pre_prepared];
    let single = p.is_sorted_by(|a, b| a.sequence < b.sequence);
    let few = q.chunk_by(|a, b| a.sequence == b.sequence).all(|place| {
        let repeats = |claim: &Claim| place.iter().filter(|other| other.digest == claim.digest).count() > 1;
        place.len() <= CLAIMS_PER_PLACE_MAX && !place.iter().any(repeats)
    });
    p.iter().chain(q).all(fits) && single && in_order(q) && few
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sim::Setup;

    const NULL: Digest = Digest([0; 32]);

    /// `p=1a0` is an entry in P: batch `a` in place 1, view 0; `q=` the same in Q; `s=4` a stable
    /// checkpoint; `m=7` a mark on client 7.
    fn view_change(text: &str) -> ViewChange {
        let mut message =
            ViewChange { view: View(9), stable: None, prepared: vec![], pre_prepared: vec![], marks: vec![] };
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap();
            if key == "s" {
                let sequence = Sequence(value.parse().unwrap());
                message.stable = Some(Certificate { sequence, state: NULL, votes: [].into() });
                continue;
            }
            if key == "m" {
                message.marks.push(ClientId(value.parse().unwrap()));
                continue;
            }
            let letter = value.find(|c: char| c.is_ascii_lowercase()).unwrap();
            let claim = Claim {
                sequence: Sequence(value[..letter].parse().unwrap()),
                view: View(value[letter + 1..].parse().unwrap()),
                digest: match value.as_bytes()[letter] {
                    b'n' => NULL,
                    letter => Digest([letter; 32]),
                },
            };
            match key {
                "p" => message.prepared.push(claim),
                _ => message.pre_prepared.push(claim),
            }
        }
        message
    }

    /// What four replicas' VIEW-CHANGEs decide, as `stable: place=batch …`.
    fn check(set: &[&str], expected: &str) {
        let group = Group::new(&Setup::new(1, 1).configuration);
        let set: Vec<_> = set.iter().map(|text| view_change(text)).collect();
        let decided = decide(&group, NULL, Sequence(0), &set.iter().collect::<Vec<_>>());
        let told = decided.map_or("nothing yet".to_owned(), |decision| {
            let chosen = decision.chosen.iter().map(|(sequence, digest)| {
                let batch = if *digest == NULL { "null".into() } else { char::from(digest.0[0]).to_string() };
                format!(" {sequence}={batch}")
            });
            format!("{}:{}", decision.base(), chosen.collect::<String>())
        });
        assert_eq!(told, expected, "{set:?}");
    }

    #[test]
    fn nothing_prepared_decides_nothing() {
        check(&["", "", ""], "0:");
        check(&["q=1a0", "q=1a0", ""], "0:");
    }

    #[test]
    fn client_that_two_mark_is_marked() {
        let group = Group::new(&Setup::new(1, 1).configuration);
        let set = ["m=1 m=2", "m=2 m=3", "m=4", ""].map(view_change);
        let decided =
            decide(&group, NULL, Sequence(0), &set.iter().collect::<Vec<_>>()).expect("nothing is prepared");
        assert_eq!(decided.marked, [ClientId(2)]);
    }

    #[test]
    fn two_are_too_few() {
        check(&["p=1a0 q=1a0", "p=1a0 q=1a0"], "nothing yet");
    }

    #[test]
    fn what_one_prepared_and_two_accepted_goes_on() {
        check(&["p=1a0 q=1a0", "q=1a0", ""], "0: 1=a");
    }

    #[test]
    fn what_one_says_alone_is_not_believed_once_three_say_nothing() {
        check(&["p=1a0 q=1a0", "", ""], "nothing yet");
        check(&["p=1a0 q=1a0", "", "", ""], "0:");
    }

    #[test]
    fn gap_before_a_batch_is_filled_with_the_null_batch() {
        check(&["p=2b0 q=2b0", "q=2b0", ""], "0: 1=null 2=b");
    }

    #[test]
    fn null_batch_that_was_prepared_is_chosen_like_any_other() {
        // `n` is the null batch's digest in these texts.
        check(&["p=1n1 q=1n1", "q=1n1", ""], "0: 1=null");
        check(&["p=1n1 q=1n1 p=2b0", "q=1n1", "", ""], "0: 1=null");
    }

    #[test]
    fn later_view_wins() {
        check(&["p=1a0 q=1a0 q=1b1", "p=1b1 q=1b1", "q=1b1"], "0: 1=b");
    }

    #[test]
    fn earlier_view_does_not_pass_while_a_later_one_may_have_committed() {
        // `b` is claimed for view 1, but nobody else accepted it: a fourth has to speak.
        check(&["p=1b1 q=1b1", "p=1a0 q=1a0", "q=1a0"], "nothing yet");
        check(&["p=1b1 q=1b1", "p=1a0 q=1a0", "q=1a0", ""], "0: 1=a");
    }

    #[test]
    fn acceptance_in_an_earlier_view_does_not_stand_for_a_later_one() {
        check(&["p=1a2 q=1a2", "q=1a0", ""], "nothing yet");
        check(&["p=1a2 q=1a2", "q=1a2", ""], "0: 1=a");
    }

    #[test]
    fn highest_checkpoint_hides_what_lies_below() {
        check(&["s=4", "p=3a0 q=3a0 p=5b0 q=5b0", "q=3a0 q=5b0"], "4: 5=b");
        check(&["s=4", "s=8", "p=3a0 q=3a0"], "8:");
    }

    #[test]
    fn claims_that_no_correct_replica_makes_are_refused() {
        assert!(is_well_formed(&view_change("s=4 p=5a0 q=5a0 q=5b1 q=8a0"), Sequence(0), 4));
        for wrong in ["p=5a9 q=5a9", "s=4 q=4a0", "q=5a0", "p=1a0 p=1b0", "q=1a0 q=1a1", "q=2a0 q=1a0"] {
            assert!(!is_well_formed(&view_change(wrong), Sequence(0), 4), "{wrong}");
        }
        let many: String = (b'a'..=b'q').map(|letter| format!("q=1{}0 ", char::from(letter))).collect();
        assert!(!is_well_formed(&view_change(&many), Sequence(0), 4), "17 batches for one place");
    }

    /// Batches of place 1 in views below `below`, as a correct replica may have met them.
    fn met(below: u64) -> impl Strategy<Value = Vec<(u64, char)>> {
        prop::collection::vec((0..below, prop::char::range('a', 'e')), 0..3)
    }

    fn told(prepared: Option<(u64, char)>, pre_prepared: &[(u64, char)]) -> ViewChange {
        let mut claims = pre_prepared.to_vec();
        claims.extend(prepared);
        claims.sort_by_key(|(view, batch)| (*batch, std::cmp::Reverse(*view)));
        claims.dedup_by_key(|(_, batch)| *batch);
        let q: String = claims.iter().map(|(view, batch)| format!("q=1{batch}{view} ")).collect();
        let p = prepared.map_or(String::new(), |(view, batch)| format!("p=1{batch}{view}"));
        view_change(&(q + &p))
    }

    proptest! {
        /// Batch `c` was committed in place 1 in view 5: f+1 correct replicas prepared it then, and
        /// again or not since. Whatever else was met, whatever the faulty one says, and whoever is
        /// heard: it is chosen, or nothing is yet.
        #[test]
        fn what_was_committed_is_never_lost(
            again in prop::collection::vec(5..9u64, 3),
            all_three in any::<bool>(),
            earlier in prop::collection::vec(met(5), 3),
            other in prop::option::of((0..5u64, prop::char::range('a', 'e'))),
            lie in (prop::option::of((0..9u64, prop::char::range('a', 'e'))), met(9)),
            silent in 0..5usize,
        ) {
            let mut set: Vec<_> = (0..3).map(|index| {
                let holds = index < 2 || all_three;
                told(if holds { Some((again[index], 'c')) } else { other }, &earlier[index])
            }).collect();
            set.push(told(lie.0, &lie.1));
            if silent < 4 {
                set.remove(silent);
            }
            let group = Group::new(&Setup::new(1, 1).configuration);
            if let Some(decision) = decide(&group, NULL, Sequence(0), &set.iter().collect::<Vec<_>>()) {
                prop_assert_eq!(decision.chosen, [(Sequence(1), Digest([b'c'; 32]))]);
            }
        }
    }
}
