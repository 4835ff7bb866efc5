//! What has to change so that what runs is what is wanted: a pure function and its cases.

use crate::set::{SetRecord, SetState};
use quorate_dag::Function;
use std::collections::{BTreeMap, BTreeSet};

/// The functions that the platform has.
pub const FUNCTIONS: [Function; 4] = [Function::Add, Function::Sub, Function::Mul, Function::Div];

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make a set of that function under that name.
    Create {
        /// What it is to compute.
        function: Function,
        /// The smallest name that is free.
        name: String,
    },
    /// Let a set finish what it has and go.
    Drain {
        /// The set.
        name: String,
    },
}

/// Compares the sets there are (and the names that are being made) with how many are wanted.
///
/// The newest go first, and of the newest those that do not serve anyway. Sets that are to be replaced
/// don't count as sets that there are, and go when as many others serve as are wanted.
pub fn reconcile(
    sets: &BTreeMap<String, SetRecord>,
    replaced: &BTreeSet<String>,
    making: &BTreeMap<String, Function>,
    desired: &BTreeMap<Function, u32>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for function in FUNCTIONS {
        let wanted = desired.get(&function).copied().unwrap_or(0) as usize;
        let being_made = making.values().filter(|of| **of == function).count();
        let there = sets.values().filter(|set| set.function == function && set.state != SetState::Draining);
        let (going, mut staying): (Vec<_>, Vec<_>) = there.partition(|set| replaced.contains(&set.name));
        staying.sort_by_key(|set| (set.state == SetState::Ready, std::cmp::Reverse(number(&set.name))));
        let have = staying.len() + being_made;
        let free = (0..).map(|n| format!("{}-{n}", function.name()));
        let free = free.filter(|name| !sets.contains_key(name) && !making.contains_key(name));
        let free = free.filter(|name| !replaced.contains(name));
        changes.extend(free.take(wanted.saturating_sub(have)).map(|name| Change::Create { function, name }));
        let serving = staying.iter().filter(|set| set.state == SetState::Ready).count();
        let gone = going.into_iter().filter(|_| serving >= wanted);
        let surplus = staying.into_iter().take(have.saturating_sub(wanted));
        changes.extend(surplus.chain(gone).map(|set| Change::Drain { name: set.name.clone() }));
    }
    changes
}

/// The number in a set's name.
fn number(name: &str) -> u64 {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Replication,
        set::{Member, MemberState},
    };

    fn set(name: &str, state: SetState) -> SetRecord {
        SetRecord {
            name: name.into(),
            function: Function::from_name(name.split('-').next().unwrap()).unwrap(),
            replication: Replication::None,
            state,
            worker: Member {
                pod: format!("{name}-worker"),
                state: MemberState::Ready,
                address: None,
                transport: None,
                pid: None,
                incarnation: 1,
            },
            replicas: Vec::new(),
            genesis: None,
            successions: Vec::new(),
            succession: None,
            ordered_ms: 0,
            start_ms: None,
        }
    }

    fn check(sets: &[(&str, SetState)], making: &[&str], wanted: u32, expect: &[&str]) {
        check_with(sets, &[], making, wanted, expect);
    }

    fn check_with(
        sets: &[(&str, SetState)],
        replaced: &[&str],
        making: &[&str],
        wanted: u32,
        expect: &[&str],
    ) {
        let replaced = replaced.iter().map(|name| (*name).into()).collect();
        let sets = sets.iter().map(|(name, state)| ((*name).into(), set(name, *state))).collect();
        let making = making.iter().map(|name| ((*name).into(), Function::Add)).collect();
        let desired = [(Function::Add, wanted)].into();
        let changes: Vec<_> = reconcile(&sets, &replaced, &making, &desired)
            .into_iter()
            .map(|change| match change {
                Change::Create { name, .. } => format!("+{name}"),
                Change::Drain { name } => format!("-{name}"),
            })
            .collect();
        assert_eq!(changes, expect);
    }

    #[test]
    fn nothing_changes_when_as_many_run_as_are_wanted() {
        check(&[("add-0", SetState::Ready)], &[], 1, &[]);
        check(&[], &["add-0"], 1, &[]);
        check(&[], &[], 0, &[]);
    }

    #[test]
    fn the_smallest_free_names_are_made() {
        check(&[("add-1", SetState::Ready)], &["add-0"], 4, &["+add-2", "+add-3"]);
        check(&[("add-0", SetState::Draining)], &[], 1, &["+add-1"]);
    }

    #[test]
    fn a_paused_set_counts_until_it_is_written_off() {
        check(&[("add-0", SetState::Paused)], &[], 1, &[]);
    }

    #[test]
    fn those_that_do_not_serve_go_first_then_the_newest() {
        let sets = [
            ("add-0", SetState::Starting),
            ("add-2", SetState::Ready),
            ("add-10", SetState::Ready),
            ("add-1", SetState::Ready),
        ];
        check(&sets, &[], 2, &["-add-0", "-add-10"]);
    }

    #[test]
    fn sets_that_are_to_be_replaced_serve_until_others_do_and_their_names_are_not_used_again() {
        let ready = ("add-0", SetState::Ready);
        check_with(&[ready], &["add-0"], &[], 1, &["+add-1"]);
        check_with(&[ready], &["add-0"], &["add-1"], 1, &[]);
        check_with(&[ready, ("add-1", SetState::Starting)], &["add-0"], &[], 1, &[]);
        check_with(&[ready, ("add-1", SetState::Ready)], &["add-0"], &[], 1, &["-add-0"]);
        check_with(&[("add-1", SetState::Ready)], &["add-0"], &[], 2, &["+add-2"]);
        check_with(&[ready], &["add-0"], &[], 0, &["-add-0"]);
        check_with(&[("add-0", SetState::Draining)], &["add-0"], &[], 1, &["+add-1"]);
    }

    #[test]
    fn other_functions_are_left_alone() {
        check(&[("mul-0", SetState::Ready)], &[], 0, &["-mul-0"]);
        check(&[("mul-0", SetState::Draining)], &[], 0, &[]);
    }
}
