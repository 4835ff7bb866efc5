//! Linearizability of what clients of the [`kv`](super::super::kv) store saw: every operation took
//! effect at one moment between its call and its answer (Herlihy & Wing, 1990).
//!
//! The search is Wing and Gong's (1993), just in time as in Lowe's *Testing for linearizability*
//! (2017): the events of the history are gone through in their order with all configurations that
//! explain it so far, and an operation is given its moment only when an answer calls for it.
//! A configuration is what the store holds and which of the open operations have had their moment; what
//! explains no more than another one is dropped. When no configuration explains an answer, the history
//! is wrong.
//!
//! * An operation without an answer may have its moment at any time from its call on, or never.
//! * Keys are independent, so that a history is right if that of each key is (Herlihy & Wing's
//!   locality). A listing reads all keys of its range at one moment: it ties them together, and what is
//!   tied together is checked as one object.
//! * The agreed time is not seen by clients. A value with a time to live may go at any moment after its
//!   write; that it goes neither early nor late is for the store's own tests.
//! * Which version a write got is known from its answer, or from the first read that shows it. Versions
//!   count the writes: of two writes to one object, the one that is answered with the lower version had
//!   its moment earlier. The store promises it, and it keeps the search short.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::super::kv::{Answer, Expected, Held, Operation};
use crate::group::ClientId;
use crate::time::Instant;

#[cfg(test)]
mod tests;

/// The most moments that a check gives to calls, one after the other, before it gives up.
const TRIES_MAX: usize = 1 << 16;

/// A call of a client, and the answer if one came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub client: ClientId,
    /// What.
    pub operation: Operation,
    /// When it was called.
    pub called: Instant,
    /// What came out, and when.
    pub answered: Option<(Instant, Answer)>,
}

/// Names a call of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(usize);

#[derive(Clone, Copy, Debug)]
enum Event {
    Called(usize),
    Answered(usize),
}

/// What clients called and were answered, in the order in which it happened. Times are for the
/// reader; what counts is the order of the calls of these methods.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    events: Vec<Event>,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// No order of the operations explains the answers.
    #[error("linearizability: no order of these calls explains the answer that is marked\n{0}")]
    Inexplicable(Story),
    /// There are too many orders to try.
    #[error("linearizability: undecided after {TRIES_MAX} tries\n{0}")]
    Undecided(Story),
}

/// The calls of the keys in question, up to the answer that could not be explained, which is the
/// last one; it prints as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// The calls, by time.
    pub calls: Vec<Call>,
    /// The index of the one that could not be explained.
    pub marked: usize,
}

impl History {
    /// A client calls.
    pub fn call(&mut self, client: ClientId, called: Instant, operation: Operation) -> CallId {
        let id = self.calls.len();
        self.calls.push(Call { client, operation, called, answered: None });
        self.events.push(Event::Called(id));
        CallId(id)
    }

    /// A call is answered.
    ///
    /// # Panics
    /// When it was answered before.
    pub fn answer(&mut self, id: CallId, at: Instant, answer: Answer) {
        let call = &mut self.calls[id.0];
        assert!(call.answered.is_none(), "a call has one answer");
        call.answered = Some((at, answer));
        self.events.push(Event::Answered(id.0));
    }

    /// All calls, in their order.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Checks the whole history.
    ///
    /// # Errors
    /// When it is not linearizable, or that is too hard to tell.
    pub fn check(&self) -> Result<(), Objection> {
        for object in self.objects() {
            if let Err((stuck, undecided)) = Search::new(&self.calls).run(self.events_of(&object)) {
                let story = self.story(&object, stuck);
                return Err(match undecided {
                    true => Objection::Undecided(story),
                    false => Objection::Inexplicable(story),
                });
            }
        }
        Ok(())
    }

