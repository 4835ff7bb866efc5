//! Replicas that lie: each is a real replica whose words are twisted on their way out, or its ears on
//! their way in, one kind of lie a file. It signs and tags with its own keys, so what it says is
//! proven to be its own; what it passes on of others is theirs.
//!
//! All liars of a run share one [`Plot`]: they know each other, have each other's keys, and agree
//! whom to tell what. What they say beyond their replicas' words is bounded by an [`Allowance`], so
//! that a run ends.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::crypto::{Domain, Keychain, Kind, Principal};
use crate::group::{Configuration, ReplicaId};
use crate::message::{Checkpoint, Message, Proof, Unverified, ViewChange, state_statement};
use crate::time::Instant;

use super::Setup;
use super::random::Random;

mod amnesia;
mod censorship;
mod certificates;
mod checkpoints;
mod epochs;
mod equivocation;
mod flood;
mod half_truths;
mod operations;
mod pages;
mod plot;
mod replay;
mod results;
mod silence;
mod slowness;
mod storm;
mod stuffing;
mod tags;
mod time;
mod twins;
mod view_changes;
mod voice;
mod votes;

use plot::Plot;
use voice::{Allowance, Voice};

/// The kinds of faulty replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Adversary {
    /// Hears everything and says nothing.
    Silence,
    /// As primary, orders one batch for one half and another one for the other half, and votes on
    /// both sides; as backup of another such primary, votes on both sides too.
    Equivocation,
    /// Answers clients with wrong results, or names wrong batches.
    WrongResults,
    /// Answers clients with what is right in part: results without their place, or digests alone.
    HalfTruths,
    /// Vouches for states that nobody has, and for those that there are in the wrong order.
    WrongCheckpoints,
    /// Tells one half in its VIEW-CHANGE that nothing was ever prepared.
    HiddenViewChanges,
    /// Serves states with a wrong page, and wrong batches.
    WrongPages,
    /// Tags what it says for one half only, and spoils clients' tags for the other half.
    SelectiveTags,
    /// Says again what was said in earlier views and windows, by itself and by others.
    Replay,
    /// Makes up certificates, view-changes and new-views.
    ForgedCertificates,
    /// As primary, orders as slowly as it can without being voted out.
    Slowness,
    /// Asks for ever higher views.
    ViewChangeStorm,
    /// Says everything several times, votes for junk in every place, asks for everything.
    Flood,
    /// Two replicas under one identity, each dealing with its own side.
    Twins,
    /// Votes for whatever anybody proposes or votes for.
    VotesForAll,
    /// Never hears one of the clients.
    Censorship,
    /// As primary, gives batches times that are far ahead or go backwards.
    WrongTime,
    /// As primary, adds requests to its batches: old ones, and some that it makes up.
    StuffedBatches,
    /// Now and then forgets everything, and begins again under its old key.
    Amnesia,
    /// Says again what others said under session keys that may have been refreshed since.
    OldEpochs,
    /// Brings wrong operations, or none, to whoever lacks those that a batch names.
    WrongOperations,
}

