//! `ImagePolicyWebhook`: a service says which images may run (`plugin/pkg/admission/imagepolicy`). Off unless asked for,
//! and then it must be told where the service is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::attributes::{containers, forbidden, text};
use crate::lru::Lru;

const AUDIT_PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// How many answers are remembered.
const ANSWERS_MAX: usize = 1024;
/// How often the service is asked, and how much longer each pause is than the one before it
/// (`webhook.DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// Why the service gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct NoAnswer {
    pub text: String,
    /// Asking again may help.
    pub is_passing: bool,
}

/// The service that reviews images.
#[async_trait]
pub trait ImageReviewer: Send + Sync {
    /// Posts an `ImageReview` and returns the one that comes back.
    async fn review(&self, review: Bytes) -> Result<Bytes, NoAnswer>;
}

/// Makes the client of the service from a kubeconfig.
pub type MakeReviewer = dyn Fn(&std::path::Path) -> Result<Arc<dyn ImageReviewer>, String>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "imagePolicy")]
    policy: Policy,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    kube_config_file: PathBuf,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    retry_backoff: i64,
    default_allow: bool,
}

/// What the configuration file says of the service.
#[derive(Clone)]
pub(crate) struct Configuration {
    reviewer: Arc<dyn ImageReviewer>,
    allow_ttl: Duration,
    deny_ttl: Duration,
    retry_backoff: Duration,
    default_allow: bool,
}

impl Configuration {
    /// Reads what the configuration file says; it has no version.
    pub(crate) fn read(document: Option<&Value>, make: &MakeReviewer) -> Result<Self, String> {
        let document = document.ok_or("no config specified")?;
        let File { policy } = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
        let (seconds, millis) = (Duration::from_secs(1), Duration::from_millis(1));
        let (half_hour, five_minutes) = (Duration::from_secs(1800), Duration::from_secs(300));
        Ok(Self {
            retry_backoff: duration(
                policy.retry_backoff,
                millis,
                (Duration::from_nanos(1), five_minutes),
                500 * millis,
            )?,
            allow_ttl: duration(policy.allow_ttl, seconds, (seconds, half_hour), five_minutes)?,
            deny_ttl: duration(policy.deny_ttl, seconds, (seconds, half_hour), 30 * seconds)?,
            default_allow: policy.default_allow,
            reviewer: make(&policy.kube_config_file)?,
        })
    }
}

/// `normalizeConfigDuration`: -1 is none at all, 0 the default, anything else so many units.
fn duration(value: i64, unit: Duration, within: (Duration, Duration), default: Duration) -> Result<Duration, String> {
    let (least, most) = within;
    match value {
        -1 => Ok(Duration::ZERO),
        0 => Ok(default),
        other => {
            let found = u32::try_from(other).ok().and_then(|times| unit.checked_mul(times));
            found
                .filter(|found| (least..=most).contains(found))
                .ok_or_else(|| format!("valid value is between {least:?} and {most:?}, got {other} times {unit:?}"))
        }
    }
}

/// An answer and until when it counts.
struct Known {
    status: Value,
    until: Instant,
}

pub(crate) struct ImagePolicyWebhook {
    configuration: Configuration,
    answers: Mutex<Lru<Known>>,
}

impl ImagePolicyWebhook {
    pub(crate) fn new(configuration: Configuration) -> Self {
        Self { configuration, answers: Mutex::new(Lru::new(ANSWERS_MAX)) }
    }

    /// The service's answer, remembered or new.
    async fn ask(&self, spec: &Value) -> Result<Value, String> {
        let key = spec.to_string();
        let known =
            self.answers.lock().get(&key).filter(|known| known.until > Instant::now()).map(|k| k.status.clone());
        if let Some(status) = known {
            return Ok(status);
        }
        let review = json!({
            "kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "metadata": {},
            "spec": spec, "status": {"allowed": false},
        });
        let answer = self.post(review.to_string().into()).await.map_err(|error| error.text)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let status = answer.get("status").cloned().unwrap_or_default();
        let Configuration { allow_ttl, deny_ttl, .. } = self.configuration;
        let ttl = if is_allowed(&status) { allow_ttl } else { deny_ttl };
        self.answers.lock().insert(&key, Known { status: status.clone(), until: Instant::now() + ttl });
        Ok(status)
    }

    async fn post(&self, review: Bytes) -> Result<Bytes, NoAnswer> {
        let mut pause = self.configuration.retry_backoff;
        for _ in 1..ATTEMPTS {
            match self.configuration.reviewer.review(review.clone()).await {
                Err(error) if error.is_passing => {}
                other => return other,
            }
            let jitter = rand::rng().random_range(0.0..=JITTER);
            tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
            pause = pause.mul_f64(FACTOR);
        }
        self.configuration.reviewer.review(review).await
    }
}

fn is_allowed(status: &Value) -> bool {
    status.get("allowed").and_then(Value::as_bool).unwrap_or_default()
}

/// What the service is asked about a pod (`ImageReviewSpec`).
fn spec(attributes: &Attributes, pod: &Object) -> Value {
    let lists: &[&str] = match attributes.subresource.as_str() {
        "" => &["containers", "initContainers"],
        _ => &["ephemeralContainers"],
    };
    let all = lists.iter().flat_map(|list| containers(pod, list));
    let images: Vec<Value> = all.map(|container| json!({"image": text(container, "image")})).collect();
    let members = pod.get(&["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten();
    let annotations: Map<String, Value> = members
        .filter(|(key, _)| key.contains(".image-policy.k8s.io/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut spec = json!({"containers": images, "namespace": attributes.namespace});
    if !annotations.is_empty() {
        spec["annotations"] = annotations.into();
    }
    spec
}

#[async_trait]
impl AdmissionPlugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && resource.group.is_empty()
            && resource.resource == "pods"
            && matches!(subresource, "" | "ephemeralcontainers")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = &attributes.object else { return Ok(()) };
        let status = match self.ask(&spec(attributes, pod)).await {
            Ok(status) => status,
            Err(_) if self.configuration.default_allow => {
                attributes.notes.annotate(format!("{AUDIT_PREFIX}failed-open"), "true");
                return Ok(());
            }
            Err(why) => return Err(forbidden(attributes, why)),
        };
        let annotations = status.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
        for (key, value) in annotations {
            attributes.notes.annotate(format!("{AUDIT_PREFIX}{key}"), value.as_str().unwrap_or_default());
        }
        if is_allowed(&status) {
            return Ok(());
        }
        let why = match text(&status, "reason") {
            "" => "one or more images rejected by webhook backend".to_owned(),
            reason => format!("image policy webhook backend denied one or more images: {reason}"),
        };
        Err(forbidden(attributes, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_default_and_can_be_none() {
        let second = Duration::from_secs(1);
        let check = |value| duration(value, second, (second, 60 * second), 5 * second);
        assert_eq!(check(0), Ok(5 * second));
        assert_eq!(check(-1), Ok(Duration::ZERO));
        assert_eq!(check(7), Ok(7 * second));
        assert!(check(61).unwrap_err().starts_with("valid value is between 1s and 60s"));
        assert!(check(-2).is_err());
    }
}
