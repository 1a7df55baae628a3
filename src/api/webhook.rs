//! Webhooks as their callers see them: where one is ([`Target`]), and the trait that calls it ([`Webhooks`]).
//!
//! Admission webhooks, conversion webhooks and everything else that has a `clientConfig` go through the one
//! implementation in the API server (`apiserver::webhook`), which keeps connections and finds Services.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use serde_json::Value;

/// A `clientConfig` (`admissionregistration.k8s.io/v1` `WebhookClientConfig`, and the like of CRDs).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Who calls: the server may have an identity of its own there for each.
    pub asker: Asker,
    pub place: Place,
    /// PEM certificates that the server's certificate is verified against; empty: the system's.
    pub ca_bundle: Vec<u8>,
}

/// Who calls a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Asker {
    MutatingAdmission,
    ValidatingAdmission,
    /// Without an identity.
    #[default]
    Other,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// An absolute `https` URL.
    Url(String),
    /// A Service of the cluster. The server's certificate must be for `NAME.NAMESPACE.svc`.
    Service {
        namespace: String,
        name: String,
        /// As client-go cleans it: with its leading slash and no other that says nothing.
        path: String,
        port: u16,
    },
}

impl Target {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// It names neither a URL nor a Service, or its `caBundle` is not base64.
    pub fn from_client_config(config: &Value) -> Result<Self, WebhookError> {
        let ca_bundle = match config.get("caBundle").and_then(Value::as_str) {
            None | Some("") => Vec::new(),
            Some(text) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| WebhookError::Config(format!("unable to decode caBundle: {error}")))?,
        };
        let place = match (config.get("service"), config.get("url").and_then(Value::as_str)) {
            (Some(service), _) if service.is_object() => {
                let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let port = service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
                let path = clean_path(&text("path"));
                let port = port.filter(|p| *p != 0).unwrap_or(443);
                Place::Service { namespace: text("namespace"), name: text("name"), path, port }
            }
            (_, Some(url)) if !url.is_empty() => Place::Url(clean_url(url)),
            _ => return Err(WebhookError::Config("webhook configuration must have either service or URL".to_owned())),
        };
        Ok(Self { asker: Asker::Other, place, ca_bundle })
    }

    /// The URL as error texts show it, without a query.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service { namespace, name, path, port } => format!("https://{name}.{namespace}.svc:{port}{path}"),
        }
    }
}

/// A URL with its path cleaned: client-go joins the configured path to its own (`rest.DefaultVersionedAPIPath`), so
/// that of `https://host//path/` it asks for `/path`. `envtest` configures such URLs, and Go's servers redirect them.
fn clean_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let path = rest[authority.len()..].split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{authority}{}", clean_path(path))
}

/// Go's `path.Join("/", path)`.
fn clean_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Why a call gave no answer. The text is what upstream prints after `failed to call webhook: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Nobody answered: `why` as Go's HTTP client says it.
    #[error("Post {url:?}: {why}")]
    Unreachable { url: String, why: String },
    /// The webhook answered, with a failure.
    #[error("{text}")]
    Refused { code: u16, text: String },
}

impl WebhookError {
    /// The HTTP status that stands for the failure in metrics.
    pub fn code(&self) -> u16 {
        match self {
            Self::Config(_) => 500,
            Self::Unreachable { .. } => 503,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// Calls webhooks. Get it from [`crate::services::Services`].
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Posts a JSON document and returns the body of the 2xx answer. `timeout` covers everything: finding the Service,
    /// connecting, sending, receiving; the webhook is told by the `timeout` query parameter.
    ///
    /// # Errors
    /// See [`WebhookError`].
    async fn post(&self, target: &Target, body: Bytes, timeout: Duration) -> Result<Bytes, WebhookError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_config_says_where_the_webhook_is() {
        let check = |config: Value, want: &str| {
            let got = Target::from_client_config(&config).map_or_else(|e| e.to_string(), |t| t.url());
            assert_eq!(got, want);
        };
        check(json!({"url": "https://a.b/c"}), "https://a.b/c");
        let service = json!({"name": "s", "namespace": "n", "path": "/p"});
        check(json!({"service": service}), "https://s.n.svc:443/p");
        check(json!({"service": {"name": "s", "namespace": "n", "port": 8443}}), "https://s.n.svc:8443/");
        check(json!({"url": "https://a.b:1//c/"}), "https://a.b:1/c");
        check(json!({"url": "https://a.b"}), "https://a.b/");
        check(json!({"url": "https://a.b/c/./../d?e#f"}), "https://a.b/d");
        check(json!({"service": {"name": "s", "namespace": "n", "path": "p//q/"}}), "https://s.n.svc:443/p/q");
        check(json!({}), "webhook configuration must have either service or URL");
    }
}
