//! CalculateExpression and GetExpression.

use super::{
    Gateway, Path, Query,
    problem::{
        self, BODY_TOO_LARGE, EXPIRED, INTERNAL, KEY_REUSED, MALFORMED_BODY, MALFORMED_ID, MALFORMED_KEY,
        MALFORMED_QUERY, NO_RECEIPT, SLOW_BODY, UNKNOWN_ID,
    },
    submission,
    waiters::Waiter,
};
use crate::{
    api::{Answer, Problem, Status, Submission},
    records::{Created, Lookup, NewRecord, Record, Request},
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{FutureExt, Stream, StreamExt, stream};
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How often one who waits reads the record without a hint: hints may be lost with their gateway.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An expression longer than this is parsed where it holds up no other request.
const PARSE_INLINE_BYTES: usize = 16 << 10;

/// What may stand after the `?`.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Options {
    /// Seconds to wait for the end, at most `timeouts.wait`.
    #[serde(default)]
    wait: Option<f64>,
    /// Whether to say when and where each node ran.
    #[serde(default)]
    timeline: bool,
}

impl Options {
    fn wait(self, longest: Duration) -> Result<Option<Duration>, Problem> {
        self.wait
            .map(|seconds| {
                Duration::try_from_secs_f64(seconds)
                    .map(|wait| wait.min(longest))
                    .map_err(|error| MALFORMED_QUERY.with(format!("wait={seconds}: {error}")))
            })
            .transpose()
    }
}

/// Computes an expression.
#[utoipa::path(
    post, path = "/v1/expressions", tag = "expressions", params(
        Options,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat of this request the same request: 1 to 255 visible ASCII characters"),
    ),
    request_body = Submission,
    responses(
        (status = 200, description = "It is done", body = Answer),
        (status = 202, description = "It was accepted and survives the gateway; `Location` says where the answer will be", body = Answer),
        (status = 400, description = "The body, the query or a header is malformed", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The request with this Idempotency-Key has expired", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The expression has an error", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nothing was accepted; try again after `Retry-After`", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not answered by its deadline", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn calculate_expression(
    State(gateway): State<Arc<Gateway>>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let arrived = Instant::now();
    let wait = options.wait(gateway.config.timeouts.wait)?;
    let id = match idempotency_key(&headers)? {
        Some(key) => repeatable_id(headers.get(header::AUTHORIZATION), key),
        None => Uuid::now_v7(),
    };
    let request = read_request(&gateway, &headers, body).await?;
    gateway.admission.admit(gateway.engine.records(), gateway.config.limits.accepted).await?;

    // Registered before it is sent, so that no hint can come too early.
    let waiter = wait.map(|_| gateway.waiters.register(id));
    let record = match accept(&gateway, id, &request).await? {
        Created::New => None,
        Created::Existing(record) => Some(record),
        Created::Expired => return Err(EXPIRED.with(format!("request {id} has expired"))),
    };
    tracing::debug!(request = %id, repeated = record.is_some(), "accepted");
    if let Some(record) = &record {
        if record.request != request {
            return Err(KEY_REUSED.with("the Idempotency-Key was used before with another body"));
        }
        gateway.send_again_if_stuck(record).await?;
    }
    let record = match (record, wait, waiter) {
        (Some(record), _, _) if record.outcome.is_some() => Some(record),
        (_, Some(wait), Some(waiter)) => finished(&gateway, waiter, id, arrived + wait).await?,
        _ => None,
    };
    let Some(record) = record else {
        return Ok(accepted(id));
    };
    gateway.metrics.answered(&record, arrived.elapsed());
    let answer = answer(record, options);
    match answer.error {
        Some(error) => Err(Problem { id: Some(id), ..error }),
        None => Ok(Json(answer).into_response()),
    }
}

async fn accept(gateway: &Gateway, id: Uuid, request: &Request) -> Result<Created, Problem> {
    let now_ms = now_ms();
    let deadline_ms = now_ms.saturating_add(millis(gateway.config.timeouts.request));
    let record = NewRecord {
        id,
        request: request.clone(),
        deadline_ms,
        expires_ms: deadline_ms.saturating_add(millis(gateway.config.timeouts.keep)),
    };
    Ok(gateway.engine.accept(record, &*gateway.inbound, gateway.inbound_message(id)).await?)
}

/// The body as a request, bounded before it is read: by its own limit, and together with all others
/// that are being read or parsed by the gateway's budget.
async fn read_request(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<Request, Problem> {
    let limits = &gateway.config.limits;
    let too_large =
        || BODY_TOO_LARGE.with(format!("the body is over limits.body_bytes ({})", limits.body_bytes));
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let most = declared.unwrap_or(limits.body_bytes);
    if most > limits.body_bytes {
        return Err(too_large());
    }
    let _reserved = gateway.bodies.reserve(most)?;
    let bytes = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, most))
        .await
        .map_err(|_| SLOW_BODY.with(format!("the body did not arrive within {BODY_TIMEOUT:?}")))?
        .map_err(|error| {
            let error = error.into_inner();
            if error.is::<http_body_util::LengthLimitError>() {
                too_large()
            } else {
                MALFORMED_BODY.with(format!("the body was cut short: {error}"))
            }
        })?;
    if bytes.len() <= PARSE_INLINE_BYTES {
        return submission::read(&bytes, &gateway.config);
    }
    let config = Arc::clone(&gateway.config);
    tokio::task::spawn_blocking(move || submission::read(&bytes, &config))
        .await
        .unwrap_or_else(|error| Err(INTERNAL.with(error.to_string())))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(MALFORMED_KEY.with("there is more than one; a request has one key"));
    }
    let visible = key.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
    visible.map(Some).ok_or_else(|| MALFORMED_KEY.with("it has to be 1 to 255 visible ASCII characters"))
}

