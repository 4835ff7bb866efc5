//! Says everything three times, votes for junk in every place that it can think of, and asks for
//! states, batches and retransmissions without end.

use bytes::Bytes;

use super::{Heard, Lie, Said, Voice};
use crate::crypto::{Digest, Principal, Signature};
use crate::group::{Sequence, View};
use crate::message::{
    Checkpoint, Commit, Committed, Fetch, Message, Prepare, Space, Status, Unverified, Want,
    wire::FETCH_PLACES_MAX,
};

#[derive(Debug, Default)]
pub(super) struct Flood {
    /// The view and the place that were spoken of last.
    at: (View, Sequence),
}

impl Flood {
    /// One message that nobody needs, about a place in the windows around.
    fn junk(&self, voice: &mut Voice<'_>) -> Message {
        let limits = &voice.setup.configuration.limits;
        let (window, period) = (limits.window, limits.checkpoint_period);
        let (view, near) = self.at;
        let place = near.0.saturating_sub(window) + voice.random.below(3 * window);
        let sequence = Sequence(place);
        let checkpoint = Sequence(place / period * period);
        let mut digest = Digest::ZERO;
        digest.0[..8].copy_from_slice(&voice.random.number().to_be_bytes());
        match voice.random.below(7) {
            0 => Message::Prepare(Prepare { view, sequence, digest }),
            1 => Message::Commit(Commit { view, sequence, digest }),
            2 => Message::Committed(Committed { sequence, digest }),
            3 => Message::Want(Want { sequence, digest }),
            4 => {
                let far = Sequence(checkpoint.0 + period * voice.random.below(1 << 20));
                let (size, root) = (0, digest);
                let none = Signature(Bytes::new());
                let (signature, vote) = (none.clone(), none); // the vote is signed when it is said
                Message::Checkpoint(Checkpoint { sequence: far, state: digest, size, root, signature, vote })
            }
            5 => {
                let space = if voice.random.chance(500) { Space::Service } else { Space::Protocol };
                let level = u32::try_from(voice.random.below(10)).expect("a small number");
                let indexes = (0..1 + voice.random.below(FETCH_PLACES_MAX as u64)).collect();
                Message::Fetch(Fetch { sequence: checkpoint, space, level, indexes })
            }
            _ => {
                let stable = Sequence(0);
                Message::Status(Status { view, active: view, stable, executed: stable, slots: Bytes::new() })
            }
        }
    }
}

impl Lie for Flood {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        for _ in 0..2 {
            voice.say(to, message.clone());
        }
        Said::Truth
    }

    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        if let Message::Commit(Commit { view, sequence, .. }) = &message.body {
            self.at = self.at.max((*view, *sequence));
        }
        let junk = self.junk(voice);
        voice.say_to_all(&junk);
        Heard::Truth
    }
}
