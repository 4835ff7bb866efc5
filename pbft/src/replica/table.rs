//! The client table: what makes execution exactly-once. It is part of the replicated state, so every
//! decision here depends on the order of operations alone.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes};

use crate::crypto::Digest;
use crate::group::{ClientId, Incarnation, Limits, Sequence, Timestamp};
use crate::message::{Answer, Content, Ending};
use crate::mutation::{self, Mutation};
use crate::service::State;

/// What each client had executed, and the answers it may still ask for.
#[derive(Clone, Debug)]
pub(super) struct Table {
    records: Vec<Record>,
    /// Clients whose record is not in the protocol's pages as it is now; each once.
    dirty: Vec<ClientId>,
    limits: Limits,
}

#[derive(Clone, Debug, Default)]
struct Record {
    incarnation: Incarnation,
    /// Every timestamp below it is answered, and its answer has reached the client.
    floor: Timestamp,
    /// The answers from `floor` on; at most `client_window`.
    answers: VecDeque<Option<Executed>>,
    /// Bytes of the results in `answers`; at most `reply_bytes_max`.
    result_bytes: usize,
    /// Results below this timestamp were dropped to stay under `reply_bytes_max`.
    kept_from: Timestamp,
    /// Pages that the record filled when it was written last.
    pages: u64,
    dirty: bool,
}

/// An operation that was executed.
#[derive(Clone, Debug)]
pub(super) struct Executed {
    pub(super) sequence: Sequence,
    pub(super) position: u64,
    pub(super) ending: Ending,
    pub(super) digest: Digest,
    /// Dropped when the client's results take too much room.
    pub(super) result: Option<Bytes>,
}

/// What the table says about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Never executed, and it may be.
    New,
    /// Executed; the answer may be here.
    Executed,
    /// The client said that it has the answer.
    Answered,
    /// Too far above the client's floor.
    OutsideWindow,
    /// Of an incarnation that a higher one closed.
    Closed,
}

/// Each client owns this many consecutive pages of the protocol's space, beginning at
/// `(1 + client) · PAGES_PER_CLIENT`; those below are the protocol's own.
const PAGES_PER_CLIENT: u64 = 1 << 13;

/// Bytes of a record in one page; a page may hold twice that.
const RECORD_PAGE_BYTES: usize = 1 << 15;

/// The longest result that every replica sends in full: a digest would not be shorter.
const SHORT_RESULT_BYTES: usize = 32;

impl Table {
    pub(super) fn new(clients: usize, limits: &Limits) -> Self {
        let record = Record { floor: Timestamp::FIRST, kept_from: Timestamp::FIRST, ..Record::default() };
        Self { records: vec![record; clients], dirty: Vec::new(), limits: limits.clone() }
    }

    pub(super) fn has(&self, client: ClientId) -> bool {
        client.index() < self.records.len()
    }

    /// What is known about an operation, were it to be executed after the client said `floor`.
    pub(super) fn look(
        &self,
        client: ClientId,
        incarnation: Incarnation,
        floor: Timestamp,
        timestamp: Timestamp,
    ) -> Known {
        let Some(record) = self.records.get(client.index()) else { return Known::Closed };
        if incarnation < record.incarnation {
            return Known::Closed;
        }
        let newer = incarnation > record.incarnation;
        let floor = if newer { floor } else { floor.max(record.floor) };
        if timestamp < floor {
            Known::Answered
        } else if timestamp.0 - floor.0 >= u64::from(self.limits.client_window) {
            Known::OutsideWindow
        } else if !newer && record.executed(timestamp).is_some() {
            Known::Executed
        } else {
            Known::New
        }
    }

    /// The client's incarnation.
    pub(super) fn incarnation(&self, client: ClientId) -> Incarnation {
        self.records.get(client.index()).map(|record| record.incarnation).unwrap_or_default()
    }

    /// The answer to an operation of the client's present incarnation; with `full`, the result
    /// itself even where a digest is shorter, unless it was dropped.
    pub(super) fn answer(&self, client: ClientId, timestamp: Timestamp, full: bool) -> Option<Answer> {
        let executed = self.records.get(client.index())?.executed(timestamp)?;
        let content = match &executed.result {
            Some(result) if full || result.len() <= SHORT_RESULT_BYTES => Content::Full(result.clone()),
            _ => Content::Digest(executed.digest),
        };
        Some(Answer {
            timestamp,
            sequence: executed.sequence,
            position: executed.position,
            ending: executed.ending,
            content,
        })
    }

    /// Takes in what an ordered request says of its client: a higher incarnation closes the lower
    /// ones, and the floor moves the window.
    pub(super) fn admit(&mut self, client: ClientId, incarnation: Incarnation, floor: Timestamp) {
        let Some(record) = self.records.get_mut(client.index()) else { return };
        if incarnation < record.incarnation {
            return;
        }
        if incarnation > record.incarnation {
            *record = Record {
                incarnation,
                floor,
                kept_from: floor,
                pages: record.pages,
                dirty: record.dirty,
                ..Record::default()
            };
        } else if floor <= record.floor {
            return;
        }
        while record.floor < floor {
            let Some(answer) = record.answers.pop_front() else {
                record.floor = floor;
                break;
            };
            record.floor = record.floor.plus(1);
            record.result_bytes -= answer.and_then(|answer| answer.result).map_or(0, |result| result.len());
        }
        record.kept_from = record.kept_from.max(record.floor);
        self.touch(client);
    }