    /// The calls of each object: of a key, or of the keys that listings tie together.
    fn objects(&self) -> Vec<BTreeSet<usize>> {
        let mut objects: Vec<(BTreeSet<Bytes>, BTreeSet<usize>)> = Vec::new();
        let all: BTreeSet<_> = self.calls.iter().flat_map(named).collect();
        for (index, call) in self.calls.iter().enumerate() {
            let mut keys = named(call);
            if let Some(range) = Range::of(call) {
                keys.extend(all.iter().filter(|key| range.has(key)).cloned());
            }
            let (tied, mut others): (Vec<_>, Vec<_>) =
                objects.into_iter().partition(|(theirs, _)| !theirs.is_disjoint(&keys));
            let mut calls = BTreeSet::from([index]);
            for (more_keys, more_calls) in tied {
                keys.extend(more_keys);
                calls.extend(more_calls);
            }
            others.push((keys, calls));
            objects = others;
        }
        objects.into_iter().map(|(_, calls)| calls).collect()
    }

    fn events_of<'a>(&'a self, object: &'a BTreeSet<usize>) -> impl Iterator<Item = Event> + 'a {
        let of_it = |event: &Event| match event {
            Event::Called(id) | Event::Answered(id) => object.contains(id),
        };
        self.events.iter().copied().filter(of_it)
    }

    /// What of an object's calls had happened when an answer came.
    fn story(&self, object: &BTreeSet<usize>, stuck: usize) -> Story {
        let mut calls = BTreeMap::new();
        for event in self.events_of(object) {
            match event {
                Event::Called(id) => {
                    calls.insert(id, Call { answered: None, ..self.calls[id].clone() });
                }
                Event::Answered(id) => {
                    calls.insert(id, self.calls[id].clone());
                    if id == stuck {
                        break;
                    }
                }
            }
        }
        let marked = calls.keys().position(|id| *id == stuck).expect("it is one of them");
        Story { calls: calls.into_values().collect(), marked }
    }
}

/// The keys that a call or its answer names.
fn named(call: &Call) -> BTreeSet<Bytes> {
    match (&call.operation, &call.answered) {
        (Operation::List { .. }, Some((_, Answer::Listed { entries, .. }))) => {
            entries.iter().map(|(key, _)| key.clone()).collect()
        }
        (Operation::List { .. }, _) => BTreeSet::new(),
        (
            Operation::Get { key }
            | Operation::Put { key, .. }
            | Operation::Delete { key }
            | Operation::Swap { key, .. },
            _,
        ) => BTreeSet::from([key.clone()]),
    }
}

/// The keys that a listing speaks of.
struct Range<'a> {
    prefix: &'a Bytes,
    after: Option<&'a Bytes>,
    up_to: Option<&'a Bytes>,
}

impl<'a> Range<'a> {
    fn of(call: &'a Call) -> Option<Self> {
        let (Operation::List { prefix, after, .. }, Some((_, Answer::Listed { resume, .. }))) =
            (&call.operation, &call.answered)
        else {
            return None;
        };
        Some(Self { prefix, after: after.as_ref(), up_to: resume.as_ref() })
    }

    fn has(&self, key: &Bytes) -> bool {
        key.starts_with(self.prefix)
            && self.after.is_none_or(|after| key > after)
            && self.up_to.is_none_or(|up_to| key <= up_to)
    }
}

/// The store, as far as clients can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Store {
    cells: BTreeMap<Bytes, Cell>,
    /// The version of the last write that was answered.
    version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    value: Bytes,
    /// None as long as nobody was told.
    version: Option<u64>,
    /// It has a time to live, so it may be gone.
    is_mortal: bool,
}

impl Cell {
    /// Whether it can be what somebody was shown; then its version is known.
    fn shows(&mut self, held: &Held) -> bool {
        self.value == held.value && self.has_version(held.version)
    }

    fn has_version(&mut self, version: u64) -> bool {
        *self.version.get_or_insert(version) == version
    }
}

impl Store {
    fn cell(&mut self, key: &Bytes) -> Option<&mut Cell> {
        self.cells.get_mut(key)
    }

