//! Hears everything and says nothing.

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct Silence;

impl Lie for Silence {
    fn says(&mut self, _: Principal, _: &Message, _: &mut Voice<'_>) -> Said {
        Said::Nothing
    }
}
