//! Brings wrong operations to whoever lacks those that a batch names, and nothing to one half of the replicas.

use bytes::Bytes;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::message::{Body, Message};

#[derive(Debug)]
pub(super) struct WrongOperations;

impl Lie for WrongOperations {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::Body(Body { sequence, batch }) = message else { return Said::Truth };
        if batch.requests.iter().all(|request| request.body.named.is_empty()) {
            return Said::Truth;
        }
        if voice.plot.half(to) == 1 {
            return Said::Nothing;
        }
        let wrong = Bytes::from_static(b"never asked for");
        let batch = batch.with(|request| Some(vec![wrong.clone(); request.body.count()]));
        Said::Lie(Box::new(Message::Body(Body { sequence: *sequence, batch })))
    }
}
