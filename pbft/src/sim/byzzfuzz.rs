//! ByzzFuzz's scheme (Winter et al., *Randomized Testing of Byzantine Fault Tolerant Algorithms*,
//! OOPSLA 2023): faults that strike by the protocol's rounds, and not by the clock.
//!
//! A run is calm but for d network faults and c process faults, each in one of the first r rounds.
//! A network fault splits the group for one round. A process fault changes what a faulty replica says
//! in one round to some of the others: by little, in value (a view or a sequence number off by one,
//! another digest), in time (what it said before, once more), or by leaving it out. What is changed
//! is tagged and signed anew, so that it is taken seriously.
//!
//! A round is a step of the protocol for one batch or one view: the PRE-PREPARE of batch 3 in view 0,
//! its PREPAREs, its COMMITs, the VIEW-CHANGEs for view 1 … Rounds are numbered from 1 as the first of
//! the group comes to each. A message that is no such step is of the round its sender came to last.
//!
//! **Where this differs from the paper:** up to f replicas are faulty, not one; what is sent again is of
//! the round that it was of, so a network fault lasts until all is healed; and replies are not changed,
//! because there is an adversary for that.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::random::Random;
use super::run::{self, Failed, Report};
use super::schedule::{Draw, Schedule, Scheme, Step};
use super::{Setup, adversary};
use crate::crypto::{Digest, Keychain, Principal};
use crate::group::{ReplicaId, Sequence, View};
use crate::message::{Claim, Message, Unverified, wire};

/// A fault that strikes when its round comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is said in this round does not get from one side to the other.
    Network {
        /// The round.
        round: u64,
        /// One side; the others are the other one.
        side: Vec<ReplicaId>,
    },
    /// What a replica says in this round to some of the others is changed.
    Process {
        /// The round.
        round: u64,
        /// Who says it.
        replica: ReplicaId,
        /// To whom.
        to: Vec<ReplicaId>,
        /// How it is changed follows from this.
        seed: u64,
    },
}

impl Fault {
    fn round(&self) -> u64 {
        match self {
            Self::Network { round, .. } | Self::Process { round, .. } => *round,
        }
    }
}

/// Runs a seed of this scheme.
///
/// # Errors
/// As [`run::seed`].
pub fn seed(seed: u64, operations: u64) -> Result<Report, Failed> {
    run::under(Scheme::ByzzFuzz, seed, operations)
}

/// The most rounds that faults are spread over.
const ROUNDS_MAX: u64 = 40;

/// A calm run in which c + d faults strike.
pub(super) fn schedule(seed: u64, operations: u64) -> Schedule {
    let mut draw = Draw::begin(seed);
    let n = 3 * draw.terms.f + 1;
    let rounds = 4 + draw.random.below(ROUNDS_MAX - 3);
    let faulty: Vec<_> = (0..draw.terms.f).map(|_| draw.some_replica()).collect();
    for _ in 0..draw.random.below(4) {
        let (round, mask) = (1 + draw.random.below(rounds), draw.random.number());
        let side = (0..n).filter(|id| mask >> id & 1 == 1).map(ReplicaId).collect();
        draw.steps.push(Step::Strike(Fault::Network { round, side }));
    }
    for _ in 0..1 + draw.random.below(8) {
        let (round, mask) = (1 + draw.random.below(rounds), draw.random.number());
        let pick = usize::try_from(draw.random.below(faulty.len() as u64)).expect("few");
        let replica = faulty[pick];
        let others = (0..n).map(ReplicaId).filter(|id| *id != replica && mask >> id.0 & 1 == 1);
        let fault = Fault::Process { round, replica, to: others.collect(), seed: draw.random.number() };
        draw.steps.push(Step::Strike(fault));
    }
    while draw.operations < operations {
        draw.work();
        draw.pause();
    }
    draw.end()
}

/// The steps that make up rounds, in their order.
type Place = (View, Sequence, u8);

