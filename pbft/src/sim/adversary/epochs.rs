//! Says again what was said so long ago that its session keys may have been refreshed since. Where they were, it
//! is void: a tag under an epoch whose grace has ended convinces nobody.

use std::time::Duration;

use super::{Heard, Lie, Voice};
use crate::message::{Message, Proof, Unverified};
use crate::time::Instant;

/// What it heard, and when: tags for all, so that it can be passed on to any.
#[derive(Debug, Default)]
pub(super) struct OldEpochs {
    memory: Vec<(Instant, Unverified<Message>)>,
}

const MEMORY_MAX: u64 = 128;
/// What was heard at least so long ago is said again.
const AGE: Duration = Duration::from_millis(300);

impl Lie for OldEpochs {
    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        if matches!(message.proof, Proof::Authenticator(_)) {
            let one = (voice.now, message.clone());
            if (self.memory.len() as u64) < MEMORY_MAX {
                self.memory.push(one);
            } else {
                // Any may go: so some of what it remembers is very old.
                let place = usize::try_from(voice.random.below(MEMORY_MAX)).expect("a small number");
                self.memory[place] = one;
            }
        }
        let old: Vec<_> = self.memory.iter().filter(|(heard, _)| voice.now.since(*heard) >= AGE).collect();
        if !old.is_empty() && voice.random.chance(300) {
            let place = usize::try_from(voice.random.below(old.len() as u64)).expect("a small number");
            for to in voice.others() {
                voice.pass_on(to, old[place].1.clone());
            }
        }
        Heard::Truth
    }
}
