//! What a liar has at hand while it twists a message, and what it says besides.

use std::time::Duration;

use super::plot::Plot;
use super::{Said, Spoken, prove};
use crate::crypto::{Digest, Principal};
use crate::group::{ReplicaId, Sequence, View};
use crate::message::{Commit, Message, Prepare, Unverified};
use crate::time::Instant;

use super::super::Setup;
use super::super::random::Random;

/// A liar at one message.
pub(super) struct Voice<'a> {
    /// Whose voice it is.
    pub(super) me: ReplicaId,
    pub(super) now: Instant,
    pub(super) setup: &'a Setup,
    pub(super) plot: &'a mut Plot,
    pub(super) random: &'a mut Random,
    /// Set to lose all memory.
    pub(super) forgets: bool,
    spoken: Vec<Spoken>,
}

/// How much a liar may say beyond its replica's words: some at once, and more as time passes. Else
/// two of them could answer each other for ever.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    since: Instant,
}

impl Allowance {
    const AT_ONCE: u64 = 128;
    const PER_MILLISECOND: u64 = 2;
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: Self::AT_ONCE, since: Instant(0) }
    }
}

impl<'a> Voice<'a> {
    pub(super) fn new(
        me: ReplicaId,
        plot: &'a mut Plot,
        random: &'a mut Random,
        (now, setup): (Instant, &'a Setup),
    ) -> Self {
        Self { me, now, setup, plot, random, forgets: false, spoken: Vec::new() }
    }

    /// All other replicas.
    pub(super) fn others(&self) -> impl Iterator<Item = Principal> + use<> {
        let me = self.me;
        self.plot.group.replicas().filter(move |id| *id != me).map(Principal::Replica)
    }

    /// Says something of its own.
    pub(super) fn say(&mut self, to: Principal, message: Message) {
        let message = prove(self.plot.keys(self.me), to, message);
        self.pass_on(to, message);
    }

    /// Says something of its own to all other replicas.
    pub(super) fn say_to_all(&mut self, message: &Message) {
        for to in self.others() {
            self.say(to, message.clone());
        }
    }

    /// Says what somebody else said.
    pub(super) fn pass_on(&mut self, to: Principal, message: Unverified<Message>) {
        self.spoken.push(Spoken { to, message, held_back: Duration::ZERO });
    }

    /// Votes for a batch in a place, towards one replica.
    pub(super) fn vote(&mut self, to: Principal, (view, sequence, digest): (View, Sequence, Digest)) {
        if self.me != self.plot.group.primary(view) {
            self.say(to, Message::Prepare(Prepare { view, sequence, digest }));
        }
        self.say(to, Message::Commit(Commit { view, sequence, digest }));
    }

    /// A vote, but for what its receiver was told of by one of the plot as primary.
    pub(super) fn as_told(&self, to: Principal, message: &Message) -> Said {
        let mut vote = message.clone();
        match &mut vote {
            Message::Prepare(Prepare { view, sequence, digest })
            | Message::Commit(Commit { view, sequence, digest }) => {
                match self.plot.told(to, *view, *sequence) {
                    Some(told) if told != *digest => *digest = told,
                    _ => return Said::Truth,
                }
            }
            _ => return Said::Truth,
        }
        Said::Lie(Box::new(vote))
    }

    /// What goes out of what was said, as far as the allowance reaches.
    pub(super) fn end(self, allowance: &mut Allowance) -> Vec<Spoken> {
        let passed = u64::try_from(self.now.since(allowance.since).as_millis()).unwrap_or(u64::MAX);
        allowance.since = allowance.since + Duration::from_millis(passed);
        let more = passed.saturating_mul(Allowance::PER_MILLISECOND);
        allowance.left = allowance.left.saturating_add(more).min(Allowance::AT_ONCE);
        let mut spoken = self.spoken;
        spoken.truncate(usize::try_from(allowance.left).expect("a small number"));
        allowance.left -= spoken.len() as u64;
        spoken
    }
}