    /// Remembers an operation that was [`Known::New`].
    pub(super) fn record(&mut self, client: ClientId, timestamp: Timestamp, executed: Executed) {
        let Some(record) = self.records.get_mut(client.index()) else { return };
        let offset = usize::try_from(timestamp.0 - record.floor.0).expect("inside the client's window");
        assert!(offset < self.limits.client_window as usize, "only what is new is recorded");
        if record.answers.len() <= offset {
            record.answers.resize(offset + 1, None);
        }
        record.result_bytes += executed.result.as_ref().map_or(0, Bytes::len);
        record.kept_from = record.kept_from.min(timestamp);
        let before = record.answers[offset].replace(executed);
        assert!(before.is_none() || mutation::is_on(Mutation::DropDedupe), "an operation is executed once");
        while record.result_bytes > self.limits.reply_bytes_max as usize {
            let oldest = usize::try_from(record.kept_from.0 - record.floor.0).expect("inside the window");
            let dropped = record.answers[oldest].as_mut().and_then(|answer| answer.result.take());
            record.result_bytes -= dropped.map_or(0, |result| result.len());
            record.kept_from = record.kept_from.plus(1);
        }
        self.touch(client);
    }

    fn touch(&mut self, client: ClientId) {
        let record = &mut self.records[client.index()];
        if !record.dirty {
            record.dirty = true;
            self.dirty.push(client);
        }
    }

    /// Writes the records that changed into the protocol's pages.
    pub(super) fn flush(&mut self, pages: &mut State) {
        let mut buffer = Vec::new();
        for client in self.dirty.drain(..) {
            let record = &mut self.records[client.index()];
            record.dirty = false;
            buffer.clear();
            record.encode(&mut buffer);
            let first = (1 + u64::from(client.0)) * PAGES_PER_CLIENT;
            let mut filled = 0;
            for chunk in buffer.chunks(RECORD_PAGE_BYTES) {
                pages.write(first + filled, chunk);
                filled += 1;
            }
            for stale in filled..record.pages {
                pages.write(first + stale, &[]);
            }
            record.pages = filled;
        }
    }

    /// The table that the protocol's pages hold; `None` when they hold none.
    pub(super) fn read(clients: usize, limits: &Limits, pages: &State) -> Option<Self> {
        let mut table = Self::new(clients, limits);
        let mut buffer = Vec::new();
        for (client, record) in (0..).zip(&mut table.records) {
            let first = (1 + client) * PAGES_PER_CLIENT;
            buffer.clear();
            let mut filled = 0;
            while filled < PAGES_PER_CLIENT && !pages.page(first + filled).is_empty() {
                buffer.extend_from_slice(pages.page(first + filled));
                filled += 1;
            }
            if filled > 0 {
                *record = Record::decode(&buffer, limits)?;
                record.pages = filled;
            }
        }
        Some(table)
    }
}

impl Record {
    fn executed(&self, timestamp: Timestamp) -> Option<&Executed> {
        let offset = usize::try_from(timestamp.0.checked_sub(self.floor.0)?).ok()?;
        self.answers.get(offset)?.as_ref()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.incarnation.0);
        out.put_u64(self.floor.0);
        out.put_u64(self.kept_from.0);
        for answer in &self.answers {
            let Some(answer) = answer else {
                out.put_u8(0);
                continue;
            };
            out.put_u8(if answer.result.is_some() { 1 } else { 2 });
            out.put_u64(answer.sequence.0);
            out.put_u64(answer.position);
            out.put_u8(answer.ending as u8);
            out.put_slice(&answer.digest.0);
            if let Some(result) = &answer.result {
                out.put_u32(u32::try_from(result.len()).expect("reply_bytes_max is a u32"));
                out.put_slice(result);
            }
        }
    }

    fn decode(mut read: &[u8], limits: &Limits) -> Option<Self> {
        let read = &mut read;
        let mut record = Self {
            incarnation: Incarnation(read.try_get_u64().ok()?),
            floor: Timestamp(read.try_get_u64().ok()?),
            kept_from: Timestamp(read.try_get_u64().ok()?),
            ..Self::default()
        };
        while !read.is_empty() {
            if record.answers.len() >= limits.client_window as usize {
                return None;
            }
            let form = read.try_get_u8().ok()?;
            if form == 0 {
                record.answers.push_back(None);
                continue;
            }
            let sequence = Sequence(read.try_get_u64().ok()?);
            let position = read.try_get_u64().ok()?;
            let ending = match read.try_get_u8().ok()? {
                0 => Ending::Done,
                1 => Ending::Panicked,
                _ => return None,
            };
            let mut digest = Digest::ZERO;
            read.try_copy_to_slice(&mut digest.0).ok()?;
            let result = if form == 1 {
                let length = read.try_get_u32().ok()? as usize;
                let (result, rest) = read.split_at_checked(length)?;
                *read = rest;
                record.result_bytes += length;
                Some(Bytes::copy_from_slice(result))
            } else {
                None
            };
            record.answers.push_back(Some(Executed { sequence, position, ending, digest, result }));
        }
        Some(record)
    }
}

#[cfg(feature = "sim")]
impl Table {
    pub(super) fn footprint(&self) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        let most = |of: fn(&Record) -> usize| self.records.iter().map(of).max().unwrap_or(0);
        let (window, bytes) = (self.limits.client_window, self.limits.reply_bytes_max);
        vec![
            Held::new("answers of one client", most(|record| record.answers.len()), window.into()),
            Held::new("bytes of results of one client", most(|record| record.result_bytes), bytes.into()),
        ]
    }
}
