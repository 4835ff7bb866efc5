//! As primary, adds to its batches what does not belong there: requests that were ordered before, and
//! requests that it makes up in a client's name. It votes for what it told them.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, BytesMut};

use super::{Heard, Lie, Said, Voice};
use crate::crypto::Principal;
use crate::group::{Sequence, View};
use crate::message::{Batch, Message, PrePrepare, Request, Unverified, wire};

#[derive(Debug, Default)]
pub(super) struct StuffedBatches {
    /// What it made of its batches; the latest places.
    batches: BTreeMap<(View, Sequence), Batch>,
    /// Requests that it heard; the latest.
    heard: VecDeque<Unverified<Request>>,
}

const BATCHES_MAX: usize = 256;
const HEARD_MAX: usize = 64;

impl StuffedBatches {
    fn stuff(&self, batch: &Batch, voice: &mut Voice<'_>) -> Batch {
        let mut requests = batch.requests.to_vec();
        let some = voice.random.below(self.heard.len().max(1) as u64);
        let old = self.heard.get(usize::try_from(some).expect("a small number")).cloned();
        let made_up = self.heard.back().filter(|_| voice.random.chance(300)).map(|last| make_up(last, voice));
        let room = voice.setup.configuration.limits.batch_operations_max as usize;
        let taken: usize = requests.iter().map(|request| request.body.count()).sum();
        let fits = |one: &Unverified<Request>| taken + one.body.count() <= room;
        requests.extend(made_up.or(old).filter(fits));
        wire::batch(batch.time, batch.seal, requests.into())
    }
}

/// What the client of a request never asked for, as if it were its next one.
fn make_up(like: &Unverified<Request>, voice: &mut Voice<'_>) -> Unverified<Request> {
    let mut operation = BytesMut::new();
    operation.put_u64(voice.random.number());
    operation.put_slice(b"made up");
    let (first, operations, named) = (like.body.end(), vec![operation.freeze()], Vec::new());
    let body = Request { first, operations, named, ..like.body.clone() };
    let (sender, bytes, proof) = (like.sender, wire::encode_request(&body), like.proof.clone());
    Unverified { sender, body, bytes, proof }
}

impl Lie for StuffedBatches {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::PrePrepare(PrePrepare { view, sequence, batch }) = message else {
            return voice.as_told(to, message);
        };
        let (view, sequence) = (*view, *sequence);
        if !self.batches.contains_key(&(view, sequence)) {
            if self.batches.len() == BATCHES_MAX {
                self.batches.pop_first();
            }
            self.batches.insert((view, sequence), self.stuff(batch, voice));
        }
        let batch = self.batches[&(view, sequence)].clone();
        voice.plot.tell((view, sequence), [&batch, &batch]);
        Said::Lie(Box::new(Message::PrePrepare(PrePrepare { view, sequence, batch })))
    }

    fn hears(&mut self, message: &Unverified<Message>, _: &mut Voice<'_>) -> Heard {
        if let Message::Request(body) = &message.body
            && !body.read_only
        {
            if self.heard.len() == HEARD_MAX {
                self.heard.pop_front();
            }
            let (sender, bytes, proof) = (message.sender, message.bytes.clone(), message.proof.clone());
            self.heard.push_back(Unverified { sender, body: body.clone(), bytes, proof });
        }
        Heard::Truth
    }
}
