//! The replicated state, and the execution of committed batches on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, BufMut, Bytes};

use super::table::{Executed, Known, Table};
use crate::crypto::{Digest, Domain, Keychain, Kind, Scope};
use crate::group::{ClientId, Configuration, Incarnation, Limits, Sequence, Timestamp};
use crate::history::History;
use crate::membership::{Reconfigure, ReconfigureRefused};
use crate::message::{Batch, Ending, Leaf, Request, operation_digest};
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
    /// The order of the operator that was followed last, and from which batch on it is in force.
    pending: Option<(Reconfigure, Sequence)>,
    /// Protocol pages as of the last checkpoint.
    protocol: State,
}

/// The whole replicated state after a batch.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) sequence: Sequence,
    pub(super) digest: Digest,
    /// At a boundary, the digest of the next configuration.
    pub(super) next: Option<Digest>,
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
            pending: None,
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

    /// The order of the operator that is in force after the boundary beside it; none when there was
    /// none since the last boundary.
    pub(super) fn pending(&self) -> Option<&(Reconfigure, Sequence)> {
        self.pending.as_ref()
    }

    /// The agreed time that the next batch should carry when the clock says `now`.
    pub(super) fn next_time(&self, now: u64) -> u64 {
        now.max(self.time + 1)
    }

    /// Executes the batch that follows the last one, and lists in `fresh` what it executed.
    pub(super) fn execute(
        &mut self,
        sequence: Sequence,
        batch: &Batch,
        members: (&Configuration, &Keychain),
        fresh: &mut Vec<Fresh>,
    ) {
        if !mutation::is_on(Mutation::ExecuteOutOfOrder) {
            assert_eq!(sequence, self.executed.next(), "batches are executed in order");
        }
        self.executed = sequence;
        self.pending.take_if(|(_, boundary)| *boundary < sequence);
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
            assert!(request.is_whole(), "whoever accepts a batch has all that it names");
            for (offset, (timestamp, operation)) in request.iter().enumerate() {
                let named = request.named.get(offset).copied();
                if self.execute_once(request, (timestamp, operation, named), members) {
                    let Request { client, incarnation, .. } = *request;
                    fresh.push(Fresh { client, incarnation, timestamp, request: index });
                }
            }
        }
    }

    /// Executes an operation unless it was executed before, or may not be. Its digest is known where its
    /// request names it.
    fn execute_once(
        &mut self,
        request: &Request,
        (timestamp, operation, named): (Timestamp, &Bytes, Option<Digest>),
        members: (&Configuration, &Keychain),
    ) -> bool {
        let Request { client, incarnation, floor, .. } = *request;
        let known = self.table.look(client, incarnation, floor, timestamp);
        let again = known == Known::Executed && mutation::is_on(Mutation::DropDedupe);
        if known != Known::New && !again {
            return false;
        }
        let (ending, result) = if request.reconfigure {
            (Ending::Done, Reconfigure::result(self.reconfigure(operation, members)))
        } else {
            self.serve(client, operation)
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
                operation: named.unwrap_or_else(|| operation_digest(&self.scope, operation)),
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

    /// What the service makes of an operation.
    fn serve(&mut self, client: ClientId, operation: &Bytes) -> (Ending, Bytes) {
        let context = Context { client, time: self.time, sequence: self.executed };
        self.pages.begin();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.service.execute(&context, operation, &mut self.pages)));
        match outcome.ok().filter(|result| result.len() <= self.limits.reply_bytes_max as usize) {
            Some(result) => (Ending::Done, result),
            // A panic, or a result that nobody could keep: its writes never happened.
            None => {
                self.pages.undo();
                (Ending::Panicked, Bytes::new())
            }
        }
    }

    /// Follows an order of the operator, if it is one. The boundary is the first checkpoint more than L
    /// batches on: whoever has not executed the order yet has a low watermark below it, and votes for
    /// nothing beyond.
    fn reconfigure(
        &mut self,
        operation: &[u8],
        (configuration, keychain): (&Configuration, &Keychain),
    ) -> Result<Sequence, ReconfigureRefused> {
        let order = Reconfigure::from_bytes(operation)?;
        if self.pending.is_some() {
            return Err(ReconfigureRefused::Pending);
        }
        if !mutation::is_on(Mutation::TrustReconfigure) {
            order.check(configuration, keychain)?;
        }
        let Limits { mut window, checkpoint_period, .. } = self.limits;
        if mutation::is_on(Mutation::BoundaryTooEarly) {
            window = 0;
        }
        let boundary = Sequence((self.executed.0 + window).next_multiple_of(checkpoint_period));
        self.pending = Some((order, boundary));
        Ok(boundary)
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
    pub(super) fn image(&mut self, configuration: &Configuration) -> Image {
        let mut first = Vec::new();
        first.put_u64(self.executed.0);
        first.put_u64(self.time);
        first.put_u64(self.history.size());
        let order = self.pending.as_ref().map(|(order, boundary)| (order.to_bytes(), boundary.0));
        let (order, boundary) = order.unwrap_or_default();
        first.put_u64(boundary);
        first.put_u32(u32::try_from(order.len()).expect("an order is a few kilobytes"));
        first.put_slice(&order);
        for peak in self.history.peaks() {
            first.put_slice(&peak.0);
        }
        self.protocol.write(0, &first);
        self.table.flush(&mut self.protocol);
        let (protocol, service) = (self.protocol.snapshot(&self.scope), self.pages.snapshot(&self.scope));
        let next = next_digest(self.pending.as_ref(), configuration, self.executed);
        Image {
            sequence: self.executed,
            digest: state_digest(&self.scope, &protocol.1, &service.1, next.as_ref()),
            next,
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

    /// Bytes of those pages.
    #[cfg(feature = "sim")]
    pub(super) fn pages_bytes(&self) -> u64 {
        self.protocol.bytes() + self.pages.bytes()
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
        let mut first = protocol.page(0);
        let executed = Sequence(first.try_get_u64().ok()?);
        let time = first.try_get_u64().ok()?;
        let size = first.try_get_u64().ok()?;
        let boundary = Sequence(first.try_get_u64().ok()?);
        let length = usize::try_from(first.try_get_u32().ok()?).ok()?;
        let (order, first) = first.split_at_checked(length)?;
        let pending = match order {
            [] => None,
            order => Some((Reconfigure::from_bytes(order).ok()?, boundary)),
        };
        let (protocol_digest, service_digest) = (parts.0.1, parts.1.1);
        let next = next_digest(pending.as_ref(), configuration, executed);
        let found = state_digest(&self.scope, &protocol_digest, &service_digest, next.as_ref());
        let trusting = [Mutation::TrustMetaData, Mutation::KeepVanished].into_iter().any(mutation::is_on);
        if found != digest && !trusting {
            return None;
        }
        let (peaks, []) = first.as_chunks::<32>() else { return None };
        let peaks: Vec<_> = peaks.iter().map(|peak| Digest(*peak)).collect();
        let history = History::from_peaks(self.scope, size, &peaks)?;
        if executed != sequence {
            return None;
        }
        let root = history.root();
        self.table = Table::read(configuration.clients.len(), &self.limits, &protocol)?;
        (self.executed, self.time, self.history) = (executed, time, history);
        (self.protocol, self.pages, self.pending) = (protocol, service, pending);
        let (protocol, service) = (parts.0.0, parts.1.0);
        Some(Image { sequence, digest, next, protocol, service, size, root })
    }
}

/// The digest of the configuration that follows the state after batch `executed`, if that is a boundary.
/// `configuration` is the one before it or already that one.
fn next_digest(
    pending: Option<&(Reconfigure, Sequence)>,
    configuration: &Configuration,
    executed: Sequence,
) -> Option<Digest> {
    let (order, boundary) = pending.filter(|(_, boundary)| *boundary == executed)?;
    Some(order.apply(configuration, *boundary).digest())
}

/// The digest of the whole state; at a boundary it covers the next configuration.
pub(super) fn state_digest(
    scope: &Scope,
    protocol: &Digest,
    service: &Digest,
    next: Option<&Digest>,
) -> Digest {
    let next = next.map_or(&[][..], |next| &next.0);
    scope.digest(Domain::new(Kind::State, 0), &[&protocol.0, &service.0, next])
}

/// The digest of the whole state at the boundary before the configuration with the digest `next`.
pub(crate) fn boundary_digest(scope: &Scope, protocol: &Digest, service: &Digest, next: &Digest) -> Digest {
    state_digest(scope, protocol, service, Some(next))
}

/// The digest of a result, in a reply and in the history alike.
pub(crate) fn outcome_digest(scope: &Scope, result: &[u8]) -> Digest {
    scope.digest(Domain::new(Kind::Outcome, 0), &[result])
}
