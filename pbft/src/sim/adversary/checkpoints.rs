//! Vouches for states that nobody has, another one to each half of the replicas.

use super::{Lie, Said, is_odd};
use crate::crypto::Principal;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct WrongCheckpoints;

impl Lie for WrongCheckpoints {
    fn instead(&mut self, to: Principal, message: &Message) -> Said {
        let Message::Checkpoint(checkpoint) = message else { return Said::Truth };
        let mut checkpoint = checkpoint.clone();
        checkpoint.state.0[0] ^= if is_odd(to) { 1 } else { 2 };
        Said::Lie(Box::new(Message::Checkpoint(checkpoint)))
    }
}
