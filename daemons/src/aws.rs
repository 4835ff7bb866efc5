//! What the services of AWS share: credentials, where they are, how long they may take, and what their
//! errors say to whoever operates the platform.

#[cfg(all(feature = "dynamo", not(feature = "sqs")))]
use aws_sdk_dynamodb as sdk;
#[cfg(feature = "sqs")]
use aws_sdk_sqs as sdk;

use crate::causes::{causes, with_causes};
use aws_config::{
    BehaviorVersion, Region, SdkConfig,
    retry::{RetryConfig, RetryMode},
    timeout::TimeoutConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use rand::RngExt;
use sdk::error::{ProvideErrorMetadata, SdkError};
use std::{error::Error, time::Duration};

/// A connection is made within this time, or not at all.
const CONNECT: Duration = Duration::from_secs(3);

/// One attempt of a request that does not wait for anything: enough for 1 MiB over a slow line.
const ATTEMPT: Duration = Duration::from_secs(10);

/// All attempts of such a request, with the pauses between them.
const OPERATION: Duration = Duration::from_secs(30);

/// With the pauses below, what fails at once fails for good within two seconds.
pub const ATTEMPTS: u32 = 5;

/// Between the first two attempts at most; doubled with each, up to the second. The SDK takes a random part
/// of it, so that those who were refused together do not come back together.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Of what a service says about an error, in characters.
const MESSAGE_MAX: usize = 400;

/// Which AWS is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsOptions {
    /// The region; when there is none, the one that the environment, the profile or the machine says.
    pub region: Option<String>,
    /// The URL of something else that speaks the protocol, in place of the region's own.
    pub endpoint: Option<String>,
}

/// What clients of any service are made from.
///
/// Credentials are looked for where every AWS program looks for them: environment, profile (`sso` and
/// processes included), web identity (IRSA), container, machine. They are asked for, and renewed, when a
/// request needs them, so a program can start before they are there.
pub async fn load(options: &AwsOptions) -> SdkConfig {
    let http =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let retries = RetryConfig::standard()
        .with_retry_mode(RetryMode::Standard)
        .with_max_attempts(ATTEMPTS)
        .with_initial_backoff(BACK_OFF.0)
        .with_max_backoff(BACK_OFF.1);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(retries)
        .timeout_config(timeouts(Duration::ZERO));
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// How long a request may take to which the service may not answer before `wait` is over.
#[must_use]
pub fn timeouts(wait: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT + wait)
        .operation_timeout(OPERATION + wait)
        .build()
}

/// The pause after this many attempts, for what the SDK does not try again by itself: the refused part of a
/// batch whose rest was taken.
pub async fn back_off(attempts: u32) {
    let longest = BACK_OFF.0.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1))).min(BACK_OFF.1);
    let part = rand::rng().random_range(0.0..1.0);
    tokio::time::sleep(longest.mul_f64(part)).await;
}

/// A service as its errors name it.
#[derive(Clone, Debug)]
pub struct Service {
    name: &'static str,
    place: String,
}

impl Service {
    /// The service of this name that clients made from `config` speak to.
    #[must_use]
    pub fn new(name: &'static str, config: &SdkConfig) -> Self {
        let place = match (config.endpoint_url(), config.region()) {
            (Some(endpoint), _) => without_user(endpoint),
            (None, Some(region)) => region.to_string(),
            (None, None) => "no region".to_owned(),
        };
        Self { name, place }
    }

    /// What happened, for whoever operates the platform. `operation` is AWS's name of it.
    #[must_use]
    pub fn explain<E>(&self, operation: &'static str, error: &SdkError<E>) -> AwsError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (code, what) = match error {
            SdkError::ServiceError(refusal) => {
                let (meta, status) = (refusal.err(), refusal.raw().status().as_u16());
                (meta.code().map(str::to_owned), refused(meta.code(), meta.message(), status))
            }
            SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
                (None, format!("it can't be reached: {}", reasons(error)))
            }
            SdkError::TimeoutError(_) => (None, format!("it did not answer in time: {}", reasons(error))),
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                (None, format!("its answer (HTTP {status}) can't be understood: {}", reasons(error)))
            }
            // No credentials, no region, a wrong endpoint.
            _ => (None, format!("the request could not be made: {}", reasons(error))),
        };
        AwsError { service: self.clone(), operation, code, what }
    }

    /// What happened to one entry of a batch, by the code and message beside it.
    #[must_use]
    pub fn explain_entry(&self, operation: &'static str, code: &str, message: Option<&str>) -> AwsError {
        let what = refused(Some(code), message, 200);
        AwsError { service: self.clone(), operation, code: Some(code.to_owned()), what }
    }
}