/// What strikes in a run.
#[derive(Debug, Default)]
pub(super) struct Fuzz {
    faults: Vec<Fault>,
    /// The keys of those that are faulty.
    keychains: BTreeMap<ReplicaId, Keychain>,
    /// The rounds so far, up to the last one with a fault.
    rounds: BTreeMap<Place, u64>,
    /// The round that each replica came to last.
    reached: BTreeMap<ReplicaId, u64>,
    /// What faulty replicas said last, of each kind, in a round before the present one.
    said: BTreeMap<(ReplicaId, u8), Said>,
    struck: u64,
}

/// What a faulty replica said of a kind: now, and before.
#[derive(Debug)]
struct Said {
    round: u64,
    last: Message,
    before: Option<Message>,
}

impl Fuzz {
    pub(super) fn add(&mut self, fault: Fault, setup: &Setup) {
        if let Fault::Process { replica, .. } = fault {
            let configuration = &setup.configuration;
            let me = Principal::Replica(replica);
            self.keychains
                .entry(replica)
                .or_insert_with(|| Keychain::fast(configuration.scope(), configuration.public_keys(), me));
        }
        self.faults.push(fault);
    }

    /// The network is whole from now on; who is faulty stays so.
    pub(super) fn mend(&mut self) {
        self.faults.retain(|fault| matches!(fault, Fault::Process { .. }));
    }

    /// Whether what a replica says may be changed.
    pub(super) fn is_faulty(&self, id: ReplicaId) -> bool {
        self.keychains.contains_key(&id)
    }

    /// How many messages were changed or lost.
    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// What becomes of a message.
    pub(super) fn fate(
        &mut self,
        from: Principal,
        to: Principal,
        message: Unverified<Message>,
    ) -> Option<Unverified<Message>> {
        let (Principal::Replica(sender), Principal::Replica(receiver)) = (from, to) else {
            return Some(message);
        };
        if self.faults.is_empty() || message.sender != from {
            return Some(message); // passed on: nothing of the sender's own
        }
        let round = self.round(sender, &message.body);
        if self.is_faulty(sender) {
            self.remember(sender, round, &message.body);
        }
        for fault in &self.faults {
            match fault {
                Fault::Network { round: at, side }
                    if *at == round && side.contains(&sender) != side.contains(&receiver) =>
                {
                    self.struck += 1;
                    return None;
                }
                Fault::Process { round: at, replica, to: receivers, seed }
                    if (*at, *replica) == (round, sender) && receivers.contains(&receiver) =>
                {
                    self.struck += 1;
                    let before = self.said.get(&(sender, message.body.kind() as u8));
                    let before = before.and_then(|said| said.before.as_ref());
                    let changed = change(message.body, before, &mut Random::new(*seed))?;
                    return Some(adversary::prove(&self.keychains[&sender], to, changed));
                }
                _ => {}
            }
        }
        Some(message)
    }

    /// The round of a message.
    fn round(&mut self, sender: ReplicaId, message: &Message) -> u64 {
        let last = self.faults.iter().map(Fault::round).max().unwrap_or(0);
        if let Some(place) = place(message) {
            let next = self.rounds.len() as u64 + 1;
            // Of the rounds behind the last fault it is enough to know that they are there.
            let round = match self.rounds.get(&place) {
                Some(round) => *round,
                None if next <= last => *self.rounds.entry(place).or_insert(next),
                None => last + 1,
            };
            self.reached.insert(sender, round);
        }
        self.reached.get(&sender).copied().unwrap_or(0)
    }

    fn remember(&mut self, sender: ReplicaId, round: u64, message: &Message) {
        let key = (sender, message.kind() as u8);
        match self.said.get_mut(&key) {
            Some(said) if said.round == round => said.last = message.clone(),
            Some(said) => {
                let before = std::mem::replace(&mut said.last, message.clone());
                (said.round, said.before) = (round, Some(before));
            }
            None => {
                self.said.insert(key, Said { round, last: message.clone(), before: None });
            }
        }
    }
}

