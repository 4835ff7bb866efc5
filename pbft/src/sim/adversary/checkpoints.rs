//! Vouches to one half of the replicas for states that nobody has. The other half hears the truth, but
//! every second CHECKPOINT only after the next one, and after many for batches far away.

use std::collections::BTreeMap;

use super::{Lie, Said, Voice};
use crate::crypto::{Digest, Principal};
use crate::group::Sequence;
use crate::message::{Checkpoint, Message};

#[derive(Debug, Default)]
pub(super) struct WrongCheckpoints {
    /// What was kept from each replica so far.
    kept: BTreeMap<Principal, Checkpoint>,
}

impl Lie for WrongCheckpoints {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::Checkpoint(checkpoint) = message else { return Said::Truth };
        if voice.plot.half(to) == 1 {
            let mut checkpoint = checkpoint.clone();
            checkpoint.state.0[0] ^= 1;
            return Said::Lie(Box::new(Message::Checkpoint(checkpoint)));
        }
        let Some(kept) = self.kept.remove(&to) else {
            self.kept.insert(to, checkpoint.clone());
            return Said::Nothing;
        };
        voice.say(to, message.clone());
        let limits = &voice.setup.configuration.limits;
        let (window, period) = (limits.window, limits.checkpoint_period);
        for far in 0..=window / period {
            let sequence = Sequence(checkpoint.sequence.0 + window + far * period);
            let state = Digest([0xee; 32]);
            voice.say(to, Message::Checkpoint(Checkpoint { sequence, state, ..checkpoint.clone() }));
        }
        voice.say(to, Message::Checkpoint(kept));
        Said::Nothing
    }
}
