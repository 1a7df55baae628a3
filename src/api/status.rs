//! `metav1.Status`: how the API answers when something went wrong (apimachinery `api/errors`).

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::field;
use crate::names::GroupResource;

/// A failure as the API reports it. Also the error type of every room that makes such a failure itself (`api`, `kinds`,
/// `admission`, `apiserver`); other rooms have errors of their own, which the API server maps here once.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`, empty for none.
    pub reason: &'static str,
    pub message: String,
    /// Boxed because most results never carry one.
    pub details: Option<Box<Details>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// By upstream's custom the resource (plural) or the kind, as each constructor says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
    /// `metadata.continue` of the document: how an expired list may go on. Empty for none.
    #[serde(skip)]
    pub continue_token: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// The same failure in other words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    fn about(self, resource: &GroupResource, name: &str) -> Self {
        self.with_details(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        })
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} {} not found", crate::codec::go_quote(name)))
            .about(resource, name)
    }

    /// For a URL that names nothing the server has.
    pub fn page_not_found() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_details(Details::default())
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// Optimistic concurrency and other conflicts with the stored object.
    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The usual reason for [`Status::conflict`].
    pub const MODIFIED: &'static str =
        "the object has been modified; please apply your changes to the latest version and try again";

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(401, "Unauthorized", if message.is_empty() { "Unauthorized".to_owned() } else { message })
    }

    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} \"{name}\" is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// `group_kind` as Go prints it (`Deployment.apps`, `Pod`); `details.kind` is the kind here.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Self {
        let group_kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        // What is found twice is said once, though it has two causes (`utilerrors.aggregate.Error`).
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for text in errors.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let all = match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.reason().to_owned(), message: e.body(), field: e.path.to_string() })
            .collect();
        Self::new(422, "Invalid", format!("{group_kind} \"{name}\" is invalid: {all}")).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        })
    }

    /// A resourceVersion that is no longer kept (watch and paged list).
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{resource}\"");
        Self::new(405, "MethodNotAllowed", message).about(resource, "")
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, "TooManyRequests", message).with_details(Details { retry_after_seconds, ..Details::default() })
    }

    pub fn server_timeout(resource: &GroupResource, verb: &str, retry_after_seconds: i32) -> Self {
        let message =
            format!("The {verb} operation against {resource} could not be completed at this time, please try again.");
        let mut status = Self::new(500, "ServerTimeout", message).about(resource, "");
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        status
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into()))
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {text}")).with_details(Details {
            causes: vec![Cause { reason: String::new(), message: text, field: String::new() }],
            ..Details::default()
        })
    }

    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// The `metav1.Status` document.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            // Serialising plain strings and numbers cannot fail.
            status["details"] = serde_json::to_value(details).unwrap_or_default();
            if !details.continue_token.is_empty() {
                status["metadata"] = json!({"continue": details.continue_token});
            }
        }
        status
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn not_found_reads_as_upstream() {
        let status = Status::not_found(&GroupResource::new("apps", "deployments"), "web").to_value();
        assert_eq!(status["message"], "deployments.apps \"web\" not found");
        assert_eq!(status["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        assert_eq!((&status["code"], &status["reason"]), (&json!(404), &json!("NotFound")));
    }

    #[test]
    fn invalid_lists_every_cause() {
        let path = Path::new("spec");
        let errors = [Error::required(path.child("a"), ""), Error::required(path.child("b"), "must be set")];
        let status = Status::invalid("apps", "Deployment", "web", &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"web\" is invalid: [spec.a: Required value, spec.b: Required value: must be set]"
        );
        assert_eq!(status.details.unwrap().causes[1].message, "Required value: must be set");
    }
}
