//! A metadata watch of every deletable resource (`graph_builder.go` `syncMonitors`).
//!
//! What resources there are is asked again when a CustomResourceDefinition or an APIService changes, and rarely otherwise.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::Shutdown;
use client::reflect::{self, Sink, Source};
use client::{EventType, Recorder};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::graph::{Identity, Todo};
use super::{Shared, delete_key, orphan_key};
use crate::discovery::{self, ApiResource, KindsChanged};
use crate::harness::Context;
use crate::metadata;

/// After a change, so that a burst of new kinds is one discovery.
const SETTLE: Duration = Duration::from_secs(1);
/// Without any change.
const RESYNC: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(5);
/// A resource that cannot be listed for so long does not hold up the others (upstream's sync timeout).
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Monitors {
    shared: Arc<Shared>,
    client: client::Client,
    recorder: Recorder,
    running: Mutex<HashMap<(String, String), Running>>,
    started: AtomicUsize,
    /// A kind may have come or gone.
    changed: Arc<Notify>,
    first: tokio::sync::watch::Sender<bool>,
    /// What the last discovery found, by group and name.
    known: Mutex<HashSet<(String, String)>>,
    kinds: KindsChanged,
}

struct Running {
    version: String,
    stop: Shutdown,
    since: Instant,
    synced: Arc<AtomicUsize>,
}

