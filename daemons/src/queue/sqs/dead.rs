//! Dead letters: looking at them, and putting them back.

use super::{
    AwsError, BATCH, DeadLetter, QueueError, SqsQueue, body,
    receive::{handle, number},
};
use crate::clock::{Clock, SystemClock};
use crate::queue::Queue as _;
use aws_sdk_sqs::types::{self, MessageSystemAttributeName};
use std::{collections::HashSet, time::Duration};

/// Nobody else sees a letter while it is looked at. A look that breaks off leaves letters hidden for as long.
const LOOK: Duration = Duration::from_secs(30);

/// Longer than ten letters take to be sent and deleted, with every attempt at both.
const MOVE: Duration = Duration::from_secs(120);

/// A poll that waits asks all servers of SQS: when it brings nothing, nothing is there.
const POLL: Duration = Duration::from_secs(1);

/// How many letters are looked at to find the oldest.
const LOOK_MAX: usize = 1000;

impl SqsQueue {
    /// The oldest letters of those that SQS shows, which are not more than a thousand. SQS has no way to look
    /// at a message but to receive it: so they are received, and given back.
    pub(super) async fn look(&self, max: usize) -> Result<Vec<DeadLetter>, AwsError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let (mut oldest, mut handles, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let looked = loop {
            let letters = match self.poll(&self.dead_url, BATCH, LOOK, POLL).await {
                Ok(letters) if letters.is_empty() => break Ok(()),
                Ok(letters) => letters,
                Err(error) => break Err(error),
            };
            for letter in letters {
                handles.push(handle(&letter));
                if seen.insert(letter.message_id.clone()) {
                    oldest.push((sent_ms(&letter), letter));
                }
            }
            oldest.sort_by_key(|(sent_ms, _)| *sent_ms);
            oldest.truncate(max); // the bodies of the rest are let go of
            if handles.len() >= LOOK_MAX {
                break Ok(());
            }
        };
        self.give_back_to(&self.dead_url, &handles).await;
        looked?;
        let now_ms = SystemClock::default().now_ms();
        Ok(oldest.into_iter().map(|(sent_ms, letter)| self.dead_letter(letter, sent_ms, now_ms)).collect())
    }

    fn dead_letter(&self, mut letter: types::Message, sent_ms: u64, now_ms: u64) -> DeadLetter {
        // SQS counts looks, too, and puts aside after so many receives exactly.
        let receives = number(&letter, &MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
        let receives = u32::try_from(receives.saturating_sub(1)).unwrap_or(u32::MAX);
        DeadLetter {
            body: body::sent(&mut letter),
            receives: receives.min(self.max_receives),
            age: Duration::from_millis(now_ms.saturating_sub(sent_ms)),
        }
    }

    /// Puts letters back on the queue. A letter is sent before it is deleted: a crash between the two doubles
    /// it, and none is lost.
    ///
    /// Letters may keep coming meanwhile, and among them those just put back. As many as SQS counted in the
    /// beginning are moved whatever they are, for clocks differ; after them, those that were sent before it
    /// began. It ends when there are none of these.
    pub(super) async fn put_back(&self) -> Result<u64, QueueError> {
        let began_ms = SystemClock::default().now_ms();
        let (waiting, looked_at) =
            self.count(&self.dead_url).await.map_err(|error| self.unavailable(error))?;
        let (mut moved, mut newer) = (0, Vec::new());
        let ended = loop {
            let letters = match self.poll(&self.dead_url, BATCH, MOVE, POLL).await {
                Ok(letters) => letters,
                Err(error) => break Err(self.unavailable(error)),
            };
            let (mut bodies, mut handles) = (Vec::new(), Vec::new());
            for mut letter in letters {
                let counted = moved + (bodies.len() as u64) < waiting + looked_at;
                if counted || sent_ms(&letter) < began_ms {
                    handles.push(handle(&letter));
                    bodies.push(body::sent(&mut letter));
                } else {
                    newer.push(handle(&letter));
                }
            }
            if bodies.is_empty() {
                break Ok(moved);
            }
            let count = bodies.len() as u64;
            if let Err(error) = self.send(bodies).await {
                self.give_back_to(&self.dead_url, &handles).await;
                break Err(error);
            }
            if let Err(error) = self.delete_from(&self.dead_url, &handles).await {
                break Err(self.unavailable(error));
            }
            moved += count;
        };
        self.give_back_to(&self.dead_url, &newer).await;
        ended
    }
}

fn sent_ms(letter: &types::Message) -> u64 {
    number(letter, &MessageSystemAttributeName::SentTimestamp).unwrap_or_default()
}
