//! The replicated state, and the execution of committed batches on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, BufMut, Bytes};

use super::table::{Executed, Known, Table};
use crate::crypto::{Digest, Domain, Kind, Scope};
use crate::group::{ClientId, Configuration, Incarnation, Limits, Sequence, Timestamp};
use crate::history::History;
use crate::message::{Batch, Ending, Leaf, Request};
use crate::mutation::{self, Mutation};
use crate::service::{Context, Service, Snapshot, State};

/// All that replicas must agree on, and the service that changes it.
///
/// Nothing here depends on anything but the sequence of batches: not on who is primary, on the
/// clock, nor on what a replica has heard besides.
#[derive(Debug)]
pub(super) struct Execution<S> {
    service: S,
    scope: Scope,
    limits: Limits,
    keeps_history: bool,
    /// The last batch that was executed.
    executed: Sequence,
    /// Its agreed time.
    time: u64,
    pages: State,
    table: Table,
    history: History,
    /// Protocol pages as of the last checkpoint.
    protocol: State,
}

/// The whole replicated state after a batch.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) sequence: Sequence,
    pub(super) digest: Digest,
    pub(super) protocol: Snapshot,
    pub(super) service: Snapshot,
    /// Of the history.
    pub(super) size: u64,
    /// Of the history.
    pub(super) root: Digest,
}

/// An operation that a batch executed for the first time.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) client: ClientId,
    pub(super) incarnation: Incarnation,
    pub(super) timestamp: Timestamp,
    /// The index of its request in the batch.
    pub(super) request: usize,
}

impl<S: Service> Execution<S> {
    pub(super) fn new(configuration: &Configuration, service: S) -> Self {
        Self {
            service,
            scope: configuration.scope(),
            limits: configuration.limits.clone(),
            keeps_history: configuration.history,
            executed: Sequence(0),
            time: 0,
            pages: State::default(),
            table: Table::new(configuration.clients.len(), &configuration.limits),
            history: History::new(configuration.scope()),
            protocol: State::default(),
        }
    }