impl Monitors {
    pub(super) fn new(context: &Context, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            running: Mutex::new(HashMap::new()),
            started: AtomicUsize::new(0),
            changed: Arc::new(Notify::new()),
            first: tokio::sync::watch::Sender::new(false),
            known: Mutex::default(),
            kinds: context.kinds.clone(),
        })
    }

    /// Starts the task that keeps the monitors; the future is done when the first discovery is.
    pub(super) fn start(self: &Arc<Self>, context: &Context) -> BoxFuture<'static, ()> {
        let (this, shutdown, tasks) = (Arc::clone(self), context.shutdown.clone(), context.tasks.clone());
        context.tasks.spawn(async move {
            loop {
                let pause = match this.step(&tasks, &shutdown).await {
                    Ok(complete) => {
                        this.first.send_replace(true);
                        if complete { RESYNC } else { RETRY }
                    }
                    Err(error) => {
                        warn!(error = %base::chain(&error), "cannot discover resources");
                        RETRY
                    }
                };
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = this.changed.notified() => tokio::time::sleep(SETTLE).await,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
        let mut first = self.first.subscribe();
        Box::pin(async move {
            // The sender lives as long as the collector.
            let _ = first.wait_for(|done| *done).await;
        })
    }

    /// Whether every resource was listed, or had its time.
    pub(super) fn have_synced(&self) -> bool {
        let running = self.running.lock();
        running.values().all(|m| m.synced.load(Ordering::Acquire) > 0 || m.since.elapsed() > SYNC_TIMEOUT)
    }

    /// Starts and stops monitors as discovery says; false if some groups could not be read.
    async fn step(
        self: &Arc<Self>,
        tasks: &tokio_util::task::TaskTracker,
        shutdown: &Shutdown,
    ) -> Result<bool, client::Error> {
        let found = Arc::new(discovery::discover(&self.client).await?);
        let complete = found.failures.is_empty();
        *self.shared.discovered.write() = Arc::clone(&found);
        let names = found.preferred.iter().map(|r| (r.group.clone(), r.resource.clone())).collect();
        let before = std::mem::replace(&mut *self.known.lock(), names);
        if before != *self.known.lock() {
            self.kinds.tell();
        }
        let wanted: HashMap<(String, String), &Arc<ApiResource>> = found
            .preferred
            .iter()
            .filter(|r| r.can(&["delete", "list", "watch"]) && !is_ignored(r))
            .map(|r| ((r.group.clone(), r.resource.clone()), r))
            .collect();
        let mut running = self.running.lock();
        running.retain(|key, monitor| {
            // What could not be discovered just now may still be there.
            let keep = wanted.get(key).map_or(!complete, |r| r.version == monitor.version);
            if !keep {
                monitor.stop.cancel();
            }
            keep
        });
        for (key, resource) in wanted {
            if running.contains_key(&key) {
                continue;
            }
            let stop = shutdown.child_token();
            let synced = Arc::new(AtomicUsize::new(0));
            let source = Source {
                client: self.client.clone(),
                path: resource.path("", ""),
                field_selector: String::new(),
                metadata_only: true,
            };
            let mut sink = GraphSink {
                monitor: self.started.fetch_add(1, Ordering::Relaxed),
                api_version: resource.api_version(),
                kind: resource.kind.clone(),
                tells_of_kinds: matches!(key.1.as_str(), "customresourcedefinitions" | "apiservices"),
                listed: HashSet::new(),
                synced: Arc::clone(&synced),
                monitors: Arc::clone(self),
            };
            let token = stop.clone();
            tasks.spawn(async move { reflect::run(source, &mut sink, token).await });
            running.insert(key, Running { version: resource.version.clone(), stop, since: Instant::now(), synced });
        }
        Ok(complete)
    }

    fn enqueue(&self, todo: Todo) {
        let queue = &self.shared.queue;
        for uid in todo.delete {
            queue.add(delete_key(&uid));
        }
        for uid in todo.orphan {
            queue.add(orphan_key(&uid));
        }
        for uid in todo.later {
            queue.add_rate_limited(delete_key(&uid));
        }
        for (dependent, owner) in todo.invalid {
            let object = ObjectReference {
                kind: Some(dependent.kind),
                api_version: Some(dependent.api_version),
                namespace: Some(dependent.namespace.clone()),
                name: Some(dependent.name),
                uid: Some(dependent.uid),
                ..Default::default()
            };
            let message = format!(
                "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
                owner.api_version, owner.kind, owner.namespace, owner.name, owner.uid, dependent.namespace
            );
            self.recorder.event(&object, EventType::Warning, "OwnerRefInvalidNamespace", &message);
        }
    }

    /// The API server says that the object is not there.
    pub(super) fn confirm_absent(&self, identity: &Identity) {
        let todo = self.shared.graph.lock().confirm_absent(identity);
        self.enqueue(todo);
    }
}

/// Events are many, short-lived and own nothing (`garbagecollector.DefaultIgnoredResources`).
fn is_ignored(resource: &ApiResource) -> bool {
    resource.resource == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io")
}

struct GraphSink {
    monitor: usize,
    api_version: String,
    kind: String,
    /// Its objects make or remove kinds.
    tells_of_kinds: bool,
    listed: HashSet<String>,
    synced: Arc<AtomicUsize>,
    monitors: Arc<Monitors>,
}

impl GraphSink {
    fn observe(&self, object: &[u8]) -> Result<metadata::Metadata, serde_json::Error> {
        let metadata = metadata::decode(object)?;
        let identity = Identity {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        };
        let todo = self.monitors.shared.graph.lock().observe(self.monitor, identity, &metadata);
        self.monitors.enqueue(todo);
        Ok(metadata)
    }

    fn kinds_changed(&self) {
        if self.tells_of_kinds {
            self.monitors.changed.notify_one();
        }
    }
}

impl Sink for GraphSink {
    fn initial(&mut self, object: &[u8]) -> Result<(), serde_json::Error> {
        let metadata = self.observe(object)?;
        self.listed.insert(metadata.uid);
        Ok(())
    }

    fn replace(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let todos = self.monitors.shared.graph.lock().retain(self.monitor, &listed);
        for todo in todos {
            self.monitors.enqueue(todo);
        }
        self.synced.store(1, Ordering::Release);
        self.kinds_changed();
    }

    fn discard(&mut self) {
        self.listed.clear();
    }

    fn changed(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let metadata = self.observe(object)?;
        self.kinds_changed();
        Ok(metadata.resource_version)
    }

    fn deleted(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let metadata = metadata::decode(object)?;
        let todo = self.monitors.shared.graph.lock().remove(&metadata.uid);
        self.monitors.enqueue(todo);
        self.kinds_changed();
        Ok(metadata.resource_version)
    }
}
