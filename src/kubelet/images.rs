//! Making sure that a container's image is on the node (upstream `images/image_manager.go`).

pub mod credentials;

use std::collections::HashMap;
use std::time::Duration;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use runtime::{Image, RegistryAuth, RuntimeError};
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::spec;

const INITIAL_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(300);
/// Pulls that run at a time; the others wait.
const PARALLEL_PULLS: usize = 5;

/// Why an image is not there: reason and message of the container's waiting state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
    /// When trying again makes sense.
    pub retry_after: Duration,
}

struct Failure {
    delay: SignedDuration,
    at: Timestamp,
    message: String,
}

/// Back-off of failed pulls, by pod and image, and the limit on pulls at a time.
pub struct Images {
    failures: Mutex<HashMap<(String, String), Failure>>,
    pulls: Semaphore,
}

impl Default for Images {
    fn default() -> Self {
        Self { failures: Mutex::default(), pulls: Semaphore::new(PARALLEL_PULLS) }
    }
}

impl Images {
    /// Time left in back-off and the last failure's text.
    fn waiting(&self, key: &(String, String), now: Timestamp) -> Option<(SignedDuration, String)> {
        let failures = self.failures.lock();
        let failure = failures.get(key)?;
        let left = failure.delay - now.duration_since(failure.at);
        left.is_positive().then(|| (left, failure.message.clone()))
    }

    fn failed(&self, key: (String, String), now: Timestamp, message: String) -> SignedDuration {
        let mut failures = self.failures.lock();
        let delay = match failures.get(&key) {
            Some(failure) if now.duration_since(failure.at) <= MAX_BACKOFF * 2 => (failure.delay * 2).min(MAX_BACKOFF),
            _ => INITIAL_BACKOFF,
        };
        failures.insert(key, Failure { delay, at: now, message });
        delay
    }

    /// Forgets the pod's failures.
    pub fn release(&self, pod_uid: &str) {
        self.failures.lock().retain(|(uid, _), _| uid != pod_uid);
    }
}

/// The pull policy: `Always` for `:latest` and untagged images unless the spec says otherwise.
fn policy<'a>(container: &'a Container, image: &str) -> &'a str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if image.contains('@') => "IfNotPresent",
        _ => match image.rsplit_once('/').map_or(image, |(_, last)| last).split_once(':') {
            None | Some((_, "latest")) => "Always",
            Some(_) => "IfNotPresent",
        },
    }
}

/// Finds or pulls the container's image, with events.
pub async fn ensure(ctx: &Context, pod: &Pod, container: &Container) -> Result<Image, ImageError> {
    let image = container.image.as_deref().unwrap_or_default();
    let event = |kind, reason: &str, message: &str| ctx.events.container(pod, &container.name, kind, reason, message);
    let policy = policy(container, image);
    if image.is_empty() {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        );
        event(EventType::Warning, "InspectFailed", &message);
        return Err(ImageError { reason: "InvalidImageName", message, retry_after: Duration::from_secs(60) });
    }
    let found = match ctx.runtime.image(image).await {
        Ok(found) => found,
        Err(RuntimeError::InvalidReference { .. }) => {
            let message = format!(
                "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: \
                 invalid reference format"
            );
            event(EventType::Warning, "InspectFailed", &message);
            return Err(ImageError { reason: "InvalidImageName", message, retry_after: Duration::from_secs(60) });
        }
        Err(error) => {
            let message = format!("Failed to inspect image {image:?}: {}", base::chain(&error));
            event(EventType::Warning, "InspectFailed", &message);
            return Err(ImageError { reason: "ImageInspectError", message, retry_after: Duration::from_secs(10) });
        }
    };
    match (policy, found) {
        ("Always", _) => {}
        (_, Some(found)) => {
            let text = format!("Container image {image:?} already present on machine and can be accessed by the pod");
            event(EventType::Normal, "Pulled", &text);
            return Ok(found);
        }
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            event(EventType::Warning, "ErrImageNeverPull", &message);
            return Err(ImageError { reason: "ErrImageNeverPull", message, retry_after: Duration::from_secs(10) });
        }
        _ => {}
    }
    pull(ctx, pod, container, image).await
}

