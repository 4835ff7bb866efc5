//! From the digest of a state down to the pages that differ from it.
//!
//! The pages that are here need not be of one moment: each partition stands under its own digest, and those
//! that have the digest they should have are right, wherever they come from. So a descent may begin from any
//! pages, and begin again for another state at any time: what it had already found for the former one and
//! is the same in the new one counts.

use bytes::Bytes;

use crate::crypto::{Digest, Scope};
use crate::message::{Space, wire::FETCH_PLACES_MAX};
use crate::mutation::{self, Mutation};
use crate::replica::execution::state_digest;
use crate::service::{Branch, FAN_OUT, LEVELS, Snapshot, State, page_digest};

/// The level of the whole state: its children are the two arrays of pages.
pub(super) const STATE_LEVEL: u32 = LEVELS + 1;
/// Among the children of the whole state, the next configuration: there at a boundary only, and nothing to be
/// fetched, because the protocol's pages say what it is.
pub(super) const NEXT: u8 = 2;

/// A page or partition that differs, and the digest that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) space: Space,
    pub(super) level: u32,
    pub(super) index: u64,
    digest: Digest,
}

/// What somebody says a place holds.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Branch(Branch),
    Page(Bytes),
}

/// Pages on their way to a state.
#[derive(Debug)]
pub(super) struct Descent {
    scope: Scope,
    protocol: State,
    service: State,
    /// What nobody was asked for; the deepest last, and first to be asked for: so it stays short.
    wanted: Vec<Want>,
}

impl Descent {
    /// Begins from some pages; all of them were digested.
    pub(super) fn new(scope: Scope, protocol: Snapshot, service: Snapshot) -> Self {
        Self { scope, protocol: protocol.into(), service: service.into(), wanted: Vec::new() }
    }

    /// Begins at the top, towards the state with this digest.
    pub(super) fn aim(&mut self, state: Digest) {
        self.wanted = vec![Want { space: Space::Protocol, level: STATE_LEVEL, index: 0, digest: state }];
    }

    /// Whether nothing is left to ask for.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Some places of one level to ask somebody for; none when [`is_idle`](Self::is_idle).
    pub(super) fn take(&mut self) -> Vec<Want> {
        let alike = self.wanted.chunk_by(|a, b| (a.space, a.level) == (b.space, b.level)).next_back();
        let count = alike.map_or(0, <[Want]>::len).min(FETCH_PLACES_MAX);
        self.wanted.split_off(self.wanted.len() - count)
    }

    /// Whoever was asked did not answer.
    pub(super) fn give_back(&mut self, wants: impl IntoIterator<Item = Want>) {
        self.wanted.extend(wants);
    }

    /// Places that nobody was asked for.
    #[cfg(feature = "sim")]
    pub(super) fn wanted_count(&self) -> usize {
        self.wanted.len()
    }

    /// Bytes of all pages.
    pub(super) fn bytes(&self) -> u64 {
        self.protocol.bytes() + self.service.bytes()
    }

    /// Takes in what a place holds, if it is what the digest vouches for.
    pub(super) fn take_in(&mut self, want: &Want, found: Found) -> bool {
        match found {
            Found::Page(bytes) if want.level == 0 => {
                let holds = page_digest(&self.scope, &bytes) == want.digest;
                (holds || mutation::is_on(Mutation::TrustPages))
                    && self.space_mut(want.space).put(want.index, &bytes, want.digest)
            }
            Found::Branch(branch) if want.level == STATE_LEVEL => {
                let child = |wanted| {
                    let found = branch.children.iter().find(|(child, _)| *child == wanted);
                    found.map_or(Digest::ZERO, |(_, digest)| *digest)
                };
                let (protocol, service) = (child(0), child(1));
                let next = branch.children.iter().find(|(child, _)| *child == NEXT).map(|(_, digest)| digest);
                let holds = state_digest(&self.scope, &protocol, &service, next) == want.digest;
                if !holds && !mutation::is_on(Mutation::TrustMetaData) {
                    return false;
                }
                for (space, digest) in [(Space::Protocol, protocol), (Space::Service, service)] {
                    self.compare(space, vec![(LEVELS, 0, digest)]);
                }
                true
            }
            Found::Branch(branch) if want.level > 0 && branch.level <= want.level => {
                let holds = branch.digest(&self.scope) == Some(want.digest);
                if holds || mutation::is_on(Mutation::TrustMetaData) {
                    self.compare(want.space, children(want, &branch));
                    return true;
                }
                false
            }
            Found::Page(_) | Found::Branch(_) => false,
        }
    }

