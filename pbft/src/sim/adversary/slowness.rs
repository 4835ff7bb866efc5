//! As primary, holds its batches and the beginnings of its views back, nearly as long as others wait
//! for them before they change the view.

use std::time::Duration;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::Message;

use super::super::random::Random;

#[derive(Debug)]
pub(super) struct Slowness {
    /// The part of the view time-out that it takes, in per cent.
    share: u32,
}

impl Slowness {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { share: 40 + u32::try_from(random.below(60)).expect("a small number") }
    }
}

impl Lie for Slowness {
    fn says(&mut self, _: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let held_back: Duration = voice.setup.settings.view_timeout * self.share / 100;
        match message {
            Message::PrePrepare(_) | Message::NewView(_) => Said::Late(held_back),
            _ => Said::Truth,
        }
    }
}