async fn pull(ctx: &Context, pod: &Pod, container: &Container, image: &str) -> Result<Image, ImageError> {
    let event = |kind, reason: &str, message: &str| ctx.events.container(pod, &container.name, kind, reason, message);
    let key = (spec::uid(pod).to_owned(), image.to_owned());
    if let Some((left, last)) = ctx.images.waiting(&key, ctx.clock.now()) {
        let text = format!("Back-off pulling image {image:?}");
        event(EventType::Normal, "BackOff", &text);
        let retry_after = Duration::try_from(left).unwrap_or_default();
        return Err(ImageError { reason: "ImagePullBackOff", message: format!("{text}: {last}"), retry_after });
    }
    let auth: Vec<RegistryAuth> = credentials::for_image(ctx, pod, image).await;
    event(EventType::Normal, "Pulling", &format!("Pulling image {image:?}"));
    let queued = ctx.clock.now();
    let Ok(_permit) = ctx.images.pulls.acquire().await else {
        let message = "the node agent stops".to_owned();
        return Err(ImageError { reason: "ErrImagePull", message, retry_after: Duration::from_secs(1) });
    };
    let started = ctx.clock.now();
    match ctx.runtime.pull_image(image, &auth).await {
        Ok(pulled) => {
            let now = ctx.clock.now();
            let text = format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                go_duration(now.duration_since(started)),
                go_duration(now.duration_since(queued)),
                pulled.size,
            );
            event(EventType::Normal, "Pulled", &text);
            Ok(pulled)
        }
        Err(RuntimeError::InvalidReference { reference, why }) => {
            let message = format!("couldn't parse image name {reference:?}: {why}");
            event(EventType::Warning, "InspectFailed", &message);
            Err(ImageError { reason: "InvalidImageName", message, retry_after: Duration::from_secs(60) })
        }
        Err(error) => {
            let message = base::chain(&error).to_string();
            event(EventType::Warning, "Failed", &format!("Failed to pull image {image:?}: {message}"));
            let last = format!("ErrImagePull: {message}");
            let delay = ctx.images.failed(key, ctx.clock.now(), last);
            tracing::info!(image, pod = spec::full_name(pod), error = message, "cannot pull image");
            // The next try finds the back-off and says so; upstream's worker comes back after about as long.
            let retry_after = Duration::try_from(delay).unwrap_or_default().min(Duration::from_secs(10));
            Err(ImageError { reason: "ErrImagePull", message, retry_after })
        }
    }
}

/// A duration as Go prints one truncated to milliseconds: `1.234s`, `12ms`, `1m2.5s`.
fn go_duration(duration: SignedDuration) -> String {
    let millis = duration.as_millis().max(0);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        let check = |millis, text: &str| assert_eq!(go_duration(SignedDuration::from_millis(millis)), text);
        check(0, "0s");
        check(12, "12ms");
        check(1234, "1.234s");
        check(2000, "2s");
        check(62_500, "1m2.5s");
        check(3_600_000, "1h0m0s");
    }

    #[test]
    fn pull_policy_defaults_by_tag() {
        let check = |image: &str, expected: &str| assert_eq!(policy(&Container::default(), image), expected, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("localhost:5000/nginx", "Always");
        check("nginx:1.2", "IfNotPresent");
        check("nginx@sha256:abc", "IfNotPresent");
    }

    #[test]
    fn back_off_doubles_and_is_forgotten_after_a_while() {
        let images = Images::default();
        let key = ("uid".to_owned(), "i".to_owned());
        let t0 = Timestamp::UNIX_EPOCH;
        assert_eq!(images.failed(key.clone(), t0, "no".into()).as_secs(), 10);
        assert!(images.waiting(&key, t0 + SignedDuration::from_secs(9)).is_some());
        assert!(images.waiting(&key, t0 + SignedDuration::from_secs(10)).is_none());
        let t1 = t0 + SignedDuration::from_secs(11);
        assert_eq!(images.failed(key.clone(), t1, "no".into()).as_secs(), 20);
        let t2 = t1 + SignedDuration::from_secs(601);
        assert_eq!(images.failed(key, t2, "no".into()).as_secs(), 10);
    }
}