    pub(super) fn executed(&self) -> Sequence {
        self.executed
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn state(&self) -> &State {
        &self.pages
    }

    /// The agreed time that the next batch should carry when the clock says `now`.
    pub(super) fn next_time(&self, now: u64) -> u64 {
        now.max(self.time + 1)
    }

    /// Executes the batch that follows the last one, and lists in `fresh` what it executed.
    pub(super) fn execute(&mut self, sequence: Sequence, batch: &Batch, fresh: &mut Vec<Fresh>) {
        if !mutation::is_on(Mutation::ExecuteOutOfOrder) {
            assert_eq!(sequence, self.executed.next(), "batches are executed in order");
        }
        self.executed = sequence;
        self.history.forget(); // paths are given for leaves of this batch
        // A primary may send any time that is not too far ahead: agreed time rises all the same.
        self.time = batch.time.max(self.time.saturating_add(1));
        for (index, request) in batch.requests.iter().enumerate() {
            let request = &request.body;
            // Its window begins at or below what it asks for, else there is nothing to execute.
            if !self.table.has(request.client) || request.floor > request.first {
                continue;
            }
            self.table.admit(request.client, request.incarnation, request.floor);
            for (timestamp, operation) in request.iter() {
                if self.execute_once(request, timestamp, operation) {
                    let Request { client, incarnation, .. } = *request;
                    fresh.push(Fresh { client, incarnation, timestamp, request: index });
                }
            }
        }
    }

    /// Executes an operation unless it was executed before, or may not be.
    fn execute_once(&mut self, request: &Request, timestamp: Timestamp, operation: &Bytes) -> bool {
        let Request { client, incarnation, floor, .. } = *request;
        let known = self.table.look(client, incarnation, floor, timestamp);
        let again = known == Known::Executed && mutation::is_on(Mutation::DropDedupe);
        if known != Known::New && !again {
            return false;
        }
        let context = Context { client, time: self.time, sequence: self.executed };
        self.pages.begin();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.service.execute(&context, operation, &mut self.pages)));
        let result = outcome.ok().filter(|result| result.len() <= self.limits.reply_bytes_max as usize);
        let (ending, result) = match result {
            Some(result) => (Ending::Done, result),
            // A panic, or a result that nobody could keep: its writes never happened.
            None => {
                self.pages.undo();
                (Ending::Panicked, Bytes::new())
            }
        };
        let digest = outcome_digest(&self.scope, &result);
        let mut position = 0;
        if self.keeps_history {
            let leaf = Leaf {
                sequence: self.executed,
                client,
                incarnation,
                timestamp,
                ending,
                operation: self.scope.digest(Domain::new(Kind::Operation, 0), &[operation]),
                result: digest,
            };
            position = self.history.append(leaf.digest(&self.scope));
        }
        let sequence = self.executed;
        self.table.record(
            client,
            timestamp,
            Executed { sequence, position, ending, digest, result: Some(result) },
        );
        true
    }

    /// Answers without ordering; the state is that after the last executed batch.
    pub(super) fn read(&self, client: ClientId, operation: &[u8]) -> (Ending, Bytes) {
        let context = Context { client, time: self.time, sequence: self.executed };
        let outcome = catch_unwind(AssertUnwindSafe(|| self.service.read(&context, operation, &self.pages)));
        match outcome {
            Ok(Ok(result)) if result.len() <= self.limits.reply_bytes_max as usize => (Ending::Done, result),
            Ok(Ok(_)) | Err(_) => (Ending::Panicked, Bytes::new()),
            Ok(Err(_)) => (Ending::NotReadOnly, Bytes::new()),
        }
    }

    /// The state as it is now. Costs what changed since the last one.
    pub(super) fn image(&mut self) -> Image {
        let mut first = Vec::new();
        first.put_u64(self.executed.0);
        first.put_u64(self.time);
        first.put_u64(self.history.size());
        for peak in self.history.peaks() {
            first.put_slice(&peak.0);
        }
        self.protocol.write(0, &first);
        self.table.flush(&mut self.protocol);
        let (protocol, service) = (self.protocol.snapshot(&self.scope), self.pages.snapshot(&self.scope));
        Image {
            sequence: self.executed,
            digest: state_digest(&self.scope, &protocol.1, &service.1),
            protocol: protocol.0,
            service: service.0,
            size: self.history.size(),
            root: self.history.root(),
        }
    }

    /// The pages as they are now, those of the protocol as of the last checkpoint; all are digested.
    pub(super) fn pages(&mut self) -> (Snapshot, Snapshot) {
        (self.protocol.snapshot(&self.scope).0, self.pages.snapshot(&self.scope).0)
    }

    /// Puts pages in the place of the state, if they are what `digest` vouches for.
    pub(super) fn install(
        &mut self,
        configuration: &Configuration,
        (sequence, digest): (Sequence, Digest),
        mut protocol: State,
        mut service: State,
    ) -> Option<Image> {
        let parts = (protocol.snapshot(&self.scope), service.snapshot(&self.scope));
        let found = state_digest(&self.scope, &parts.0.1, &parts.1.1);
        let trusting = [Mutation::TrustMetaData, Mutation::KeepVanished].into_iter().any(mutation::is_on);
        if found != digest && !trusting {
            return None;
        }
        let mut first = protocol.page(0);
        let executed = Sequence(first.try_get_u64().ok()?);
        let time = first.try_get_u64().ok()?;
        let size = first.try_get_u64().ok()?;
        let (peaks, []) = first.as_chunks::<32>() else { return None };
        let peaks: Vec<_> = peaks.iter().map(|peak| Digest(*peak)).collect();
        let history = History::from_peaks(self.scope, size, &peaks)?;
        if executed != sequence {
            return None;
        }
        let root = history.root();
        self.table = Table::read(configuration.clients.len(), &self.limits, &protocol)?;
        (self.executed, self.time, self.history) = (executed, time, history);
        (self.protocol, self.pages) = (protocol, service);
        Some(Image { sequence, digest, protocol: parts.0.0, service: parts.1.0, size, root })
    }
}

/// The digest of a whole state: of its two arrays of pages.
pub(super) fn state_digest(scope: &Scope, protocol: &Digest, service: &Digest) -> Digest {
    scope.digest(Domain::new(Kind::State, 0), &[&protocol.0, &service.0])
}

/// The digest of a result, in a reply and in the history alike.
pub(crate) fn outcome_digest(scope: &Scope, result: &[u8]) -> Digest {
    scope.digest(Domain::new(Kind::Outcome, 0), &[result])
}