fn place(message: &Message) -> Option<Place> {
    match message {
        Message::PrePrepare(m) => Some((m.view, m.sequence, 0)),
        Message::Prepare(m) => Some((m.view, m.sequence, 1)),
        Message::Commit(m) => Some((m.view, m.sequence, 2)),
        Message::ViewChange(m) => Some((m.view, Sequence(0), 0)),
        Message::NewView(m) => Some((m.view, Sequence(0), 1)),
        _ => None,
    }
}

/// A message with a small change, or none when it is left out. The same numbers change the same
/// message the same way, whoever is to get it.
fn change(mut message: Message, before: Option<&Message>, random: &mut Random) -> Option<Message> {
    match random.below(8) {
        0 => return None,
        1 if before.is_some() => return before.cloned(),
        _ => {}
    }
    let up = random.chance(500);
    let number = |value: &mut u64| *value = if up { *value + 1 } else { value.saturating_sub(1) };
    let digest = |digest: &mut Digest| digest.0[0] ^= 1;
    let field = random.below(3);
    match &mut message {
        Message::PrePrepare(m) => match field {
            0 => number(&mut m.view.0),
            1 => number(&mut m.sequence.0),
            _ => m.batch = wire::batch(m.batch.time + 1, m.batch.seal, m.batch.requests.clone()),
        },
        Message::Prepare(m) => match field {
            0 => number(&mut m.view.0),
            1 => number(&mut m.sequence.0),
            _ => digest(&mut m.digest),
        },
        Message::Commit(m) => match field {
            0 => number(&mut m.view.0),
            1 => number(&mut m.sequence.0),
            _ => digest(&mut m.digest),
        },
        Message::Checkpoint(m) => match field {
            0 => number(&mut m.sequence.0),
            1 => digest(&mut m.root),
            _ => digest(&mut m.state),
        },
        Message::ViewChange(m) => match field {
            0 => number(&mut m.view.0),
            1 => some_claim(&mut m.prepared, random),
            _ => some_claim(&mut m.pre_prepared, random),
        },
        Message::NewView(m) => match field {
            0 => number(&mut m.view.0),
            1 => drop(m.view_changes.pop()),
            _ => m.view_changes.extend(m.view_changes.first().cloned()),
        },
        Message::Status(m) => match field {
            0 => number(&mut m.view.0),
            1 => number(&mut m.stable.0),
            _ => number(&mut m.executed.0),
        },
        Message::Fetch(m) => number(&mut m.sequence.0),
        Message::MetaData(m) => number(&mut m.sequence.0),
        Message::Data(m) => number(&mut m.sequence.0),
        Message::Body(m) => match field {
            0 => number(&mut m.sequence.0),
            _ => m.batch = m.batch.with(|request| Some(vec![Bytes::new(); request.body.count()])),
        },
        Message::Want(m) => digest(&mut m.digest),
        Message::Committed(m) => match field {
            0 => number(&mut m.sequence.0),
            _ => digest(&mut m.digest),
        },
        Message::Vouch(m) => m.requests.iter_mut().for_each(|(_, request)| digest(request)),
        Message::Doubt(m) => match field {
            0 => number(&mut m.view.0),
            1 => number(&mut m.sequence.0),
            _ => digest(&mut m.digest),
        },
        Message::Stable(m) => number(&mut m.sequence.0),
        Message::Configured(m) => number(&mut m.number),
        Message::Succession(m) => number(&mut m.start.0),
        Message::Request(_) | Message::Reply(_) | Message::Busy(_) | Message::Seal(_) => {}
    }
    Some(message)
}

/// One claim is changed, or left out.
fn some_claim(claims: &mut Vec<Claim>, random: &mut Random) {
    if claims.is_empty() {
        return;
    }
    let pick = usize::try_from(random.below(claims.len() as u64)).expect("an index");
    match random.below(4) {
        0 => drop(claims.remove(pick)),
        1 => claims[pick].view.0 += 1,
        2 => claims[pick].view.0 = claims[pick].view.0.saturating_sub(1),
        _ => claims[pick].digest.0[0] ^= 1,
    }
}
