//! Never hears one of the clients, whoever passes its requests on: as primary it orders nothing of
//! it, as backup it vouches for nothing of it.

use super::{Heard, Lie, Voice};
use crate::group::{ClientId, Configuration};
use crate::message::{Message, Unverified};

use super::super::random::Random;

#[derive(Debug)]
pub(super) struct Censorship {
    victim: ClientId,
}

impl Censorship {
    pub(super) fn new(random: &mut Random, configuration: &Configuration) -> Self {
        let clients = configuration.clients.len().max(1) as u64;
        Self { victim: ClientId(u32::try_from(random.below(clients)).expect("few clients")) }
    }
}

impl Lie for Censorship {
    fn hears(&mut self, message: &Unverified<Message>, _: &mut Voice<'_>) -> Heard {
        match &message.body {
            Message::Request(request) if request.client == self.victim => Heard::Nothing,
            _ => Heard::Truth,
        }
    }
}
