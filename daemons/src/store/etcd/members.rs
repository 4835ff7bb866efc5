//! The members of etcd, one of which is asked at a time.
//!
//! Each has a connection of its own. Requests go to the one that answered last, and to the next when it does
//! not: a request that is spread over all members would meet a dead one again and again.

use super::options::EtcdOptions;
use crate::{
    causes::{causes, with_causes},
    store::StoreError,
};
use etcd_client::{Client, ConnectOptions, Error};
use rand::RngExt;
use std::{
    error::Error as _,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout_at},
};
use tonic::{Code, ConnectError};

/// The pause before a request is repeated; each is twice the one before, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A request that may be repeated waits for an answer this part of the time that it has, and twice so, before
/// the next member is asked. From then on it waits to the end: all members may be slow.
const PATIENCE: u32 = 4;
const HASTY: u32 = 2;

/// How many different words of one member are told.
const WORDS: usize = 3;

/// Members as they refuse a request whose token is older than the last change of users and roles.
const OLD_TOKEN: &str = "etcdserver: revision of auth store is old";

/// The members.
pub(super) struct Members {
    members: Vec<Member>,
    /// Which is asked.
    current: AtomicUsize,
    timeout: Duration,
}

struct Member {
    endpoint: String,
    /// Whether it is shown no certificate of ours though it shows its own.
    anonymous: bool,
    options: ConnectOptions,
    client: OnceCell<Client>,
}

/// What it would do to ask for the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twice {
    /// No more than to ask once.
    Same,
    /// It may take effect twice: it is asked again only if the first answer proves that nothing was done.
    More,
}

/// What a request may take.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// When it fails, whatever it waits for.
    pub(super) ends: Instant,
    /// How long it waits for one member.
    pub(super) each: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    twice: Twice,
    /// Who was asked, and what each said, the newest last.
    asked: Vec<(String, Vec<String>)>,
}

/// What is known of a request that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// etcd has decided not to do it.
    Refused(Code),
    /// Nothing was done, and another member may do it.
    Undone,
    /// It may have been done, or may yet be.
    Unknown,
}

impl Members {
    pub(super) fn new(options: &EtcdOptions) -> Self {
        let connect = options.connect();
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            anonymous: options.tls.as_ref().is_some_and(|tls| tls.client.is_none()),
            options: connect.clone(),
            client: OnceCell::new(),
        };
        let members: Vec<_> = options.endpoints.iter().map(member).collect();
        // Anywhere, so that not all daemons load the same member.
        let current = AtomicUsize::new(rand::rng().random_range(0..members.len().max(1)));
        Self { members, current, timeout: options.request_timeout }
    }

    /// The time that a request has.
    pub(super) fn limit(&self) -> Limit {
        Limit { ends: Instant::now() + self.timeout, each: self.timeout }
    }

    /// Asks members until one answers.
    pub(super) async fn ask<T, F>(
        &self,
        limit: Limit,
        twice: Twice,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut failure = Failure { kind: Kind::Undone, twice, asked: Vec::new() };
        if self.members.is_empty() {
            return Err(failure);
        }
        for attempt in 0_u32.. {
            let at = self.current.load(Ordering::Relaxed);
            let member = &self.members[at];
            let each = match twice {
                Twice::Same if attempt < HASTY => limit.each / PATIENCE,
                Twice::Same | Twice::More => limit.each,
            };
            let until = limit.ends.min(Instant::now() + each);
            let (kind, said) = match timeout_at(until, member.ask(&request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failed)) => failed,
                Err(_) => (Kind::Unknown, "no answer in time".into()),
            };
            failure.add(&member.endpoint, said);
            failure.kind = kind;
            if matches!(kind, Kind::Refused(_)) {
                break;
            }
            // All who wait for this one move on together, by one place.
            let next = (at + 1) % self.members.len();
            let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            let pause = pause(attempt);
            if kind == Kind::Unknown && twice == Twice::More || Instant::now() + pause >= limit.ends {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(failure)
    }
}

/// Before the next attempt. At random, so that those whom one failure has hit don't come back as one.
fn pause(attempt: u32) -> Duration {
    let longest = PAUSE.0.saturating_mul(2_u32.saturating_pow(attempt)).min(PAUSE.1);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Member {
    async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, (Kind, String)>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let connect = || Client::connect([&self.endpoint], Some(self.options.clone()));
        // With a user it takes a round trip to get a token: what was asked for is not sent before that.
        let client = self.client.get_or_try_init(connect).await.map_err(|error| match kind(&error) {
            refused @ Kind::Refused(_) => (refused, said(&error)),
            Kind::Undone | Kind::Unknown => (Kind::Undone, said(&error)),
        })?;
        match request(client.clone()).await {
            Ok(answer) => Ok(answer),
            Err(error) if matches!(&error, Error::GRpcStatus(status) if status.message() == OLD_TOKEN) => {
                // Should this fail too, the next attempt says why.
                let _ = client.refresh_token().await;
                Err((Kind::Undone, said(&error)))
            }
            Err(error) if self.may_ask_for_certificate(&error) => {
                // Whether its reason arrives before the end is up to chance.
                Err((kind(&error), format!("{} (does it ask for a certificate? we have none)", said(&error))))
            }
            Err(error) => Err((kind(&error), said(&error))),
        }
    }

    /// Whether it may have closed the connection because it was shown no certificate.
    fn may_ask_for_certificate(&self, error: &Error) -> bool {
        match error {
            Error::GRpcStatus(status) => {
                self.anonymous && status.source().is_some() && !never_connected(status)
            }
            _ => false,
        }
    }
}

