//! As primary, gives batches wrong times: as far ahead as backups allow, farther, or far back. It votes
//! for what it told them.

use std::collections::BTreeMap;

use super::{Lie, Said, Voice};
use crate::crypto::Principal;
use crate::group::{Sequence, View};
use crate::message::{Message, PrePrepare, wire};

#[derive(Debug, Default)]
pub(super) struct WrongTime {
    /// The time that each batch got; the latest places.
    times: BTreeMap<(View, Sequence), u64>,
}

const TIMES_MAX: usize = 256;

impl WrongTime {
    fn pick(voice: &mut Voice<'_>) -> u64 {
        let settings = &voice.setup.settings;
        let now = settings.unix_at_zero.saturating_add(voice.now.0);
        let ahead = u64::try_from(settings.time_ahead_max.as_nanos()).unwrap_or(u64::MAX);
        match voice.random.below(16) {
            0 => now.saturating_add(ahead).saturating_add(1 << 30),
            1 => u64::MAX,
            2..=7 => voice.random.below(2),
            _ => now.saturating_add(ahead),
        }
    }
}

impl Lie for WrongTime {
    fn says(&mut self, to: Principal, message: &Message, voice: &mut Voice<'_>) -> Said {
        let Message::PrePrepare(PrePrepare { view, sequence, batch }) = message else {
            return voice.as_told(to, message);
        };
        let (view, sequence) = (*view, *sequence);
        if self.times.len() == TIMES_MAX {
            self.times.pop_first();
        }
        let time = *self.times.entry((view, sequence)).or_insert_with(|| Self::pick(voice));
        let batch = wire::batch(time, batch.seal, batch.requests.clone());
        voice.plot.tell((view, sequence), [&batch, &batch]);
        Said::Lie(Box::new(Message::PrePrepare(PrePrepare { view, sequence, batch })))
    }
}
