//! The inbound queue: requests come in, are looked up and planned, and go to the core as runs.

use super::{
    core::{Event, Started},
    kept::{self, Keeping},
    leases::Leases,
    work::Work,
};
use crate::{
    clock,
    config::{Config, Replication},
    engine::{Conclusion, Engine, StepError},
    expression,
    queue::{Handle, Message, QueueError, QueueName},
    records::{Failure, Finished, Lookup, Outcome, Record, RecordsError},
};
use bytes::Bytes;
use quorate_dag::Costs;
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use uuid::Uuid;

/// Requests that run at once.
pub(super) const RUNS_MAX: usize = 1024;
/// Kibibytes of expressions that run at once: their plans take memory in proportion.
const TEXT_KIB_MAX: u32 = 16 << 10;
/// The largest batch that SQS gives.
const BATCH: usize = 10;
/// A long poll, and how long a receiver that can't reach its queue rests.
const POLL: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_millis(500);
/// Text over this is planned on a thread of its own, so that it keeps no other request waiting.
const LONG_TEXT: usize = 16 << 10;
/// The pause before the first repetition of a step that failed; doubles up to the next.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is on the inbound queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InboundMessage {
    /// The request's record.
    pub(crate) id: Uuid,
    /// Whom to tell; nobody waits for what a sweep has sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<String>,
}

/// What is on an outbound queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutboundMessage {
    /// The request's record.
    pub(crate) id: Uuid,
}

/// Room that a run takes; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _run: OwnedSemaphorePermit,
    _text: OwnedSemaphorePermit,
}

/// A request on its way through this scheduler: which record, which message, whom to tell.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) id: Uuid,
    pub(super) reply_to: Option<QueueName>,
    pub(super) handle: Handle,
}

/// The way in and the way out.
pub(super) struct Inbound {
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    leases: Leases,
    runs: Arc<Semaphore>,
    text: Arc<Semaphore>,
    costs: watch::Receiver<Costs>,
    meters: Arc<super::meters::Meters>,
    events: mpsc::Sender<Event>,
}

