//! Answers clients with wrong results.

use bytes::Bytes;

use super::{Lie, Said};
use crate::crypto::Principal;
use crate::message::{Content, Message};

#[derive(Debug)]
pub(super) struct WrongResults;

impl Lie for WrongResults {
    fn instead(&mut self, _: Principal, message: &Message) -> Said {
        let Message::Reply(reply) = message else { return Said::Truth };
        let mut reply = reply.clone();
        for answer in &mut reply.answers {
            answer.content = Content::Full(Bytes::from_static(&[0x55; 16]));
        }
        Said::Lie(Box::new(Message::Reply(reply)))
    }
}
