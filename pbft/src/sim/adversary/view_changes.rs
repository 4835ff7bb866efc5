//! Tells one half of the replicas in its VIEW-CHANGE that nothing was ever prepared, and begins views,
//! as primary, for that half only.

use super::{Lie, Said, Voice, forgetful};
use crate::crypto::Principal;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct HidesFromSome;

impl Lie for HidesFromSome {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        match message {
            Message::ViewChange(body) if voice.plot.half(to) == 1 => {
                Said::Lie(Box::new(Message::ViewChange(forgetful(body))))
            }
            Message::NewView(_) if voice.plot.half(to) == 0 => Said::Nothing,
            _ => Said::Truth,
        }
    }
}