impl Inbound {
    pub(super) async fn open(
        config: Arc<Config>,
        engine: Arc<dyn Engine>,
        costs: watch::Receiver<Costs>,
        meters: Arc<super::meters::Meters>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, QueueError> {
        let queue = engine.queue(&QueueName::inbound()).await?;
        let leases = Leases::new(queue, config.timeouts.lease);
        let (runs, text) = (Semaphore::new(RUNS_MAX), Semaphore::new(TEXT_KIB_MAX as usize));
        Ok(Self { config, engine, leases, runs: Arc::new(runs), text: Arc::new(text), costs, meters, events })
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Receives until the core is gone.
    pub(super) async fn receive(self: Arc<Self>) {
        loop {
            let Ok(first) = Arc::clone(&self.runs).acquire_owned().await else { return };
            let mut room = vec![first];
            while room.len() < BATCH
                && let Ok(more) = Arc::clone(&self.runs).try_acquire_owned()
            {
                room.push(more);
            }
            match self.leases.queue().receive(room.len(), self.leases.lease(), POLL).await {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    // The next batch is received while this one is looked up and planned.
                    let this = Arc::clone(&self);
                    tokio::spawn(async move { this.admit(messages.into_iter().zip(room).collect()).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "inbound can't be read");
                    tokio::time::sleep(REST).await;
                }
            }
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn admit(&self, batch: Vec<(Message, OwnedSemaphorePermit)>) {
        let looks = batch.into_iter().map(|(message, run)| self.look(message, run));
        let started: Vec<Started> = futures::future::join_all(looks).await.into_iter().flatten().collect();
        if !started.is_empty() {
            // When the core has ended the leases lapse, and another scheduler takes the requests.
            let _ = self.events.send(Event::Start(started)).await;
        }
    }

    /// Looks up what a message is about: a run to be started, or nothing that is left to do.
    async fn look(&self, message: Message, run: OwnedSemaphorePermit) -> Option<Started> {
        let inbound: InboundMessage = match serde_json::from_slice(&message.body) {
            Ok(inbound) => inbound,
            Err(error) => {
                // It comes back and ends as a dead letter, where a person can look at it.
                tracing::error!(%error, "a message on inbound names no request");
                return None;
            }
        };
        let reply_to = inbound.reply_to.as_deref().map(QueueName::named);
        // A scheduler may have had it before, also under a message that got lost.
        let is_again = message.receives > 1 || reply_to.is_none();
        let ticket = Ticket { id: inbound.id, reply_to, handle: message.handle };
        self.leases.hold(ticket.handle.clone());
        match self.start(&ticket, is_again, run).await {
            Ok(started) => {
                if started.is_none() && is_again {
                    kept::forget(self.engine.store(), ticket.id).await;
                }
                started
            }
            Err(error) => {
                tracing::warn!(request = %ticket.id, %error, "a request comes back later");
                self.leases.release(&ticket.handle);
                None
            }
        }
    }

    async fn start(
        &self,
        ticket: &Ticket,
        is_again: bool,
        run: OwnedSemaphorePermit,
    ) -> Result<Option<Started>, StepError> {
        let record = match self.engine.records().get(ticket.id).await? {
            Lookup::Found(record) if record.outcome.is_none() => record,
            Lookup::Found(_) => {
                self.announce(ticket).await?;
                return Ok(None);
            }
            Lookup::Expired | Lookup::Unknown => {
                self.delete(ticket).await?;
                return Ok(None);
            }
        };
        let now = clock::epoch_ms();
        let elapsed = Duration::from_millis(now.saturating_sub(record.accepted_ms));
        let accepted = Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now);
        if record.deadline_ms <= now {
            self.conclude_failed(ticket, &record, deadline_failure(), elapsed).await;
            return Ok(None);
        }
        let deadline = Instant::now() + Duration::from_millis(record.deadline_ms - now);
        let kib = u32::try_from(record.request.expression.len() >> 10).unwrap_or(u32::MAX);
        let text = Arc::clone(&self.text)
            .acquire_many_owned(kib.saturating_add(1).min(TEXT_KIB_MAX))
            .await
            .expect("this semaphore is never closed");
        let kept = if is_again { kept::find(self.engine.store(), ticket.id).await } else { None };
        let is_kept = kept.is_some();
        match self.plan(&record, kept).await {
            Ok(work) => Ok(Some(Started {
                ticket: ticket.clone(),
                work,
                keeping: Keeping::started(is_kept),
                accepted,
                deadline,
                deadline_ms: record.deadline_ms,
                room: Room { _run: run, _text: text },
            })),
            Err(failure) => {
                self.conclude_failed(ticket, &record, failure, elapsed).await;
                Ok(None)
            }
        }
    }

    /// The gateway has planned the same text, so a failure here is a change of limits between the two.
    async fn plan(&self, record: &Record, kept: Option<kept::Kept>) -> Result<Work, Failure> {
        let limits = expression::limits(&self.config.limits);
        let request = record.request.clone();
        let costs = self.costs.borrow().clone();
        let work = if request.expression.len() > LONG_TEXT {
            tokio::task::spawn_blocking(move || Work::resume(&request, &limits, &costs, kept))
                .await
                .map_err(|error| failure("internal", format!("the expression can't be planned: {error}")))??
        } else {
            Work::resume(&request, &limits, &costs, kept)?
        };
        if work.wants_receipt() {
            let plain =
                work.functions().find(|f| self.config.functions.of(*f).replication == Replication::None);
            if let Some(function) = plain {
                return Err(failure(
                    "receipt-unavailable",
                    format!("function `{function}` has no replicas, so there is nobody to sign a receipt"),
                ));
            }
        }
        Ok(work)
    }

    async fn conclude_failed(&self, ticket: &Ticket, record: &Record, failure: Failure, elapsed: Duration) {
        let outcome = Outcome {
            result: Err(failure),
            nodes: 0,
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
            timeline: Vec::new(),
        };
        debug_assert_eq!(record.id, ticket.id);
        self.conclude(ticket, outcome, None).await;
    }

    /// Writes how a request ended, tells who waits, deletes its message; again and again until that is
    /// done or the engine has been away for so long that another may as well run the request.
    pub(super) async fn conclude(&self, ticket: &Ticket, outcome: Outcome, receipt: Option<Bytes>) {
        self.meters.ended(outcome.result.is_ok(), Duration::from_secs_f64(outcome.elapsed_ms.max(0.0) / 1e3));
        let (mut outcome, mut receipt) = (outcome, receipt);
        let mut pause = BACKOFF;
        for _ in 0..16 {
            match self.try_conclude(ticket, &outcome, receipt.as_ref()).await {
                Ok(finished) => {
                    self.judge(ticket, &outcome, finished);
                    break;
                }
                Err(StepError::Records(RecordsError::TooLarge { bytes, limit }))
                    if outcome.result.is_ok() =>
                {
                    let detail =
                        format!("the result with what belongs to it has {bytes} bytes, {limit} can be kept");
                    outcome.result = Err(failure("too-large", detail));
                    outcome.timeline.clear();
                    receipt = None;
                }
                Err(error) => {
                    tracing::warn!(request = %ticket.id, %error, "a request is not concluded yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
        self.leases.release(&ticket.handle);
    }

    async fn try_conclude(
        &self,
        ticket: &Ticket,
        outcome: &Outcome,
        receipt: Option<&Bytes>,
    ) -> Result<Finished, StepError> {
        let (id, outcome, receipt) = (ticket.id, outcome.clone(), receipt.cloned());
        let Some(reply_to) = &ticket.reply_to else {
            let finished = self.engine.records().finish(id, outcome, receipt).await?;
            self.leases.queue().delete(std::slice::from_ref(&ticket.handle)).await?;
            return Ok(finished);
        };
        let outbound = self.engine.queue(reply_to).await?;
        let end = Conclusion {
            id,
            outcome,
            receipt,
            outbound: &*outbound,
            announcement: announcement(id),
            inbound: &**self.leases.queue(),
            handle: &ticket.handle,
        };
        self.engine.conclude(end).await
    }

    /// Two runs of one request must come to one result: functions are pure.
    fn judge(&self, ticket: &Ticket, outcome: &Outcome, finished: Finished) {
        let Finished::Before(before) = finished else { return };
        if let (Ok(ours), Ok(theirs)) = (&outcome.result, &before.result)
            && ours != theirs
        {
            tracing::error!(request = %ticket.id, %ours, %theirs, "two runs of a request disagree");
            self.meters.disagreed();
        }
    }

    /// Sends requests again whose message got lost, or became a dead letter.
    pub(super) async fn send_again(&self, ids: Vec<Uuid>) {
        let body = |id| {
            let message = InboundMessage { id, reply_to: None };
            serde_json::to_vec(&message).expect("an id serialises").into()
        };
        tracing::info!(count = ids.len(), "requests that nobody works on are sent again");
        if let Err(error) = self.leases.queue().send(ids.into_iter().map(body).collect()).await {
            tracing::warn!(%error, "overdue requests were not sent again");
        }
    }

    /// A message that another has replaced goes.
    pub(super) async fn discard(&self, handle: &Handle) {
        if let Err(error) = self.leases.queue().delete(std::slice::from_ref(handle)).await {
            tracing::warn!(%error, "a replaced message was not deleted");
        }
        self.leases.release(handle);
    }

    async fn announce(&self, ticket: &Ticket) -> Result<(), StepError> {
        if let Some(reply_to) = &ticket.reply_to {
            self.engine.queue(reply_to).await?.send(vec![announcement(ticket.id)]).await?;
        }
        self.delete(ticket).await
    }

    async fn delete(&self, ticket: &Ticket) -> Result<(), StepError> {
        self.leases.queue().delete(std::slice::from_ref(&ticket.handle)).await?;
        self.leases.release(&ticket.handle);
        Ok(())
    }
}

fn announcement(id: Uuid) -> Bytes {
    serde_json::to_vec(&OutboundMessage { id }).expect("an id serialises").into()
}

/// A failure that no part of the expression is to blame for.
pub(super) fn failure(kind: &str, detail: String) -> Failure {
    Failure { kind: kind.into(), detail, span: None }
}

pub(super) fn deadline_failure() -> Failure {
    failure("deadline", "there was no answer before the request's deadline".into())
}
