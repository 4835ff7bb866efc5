//! Now and then loses its disk and its memory, and begins again under its old key as if it had never
//! promised anything. Also a crash takes its disk away.

use super::{Heard, Lie, Voice};
use crate::message::{Message, Unverified};

#[derive(Debug)]
pub(super) struct Amnesia;

impl Lie for Amnesia {
    fn hears(&mut self, _: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        voice.forgets = voice.random.chance(5);
        Heard::Truth
    }
}