/// The id is a function of who asks and of the key: a repeat finds the record without a second table,
/// and one user's keys say nothing about another's requests.
fn repeatable_id(token: Option<&HeaderValue>, key: &str) -> Uuid {
    let token = token.map(HeaderValue::as_bytes).unwrap_or_default();
    let mut hash = Context::new(&SHA256);
    hash.update(&(token.len() as u64).to_be_bytes());
    hash.update(token);
    hash.update(key.as_bytes());
    let hash = hash.finish();
    Uuid::new_v8(hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
}

/// The record when it is finished, or nothing when time is up or the gateway ends. The caller has found
/// it unfinished after the waiter was registered.
///
/// An engine that is away is waited for: the request was accepted, and nobody may be told otherwise.
async fn finished(
    gateway: &Gateway,
    mut waiter: Waiter,
    id: Uuid,
    until: Instant,
) -> Result<Option<Record>, Problem> {
    let mut ending = gateway.shutdown.clone();
    while Instant::now() < until {
        tokio::select! {
            () = waiter.hint() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY)) => {}
            _ = ending.wait_for(|ending| *ending) => return Ok(None),
        }
        match gateway.engine.records().get(id).await {
            Err(error) => tracing::debug!(request = %id, %error, "who waits goes on waiting"),
            Ok(found) => {
                let record = existing(id, found)?;
                if record.outcome.is_some() {
                    return Ok(Some(record));
                }
            }
        }
    }
    Ok(None)
}

fn existing(id: Uuid, found: Lookup) -> Result<Record, Problem> {
    match found {
        Lookup::Found(record) => Ok(record),
        Lookup::Expired => Err(EXPIRED.with(format!("request {id} has expired"))),
        Lookup::Unknown => Err(UNKNOWN_ID.with(format!("no request has the id {id}"))),
    }
}

fn accepted(id: Uuid) -> Response {
    let answer = Answer {
        id,
        status: Status::Accepted,
        result: None,
        error: None,
        nodes: None,
        elapsed_ms: None,
        timeline: Vec::new(),
    };
    let location = HeaderValue::from_str(&format!("/v1/expressions/{id}")).expect("a UUID is ASCII");
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(answer)).into_response()
}

fn answer(record: Record, options: Options) -> Answer {
    let mut answer = Answer {
        id: record.id,
        status: Status::Accepted,
        result: None,
        error: None,
        nodes: None,
        elapsed_ms: None,
        timeline: Vec::new(),
    };
    if let Some(outcome) = record.outcome {
        answer.nodes = Some(outcome.nodes);
        answer.elapsed_ms = Some(outcome.elapsed_ms);
        if options.timeline {
            answer.timeline = outcome.timeline;
        }
        match outcome.result {
            Ok(result) => (answer.status, answer.result) = (Status::Done, Some(result)),
            Err(failure) => {
                (answer.status, answer.error) = (Status::Failed, Some(problem::of_failure(&failure)));
            }
        }
    }
    answer
}

