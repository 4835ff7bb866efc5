use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::crypto::{Digest, DigestAlgorithm, Scope};
use crate::group::{ClientId, Sequence};

const SCOPE: Scope = Scope { group: [1; 16], configuration: 0, algorithm: DigestAlgorithm::Sha256 };

fn at(time: u64) -> Context {
    Context { client: ClientId(0), time, sequence: Sequence(time) }
}

fn run(state: &mut State, time: u64, operation: &Operation) -> Answer {
    let result = Kv.execute(&at(time), &operation.to_bytes(), state);
    Answer::from_bytes(&result).expect("the store's answers are answers")
}

fn look(state: &State, time: u64, operation: &Operation) -> Answer {
    let result = Kv.read(&at(time), &operation.to_bytes(), state).expect("it is read-only");
    Answer::from_bytes(&result).expect("the store's answers are answers")
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Option<u64>) -> Operation {
    Operation::Put { key: key.into(), value: value.into(), ttl: ttl.map(Duration::from_nanos) }
}

fn list(prefix: &'static str, after: Option<Bytes>, limit: u64) -> Operation {
    Operation::List { prefix: prefix.into(), after, limit }
}

fn digest(state: &mut State) -> Digest {
    state.snapshot(&SCOPE).1
}

/// The same pages in another state, as a transfer or a restart makes it.
fn reloaded(state: &mut State) -> State {
    let (pages, _) = state.snapshot(&SCOPE);
    let (mut copy, mut from) = (State::default(), 0);
    while let Some((page, bytes)) = pages.next_page(from) {
        copy.write(page, &bytes);
        from = page + 1;
    }
    copy
}

/// What the store is to be: a sorted map with versions and times.
#[derive(Default)]
struct Model {
    version: u64,
    held: BTreeMap<Bytes, (Held, Option<u64>)>,
}

impl Model {
    fn run(&mut self, time: u64, operation: &Operation) -> Answer {
        self.held.retain(|_, (_, expires)| expires.is_none_or(|expires| time < expires));
        match operation.clone() {
            Operation::Get { key } => Answer::Held(self.held.get(&key).map(|(held, _)| held.clone())),
            Operation::Put { key, value, ttl } => self.write(time, key, value, ttl),
            Operation::Delete { key } => Answer::Deleted(self.held.remove(&key).is_some()),
            Operation::Swap { key, expected, value, ttl } => {
                let held = self.held.get(&key).map(|(held, _)| held.clone());
                let fits = match expected {
                    Expected::Absent => held.is_none(),
                    Expected::Version(version) => held.as_ref().is_some_and(|held| held.version == version),
                    Expected::Value(value) => held.as_ref().is_some_and(|held| held.value == value),
                };
                match fits {
                    true => self.write(time, key, value, ttl),
                    false => Answer::Differs(held.map(|held| held.version)),
                }
            }
            Operation::List { prefix, after, limit } => {
                let follows = |key: &Bytes| after.as_ref().is_none_or(|after| key > after);
                let all: Vec<_> = self
                    .held
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix) && follows(key))
                    .map(|(key, (held, _))| (key.clone(), held.clone()))
                    .collect();
                let shown = all.len().min(usize::try_from(limit.max(1)).expect("small"));
                let resume = (shown < all.len()).then(|| all[shown - 1].0.clone());
                Answer::Listed { entries: all[..shown].to_vec(), resume }
            }
        }
    }

    fn write(&mut self, time: u64, key: Bytes, value: Bytes, ttl: Option<Duration>) -> Answer {
        self.version += 1;
        let expires = ttl.map(|ttl| time + u64::try_from(ttl.as_nanos()).expect("small"));
        self.held.insert(key, (Held { version: self.version, value }, expires));
        Answer::Written(self.version)
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    let short = prop::sample::select(vec!["", "a", "ab", "abc", "b", "b/1", "b/2", "b/3", "\u{ff}"]);
    let long = (0..3u8, 900..=KEY_BYTES_MAX).prop_map(|(first, length)| vec![first; length].into());
    prop_oneof![6 => short.prop_map(Bytes::from), 1 => long]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![6 => 0..3usize, 2 => 500..3000usize, 1 => 20_000..=VALUE_BYTES_MAX]
        .prop_map(|length| vec![3; length].into())
}