impl Adversary {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::Silence,
        Self::Equivocation,
        Self::WrongResults,
        Self::HalfTruths,
        Self::WrongCheckpoints,
        Self::HiddenViewChanges,
        Self::WrongPages,
        Self::SelectiveTags,
        Self::Replay,
        Self::ForgedCertificates,
        Self::Slowness,
        Self::ViewChangeStorm,
        Self::Flood,
        Self::Twins,
        Self::VotesForAll,
        Self::Censorship,
        Self::WrongTime,
        Self::StuffedBatches,
        Self::Amnesia,
        Self::OldEpochs,
        Self::WrongOperations,
    ];

    /// Its name, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Equivocation => "equivocation",
            Self::WrongResults => "wrong results",
            Self::HalfTruths => "half truths",
            Self::WrongCheckpoints => "wrong checkpoints",
            Self::HiddenViewChanges => "hidden view-changes",
            Self::WrongPages => "wrong pages",
            Self::SelectiveTags => "selective tags",
            Self::Replay => "replay",
            Self::ForgedCertificates => "forged certificates",
            Self::Slowness => "slowness",
            Self::ViewChangeStorm => "view-change storm",
            Self::Flood => "flood",
            Self::Twins => "twins",
            Self::VotesForAll => "votes for all",
            Self::Censorship => "censorship",
            Self::WrongTime => "wrong time",
            Self::StuffedBatches => "stuffed batches",
            Self::Amnesia => "amnesia",
            Self::OldEpochs => "old epochs",
            Self::WrongOperations => "wrong operations",
        }
    }

    fn lie(self, random: &mut Random, setup: &Setup) -> Box<dyn Lie> {
        match self {
            Self::Silence => Box::new(silence::Silence),
            Self::Equivocation => Box::new(equivocation::Equivocation),
            Self::WrongResults => Box::new(results::WrongResults),
            Self::HalfTruths => Box::new(half_truths::HalfTruths),
            Self::WrongCheckpoints => Box::new(checkpoints::WrongCheckpoints::default()),
            Self::HiddenViewChanges => Box::new(view_changes::HidesFromSome),
            Self::WrongPages => Box::new(pages::WrongPages),
            Self::SelectiveTags => Box::new(tags::SelectiveTags),
            Self::Replay => Box::new(replay::Replay::default()),
            Self::ForgedCertificates => Box::new(certificates::ForgedCertificates::default()),
            Self::Slowness => Box::new(slowness::Slowness::new(random)),
            Self::ViewChangeStorm => Box::new(storm::Storm::default()),
            Self::Flood => Box::new(flood::Flood::default()),
            Self::Twins => Box::new(twins::Twins::new(setup.seed)),
            Self::VotesForAll => Box::new(votes::VotesForAll),
            Self::Censorship => Box::new(censorship::Censorship::new(random, &setup.configuration)),
            Self::WrongTime => Box::new(time::WrongTime::default()),
            Self::StuffedBatches => Box::new(stuffing::StuffedBatches::default()),
            Self::Amnesia => Box::new(amnesia::Amnesia),
            Self::OldEpochs => Box::new(epochs::OldEpochs::default()),
            Self::WrongOperations => Box::new(operations::WrongOperations),
        }
    }
}

impl std::fmt::Display for Adversary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What becomes of the words and the ears of a faulty replica.
trait Lie: std::fmt::Debug {
    /// What it says to `to` instead of its own `message`.
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let _ = (to, message, voice);
        Said::Truth
    }

    /// What it takes in instead of a message that reaches it.
    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        let _ = (message, voice);
        Heard::Truth
    }

    /// Which of two twins deals with `peer` now.
    fn side(&self, peer: Principal, now: Instant) -> usize {
        let _ = (peer, now);
        0
    }
}

/// What a lie does with one message to one receiver.
enum Said {
    /// It goes out as it is.
    Truth,
    /// This goes out.
    Lie(Box<Message>),
    /// It goes out with a proof that convinces nobody.
    Unproven,
    /// It goes out later.
    Late(Duration),
    /// Nothing goes out.
    Nothing,
}

/// What a liar does with one message that reaches it.
enum Heard {
    /// It takes it in.
    Truth,
    /// It takes this in.
    Lie(Box<Unverified<Message>>),
    /// It takes nothing in.
    Nothing,
}

/// A message of a liar on its way out.
#[derive(Debug)]
pub(super) struct Spoken {
    pub(super) to: Principal,
    pub(super) message: Unverified<Message>,
    pub(super) held_back: Duration,
}

/// What came of a message that reached a liar.
#[derive(Debug)]
pub(super) struct Hearing {
    /// What its replica takes in.
    pub(super) message: Option<Unverified<Message>>,
    /// What it says to that.
    pub(super) spoken: Vec<Spoken>,
    /// It loses its memory before it takes anything in.
    pub(super) forgets: bool,
}

/// The liars of a run.
#[derive(Debug)]
pub(super) struct Liars {
    liars: BTreeMap<ReplicaId, Liar>,
    plot: Plot,
}

/// A replica that is faulty in one way.
#[derive(Debug)]
struct Liar {
    kind: Adversary,
    lie: Box<dyn Lie>,
    random: Random,
    allowance: Allowance,
    lies: u64,
}

impl Liars {
    pub(super) fn new(configuration: &Configuration) -> Self {
        Self { liars: BTreeMap::new(), plot: Plot::new(configuration) }
    }

    pub(super) fn add(&mut self, kind: Adversary, keychain: Keychain, seed: u64, setup: &Setup) {
        let Principal::Replica(id) = keychain.me() else { return };
        let mut random = Random::new(seed);
        let lie = kind.lie(&mut random, setup);
        self.plot.join(id, keychain);
        self.liars.insert(id, Liar { kind, lie, random, allowance: Allowance::default(), lies: 0 });
    }

