//! Answers clients with what is right in part: the digest that others' results have, but never the
//! result, be it the one to send it; or the result, said to be of another batch, at another position of
//! the history, or to have ended otherwise.

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::group::View;
use crate::message::{Content, Ending, Message};
use crate::replica::outcome_digest;

#[derive(Debug)]
pub(super) struct HalfTruths;

impl Lie for HalfTruths {
    fn says(&mut self, _: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::Reply(reply) = message else { return Said::Truth };
        let mut reply = reply.clone();
        reply.view = View(voice.random.number());
        for answer in &mut reply.answers {
            match voice.random.below(6) {
                0 => answer.sequence = answer.sequence.next(),
                1 => answer.position += 1,
                2 => answer.ending = Ending::Panicked,
                _ => {
                    if let Content::Full(result) = &answer.content {
                        let scope = *voice.plot.keys(voice.me).scope();
                        answer.content = Content::Digest(outcome_digest(&scope, result));
                    }
                }
            }
        }
        Said::Lie(Box::new(Message::Reply(reply)))
    }
}
