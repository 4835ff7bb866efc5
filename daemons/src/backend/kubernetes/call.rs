//! Calls of the API server: each has an end, and what stands in the way is said in words.

use crate::causes::{causes, with_causes};
use std::time::Duration;

/// How long the API server has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, of which resource, where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) namespace: &'a str,
}

/// Why the API server did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It did not answer.
    #[error("the API server did not answer within {0:?}")]
    Silent(Duration),
    /// It does not let this process.
    #[error("the role of this process may not {verb} {resource} in namespace {namespace}: {message}")]
    Forbidden {
        /// What was asked.
        verb: &'static str,
        /// Of what.
        resource: &'static str,
        /// Where.
        namespace: String,
        /// What the API server said.
        message: String,
    },
    /// It refused.
    #[error("the API server refuses to {verb} {resource} in namespace {namespace}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What was asked.
        verb: &'static str,
        /// Of what.
        resource: &'static str,
        /// Where.
        namespace: String,
        /// What the API server said.
        message: String,
    },
    /// It can't be reached.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
}

impl CallError {
    /// Whether what was asked for makes no sense, or is not admitted: asking again changes nothing.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { code: 400 | 403 | 413 | 422, .. })
    }

    /// Whether only somebody's hand can change it: the object, the role, or what the API server serves.
    pub(super) fn is_lasting(&self) -> bool {
        self.is_final() || self.is_not_found() || matches!(self, Self::Forbidden { .. })
    }

    /// Whether there is no such object, or namespace.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether somebody else was quicker.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }
}

impl Call<'_> {
    /// Waits for the answer, for a while.
    pub(super) async fn answer<T>(
        self,
        asked: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| self.error(&error)),
            Err(_) => Err(CallError::Silent(PATIENCE)),
        }
    }

    pub(super) fn error(self, error: &kube::Error) -> CallError {
        let Self { verb, resource, namespace } = self;
        match error {
            kube::Error::Api(status) => self.refused(status.code, &status.message),
            kube::Error::SerdeError(source) => CallError::Refused {
                code: 500,
                verb,
                resource,
                namespace: namespace.into(),
                message: format!("its answer makes no sense: {source}"),
            },
            other => CallError::Unreachable(with_causes(other.to_string(), causes(other))),
        }
    }

    fn refused(self, code: u16, message: &str) -> CallError {
        let Self { verb, resource, namespace } = self;
        let (namespace, message) = (namespace.to_owned(), message.to_owned());
        // Roles say "cannot"; quotas and admission say what is wrong with the object.
        let is_role = code == 401 || code == 403 && message.contains("cannot ");
        if is_role {
            CallError::Forbidden { verb, resource, namespace, message }
        } else {
            CallError::Refused { code, verb, resource, namespace, message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refused_and_why_is_told_apart() {
        let call = Call { verb: "create", resource: "pods", namespace: "quorate" };
        let role = "pods is forbidden: User \"system:serviceaccount:quorate:reader\" cannot create resource \
                    \"pods\" in API group \"\" in the namespace \"quorate\"";
        let quota = "pods \"quorate-add-0-worker-1\" is forbidden: exceeded quota: small";
        let cases = [
            (403, role, "may not create pods in namespace quorate: pods is forbidden: User", false),
            (401, "Unauthorized", "may not create pods in namespace quorate: Unauthorized", false),
            (403, quota, "refuses to create pods in namespace quorate: pods \"quorate-add-0", true),
            (422, "spec.containers: Required value", "refuses to create pods", true),
            (404, "namespaces \"quorate\" not found", "refuses to create pods", false),
            (409, "object has been modified", "refuses to create pods", false),
            (500, "etcdserver: leader changed", "refuses to create pods", false),
        ];
        for (code, message, expected, is_final) in cases {
            let error = call.refused(code, message);
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.is_final(), is_final, "{error}");
            assert_eq!(error.is_lasting(), [401, 403, 404, 422].contains(&code), "{error}");
        }
    }
}
