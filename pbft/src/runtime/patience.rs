//! How much that helps nobody is read from one connection.
//!
//! A message that is put aside has cost its receiver a read, a decoding and a check by then. A peer that sends
//! nothing else could take a replica's whole processor, however little it can do to the order. So a connection
//! over which more comes to nothing than is of use is read at a bounded rate; the rest waits with its sender,
//! whom TCP holds back. Correct peers stay far below the bound: what comes twice, or too late, is a small
//! share of what they send.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Message, Proof, Unverified};

const PERIOD: Duration = Duration::from_millis(100);
/// Units that may come to nothing in a period beside as many as were of use.
const WASTED_MAX: u64 = 256;
/// A message is one unit, and one more for each of these.
const UNIT_BYTES: usize = 4 << 10;
/// Units of a signature: its check takes as long as that of so many tags, and more.
const SIGNATURE_UNITS: u64 = 32;

/// What came over a connection since a period began.
#[derive(Debug)]
pub(super) struct Patience {
    began: Instant,
    useful: u64,
    wasted: u64,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, useful: 0, wasted: 0 }
    }

    /// Hands a message on to who says whether it was of use, and notes that. What a correct replica passes on
    /// may be a faulty client's: it wastes nothing when it is not the speaker's `own`.
    pub(super) fn hand_on(
        &mut self,
        message: Unverified<Message>,
        own: bool,
        take: impl FnOnce(Unverified<Message>) -> bool,
    ) {
        let units = Self::weigh(&message);
        let of_use = take(message);
        if own || of_use {
            self.note(units, of_use);
        }
    }

    /// What a message costs whoever takes it in, in units.
    fn weigh(message: &Unverified<Message>) -> u64 {
        let signature = if matches!(message.proof, Proof::Signature(_)) { SIGNATURE_UNITS } else { 0 };
        1 + ((message.bytes.len() + message.body.beside_bytes()) / UNIT_BYTES) as u64 + signature
    }

    fn note(&mut self, units: u64, of_use: bool) {
        *(if of_use { &mut self.useful } else { &mut self.wasted }) += units;
    }

    /// Until when nothing more is to be read.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Instant> {
        // Most connections never waste that much: the clock tells nothing about them.
        if self.wasted <= WASTED_MAX {
            return None;
        }
        let end = self.began + PERIOD;
        if now >= end {
            *self = Self::new(now);
            return None;
        }
        let pauses = self.wasted > self.useful.saturating_add(WASTED_MAX);
        if pauses {
            *self = Self::new(end);
        }
        pauses.then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_nothing_is_read_at_a_bounded_rate() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        for _ in 0..WASTED_MAX {
            patience.note(1, false);
            assert_eq!(patience.pause(start), None);
        }
        patience.note(1, false);
        assert_eq!(patience.pause(start), Some(start + PERIOD));
        patience.note(1, false);
        assert_eq!(patience.pause(start + PERIOD), None, "another period");
    }

    #[test]
    fn what_is_long_or_signed_counts_for_more() {
        use bytes::Bytes;

        use crate::{
            crypto::{Authenticator, Digest, Principal, Signature},
            group::{ClientId, Incarnation, ReplicaId, Timestamp},
            message::Request,
        };
        let weigh = |length, beside, proof| {
            let body = Request {
                client: ClientId(0),
                incarnation: Incarnation(1),
                floor: Timestamp(1),
                first: Timestamp(1),
                named: vec![Digest([0; 32])],
                operations: vec![Bytes::from(vec![0; beside])],
                read_only: false,
                receipt: false,
                reconfigure: false,
                replier: ReplicaId(0),
            };
            let (sender, bytes) = (Principal::Client(ClientId(0)), vec![0; length].into());
            Patience::weigh(&Unverified { sender, body: Message::Request(body), bytes, proof })
        };
        let tags = || Proof::Authenticator(Authenticator([0; 64][..].into()));
        assert_eq!(weigh(100, 0, tags()), 1);
        assert_eq!(weigh(10 * UNIT_BYTES, 0, tags()), 11);
        assert_eq!(
            weigh(100, 10 * UNIT_BYTES, tags()),
            11,
            "what comes beside a message is read, and hashed"
        );
        assert_eq!(weigh(100, 0, Proof::Signature(Signature([0; 256][..].into()))), 1 + SIGNATURE_UNITS);
    }

    #[test]
    fn who_is_of_use_is_read_on() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        for _ in 0..10 * WASTED_MAX {
            patience.note(1, true);
            patience.note(1, false);
            assert_eq!(patience.pause(start), None);
        }
        // Use of long ago does not count for ever.
        let later = start + PERIOD;
        assert_eq!(patience.pause(later), None);
        (0..=WASTED_MAX).for_each(|_| patience.note(1, false));
        assert_eq!(patience.pause(later), Some(later + PERIOD));
    }
}