fn ttl() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0..60u64).prop_map(Duration::from_nanos))
}

fn operation() -> impl Strategy<Value = Operation> {
    let expected = prop_oneof![
        Just(Expected::Absent),
        (0..30u64).prop_map(Expected::Version),
        value().prop_map(Expected::Value),
    ];
    prop_oneof![
        2 => key().prop_map(|key| Operation::Get { key }),
        4 => (key(), value(), ttl()).prop_map(|(key, value, ttl)| Operation::Put { key, value, ttl }),
        2 => key().prop_map(|key| Operation::Delete { key }),
        3 => (key(), expected, value(), ttl())
            .prop_map(|(key, expected, value, ttl)| Operation::Swap { key, expected, value, ttl }),
        2 => (prop::sample::select(vec!["", "a", "b/", "z"]), prop::option::of(key()), 0..6u64)
            .prop_map(|(prefix, after, limit)| Operation::List { prefix: prefix.into(), after, limit }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let held = || (any::<u64>(), value()).prop_map(|(version, value)| Held { version, value });
    prop_oneof![
        prop::option::of(held()).prop_map(Answer::Held),
        any::<u64>().prop_map(Answer::Written),
        any::<Option<u64>>().prop_map(Answer::Differs),
        any::<bool>().prop_map(Answer::Deleted),
        (prop::collection::vec((key(), held()), 0..4), prop::option::of(key()))
            .prop_map(|(entries, resume)| Answer::Listed { entries, resume }),
        prop::sample::select(vec![Refusal::Malformed, Refusal::Key(2000), Refusal::Value(1 << 20)])
            .prop_map(Answer::Refused),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn store_answers_as_a_sorted_map_does(
        steps in prop::collection::vec((operation(), 0..8u64, any::<bool>()), 1..120)
    ) {
        let (mut state, mut again, mut model) = (State::default(), State::default(), Model::default());
        let mut time = 1;
        for (operation, pause, reload) in steps {
            time += pause;
            if let Operation::Get { .. } | Operation::List { .. } = operation {
                let expected = model.run(time, &operation);
                prop_assert_eq!(look(&state, time, &operation), expected);
            }
            let expected = model.run(time, &operation);
            prop_assert_eq!(run(&mut state, time, &operation), expected);
            if reload {
                state = reloaded(&mut state);
            }
            run(&mut again, time, &operation);
            prop_assert_eq!(digest(&mut state), digest(&mut again), "equal operations, equal pages");
        }
        // When all has gone, by time or by hand, so have its pages.
        for key in model.held.keys() {
            run(&mut state, time, &Operation::Delete { key: key.clone() });
        }
        for _ in 0..40 {
            run(&mut state, time + 1000, &Operation::Get { key: "a".into() });
        }
        prop_assert!(state.snapshot(&SCOPE).0.next_page(1).is_none(), "an empty store has page 0 only");
    }

    #[test]
    fn operations_and_answers_are_read_back(operation in operation(), answer in answer()) {
        prop_assert_eq!(Operation::from_bytes(&operation.to_bytes()), Ok(operation));
        prop_assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..60), which in 0..6u8) {
        let mut state = State::default();
        run(&mut state, 1, &put("a", "1", None));
        for bytes in [&bytes[..], &[&[which], &bytes[..]].concat()] {
            let before = digest(&mut state);
            let answer = Kv.execute(&at(2), bytes, &mut state);
            if Operation::from_bytes(bytes).is_err() {
                let refused = matches!(Answer::from_bytes(&answer), Ok(Answer::Refused(_)));
                prop_assert!(refused && digest(&mut state) == before);
                prop_assert_eq!(Kv.read(&at(2), bytes, &state), Ok(answer));
            }
            let _ = Answer::from_bytes(bytes);
        }
    }
}

#[test]
fn limits_are_named() {
    let long = Bytes::from(vec![0; KEY_BYTES_MAX + 1]);
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let mut state = State::default();
    let refused = run(&mut state, 1, &put(long, "", None));
    assert_eq!(refused, Answer::Refused(Refusal::Key(1025)));
    assert_eq!(Refusal::Key(1025).to_string(), "key of 1025 bytes is over 1024");
    let refused = run(&mut state, 1, &put("", large.clone(), None));
    assert_eq!(refused, Answer::Refused(Refusal::Value(32_769)));
    let expected = Expected::Value(large);
    let swap = Operation::Swap { key: "".into(), expected, value: "".into(), ttl: None };
    assert_eq!(run(&mut state, 1, &swap), Answer::Refused(Refusal::Value(32_769)));
}

#[test]
fn swap_of_a_version_that_was_written_again_is_refused() {
    let mut state = State::default();
    let swap = |version| {
        let expected = Expected::Version(version);
        Operation::Swap { key: "k".into(), expected, value: "mine".into(), ttl: None }
    };
    assert_eq!(run(&mut state, 1, &put("k", "same", None)), Answer::Written(1));
    run(&mut state, 1, &Operation::Delete { key: "k".into() });
    assert_eq!(run(&mut state, 1, &put("k", "same", None)), Answer::Written(2));
    assert_eq!(run(&mut state, 1, &swap(1)), Answer::Differs(Some(2)));
    assert_eq!(run(&mut state, 1, &swap(2)), Answer::Written(3));
}

#[test]
fn key_is_gone_when_its_time_has_come_and_a_later_write_takes_the_time_back() {
    let mut state = State::default();
    let get = Operation::Get { key: "k".into() };
    run(&mut state, 10, &put("k", "v", Some(5)));
    assert_ne!(look(&state, 14, &get), Answer::Held(None));
    assert_eq!(look(&state, 15, &get), Answer::Held(None), "though it is not taken out yet");
    assert_eq!(look(&state, 15, &list("", None, 9)), Answer::Listed { entries: vec![], resume: None });
    run(&mut state, 14, &put("k", "for ever", None));
    run(&mut state, 100, &get);
    assert_ne!(look(&state, 100, &get), Answer::Held(None));
}

#[test]
fn listing_is_bounded_by_what_it_looks_at_and_goes_on_where_it_ended() {
    let mut state = State::default();
    let count = 2 * LISTED_MAX as u64 + 10;
    for key in 0..count {
        // The first ones have expired by the time they are listed, and still have to be stepped over.
        let ttl = (key < LISTED_MAX as u64).then_some(5);
        run(&mut state, 1, &put(format!("k{key:05}"), "v", ttl));
    }
    let (mut seen, mut after, mut pages) = (0, None, 0);
    loop {
        let Answer::Listed { entries, resume } = look(&state, 10, &list("k", after, u64::MAX)) else {
            panic!("a listing is answered by a listing");
        };
        seen += entries.len();
        pages += 1;
        if pages == 1 {
            assert!(entries.is_empty() && resume.is_some(), "it gives up, and says where");
        }
        after = resume;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (LISTED_MAX + 10, 3));
    run(&mut state, 10, &put("large/1", vec![0; VALUE_BYTES_MAX], None));
    for key in 2..9 {
        run(&mut state, 10, &put(format!("large/{key}"), vec![0; VALUE_BYTES_MAX], None));
    }
    let Answer::Listed { entries, resume } = look(&state, 10, &list("large/", None, 100)) else {
        panic!("a listing is answered by a listing");
    };
    assert_eq!((entries.len(), resume), (4, Some("large/4".into())));
}
