//! Hears everything and says nothing.

use super::{Lie, Said};
use crate::crypto::Principal;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct Silence;

impl Lie for Silence {
    fn instead(&mut self, _: Principal, _: &Message) -> Said {
        Said::Nothing
    }
}