    /// Takes a key for absent, if it can be.
    fn is_absent(&mut self, key: &Bytes) -> bool {
        match self.cells.get(key) {
            Some(cell) if !cell.is_mortal => false,
            _ => {
                self.cells.remove(key);
                true
            }
        }
    }

    /// Writes, if the version that was answered can be the next one.
    fn write(&mut self, key: &Bytes, value: &Bytes, ttl: Option<Duration>, answer: Option<&Answer>) -> bool {
        let version = match answer {
            Some(Answer::Written(version)) if *version <= self.version => return false,
            Some(Answer::Written(version)) => Some(*version),
            _ => None,
        };
        self.version = version.unwrap_or(self.version);
        self.cells.insert(key.clone(), Cell { value: value.clone(), version, is_mortal: ttl.is_some() });
        true
    }
}

/// What the store holds after a call, if what it held before explains the answer.
fn step(before: &Store, call: &Call) -> Option<Store> {
    let mut store = before.clone();
    let answer = call.answered.as_ref().map(|(_, answer)| answer);
    let explained = match (&call.operation, answer) {
        (_, Some(Answer::Refused(_))) => true,
        (Operation::Get { key }, Some(Answer::Held(None))) => store.is_absent(key),
        (Operation::Get { key }, Some(Answer::Held(Some(held)))) => {
            store.cell(key).is_some_and(|cell| cell.shows(held))
        }
        (Operation::Put { key, value, ttl }, None | Some(Answer::Written(_))) => {
            store.write(key, value, *ttl, answer)
        }
        (Operation::Delete { key }, None | Some(Answer::Deleted(true))) => store.cells.remove(key).is_some(),
        (Operation::Delete { key }, Some(Answer::Deleted(false))) => store.is_absent(key),
        (Operation::Swap { key, expected, value, ttl }, None | Some(Answer::Written(_))) => {
            let fits = match expected {
                Expected::Absent => store.is_absent(key),
                Expected::Version(version) => store.cell(key).is_some_and(|cell| cell.has_version(*version)),
                Expected::Value(value) => store.cell(key).is_some_and(|cell| cell.value == *value),
            };
            fits && store.write(key, value, *ttl, answer)
        }
        (Operation::Swap { key, expected, .. }, Some(Answer::Differs(None))) => {
            *expected != Expected::Absent && store.is_absent(key)
        }
        (Operation::Swap { key, expected, .. }, Some(Answer::Differs(Some(version)))) => {
            store.cell(key).is_some_and(|cell| {
                let differs = match expected {
                    Expected::Absent => true,
                    Expected::Version(expected) => expected != version,
                    Expected::Value(expected) => cell.value != *expected,
                };
                differs && cell.has_version(*version)
            })
        }
        (Operation::List { .. }, Some(Answer::Listed { entries, .. })) => {
            let range = Range::of(call).expect("it is a listing with an answer");
            shows_all(&mut store, &range, entries)
        }
        _ => false,
    };
    explained.then_some(store)
}

/// Whether the store holds in a range what a listing shows, and nothing else.
fn shows_all(store: &mut Store, range: &Range<'_>, entries: &[(Bytes, Held)]) -> bool {
    let is_shown = |key: &Bytes| entries.iter().any(|(shown, _)| shown == key);
    let hidden: Vec<_> = store.cells.keys().filter(|key| range.has(key) && !is_shown(key)).cloned().collect();
    entries.is_sorted_by(|(a, _), (b, _)| a < b)
        && entries
            .iter()
            .all(|(key, held)| range.has(key) && store.cell(key).is_some_and(|cell| cell.shows(held)))
        && hidden.iter().all(|key| store.is_absent(key))
}

/// One way to explain the history so far.
#[derive(Clone, Debug, Default)]
struct Configuration {
    store: Store,
    /// Open calls that have had their moment and are answered later.
    done: BTreeSet<usize>,
    /// Calls that have had their moment and are never answered.
    spent: BTreeSet<usize>,
}