/// Why a service did not do as asked, in one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} at {} ({}): {what}", service.name, service.place)]
pub struct AwsError {
    service: Service,
    operation: &'static str,
    code: Option<String>,
    what: String,
}

impl AwsError {
    /// The service's code, when it was the service that refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// What the service said, and what can be done about it.
fn refused(code: Option<&str>, message: Option<&str>, status: u16) -> String {
    let hint = match code.unwrap_or_default() {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            "; the credentials have expired, renew them"
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => "; these credentials are not known here",
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => {
            "; the secret key is another one, or a clock is wrong"
        }
        "RequestExpired" | "RequestTimeTooSkewed" => "; a clock is wrong",
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            "; the role's policy does not allow it"
        }
        code if throttling(code) => "; it throttles, and did so until the last attempt",
        _ if status >= 500 => "; the service failed, and did so until the last attempt",
        _ => "",
    };
    let mut said = match code {
        Some(code) if status == 200 => code.to_owned(),
        Some(code) => format!("{code} (HTTP {status})"),
        None => format!("HTTP {status}"),
    };
    if let Some(message) = message.filter(|message| !message.is_empty() && !repeats_the_request(code)) {
        said = format!("{said}: {}", one_line(message));
    }
    said + hint
}

/// Whether the code says that one asks too often.
#[must_use]
pub fn throttling(code: &str) -> bool {
    // What SQS calls it has had a prefix since before its JSON protocol.
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "ProvisionedThroughputExceededException"
            | "SlowDown"
    )
}

/// A wrong signature is answered with what should have been signed, session token included.
fn repeats_the_request(code: Option<&str>) -> bool {
    matches!(code, Some("SignatureDoesNotMatch" | "InvalidSignatureException"))
}

/// What an error comes from, in one line.
fn reasons(error: &(dyn Error + 'static)) -> String {
    one_line(&with_causes(String::new(), causes(error)))
}

fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() > MESSAGE_MAX {
            return line + " …";
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// A URL may carry a password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host = rest.split('/').next().unwrap_or(rest);
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}"),
        None => format!("{scheme}://{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdk::{config::http::HttpResponse, error::ErrorMetadata};

    fn service() -> Service {
        let config = SdkConfig::builder().endpoint_url("http://me:secret@queues.example:4566/x").build();
        Service::new("SQS", &config)
    }

    fn said(code: Option<&str>, message: &str, status: u16) -> String {
        let mut error = ErrorMetadata::builder().message(message);
        if let Some(code) = code {
            error = error.code(code);
        }
        let response = HttpResponse::new(status.try_into().expect("a status"), "".into());
        service().explain("SendMessage", &SdkError::service_error(error.build(), response)).to_string()
    }

    #[test]
    fn an_error_names_operation_service_place_code_and_message_in_one_line() {
        assert_eq!(
            said(Some("QueueDoesNotExist"), "The queue\n does not exist.", 400),
            "SendMessage at SQS (http://queues.example:4566): \
             QueueDoesNotExist (HTTP 400): The queue does not exist."
        );
        assert!(
            said(None, "", 503)
                .ends_with(": HTTP 503; the service failed, and did so until the last attempt")
        );
    }

    #[test]
    fn an_error_says_what_can_be_done() {
        for (code, hint) in [
            ("ExpiredToken", "renew them"),
            ("ExpiredTokenException", "renew them"),
            ("UnrecognizedClientException", "not known here"),
            ("AccessDenied", "policy"),
            ("RequestExpired", "clock"),
            ("ThrottlingException", "throttles"),
            ("ProvisionedThroughputExceededException", "throttles"),
        ] {
            let said = said(Some(code), "Because.", 400);
            assert!(said.contains(code) && said.contains("Because.") && said.contains(hint), "{said}");
        }
    }

    #[test]
    fn a_session_token_that_a_service_repeats_is_not_shown() {
        let said = said(Some("SignatureDoesNotMatch"), "should have been 'x-amz-security-token:TOKEN'", 403);
        assert!(said.contains("SignatureDoesNotMatch") && !said.contains("TOKEN"), "{said}");
    }

    #[test]
    fn a_long_message_is_cut() {
        assert!(said(Some("X"), &"word ".repeat(1000), 400).len() < 600);
    }

    #[test]
    fn a_waiting_request_may_take_as_much_longer() {
        let wait = Duration::from_secs(20);
        assert_eq!(timeouts(wait).operation_attempt_timeout(), Some(ATTEMPT + wait));
        assert_eq!(timeouts(wait).operation_timeout(), Some(OPERATION + wait));
    }
}
