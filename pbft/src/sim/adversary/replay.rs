//! Says again what was said before, in whatever view and window, by itself and by others, to everybody:
//! all that can be passed on, because its proof is there for more than one receiver.

use super::{Heard, Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::{Message, Proof, Unverified};

/// What it remembers: some of all that it ever heard or said.
#[derive(Debug, Default)]
pub(super) struct Replay {
    memory: Vec<Unverified<Message>>,
}

const MEMORY_MAX: u64 = 256;

impl Replay {
    fn remember(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) {
        if matches!(message.proof, Proof::Tag(_)) {
            return; // for one receiver, who has it
        }
        if (self.memory.len() as u64) < MEMORY_MAX {
            return self.memory.push(message.clone());
        }
        // Any may go: so some of what it remembers is very old.
        let place = usize::try_from(voice.random.below(MEMORY_MAX)).expect("a small number");
        self.memory[place] = message.clone();
    }

    fn replay(&self, voice: &mut Voice<'_>) {
        if self.memory.is_empty() {
            return;
        }
        let place = voice.random.below(self.memory.len() as u64);
        let old = &self.memory[usize::try_from(place).expect("a small number")];
        for to in voice.others() {
            voice.pass_on(to, old.clone());
        }
    }
}

impl Lie for Replay {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let own = super::prove(voice.plot.keys(voice.me), to, message.clone());
        self.remember(&own, voice);
        Said::Truth
    }

    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        self.remember(message, voice);
        if voice.random.chance(300) {
            self.replay(voice);
        }
        Heard::Truth
    }
}
