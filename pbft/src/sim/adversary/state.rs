//! Serves wrong pages to whoever fetches a state, and wrong batches to whoever wants one.

use bytes::Bytes;

use super::{Lie, Said};
use crate::crypto::Principal;
use crate::message::{Body, Message, wire};

#[derive(Debug)]
pub(super) struct WrongPages;

impl Lie for WrongPages {
    fn instead(&mut self, _: Principal, message: &Message) -> Said {
        match message {
            Message::Data(data) => {
                let mut data = data.clone();
                data.pages.iter_mut().for_each(|page| page.bytes = Bytes::from_static(b"never written"));
                Said::Lie(Box::new(Message::Data(data)))
            }
            Message::Body(Body { sequence, .. }) => {
                let batch = wire::batch(7, false, [].into());
                Said::Lie(Box::new(Message::Body(Body { sequence: *sequence, batch })))
            }
            _ => Said::Truth,
        }
    }
}
