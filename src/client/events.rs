//! Events about objects, for users (client-go `tools/record`).
//!
//! Recording never waits and never fails: events go through a bounded queue to one task that merges equal ones,
//! aggregates similar ones and drops what is spam, with client-go's limits. What does not fit the queue is dropped.

mod correlate;

use base::SharedClock;
use k8s_openapi::api::core::v1::{self as core, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::client::Client;
use crate::params::Patch;
use crate::resource::Resource;
use correlate::{Correlator, Verdict};

/// Events that wait to be written (client-go's `maxQueuedEvents`).
const QUEUE_MAX: usize = 1000;
/// Attempts to write one event (client-go `maxTriesPerEvent`, with a shorter pause).
const TRIES_MAX: u32 = 12;
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event can be about.
pub trait ObjectRef {
    fn object_ref(&self) -> ObjectReference;
}

impl<K: Resource> ObjectRef for K {
    fn object_ref(&self) -> ObjectReference {
        let metadata = self.metadata();
        ObjectReference {
            api_version: Some(K::api_version()),
            kind: Some(K::KIND.to_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            field_path: None,
        }
    }
}

impl ObjectRef for ObjectReference {
    fn object_ref(&self) -> ObjectReference {
        self.clone()
    }
}

/// Records events of one component. Clones share its queue and merging.
#[derive(Clone)]
pub struct Recorder {
    queue: Option<mpsc::Sender<core::Event>>,
    component: String,
    node: String,
    clock: SharedClock,
}

impl Recorder {
    /// A recorder that writes as `client`'s user. `node` is empty for components that are not a node's. Must be called
    /// within a tokio runtime; its task ends when the last clone is gone.
    pub fn new(client: Client, component: &str, node: &str, clock: SharedClock) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(client, Correlator::default(), events));
        Self { queue: Some(queue), component: component.to_owned(), node: node.to_owned(), clock }
    }

    /// A recorder that drops everything: for tests.
    pub fn discard(clock: SharedClock) -> Self {
        Self { queue: None, component: String::new(), node: String::new(), clock }
    }

    /// Records an event about an object, now.
    pub fn event(&self, object: &impl ObjectRef, kind: EventType, reason: &str, message: &str) {
        self.annotated_event(object, kind, reason, message, &[]);
    }

    /// Records an event with annotations.
    pub fn annotated_event(
        &self,
        object: &impl ObjectRef,
        kind: EventType,
        reason: &str,
        message: &str,
        annotations: &[(&str, &str)],
    ) {
        let Some(queue) = &self.queue else { return };
        let involved = object.object_ref();
        let now = self.clock.now();
        let namespace = involved.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        let annotations: std::collections::BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let event = core::Event {
            metadata: ObjectMeta {
                // Unique enough, and sortable by time (client-go `makeEvent`).
                name: Some(format!("{}.{:x}", involved.name.as_deref().unwrap_or_default(), now.as_nanosecond())),
                namespace: Some(namespace),
                annotations: (!annotations.is_empty()).then_some(annotations),
                ..Default::default()
            },
            involved_object: involved,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            type_: Some(kind.as_str().to_owned()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: (!self.node.is_empty()).then(|| self.node.clone()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        };
        if queue.try_send(event).is_err() {
            debug!(reason, "event queue is full: dropped an event");
        }
    }
}

async fn write_all(client: Client, mut correlator: Correlator, mut events: mpsc::Receiver<core::Event>) {
    while let Some(event) = events.recv().await {
        match correlator.correlate(event) {
            Verdict::Drop => {}
            Verdict::Write { event, known } => {
                if let Some(written) = write(&client, &event, known).await {
                    correlator.written(&event, written.name());
                }
            }
        }
    }
}

/// Writes an event; `known` is the name of the one that it counts up.
async fn write(client: &Client, event: &core::Event, known: Option<String>) -> Option<core::Event> {
    let mut known = known;
    for _ in 0..TRIES_MAX {
        let result = match &known {
            Some(name) => {
                let patch = Patch::Strategic(json!({
                    "count": event.count,
                    "message": event.message,
                    "lastTimestamp": event.last_timestamp,
                }));
                client.patch::<core::Event>(event.namespace(), name, &patch).await
            }
            None => client.create(event).await,
        };
        match result {
            Ok(written) => return Some(written),
            // It expired meanwhile: write it anew.
            Err(error) if error.is_not_found() && known.is_some() => known = None,
            Err(error @ crate::Error::Api { .. }) if !error.is_too_many_requests() && error.code() < Some(500) => {
                if error.is_already_exists() || error.is_namespace_terminating() || error.is_not_found() {
                    debug!(error = %error, "event refused");
                } else {
                    warn!(reason = event.reason.as_deref(), error = %error, "event refused");
                }
                return None;
            }
            Err(error) => {
                debug!(error = %base::chain(&error), "cannot write an event yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    warn!(reason = event.reason.as_deref(), "gave up writing an event");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use bytes::Bytes;
    use k8s_openapi::api::core::v1::Pod;

    #[tokio::test(start_paused = true)]
    async fn a_repeated_event_is_counted_up() {
        let (client, seen) = crate::client::tests::fake(|seen| {
            let body =
                if seen.method == "POST" { seen.body.to_string() } else { "{\"metadata\":{\"name\":\"x\"}}".into() };
            (200, vec![Bytes::from(body)], false)
        });
        let recorder = Recorder::new(client, "tester", "", Arc::new(base::SystemClock));
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("n".into());
        recorder.event(&pod, EventType::Normal, "Started", "m");
        recorder.event(&pod, EventType::Normal, "Started", "m");
        while seen.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        let seen = seen.lock();
        assert_eq!((seen[0].method.as_str(), seen[0].url.as_str()), ("POST", "/api/v1/namespaces/n/events"));
        assert_eq!(seen[0].body["involvedObject"]["kind"], "Pod");
        assert_eq!((seen[1].method.as_str(), &seen[1].body["count"]), ("PATCH", &json!(2)));
    }
}
