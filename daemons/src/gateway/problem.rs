//! Everything that can be wrong with a request, and how it is said: a kind, a status, a sentence.

use crate::{
    api::Problem,
    engine::StepError,
    queue::QueueError,
    records::{Failure, RecordsError},
    store::StoreError,
};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use quorate_dag::ErrorKind;

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    status: StatusCode,
    pub(super) title: &'static str,
}

macro_rules! kinds {
    ($($constant:ident = $name:literal, $status:ident, $title:literal;)*) => {
        $(pub(super) const $constant: Kind =
            Kind { name: $name, status: StatusCode::$status, title: $title };)*
        /// All that the gateway itself can say. Errors of an expression have kinds of their own.
        const KINDS: &[Kind] = &[$($constant),*];
    };
}

kinds! {
    MALFORMED_BODY = "malformed-body", BAD_REQUEST, "The body is not a submission";
    MALFORMED_QUERY = "malformed-query", BAD_REQUEST, "The query string is malformed";
    MALFORMED_KEY = "malformed-idempotency-key", BAD_REQUEST, "The Idempotency-Key is malformed";
    MALFORMED_PATH = "malformed-path", BAD_REQUEST, "The path is malformed";
    MALFORMED_ID = "malformed-id", NOT_FOUND, "The id is not a UUID";
    UNAUTHORIZED = "unauthorized", UNAUTHORIZED, "A token is needed";
    FORBIDDEN = "forbidden", FORBIDDEN, "The token does not allow this";
    RATE = "too-many-requests", TOO_MANY_REQUESTS, "The token asks too often";
    UNKNOWN_ID = "unknown-id", NOT_FOUND, "No request has this id";
    EXPIRED = "expired", GONE, "The request has expired";
    NO_RECEIPT = "no-receipt", NOT_FOUND, "The request has no receipt";
    UNKNOWN_FAULT = "unknown-fault", NOT_FOUND, "No fault has this id";
    NO_PROOF = "no-proof", NOT_FOUND, "The fault has no proof";
    UNKNOWN_QUEUE = "unknown-queue", NOT_FOUND, "No queue has this name";
    UNKNOWN_FUNCTION = "unknown-function", NOT_FOUND, "No function has this name";
    NOT_FOUND = "not-found", NOT_FOUND, "Nothing is here";
    METHOD_NOT_ALLOWED = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    SLOW_BODY = "body-timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    BODY_TOO_LARGE = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    RECORD_TOO_LARGE = "record-too-large", PAYLOAD_TOO_LARGE, "The request is larger than the platform keeps";
    MALFORMED_PARAMETER = "malformed-parameter", UNPROCESSABLE_ENTITY, "A parameter is not a number";
    DIGITS = "too-many-digits-asked", UNPROCESSABLE_ENTITY, "More digits are asked for than allowed";
    NO_SIGNERS = "receipt-unavailable", UNPROCESSABLE_ENTITY, "Nobody would sign the receipt";
    KEY_REUSED = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another request";
    DEADLINE = "deadline", GATEWAY_TIMEOUT, "The request was not answered by its deadline";
    NO_WORKER = "function-unavailable", GATEWAY_TIMEOUT, "No worker of a function answered";
    OVERLOADED = "overloaded", SERVICE_UNAVAILABLE, "The platform has as much to do as it takes";
    UNAVAILABLE = "unavailable", SERVICE_UNAVAILABLE, "The platform is not available";
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, "The gateway failed";
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.name == name).copied()
    }

    pub(super) fn with(self, detail: impl Into<String>) -> Problem {
        Problem {
            kind_uri: format!("/problems/{}", self.name),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: detail.into(),
            kind: self.name.to_owned(),
            span: None,
            id: None,
        }
    }
}

/// An error of an expression as it is written.
pub(super) fn of_expression(kind: &ErrorKind, span: Option<[usize; 2]>) -> Problem {
    let status =
        if kind.is_too_large() { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::UNPROCESSABLE_ENTITY };
    Problem { span, ..about(kind.as_str(), status, kind.to_string()) }
}

fn about(kind: &str, status: StatusCode, detail: String) -> Problem {
    Problem {
        kind_uri: format!("/problems/{kind}"),
        title: sentence(kind),
        status: status.as_u16(),
        detail,
        kind: kind.to_owned(),
        span: None,
        id: None,
    }
}

/// `division-by-zero` → `Division by zero`.
fn sentence(kind: &str) -> String {
    let words = kind.replace('-', " ");
    let mut characters = words.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// A failure that a scheduler recorded.
pub(super) fn of_failure(failure: &Failure) -> Problem {
    let mut problem = match Kind::named(&failure.kind) {
        Some(kind) => kind.with(failure.detail.clone()),
        None => about(&failure.kind, StatusCode::UNPROCESSABLE_ENTITY, failure.detail.clone()),
    };
    problem.span = failure.span;
    problem
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("plain strings and numbers serialise");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A token's allowance is full again after a second.
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<RecordsError> for Problem {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Unavailable { .. } => unavailable(&error),
            RecordsError::TooLarge { .. } => RECORD_TOO_LARGE.with(error.to_string()),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Unavailable { .. } => unavailable(&error),
            QueueError::TooLarge { .. } => RECORD_TOO_LARGE.with(error.to_string()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        unavailable(&error)
    }
}

impl From<StepError> for Problem {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Records(error) => error.into(),
            StepError::Queue(error) => error.into(),
        }
    }
}

/// What the engine said goes to the log; the user can do nothing with it but come again.
fn unavailable(error: &dyn std::error::Error) -> Problem {
    tracing::warn!(%error, "the engine refused");
    UNAVAILABLE.with("nothing was accepted or changed; try again in a second")
}
