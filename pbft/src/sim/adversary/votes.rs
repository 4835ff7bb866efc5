//! Votes for whatever anybody proposes or votes for, towards whoever did so, also for what
//! contradicts itself, and swears that it is committed.

use super::{Heard, Lie, Voice};
use crate::message::{Commit, Committed, Message, PrePrepare, Prepare, Unverified};

#[derive(Debug)]
pub(super) struct VotesForAll;

impl Lie for VotesForAll {
    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        let (view, sequence, digest) = match &message.body {
            Message::PrePrepare(PrePrepare { view, sequence, batch }) => {
                (*view, *sequence, voice.plot.digest(batch))
            }
            Message::Prepare(Prepare { view, sequence, digest })
            | Message::Commit(Commit { view, sequence, digest }) => (*view, *sequence, *digest),
            _ => return Heard::Truth,
        };
        if voice.plot.has(message.sender) {
            // One of the plot proposes: each is told what it was told before.
            for to in voice.others() {
                let digest = voice.plot.told(to, view, sequence).unwrap_or(digest);
                voice.vote(to, (view, sequence, digest));
            }
        } else {
            voice.vote(message.sender, (view, sequence, digest));
            voice.say(message.sender, Message::Committed(Committed { sequence, digest }));
        }
        Heard::Truth
    }
}
