//! What can go wrong when the API server is asked.

use serde::Deserialize;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server answered with a `Status`.
    #[error("{message}")]
    Api {
        /// HTTP status code.
        code: u16,
        /// Machine-readable reason, e.g. `NotFound`; may be empty.
        reason: String,
        message: String,
        /// `details.causes` as (reason, message, field).
        causes: Vec<(String, String, String)>,
        /// `details.retryAfterSeconds`, or the `Retry-After` header.
        retry_after_s: Option<u64>,
    },
    /// The request or its answer did not get through.
    #[error("cannot reach the API server")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what its kind should look like.
    #[error("cannot decode the API server's answer")]
    Decode(#[source] serde_json::Error),
    /// The request could not be put together.
    #[error("cannot build the request")]
    Request(#[source] http::Error),
    /// The kubeconfig is no good.
    #[error("cannot use the client configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An answer of the API server with this code and reason: for fakes in tests.
    pub fn api(code: u16, reason: &str, message: &str) -> Self {
        Self::Api {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            causes: Vec::new(),
            retry_after_s: None,
        }
    }

    /// HTTP status code, if the server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The `Status` reason; empty if the server did not answer.
    pub fn reason(&self) -> &str {
        match self {
            Self::Api { reason, .. } => reason,
            _ => "",
        }
    }

    fn is(&self, wanted_code: u16, wanted: &str) -> bool {
        match self {
            Self::Api { code, reason, .. } => reason == wanted || (reason.is_empty() && *code == wanted_code),
            _ => false,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.is(404, "NotFound")
    }

    /// The object was changed meanwhile: read it again. Not the same as [`Error::is_already_exists`].
    pub fn is_conflict(&self) -> bool {
        self.is(409, "Conflict")
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    pub fn is_forbidden(&self) -> bool {
        self.is(403, "Forbidden")
    }

    pub fn is_invalid(&self) -> bool {
        self.is(422, "Invalid")
    }

    pub fn is_method_not_supported(&self) -> bool {
        self.is(405, "MethodNotAllowed")
    }

    /// The version asked for is no longer there (HTTP 410).
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410) || matches!(self.reason(), "Expired" | "Gone")
    }

    pub fn is_too_many_requests(&self) -> bool {
        self.is(429, "TooManyRequests")
    }

    /// The namespace is being deleted (a cause of a 403 from the lifecycle plugin).
    pub fn is_namespace_terminating(&self) -> bool {
        self.has_cause("NamespaceTerminating")
    }

    /// Whether `details.causes` names this reason.
    pub fn has_cause(&self, wanted: &str) -> bool {
        matches!(self, Self::Api { causes, .. } if causes.iter().any(|(reason, ..)| reason == wanted))
    }

    /// Reads a `Status` body; whatever else a proxy may send becomes the message.
    pub(crate) fn from_answer(code: u16, retry_after: Option<u64>, body: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(body) else {
            let mut message = String::from_utf8_lossy(&body[..body.len().min(512)]).trim().to_owned();
            if message.is_empty() {
                message = format!("the server answered with HTTP status {code}");
            }
            return Self::Api { code, reason: String::new(), message, causes: Vec::new(), retry_after_s: retry_after };
        };
        let details = status.details.unwrap_or_default();
        Self::Api {
            code: if status.code == 0 { code } else { status.code },
            reason: status.reason,
            message: status.message,
            causes: details.causes.into_iter().map(|c| (c.reason, c.message, c.field)).collect(),
            retry_after_s: details.retry_after_seconds.or(retry_after),
        }
    }
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
    #[serde(default)]
    retry_after_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    field: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_body_becomes_its_reason_and_causes() {
        let body = br#"{"kind":"Status","code":409,"reason":"AlreadyExists","message":"pods \"a\" already exists",
            "details":{"causes":[{"reason":"X","message":"m","field":"f"}],"retryAfterSeconds":3}}"#;
        let error = Error::from_answer(409, None, body);
        assert!(error.is_already_exists() && !error.is_conflict() && error.has_cause("X"));
        assert!(matches!(error, Error::Api { retry_after_s: Some(3), .. }));
    }

    #[test]
    fn a_body_that_is_no_status_is_the_message() {
        let error = Error::from_answer(502, Some(1), b"bad gateway\n");
        assert_eq!(error.to_string(), "bad gateway");
        assert_eq!(error.code(), Some(502));
        assert!(Error::from_answer(404, None, b"404 page not found").is_not_found());
    }
}