/// What an error says of the request.
fn kind(error: &Error) -> Kind {
    let status = match error {
        Error::GRpcStatus(status) => status,
        // The library's word for a lease that is not there, and for nothing else that can happen.
        Error::LeaseKeepAliveError(_) => return Kind::Refused(Code::NotFound),
        // A stream that ended before it said anything.
        Error::WatchError(_) => return Kind::Unknown,
        // Of the options: endpoints, certificates, a token that is no text.
        _ => return Kind::Refused(Code::InvalidArgument),
    };
    match status.code() {
        // Each before etcd has proposed anything to its members.
        Code::Unavailable if never_connected(status) || status.message() == "etcdserver: no leader" => {
            Kind::Undone
        }
        Code::ResourceExhausted if status.message() == "etcdserver: too many requests" => Kind::Undone,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Kind::Refused(status.code()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Kind::Unknown,
    }
}

/// Whether there was no connection on which anything could have been sent.
fn never_connected(status: &tonic::Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// An error's words, and those of what it comes from.
fn said(error: &Error) -> String {
    let (words, outermost): (_, &(dyn std::error::Error + 'static)) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status),
        Error::TransportError(error) => (String::new(), error),
        error => (error.to_string(), error),
    };
    // The library's name for whatever happens below it says nothing.
    let words = with_causes(words, causes(outermost).filter(|cause| cause.to_string() != "transport error"));
    if words.is_empty() { "an error without a word".into() } else { words }
}

impl Failure {
    fn add(&mut self, endpoint: &str, said: String) {
        let nth = self.asked.iter().position(|(asked, _)| asked == endpoint).unwrap_or_else(|| {
            self.asked.push((endpoint.into(), Vec::new()));
            self.asked.len() - 1
        });
        let words = &mut self.asked[nth].1;
        // More than one: why a connection was closed may be told by one attempt, and the next only that it was.
        words.retain(|before| *before != said);
        words.push(said);
        if words.len() > WORDS {
            words.remove(0);
        }
    }

    /// As the error of the store.
    pub(super) fn unavailable(self) -> StoreError {
        StoreError::Unavailable { source: Box::new(self) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.asked.is_empty() {
            return to.write_str("there is no endpoint of etcd to ask");
        }
        to.write_str(match (self.kind, self.twice) {
            (Kind::Refused(_), _) => "etcd refused",
            (Kind::Undone, _) | (Kind::Unknown, Twice::Same) => "etcd did not answer",
            (Kind::Unknown, Twice::More) => "etcd did not answer, and may have done what was asked",
        })?;
        for (nth, (endpoint, words)) in self.asked.iter().enumerate() {
            write!(to, "{}{endpoint}: {}", if nth == 0 { ": " } else { "; " }, words.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    fn of(status: Status) -> Kind {
        kind(&Error::GRpcStatus(status))
    }

    #[test]
    fn only_what_proves_that_nothing_was_done_is_undone() {
        let never = Status::from_error(Box::new(ConnectError("refused".into())));
        assert_eq!(of(never), Kind::Undone);
        assert_eq!(of(Status::unavailable("etcdserver: no leader")), Kind::Undone);
        assert_eq!(of(Status::resource_exhausted("etcdserver: too many requests")), Kind::Undone);
        for lost in ["etcdserver: request timed out", "etcdserver: leader changed", "connection closed"] {
            assert_eq!(of(Status::unavailable(lost)), Kind::Unknown);
        }
        assert_eq!(of(Status::unknown("h2 protocol error")), Kind::Unknown);
        assert_eq!(of(Status::not_found("lease")), Kind::Refused(Code::NotFound));
    }

    #[test]
    fn a_failure_names_who_was_asked_and_what_each_said() {
        let mut failure = Failure { kind: Kind::Undone, twice: Twice::More, asked: Vec::new() };
        for said in ["first", "closed", "no answer", "refused", "no answer"] {
            failure.add("http://a", said.into());
        }
        failure.add("http://b", "no leader".into());
        let text = failure.to_string();
        assert_eq!(text, "etcd did not answer: http://a: closed, refused, no answer; http://b: no leader");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for attempt in 0..40 {
            assert!((PAUSE.0 / 2..PAUSE.1).contains(&pause(attempt)));
        }
    }
}
