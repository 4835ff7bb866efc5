use std::time::Duration;

use super::*;
use crate::group::Sequence;
use crate::service::{Context, Service as _, State};
use crate::sim::Random;
use crate::sim::kv::Kv;

/// Reads a history, a call a line: where it begins and ends in columns of a diagram, `?` for an end
/// that never comes; what; and what came out.
fn history(lines: &[(&str, Operation, Option<Answer>)]) -> History {
    let mut events = Vec::new();
    for (index, (span, _, _)) in lines.iter().enumerate() {
        let begin = span.find('[').expect("a call begins");
        events.push((begin, Event::Called(index)));
        if let Some(end) = span.find(']') {
            events.push((end, Event::Answered(index)));
        }
    }
    events.sort_by_key(|(column, _)| *column);
    let (mut history, mut ids) = (History::default(), BTreeMap::new());
    for (column, event) in events {
        let at = Instant(column as u64 * 1_000_000);
        match event {
            Event::Called(index) => {
                let client = ClientId(u32::try_from(index).expect("few"));
                ids.insert(index, history.call(client, at, lines[index].1.clone()));
            }
            Event::Answered(index) => {
                let answer = lines[index].2.clone().expect("an answer that ends is there");
                history.answer(ids[&index], at, answer);
            }
        }
    }
    history
}

fn get(key: &'static str) -> Operation {
    Operation::Get { key: key.into() }
}

fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Put { key: key.into(), value: value.into(), ttl: None }
}

fn swap(key: &'static str, expected: Expected, value: &'static str) -> Operation {
    Operation::Swap { key: key.into(), expected, value: value.into(), ttl: None }
}

fn list() -> Operation {
    Operation::List { prefix: "".into(), after: None, limit: 10 }
}

fn held(version: u64, value: &'static str) -> Held {
    Held { version, value: value.into() }
}

fn holds(version: u64, value: &'static str) -> Option<Answer> {
    Some(Answer::Held(Some(held(version, value))))
}

fn nothing() -> Option<Answer> {
    Some(Answer::Held(None))
}

fn written(version: u64) -> Option<Answer> {
    Some(Answer::Written(version))
}

fn listed(entries: &[(&'static str, u64, &'static str)]) -> Option<Answer> {
    let entries = entries.iter().map(|(key, version, value)| ((*key).into(), held(*version, value)));
    Some(Answer::Listed { entries: entries.collect(), resume: None })
}

fn check(lines: &[(&str, Operation, Option<Answer>)], is_linearizable: bool) {
    let verdict = history(lines).check();
    assert_eq!(verdict.is_ok(), is_linearizable, "{verdict:?}");
}

#[test]
fn read_after_an_answered_write_sees_it() {
    check(&[("[-]", put("k", "a"), written(1)), ("    [-]", get("k"), holds(1, "a"))], true);
    check(&[("[-]", put("k", "a"), written(1)), ("    [-]", get("k"), nothing())], false);
}

#[test]
fn read_beside_a_write_sees_it_or_not() {
    check(&[("[---]", put("k", "a"), written(1)), ("  [---]", get("k"), holds(1, "a"))], true);
    check(&[("[---]", put("k", "a"), written(1)), ("  [---]", get("k"), nothing())], true);
}

#[test]
fn what_one_read_saw_a_later_one_does_not_miss() {
    let write = ("[---------]", put("k", "a"), written(1));
    check(&[write.clone(), (" [-]", get("k"), nothing()), ("     [-]", get("k"), holds(1, "a"))], true);
    check(&[write, (" [-]", get("k"), holds(1, "a")), ("     [-]", get("k"), nothing())], false);
}

#[test]
fn write_without_an_answer_happens_late_or_never_but_once() {
    let write = ("[", put("k", "a"), None);
    check(&[write.clone(), ("  [-]", get("k"), nothing())], true);
    check(&[write.clone(), ("  [-]", get("k"), nothing()), ("       [-]", get("k"), holds(1, "a"))], true);
    let other = ("       [-]", put("k", "b"), written(2));
    let seen = ("  [-]", get("k"), holds(1, "a"));
    check(&[write.clone(), seen.clone(), other.clone(), ("            [-]", get("k"), holds(2, "b"))], true);
    check(&[write, seen, other, ("            [-]", get("k"), holds(1, "a"))], false);
}

#[test]
fn one_of_two_swaps_from_the_same_takes_place() {
    let first = ("[---]", swap("k", Expected::Absent, "a"), written(1));
    let refused = (" [---]", swap("k", Expected::Absent, "b"), Some(Answer::Differs(Some(1))));
    check(&[first.clone(), refused], true);
    check(&[first.clone(), (" [---]", swap("k", Expected::Absent, "b"), written(2))], false);
    let by_version = ("       [-]", swap("k", Expected::Version(1), "c"), written(2));
    let by_value = ("            [-]", swap("k", Expected::Value("a".into()), "d"), written(3));
    check(&[first.clone(), by_version.clone()], true);
    check(&[first, by_version, by_value], false);
}

