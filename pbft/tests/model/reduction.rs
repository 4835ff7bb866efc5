//! Which of the things that could happen next are left out, because nothing is lost by it.
//!
//! None of it is about what the code does with a message once it is heard.

use quorate_pbft::{
    ReplicaId, View,
    crypto::Principal,
    message::{Message, Unverified},
};

use super::N;
use super::locals::Facts;
use super::words::PLACE;

/// Who leads a view.
pub(crate) fn primary(view: View) -> ReplicaId {
    ReplicaId(u32::try_from(view.0 % u64::from(N)).expect("few"))
}

/// Where a replica is, as far as it matters for what it should hear.
pub(crate) struct Ear<'a> {
    pub(crate) me: ReplicaId,
    pub(crate) facts: &'a Facts,
    /// It can leave its view by itself.
    pub(crate) may_leave: bool,
}

impl Ear<'_> {
    /// Whether a message can count for anything where its receiver is now.
    pub(crate) fn wants(&self, message: &Unverified<Message>) -> bool {
        let facts = self.facts;
        match &message.body {
            // What it said before a crash need not be what it holds.
            Message::PrePrepare(_) | Message::Prepare(_) | Message::Commit(_) if facts.crashes > 0 => true,
            Message::Request(_) => {
                let is_free = !facts.said.contains_key(&(facts.view, PLACE));
                primary(facts.view) == self.me && !facts.is_changing && is_free
            }
            Message::PrePrepare(it) => {
                !facts.is_changing && !facts.said.contains_key(&(it.view, it.sequence))
            }
            Message::Prepare(it) => facts.said.get(&(it.view, it.sequence)) == Some(&(it.digest, false)),
            Message::Commit(it) => {
                let said = facts.said.get(&(it.view, it.sequence));
                said.is_some_and(|(digest, is_prepared)| {
                    let is_committed = facts.committed.contains_key(&it.sequence);
                    *digest == it.digest && !is_committed && (*is_prepared || facts.is_changing)
                })
            }
            Message::ViewChange(it) if facts.view == it.view => primary(it.view) == self.me,
            Message::ViewChange(_) => !self.may_leave,
            // A body that was sent stays on its way.
            Message::Want(_) => match message.sender {
                Principal::Replica(sender) => facts.helped >> sender.0 & 1 == 0,
                Principal::Client(_) => false,
            },
            _ => true,
        }
    }
}

/// Of votes for one batch, which are as good as each other, those of the first sender alone.
pub(crate) fn first_votes<'a, I: Copy>(
    messages: impl Iterator<Item = (I, &'a Unverified<Message>)>,
) -> Vec<I> {
    let mut kept: Vec<(I, &Unverified<Message>)> = Vec::new();
    for (id, message) in messages {
        let same = kept.iter_mut().find(|(_, other)| match (&message.body, &other.body) {
            (Message::Prepare(a), Message::Prepare(b)) => a == b,
            (Message::Commit(a), Message::Commit(b)) => a == b,
            _ => false,
        });
        match same {
            Some(same) if message.sender < same.1.sender => *same = (id, message),
            Some(_) => {}
            None => kept.push((id, message)),
        }
    }
    kept.into_iter().map(|(id, _)| id).collect()
}

/// Whether a message is a vote of the liar, which alone brings nobody further and can be counted at once.
pub(crate) fn is_vote_of(liar: ReplicaId, to: ReplicaId, message: &Unverified<Message>) -> bool {
    let is_vote = match &message.body {
        Message::Prepare(_) | Message::Commit(_) => true,
        Message::ViewChange(it) => primary(it.view) != to,
        _ => false,
    };
    is_vote && message.sender == Principal::Replica(liar)
}
