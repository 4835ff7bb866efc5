//! As primary, orders one batch for one half and another one for the other half, and commits both at
//! once. As backup of a primary of the plot that does so, votes on each side for what that side was
//! told, without waiting for anything.

use super::{Heard, Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::{Commit, Message, PrePrepare, Unverified, wire};

#[derive(Debug)]
pub(super) struct Equivocation;

impl Lie for Equivocation {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::PrePrepare(PrePrepare { view, sequence, batch }) = message else {
            return voice.as_told(to, message);
        };
        let (view, sequence) = (*view, *sequence);
        // Without its last request, if it has several; else at another time.
        let other = match &batch.requests[..] {
            [fewer @ .., _] if !fewer.is_empty() => wire::batch(batch.time, batch.seal, fewer.into()),
            same => wire::batch(batch.time + 1, batch.seal, same.into()),
        };
        let told = voice.plot.tell((view, sequence), [batch, &other]);
        let half = voice.plot.half(to);
        voice.say(to, Message::Commit(Commit { view, sequence, digest: told[half] }));
        if half == 0 {
            return Said::Truth;
        }
        Said::Lie(Box::new(Message::PrePrepare(PrePrepare { view, sequence, batch: other })))
    }

    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        if let Message::PrePrepare(PrePrepare { view, sequence, .. }) = &message.body
            && voice.plot.has(message.sender)
        {
            for to in voice.others() {
                if let Some(digest) = voice.plot.told(to, *view, *sequence) {
                    voice.vote(to, (*view, *sequence, digest));
                }
            }
        }
        Heard::Truth
    }
}