#[test]
fn delete_says_what_was_there() {
    let delete =
        |was_there| ("     [-]", Operation::Delete { key: "k".into() }, Some(Answer::Deleted(was_there)));
    let write = ("[-]", put("k", "a"), written(1));
    check(&[write.clone(), delete(true), ("         [-]", get("k"), nothing())], true);
    check(&[write.clone(), delete(false)], false);
    check(&[delete(true)], false);
    check(&[write, delete(true), ("         [-]", get("k"), holds(1, "a"))], false);
}

#[test]
fn value_with_a_time_to_live_may_go_and_does_not_come_back() {
    let ttl = Some(Duration::from_millis(1));
    let write = ("[-]", Operation::Put { key: "k".into(), value: "a".into(), ttl }, written(1));
    let gone = ("     [-]", get("k"), nothing());
    check(&[write.clone(), gone.clone()], true);
    check(&[write.clone(), ("     [-]", list(), listed(&[]))], true);
    check(&[write, gone, ("          [-]", get("k"), holds(1, "a"))], false);
}

#[test]
fn listing_reads_all_its_keys_at_one_moment() {
    let (a, b) = (("[", put("a", "x"), None), ("[", put("b", "y"), None));
    let only_a = (" [---]", list(), listed(&[("a", 1, "x")]));
    let only_b = ("  [---]", list(), listed(&[("b", 1, "y")]));
    let both = ("        [-]", list(), listed(&[("a", 1, "x"), ("b", 2, "y")]));
    check(&[a.clone(), b.clone(), only_a.clone(), both], true);
    check(&[a.clone(), b.clone(), only_b.clone()], true);
    // For the key a alone, the second listing came first; for b alone, the first one did.
    check(&[a, b, only_a, only_b], false);
}

#[test]
fn versions_rise_with_the_moments_of_writes() {
    let (a, b) = (("[---]", put("k", "a"), written(2)), ("  [---]", put("k", "b"), written(1)));
    check(&[a.clone(), b.clone(), ("       [-]", get("k"), holds(2, "a"))], true);
    check(&[a, b, ("       [-]", get("k"), holds(1, "b"))], false);
    check(&[("[-]", put("k", "a"), written(2)), ("    [-]", put("k", "b"), written(1))], false);
}

#[test]
fn listing_that_was_cut_says_nothing_of_what_follows() {
    let cut = Answer::Listed { entries: vec![("a".into(), held(1, "x"))], resume: Some("a".into()) };
    let (a, b) = (("[-]", put("a", "x"), written(1)), ("[-]", put("b", "y"), written(2)));
    check(&[a.clone(), b.clone(), ("    [-]", list(), Some(cut))], true);
    check(&[a, b, ("    [-]", list(), listed(&[("a", 1, "x")]))], false);
}

#[test]
fn story_shows_the_calls_of_the_key_up_to_the_answer_in_question() {
    let history = history(&[
        ("[-]", put("k", "a"), written(1)),
        (" [-]", put("other", "b"), written(2)),
        ("  [", put("k", "c"), None),
        ("    [-]", get("k"), nothing()),
        ("     [---]", get("k"), holds(1, "a")),
        ("          [-]", get("k"), holds(1, "a")),
    ]);
    let objection = history.check().expect_err("the read is stale");
    let told = "linearizability: no order of these calls explains the answer that is marked
  client 0       0.000 ..      2.000 ms  put k = a                          -> written as version 1
  client 2       2.000 ..        ... ms  put k = c                          -> no answer
> client 3       4.000 ..      6.000 ms  get k                              -> nothing
  client 4       5.000 ..        ... ms  get k                              -> no answer
";
    assert_eq!(objection.to_string(), told);
}

/// Tries every order of every choice of some calls; those without an answer need not be chosen.
fn brute_force(history: &History, calls: &BTreeSet<usize>) -> bool {
    fn place(history: &History, calls: &BTreeSet<usize>, store: &Store, placed: &mut Vec<usize>) -> bool {
        let mut answered = calls.iter().filter(|id| history.calls[**id].answered.is_some());
        if answered.all(|id| placed.contains(id)) {
            return true;
        }
        calls.iter().any(|id| {
            // Whatever was answered before this one was called comes before it.
            let before =
                history.events.iter().take_while(|event| !matches!(event, Event::Called(i) if i == id));
            let mut owed = before.filter_map(|event| match event {
                Event::Answered(earlier) if calls.contains(earlier) => Some(earlier),
                _ => None,
            });
            if placed.contains(id) || !owed.all(|earlier| placed.contains(earlier)) {
                return false;
            }
            let Some(next) = step(store, &history.calls[*id]) else { return false };
            placed.push(*id);
            let found = place(history, calls, &next, placed);
            placed.pop();
            found
        })
    }
    place(history, calls, &Store::default(), &mut Vec::new())
}