    /// Somebody else has a liar's place.
    pub(super) fn remove(&mut self, id: ReplicaId) {
        self.liars.remove(&id);
        self.plot.leave(id);
    }

    /// A liar goes over to another configuration, as the replica whose words it twists.
    pub(super) fn follow(&mut self, id: ReplicaId, configuration: &Configuration) {
        self.plot.follow(id, configuration);
    }

    pub(super) fn kind(&self, id: ReplicaId) -> Option<Adversary> {
        self.liars.get(&id).map(|liar| liar.kind)
    }

    pub(super) fn lies(&self, id: ReplicaId) -> u64 {
        self.liars.get(&id).map_or(0, |liar| liar.lies)
    }

    pub(super) fn lied(&mut self, id: ReplicaId) {
        self.liars.entry(id).and_modify(|liar| liar.lies += 1);
    }

    pub(super) fn side(&self, id: ReplicaId, peer: Principal, now: Instant) -> usize {
        self.liars.get(&id).map_or(0, |liar| liar.lie.side(peer, now))
    }

    /// What reaches the network when a liar's replica says something.
    pub(super) fn says(
        &mut self,
        id: ReplicaId,
        to: Principal,
        message: Unverified<Message>,
        now: Instant,
        setup: &Setup,
    ) -> Vec<Spoken> {
        let spoken = |message, held_back| Spoken { to, message, held_back };
        let Some(liar) = self.liars.get_mut(&id).filter(|_| message.sender == Principal::Replica(id)) else {
            return vec![spoken(message, Duration::ZERO)]; // somebody else's words, passed on
        };
        let mut voice = Voice::new(id, &mut self.plot, &mut liar.random, (now, setup));
        let said = liar.lie.says(to, &message.body, &mut voice);
        let more = voice.end(&mut liar.allowance);
        liar.lies += more.len() as u64 + u64::from(!matches!(said, Said::Truth));
        let first = match said {
            Said::Truth => Some(spoken(message, Duration::ZERO)),
            Said::Late(held_back) => Some(spoken(message, held_back)),
            Said::Lie(body) => Some(spoken(prove(self.plot.keys(id), to, *body), Duration::ZERO)),
            Said::Unproven => Some(spoken(spoil(message), Duration::ZERO)),
            Said::Nothing => None,
        };
        first.into_iter().chain(more).collect()
    }

    /// What comes of a message that reaches a liar.
    pub(super) fn hears(
        &mut self,
        id: ReplicaId,
        message: Unverified<Message>,
        now: Instant,
        setup: &Setup,
    ) -> Hearing {
        let Some(liar) = self.liars.get_mut(&id) else {
            return Hearing { message: Some(message), spoken: Vec::new(), forgets: false };
        };
        let mut voice = Voice::new(id, &mut self.plot, &mut liar.random, (now, setup));
        let heard = liar.lie.hears(&message, &mut voice);
        let forgets = voice.forgets;
        let spoken = voice.end(&mut liar.allowance);
        liar.lies += spoken.len() as u64 + u64::from(forgets || !matches!(heard, Heard::Truth));
        let message = match heard {
            Heard::Truth => Some(message),
            Heard::Lie(message) => Some(*message),
            Heard::Nothing => None,
        };
        Hearing { message, spoken, forgets }
    }
}

/// A message as the keychain's owner sends it to `to`, whoever said it first: a CHECKPOINT's vote is
/// signed, too.
#[must_use]
pub fn prove(keychain: &Keychain, to: Principal, mut body: Message) -> Unverified<Message> {
    if let Message::Checkpoint(Checkpoint { sequence, state, vote, .. }) = &mut body {
        *vote = keychain.sign(Domain::new(Kind::Checkpoint, 0), &state_statement(*sequence, state));
    }
    body.proven_by(keychain, to)
}

/// Makes a message's proof void.
fn spoil(mut message: Unverified<Message>) -> Unverified<Message> {
    let flipped = |bytes: &[u8]| bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>().into();
    match &mut message.proof {
        Proof::Tag(tag) => tag.0[0] ^= 1,
        Proof::Authenticator(tags) => tags.0 = flipped(&tags.0),
        Proof::Signature(signature) => signature.0 = flipped(&signature.0),
        Proof::Nothing => {}
    }
    message
}

/// A VIEW-CHANGE that says nothing of what was prepared.
fn forgetful(message: &ViewChange) -> ViewChange {
    ViewChange { prepared: Vec::new(), pre_prepared: Vec::new(), ..message.clone() }
}
