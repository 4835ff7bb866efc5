//! A watch that outlives the members it is served by.
//!
//! Each watch is a stream of its own. When the stream breaks, the watch goes on at another member (or the same,
//! when it is back) from the first revision that it has not seen to its end.
//!
//! Two rules make that nothing is missed and nothing comes twice. An answer of etcd ends at the end of a
//! revision, because fragments are not asked for: whatever transaction or lease changed several keys at one
//! revision, all of them are in one answer, and the answers before it are complete. And a watch is begun one
//! revision *before* the first that is wanted, whose changes are then left out: etcd refuses that if the wanted
//! one is the one to which it was compacted, at which removals may be gone already without a word.

use super::{
    line::{Line, TooSlow},
    members::{Failure, Kind, Members, Twice},
    number, text,
};
use crate::store::{Change, Entry, Revision, StoreError, Watch};
use bytes::Bytes;
use etcd_client::{Error, Event, EventType, WatchOptions, WatchResponse, WatchStream};
use std::{sync::Arc, time::Duration};
use tonic::Status;

/// Between two rounds in which no member took a watch up again.
const REST: Duration = Duration::from_millis(250);

/// What is watched, and how far it was seen.
pub(super) struct Watcher {
    pub(super) members: Arc<Members>,
    /// The beginning of all keys of the platform, which is not handed on.
    pub(super) platform: String,
    /// The beginning of those that are watched, without that.
    pub(super) prefix: String,
    /// What was asked for.
    pub(super) from: Revision,
}

/// A stream of changes.
struct Opened {
    stream: WatchStream,
    /// The member's revision when it began: up to there changes are of the past.
    began: Revision,
}

/// Why a stream is not read any more.
enum End {
    /// The receiver is gone.
    Unwanted,
    /// It broke: another takes its place.
    Broken(String),
    /// There is no use in another.
    Told(StoreError),
}

impl Watcher {
    /// Begins the watch; a task follows it until its receiver is dropped.
    pub(super) async fn start(self, capacity: usize) -> Result<Watch, Failure> {
        // Before the first change there is nothing to miss.
        let next = Revision(self.from.0.max(1));
        let opened = self.open(next).await?;
        let (line, watch) = Line::new(capacity);
        tokio::spawn(self.run(next, line, opened));
        Ok(watch)
    }

    async fn open(&self, next: Revision) -> Result<Opened, Failure> {
        let key = format!("{}{}", self.platform, self.prefix);
        let before = i64::try_from(next.0.saturating_sub(1).max(1)).unwrap_or(i64::MAX);
        let opened = self.members.ask(self.members.limit(), Twice::Same, |client| {
            let key = key.clone();
            async move {
                let mut watches = client.watch_client().max_decoding_message_size(super::MESSAGE_BYTES_MAX);
                let options = WatchOptions::new()
                    .with_prefix()
                    .with_start_revision(before)
                    // An idle watch learns how far the store is, and need not begin before what is kept.
                    .with_progress_notify();
                let mut renewed = false;
                loop {
                    let mut stream = watches.watch(key.clone(), Some(options.clone())).await?;
                    let Some(created) = stream.message().await? else {
                        return Err(Error::WatchError("the stream ended before it began".into()));
                    };
                    if !created.canceled() {
                        return Ok(Opened { stream, began: revision(&created) });
                    }
                    // What a token that is not valid any more comes to; other requests are told outright.
                    if renewed {
                        return Err(Status::permission_denied(created.cancel_reason()).into());
                    }
                    client.refresh_token().await?;
                    renewed = true;
                }
            }
        });
        opened.await
    }

    async fn run(self, mut next: Revision, mut line: Line, mut opened: Opened) {
        loop {
            let reason = match self.follow(&mut next, &mut line, opened).await {
                End::Unwanted => return,
                End::Broken(reason) => reason,
                End::Told(error) => return line.end(error).await,
            };
            tracing::debug!(prefix = self.prefix, revision = next.0, reason, "a watch is taken up again");
            opened = tokio::select! {
                () = line.feed() => return,
                opened = self.open_again(next) => match opened {
                    Ok(opened) => opened,
                    Err(error) => return line.end(error).await,
                },
            };
        }
    }

    /// Waits for a member that takes it up again.
    async fn open_again(&self, next: Revision) -> Result<Opened, StoreError> {
        let mut said = false;
        loop {
            let failure = match self.open(next).await {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            if matches!(failure.kind, Kind::Refused(_)) {
                return Err(failure.unavailable());
            }
            if !said {
                tracing::warn!(prefix = self.prefix, error = %failure, "a watch waits for etcd");
            }
            said = true;
            tokio::time::sleep(REST).await;
        }
    }

    /// Hands on what a stream says.
    async fn follow(&self, next: &mut Revision, line: &mut Line, mut opened: Opened) -> End {
        loop {
            let answer = tokio::select! {
                () = line.feed() => return End::Unwanted,
                answer = opened.stream.message() => answer,
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Broken("the stream ended".into()),
                Err(error) => return End::Broken(error.to_string()),
            };
            if answer.canceled() {
                return if answer.compact_revision() > 0 {
                    End::Told(StoreError::Compacted(self.at(*next)))
                } else {
                    End::Broken(answer.cancel_reason().into())
                };
            }
            for event in answer.events() {
                match self.change(event) {
                    Ok(change) if change.revision() >= *next => {
                        let since = change.revision() > opened.began;
                        line.push(change, since);
                    }
                    Ok(_) => {} // told already, or not asked for
                    Err(error) => return End::Told(error),
                }
            }
            // The answer is complete up to its last revision; one without changes says how far there are none.
            let seen = match answer.events().last() {
                Some(last) => last.kv().map_or(Revision(0), |kv| number(kv.mod_revision())),
                None => revision(&answer),
            };
            *next = (*next).max(seen.next());
            if line.settle() == Err(TooSlow) {
                return End::Told(StoreError::Compacted(*next));
            }
        }
    }

    /// A revision as the receiver knows it: it may have asked for all from 0 on.
    fn at(&self, next: Revision) -> Revision {
        if next.0 <= 1 { self.from } else { next }
    }

    fn change(&self, event: &Event) -> Result<Change, StoreError> {
        let kv = event.kv().ok_or_else(|| super::strange("a change of no key"))?;
        let (key, revision) = (text(&self.platform, kv.key())?, number(kv.mod_revision()));
        Ok(match event.event_type() {
            EventType::Put => Change::Put(Entry { key, value: Bytes::copy_from_slice(kv.value()), revision }),
            EventType::Delete => Change::Deleted { key, revision },
        })
    }
}

fn revision(answer: &WatchResponse) -> Revision {
    super::revision(answer.header())
}