/// A few calls that overlap at random, executed by the store in some order that fits or does not.
fn some_history(random: &mut Random) -> History {
    let (mut state, mut history, mut open) = (State::default(), History::default(), Vec::new());
    let mut written = 0;
    for time in 1..=7 {
        let key = ["a", "b"][usize::from(random.chance(400))];
        written += 1;
        let value = Bytes::from(format!("{}", random.below(3)));
        let ttl = random.chance(200).then_some(Duration::from_nanos(2));
        let operation = match random.below(6) {
            0 | 1 => get(key),
            2 => Operation::Put { key: key.into(), value, ttl },
            3 => Operation::Delete { key: key.into() },
            4 => {
                let expected = match random.below(3) {
                    0 => Expected::Absent,
                    1 => Expected::Version(1 + random.below(written)),
                    _ => Expected::Value(Bytes::from(format!("{}", random.below(3)))),
                };
                Operation::Swap { key: key.into(), expected, value, ttl }
            }
            _ => list(),
        };
        let context = Context { client: ClientId(0), time, sequence: Sequence(time) };
        let call = history.call(ClientId(0), Instant(time), operation.clone());
        // It takes effect now, or only when it is answered, or an older state answers it.
        let old = state.clone();
        let now = random.chance(500).then(|| Kv.execute(&context, &operation.to_bytes(), &mut state));
        open.push((call, operation, now, old));
        while !open.is_empty() && random.chance(550) {
            let at = usize::try_from(random.below(open.len() as u64)).expect("few");
            let (call, operation, result, mut old) = open.swap_remove(at);
            let late = if random.chance(400) { &mut old } else { &mut state };
            let result = result.unwrap_or_else(|| Kv.execute(&context, &operation.to_bytes(), late));
            history.answer(call, Instant(time), Answer::from_bytes(&result).expect("an answer"));
        }
    }
    history
}

#[test]
fn search_agrees_with_trying_every_order() {
    let mut counts = [0; 2];
    for seed in 0..3000 {
        let history = some_history(&mut Random::new(seed));
        let found = history.check();
        let expected = history.objects().iter().all(|calls| brute_force(&history, calls));
        assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?}\n{history:#?}");
        // What is right as a whole is right in its parts.
        assert!(expected || !brute_force(&history, &(0..history.calls.len()).collect()), "seed {seed}");
        counts[usize::from(expected)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 200), "both kinds occurred: {counts:?}");
}

/// What is executed one after the other is accepted, and no other answer to a read is.
#[test]
fn store_is_as_it_is_modelled() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (mut state, mut history, mut reads) = (State::default(), History::default(), Vec::new());
        for time in 1..60 {
            let key = Bytes::from(format!("{}", random.below(4)));
            let value = Bytes::from(format!("{}", random.below(3)));
            let operation = match random.below(6) {
                0 => Operation::Get { key },
                1 => Operation::Put { key, value, ttl: None },
                2 => Operation::Delete { key },
                3 => Operation::Swap { key, expected: Expected::Absent, value, ttl: None },
                4 => {
                    let expected = Expected::Version(random.below(time));
                    Operation::Swap { key, expected, value, ttl: None }
                }
                _ => Operation::List { prefix: "".into(), after: Some("1".into()), limit: 1 },
            };
            let context = Context { client: ClientId(0), time, sequence: Sequence(time) };
            let result = Kv.execute(&context, &operation.to_bytes(), &mut state);
            let call = history.call(ClientId(0), Instant(time), operation);
            history.answer(call, Instant(time), Answer::from_bytes(&result).expect("an answer"));
            if let (_, Answer::Held(_)) = history.calls[call.0].answered.as_ref().expect("answered") {
                reads.push(call.0);
            }
        }
        assert_eq!(history.check(), Ok(()), "seed {seed}");
        for read in reads {
            let mut wrong = history.clone();
            if let Some((_, Answer::Held(answer))) = &mut wrong.calls[read].answered {
                *answer = match answer {
                    Some(_) => None,
                    None => Some(held(1, "wrong")),
                };
            }
            assert!(wrong.check().is_err(), "seed {seed}: read {read} was denied what it was told");
        }
    }
}

#[test]
fn too_many_orders_are_given_up() {
    let mut history = History::default();
    for client in 0..16 {
        let value = Bytes::from(format!("{client}"));
        let operation = Operation::Put { key: format!("{client}").into(), value, ttl: None };
        history.call(ClientId(client), Instant(0), operation);
    }
    let listing = history.call(ClientId(16), Instant(0), list());
    let entries = (0..16).map(|key| (format!("{key}").into(), held(1, "another value"))).collect();
    history.answer(listing, Instant(0), Answer::Listed { entries, resume: None });
    assert!(matches!(history.check(), Err(Objection::Undecided(_))), "2^16 choices are too many");
}
