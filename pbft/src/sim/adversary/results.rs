//! Answers clients with wrong results, or says of right ones that they are of another batch. All that
//! do so in a run say the same.

use bytes::Bytes;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::group::Sequence;
use crate::message::{Content, Message};

#[derive(Debug)]
pub(super) struct WrongResults;

impl Lie for WrongResults {
    fn says(&mut self, _: Principal, message: &Message, _: &mut Voice<'_>) -> Said {
        let Message::Reply(reply) = message else { return Said::Truth };
        let mut reply = reply.clone();
        for answer in &mut reply.answers {
            if answer.timestamp.0 % 2 == 1 {
                answer.content = Content::Full(Bytes::from_static(&[0x55; 16]));
            } else {
                answer.sequence = Sequence(answer.sequence.0 + 1000);
            }
        }
        Said::Lie(Box::new(Message::Reply(reply)))
    }
}
