//! Tells half of the replicas in its VIEW-CHANGE that nothing was ever prepared, and begins views, as
//! primary, for that half only.

use super::{Lie, Said, forgetful, is_odd};
use crate::crypto::Principal;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct HidesFromSome;

impl Lie for HidesFromSome {
    fn instead(&mut self, to: Principal, message: &Message) -> Said {
        match message {
            Message::ViewChange(body) if is_odd(to) => {
                Said::Lie(Box::new(Message::ViewChange(forgetful(body))))
            }
            Message::NewView(_) if !is_odd(to) => Said::Nothing,
            _ => Said::Truth,
        }
    }
}
