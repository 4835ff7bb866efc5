//! Serves wrong pages, or to one half of the replicas wrong digests, to whoever fetches a state, and wrong
//! batches to whoever wants one.

use bytes::Bytes;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::{Body, Message, Space, wire};

#[derive(Debug)]
pub(super) struct WrongPages;

impl Lie for WrongPages {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        match message {
            Message::MetaData(meta_data) if voice.plot.half(to) == 1 => {
                let mut meta_data = meta_data.clone();
                for (_, branch) in &mut meta_data.partitions {
                    branch.children.iter_mut().for_each(|(_, digest)| digest.0[0] ^= 1);
                }
                Said::Lie(Box::new(Message::MetaData(meta_data)))
            }
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
