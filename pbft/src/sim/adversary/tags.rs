//! Tags selectively: what it says is proven to one half and often not to the other, and of the
//! requests that it orders or passes on, the clients' tags for that other half are spoiled, now and
//! then those for everybody.

use bytes::BytesMut;

use super::{Heard, Lie, Said, Voice};
use crate::crypto::{Principal, TAG_BYTES};
use crate::message::{Message, Proof, Unverified};

#[derive(Debug)]
pub(super) struct SelectiveTags;

impl Lie for SelectiveTags {
    fn says(&mut self, to: Principal, _: &Message, voice: &mut Voice<'_>) -> Said {
        let disliked = voice.plot.half(to) == 1;
        if disliked && voice.random.chance(500) { Said::Unproven } else { Said::Truth }
    }

    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        let (Message::Request(_), Proof::Authenticator(tags)) = (&message.body, &message.proof) else {
            return Heard::Truth;
        };
        let everybody = voice.random.chance(100);
        let mut spoilt = BytesMut::from(&tags.0[..]);
        for to in voice.others().filter(|to| everybody || voice.plot.half(*to) == 1) {
            let Principal::Replica(id) = to else { continue };
            if let Some(byte) = spoilt.get_mut(id.index() * TAG_BYTES) {
                *byte ^= 1;
            }
        }
        let mut message = message.clone();
        message.proof = Proof::Authenticator(crate::crypto::Authenticator(spoilt.freeze()));
        Heard::Lie(Box::new(message))
    }
}
