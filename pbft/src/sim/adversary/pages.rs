//! Serves a wrong page to whoever fetches a state, and wrong batches to whoever wants one.

use bytes::Bytes;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::{Body, Message, Space, wire};

#[derive(Debug)]
pub(super) struct WrongPages;

impl Lie for WrongPages {
    fn says(&mut self, _: Principal, message: &Message, _: &mut Voice<'_>) -> Said {
        match message {
            Message::Data(data) => {
                let mut data = data.clone();
                // The last one is the least likely to be missed soon.
                let mut pages = data.pages.iter_mut().rev();
                if let Some(page) = pages.find(|page| page.at.space == Space::Service) {
                    page.bytes = Bytes::from_static(b"never written");
                }
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