/// Configurations, without those that explain nothing beyond what others do: of two that are equal
/// otherwise, one that has spent fewer calls can go on in every way that the other one can.
#[derive(Debug, Default)]
struct Configurations(BTreeMap<(Store, BTreeSet<usize>), Vec<BTreeSet<usize>>>);

impl Configurations {
    /// Says whether it was news.
    fn add(&mut self, Configuration { store, done, spent }: Configuration) -> bool {
        let known = self.0.entry((store, done)).or_default();
        if known.iter().any(|other| other.is_subset(&spent)) {
            return false;
        }
        known.retain(|other| !spent.is_subset(other));
        known.push(spent);
        true
    }

    fn into_iter(self) -> impl Iterator<Item = Configuration> {
        self.0.into_iter().flat_map(|((store, done), spent)| {
            let with = move |spent| Configuration { store: store.clone(), done: done.clone(), spent };
            spent.into_iter().map(with)
        })
    }
}

struct Search<'a> {
    calls: &'a [Call],
    /// Calls that have no answer so far.
    open: BTreeSet<usize>,
    configurations: Configurations,
    tries: usize,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let mut configurations = Configurations::default();
        configurations.add(Configuration::default());
        Self { calls, open: BTreeSet::new(), configurations, tries: 0 }
    }

    /// Gives the answer that could not be explained, and whether that is for want of patience.
    fn run(mut self, events: impl Iterator<Item = Event>) -> Result<(), (usize, bool)> {
        for event in events {
            match event {
                Event::Called(id) => {
                    self.open.insert(id);
                }
                Event::Answered(id) => {
                    self.explain(id);
                    self.open.remove(&id);
                    let undecided = self.tries > TRIES_MAX;
                    if self.configurations.0.is_empty() || undecided {
                        return Err((id, undecided));
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps the configurations in which a call had its moment, after as many others as are needed;
    /// those that need few are found first.
    fn explain(&mut self, answered: usize) {
        let before = std::mem::take(&mut self.configurations);
        let mut ahead: VecDeque<_> = before.into_iter().collect();
        let mut seen = Configurations::default();
        while let Some(mut configuration) = ahead.pop_front() {
            let mut changes = Vec::new();
            for call in &self.open {
                let Configuration { store, done, spent } = &mut configuration;
                if done.contains(call) || spent.contains(call) {
                    continue;
                }
                self.tries += 1;
                match step(store, &self.calls[*call]) {
                    // What changes nothing may as well have its moment now, if it is to have one.
                    Some(next) if next == *store && self.calls[*call].answered.is_some() => {
                        done.insert(*call);
                    }
                    Some(next) if next != *store => changes.push((*call, next)),
                    _ => {}
                }
            }
            if self.tries > TRIES_MAX {
                return;
            }
            if configuration.done.remove(&answered) {
                self.configurations.add(configuration);
                continue;
            }
            for (call, store) in changes {
                let mut next = Configuration { store, ..configuration.clone() };
                match self.calls[call].answered {
                    Some(_) => next.done.insert(call),
                    None => next.spent.insert(call),
                };
                if seen.add(next.clone()) {
                    ahead.push_back(next);
                }
            }
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |at: Instant| at.0 as f64 / 1e6;
        for (index, Call { client, operation, called, answered }) in self.calls.iter().enumerate() {
            let mark = if index == self.marked { '>' } else { ' ' };
            let (until, answer) = match answered {
                Some((at, answer)) => (format!("{:.3}", ms(*at)), answer.to_string()),
                None => ("...".into(), "no answer".into()),
            };
            let operation = operation.to_string();
            writeln!(
                f,
                "{mark} client {client}  {:>10.3} .. {until:>10} ms  {operation:<34} -> {answer}",
                ms(*called)
            )?;
        }
        Ok(())
    }
}