    /// Wants those places whose digests differ from what they should be, and empties those that should be.
    fn compare(&mut self, space: Space, places: Vec<(u32, u64, Digest)>) {
        let scope = self.scope;
        let (own, _) = self.space_mut(space).snapshot(&scope);
        let differ = |place: &(u32, u64, Digest)| own.digest_at(place.0, place.1) != place.2;
        let differing: Vec<_> = places.into_iter().filter(differ).collect();
        drop(own); // else what changes below would be copied first
        for (level, index, digest) in differing {
            if digest != Digest::ZERO {
                self.wanted.push(Want { space, level, index, digest });
            } else if !mutation::is_on(Mutation::KeepVanished) {
                self.space_mut(space).clear(level, index);
            }
        }
    }

    fn space_mut(&mut self, space: Space) -> &mut State {
        match space {
            Space::Protocol => &mut self.protocol,
            Space::Service => &mut self.service,
        }
    }

    /// The pages of both arrays, as they are now.
    pub(super) fn states(&self) -> (State, State) {
        (self.protocol.clone(), self.service.clone())
    }
}

/// The places below a partition, with the digests that they should have. A branch from further down says
/// that all beside it is empty.
fn children(want: &Want, branch: &Branch) -> Vec<(u32, u64, Digest)> {
    let fan_out = FAN_OUT as u64;
    let mut places = Vec::new();
    let mut first = want.index;
    for level in (branch.level..want.level).rev() {
        first *= fan_out;
        places.extend((1..fan_out).map(|child| (level, first + child, Digest::ZERO)));
    }
    let mut given = branch.children.iter().peekable();
    for child in 0..fan_out {
        let digest = given.next_if(|(index, _)| u64::from(*index) == child).map(|(_, digest)| *digest);
        places.push((branch.level - 1, first * fan_out + child, digest.unwrap_or(Digest::ZERO)));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::btree_map, prelude::*};

    use super::super::super::execution::Image;
    use super::*;
    use crate::crypto::DigestAlgorithm;
    use crate::group::Sequence;
    use crate::message::{Fetch, Message, wire::encode_body};

    const SCOPE: Scope = Scope { group: [1; 16], configuration: 0, algorithm: DigestAlgorithm::Sha256 };

    type Pages = BTreeMap<u64, Vec<u8>>;

    fn state(pages: &Pages) -> State {
        let mut state = State::default();
        pages.iter().for_each(|(index, bytes)| state.write(*index, bytes));
        state
    }

    fn image(protocol: &Pages, service: &Pages) -> Image {
        let (protocol, service) = (state(protocol).snapshot(&SCOPE), state(service).snapshot(&SCOPE));
        Image {
            sequence: Sequence(8),
            digest: state_digest(&SCOPE, &protocol.1, &service.1, None),
            next: None,
            protocol: protocol.0,
            service: service.0,
            size: 0,
            root: Digest::ZERO,
        }
    }

    /// Asks `from` until nothing is wanted any more; gives the bytes of pages, and of all else that moved.
    fn fetch(descent: &mut Descent, from: &Image) -> (usize, usize) {
        let (mut pages, mut rest) = (0, 0);
        descent.aim(from.digest);
        while !descent.is_idle() {
            let mut wants = descent.take();
            let Want { space, level, .. } = wants[0];
            let indexes = wants.iter().map(|want| want.index).collect();
            let fetch = Fetch { sequence: Sequence(8), space, level, indexes };
            let (answer, _) = from.answer(&fetch).expect("nothing is asked for that is not there");
            rest += encode_body(&Message::Fetch(fetch)).len() + encode_body(&answer).len();
            let found: Vec<_> = match answer {
                Message::Data(data) => data.pages.into_iter().map(|page| Found::Page(page.bytes)).collect(),
                Message::MetaData(data) => {
                    data.partitions.into_iter().map(|(_, branch)| Found::Branch(branch)).collect()
                }
                other => panic!("{other:?} answers nothing"),
            };
            for (want, found) in wants.drain(..found.len()).zip(found) {
                if let Found::Page(bytes) = &found {
                    pages += bytes.len();
                }
                assert!(descent.take_in(&want, found), "an honest answer fits");
            }
            descent.give_back(wants);
        }
        (pages, rest - pages)
    }

    /// Some are small, so that trees are of different depth; some close together.
    fn pages() -> impl Strategy<Value = Pages> {
        let index = prop_oneof![0..40u64, 250..300u64, 0..5000u64, 0..1u64 << 30];
        let bytes = (any::<u8>(), 1..300usize).prop_map(|(byte, length)| vec![byte % 4; length]);
        btree_map(index, bytes, 0..60)
    }

    /// A change of some pages; an empty one clears.
    fn changed(mut pages: Pages, changes: Pages, cleared: &[prop::sample::Index]) -> Pages {
        for index in cleared {
            if let Some(page) = pages.keys().nth(index.index(pages.len().max(1))).copied() {
                pages.remove(&page);
            }
        }
        pages.extend(changes);
        pages
    }

    /// Pages of `to` that are not the same in `from`: their bytes, and their number with that of vanished ones.
    fn difference(from: &Pages, to: &Pages) -> (usize, usize) {
        let new = to.iter().filter(|(index, bytes)| from.get(index) != Some(bytes));
        let bytes = new.clone().map(|(_, bytes)| bytes.len()).sum();
        (bytes, new.count() + from.keys().filter(|index| !to.contains_key(index)).count())
    }

    proptest! {
        #[test]
        fn descent_ends_in_the_state_and_moves_what_differs(
            (one, other) in (pages(), pages()),
            changes in pages(),
            cleared in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
            unlike in any::<bool>(),
        ) {
            let other = if unlike { other } else { changed(one.clone(), changes, &cleared) };
            let (from, to) = (image(&Pages::new(), &one), image(&other, &other));
            let mut descent = Descent::new(SCOPE, from.protocol.clone(), from.service.clone());
            let (moved, rest) = fetch(&mut descent, &to);
            let (mut protocol, mut service) = descent.states();
            prop_assert_eq!(service.snapshot(&SCOPE).1, to.service.digest_at(LEVELS, 0));
            prop_assert_eq!(protocol.snapshot(&SCOPE).1, to.protocol.digest_at(LEVELS, 0));
            for (index, bytes) in one.iter().chain(&other) {
                let wanted = other.get(index).map_or(&[][..], |bytes| bytes);
                prop_assert_eq!(service.page(*index), wanted, "page {} was {:?}", index, bytes);
                prop_assert_eq!(protocol.page(*index), wanted);
            }
            prop_assert_eq!(descent.bytes(), 2 * other.values().map(|bytes| bytes.len() as u64).sum::<u64>());
            let (service_bytes, service_count) = difference(&one, &other);
            let (protocol_bytes, protocol_count) = difference(&Pages::new(), &other);
            // Each page that differs is moved once, and no other.
            prop_assert_eq!(moved, service_bytes + protocol_bytes);
            // A path of partitions leads to each, with the digests of all its children, and a FETCH; and
            // each page has its place with it.
            let path = LEVELS as usize * (FAN_OUT * 32 + 64) + 64;
            prop_assert!(rest <= 256 + (service_count + protocol_count) * path, "{rest} bytes of meta-data");
        }

        #[test]
        fn what_was_taken_in_for_one_state_counts_for_the_next(
            one in pages(), changes in pages(), later in pages(),
        ) {
            let (two, three) = (changed(one.clone(), changes, &[]), one.clone());
            let three = changed(changed(three, two.clone(), &[]), later, &[]);
            let (from, to) = (image(&one, &one), image(&two, &two));
            let mut descent = Descent::new(SCOPE, from.protocol.clone(), from.service.clone());
            fetch(&mut descent, &to);
            let (moved, _) = fetch(&mut descent, &image(&three, &three));
            prop_assert_eq!(moved, 2 * difference(&two, &three).0);
            prop_assert_eq!(descent.states().1.snapshot(&SCOPE).1, image(&three, &three).service.digest_at(LEVELS, 0));
        }
    }

    #[test]
    fn nothing_is_taken_in_that_its_digest_does_not_vouch_for() {
        let pages = |byte: u8| Pages::from([(0, vec![byte; 10]), (700, vec![byte; 20])]);
        let (from, to) = (image(&pages(1), &pages(1)), image(&pages(1), &pages(2)));
        let mut descent = Descent::new(SCOPE, from.protocol.clone(), from.service.clone());
        descent.aim(to.digest);
        let mut checked = 0;
        while !descent.is_idle() {
            for want in descent.take() {
                let Want { space, level, index, .. } = want;
                let indexes = vec![index];
                let answer = |from: &Image| match from.answer(&Fetch {
                    sequence: Sequence(8),
                    space,
                    level,
                    indexes: indexes.clone(),
                }) {
                    Some((Message::Data(data), _)) => Found::Page(data.pages[0].bytes.clone()),
                    Some((Message::MetaData(data), _)) => Found::Branch(data.partitions[0].1.clone()),
                    other => panic!("{other:?} answers nothing"),
                };
                assert!(!descent.take_in(&want, answer(&from)), "the state that is here, at level {level}");
                let other_form = match answer(&to) {
                    Found::Page(_) => Found::Branch(Branch { level: 1, children: vec![(0, want.digest)] }),
                    Found::Branch(_) => Found::Page(Bytes::from_static(b"page")),
                };
                assert!(!descent.take_in(&want, other_form));
                assert!(descent.is_idle() || level != STATE_LEVEL, "nothing came of it");
                assert!(descent.take_in(&want, answer(&to)));
                checked += 1;
            }
        }
        assert_eq!(checked, 1 + 1 + 3 + 2, "the state, the root, three partitions on the way, two pages");
    }
}