/// A request by its id.
#[utoipa::path(
    get, path = "/v1/expressions/{id}", tag = "expressions",
    params(("id" = Uuid, Path, description = "What the request was answered with"), Options),
    responses(
        (status = 200, description = "The request as it stands", body = Answer),
        (status = 404, description = "No such request", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The request has expired", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not available; try again after `Retry-After`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get_expression(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Query(options): Query<Options>,
) -> Result<Json<Answer>, Problem> {
    let id = parse_id(&id)?;
    let wait = options.wait(gateway.config.timeouts.wait)?;
    let waiter = wait.map(|wait| (gateway.waiters.register(id), Instant::now() + wait));
    let mut record = gateway.record(id).await?;
    if let (None, Some((waiter, until))) = (&record.outcome, waiter)
        && let Some(finished) = finished(&gateway, waiter, id, until).await?
    {
        record = finished;
    }
    Ok(Json(answer(record, options)))
}

/// What happens to a request, as server-sent events: `accepted`, then `done` or `failed`.
#[utoipa::path(
    get, path = "/v1/expressions/{id}/events", tag = "expressions",
    params(("id" = Uuid, Path, description = "What the request was answered with"), Options),
    responses(
        (status = 200, description = "Events, each with the request as it stands", content_type = "text/event-stream", body = Answer),
        (status = 404, description = "No such request", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The request has expired", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get_events(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Query(options): Query<Options>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let id = parse_id(&id)?;
    let waiter = gateway.waiters.register(id);
    let record = gateway.record(id).await?;
    let first = Event::default()
        .event("accepted")
        .json_data(answer(Record { outcome: None, ..record.clone() }, options))
        .expect("plain data serialises");
    // A scheduler ends every request by its deadline; a stream does not outlive a platform without one.
    let left_ms = record.deadline_ms.saturating_sub(now_ms()).saturating_add(LOOK_EVERY_MS * 40);
    let until = Instant::now() + Duration::from_millis(left_ms);
    let last = async move {
        let record = match record.outcome {
            Some(_) => record,
            None => finished(&gateway, waiter, id, until).await.ok()??,
        };
        let answer = answer(record, options);
        let name = if answer.status == Status::Done { "done" } else { "failed" };
        Some(Ok(Event::default().event(name).json_data(answer).expect("plain data serialises")))
    };
    let events = stream::iter([Ok(first)]).chain(last.into_stream().filter_map(std::future::ready));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// A request's receipt: for `quorate verify`.
#[utoipa::path(
    get, path = "/v1/receipts/{id}", tag = "expressions",
    params(("id" = Uuid, Path, description = "What the request was answered with")),
    responses(
        (status = 200, description = "The receipt", body = Object),
        (status = 404, description = "No such request, or it asked for no receipt, or is not done", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The request has expired", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get_receipt(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let record = gateway.record(id).await?;
    let why = match &record.outcome {
        None => "the request is not done yet",
        Some(_) if !record.request.receipt => "the request did not ask for a receipt",
        Some(_) => match gateway.engine.records().receipt(id).await? {
            Some(receipt) => return Ok(json_bytes(receipt)),
            None => "the request failed, or no function that it used is replicated",
        },
    };
    Err(NO_RECEIPT.with(why))
}

fn json_bytes(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

fn parse_id(id: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(id).map_err(|error| MALFORMED_ID.with(format!("`{id:.80}`: {error}")))
}

fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const LOOK_EVERY_MS: u64 = 250;

impl Gateway {
    /// The record by its id, or the problem with it.
    async fn record(&self, id: Uuid) -> Result<Record, Problem> {
        existing(id, self.engine.records().get(id).await?)
    }

    /// A repeat that finds its request accepted for longer than a scheduler's lease may be what is left
    /// of a gateway that died between the record and the message: sends it to inbound again.
    async fn send_again_if_stuck(&self, record: &Record) -> Result<(), Problem> {
        let age_ms = now_ms().saturating_sub(record.accepted_ms);
        if record.outcome.is_none() && age_ms > 2 * millis(self.config.timeouts.lease) {
            self.inbound.send(vec![self.inbound_message(record.id)]).await?;
        }
        Ok(())
    }
}
