//! Asks for ever higher views all the time, now and then for one that is very far away.

use super::{Heard, Lie, Voice};
use crate::group::View;
use crate::message::{Message, Unverified, ViewChange};

#[derive(Debug, Default)]
pub(super) struct Storm {
    /// The last view that it asked for.
    view: View,
}

impl Lie for Storm {
    fn hears(&mut self, message: &Unverified<Message>, voice: &mut Voice<'_>) -> Heard {
        if voice.random.chance(100) {
            let far = if voice.random.chance(10) { voice.random.below(1 << 40) } else { 1 };
            self.view = View(self.view.max(message.body.view()).0.saturating_add(far));
            let body = ViewChange {
                view: self.view,
                stable: None,
                prepared: Vec::new(),
                pre_prepared: Vec::new(),
                marks: Vec::new(),
            };
            voice.say_to_all(&Message::ViewChange(body));
        }
        Heard::Truth
    }
}
