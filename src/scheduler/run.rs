//! The loop: events in, decisions out.

use std::sync::Arc;

use base::{SharedClock, Shutdown};
use client::k8s_openapi::api::core::v1::{Node, Pod};
use client::{Client, Event, EventType, Informer, Informers, Patch, Recorder};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::SCHEDULER_NAME;
use crate::cache::Cache;
use crate::cycle::{Decision, Diagnosis, decide};
use crate::framework::ClusterEvent;
use crate::plugins;
use crate::queue::{Queue, Waiting};

/// Bindings and status writes under way at once; the next decision waits when there are as many.
const WRITES_MAX: usize = 32;

/// What the scheduler works with.
pub struct SchedulerConfig {
    pub client: Client,
    pub informers: Informers,
    pub clock: SharedClock,
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    clock: SharedClock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    queue: Queue,
    cache: Cache,
}

/// Runs until `shutdown`; writes under way are finished first.
pub async fn run(config: SchedulerConfig, shutdown: Shutdown) {
    let SchedulerConfig { client, informers, clock } = config;
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::new(client.clone(), SCHEDULER_NAME, "", clock.clone()),
        pods: informers.informer::<Pod>(),
        nodes: informers.informer::<Node>(),
        client,
        clock,
        state: Mutex::default(),
        wake: Notify::new(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(scheduler.clone().follow_nodes(shutdown.clone()));
    tasks.spawn(scheduler.clone().follow_pods(shutdown.clone()));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = async { scheduler.nodes.synced().await; scheduler.pods.synced().await } => scheduler.decide_all(&shutdown).await,
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the scheduler panicked");
        }
    }
}

impl Scheduler {
    async fn follow_nodes(self: Arc<Self>, shutdown: Shutdown) {
        let mut events = self.nodes.subscribe();
        while let Some(event) = next(&mut events, &shutdown).await {
            let now = Instant::now();
            let mut state = self.state.lock();
            match event {
                Event::Added(node) => {
                    state.cache.set_node(&node);
                    state.queue.wake(ClusterEvent::NodeAdded, now);
                }
                Event::Updated { old, new } => {
                    state.cache.set_node(&new);
                    if matters(&old, &new) {
                        state.queue.wake(ClusterEvent::NodeChanged, now);
                    }
                }
                Event::Deleted(node) => state.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
                Event::Resync => {
                    let listed = self.nodes.list();
                    let gone: Vec<String> = state
                        .cache
                        .snapshot()
                        .iter()
                        .map(|info| info.name().to_owned())
                        .filter(|name| !listed.iter().any(|n| n.metadata.name.as_deref() == Some(name)))
                        .collect();
                    gone.iter().for_each(|name| state.cache.remove_node(name));
                    listed.iter().for_each(|node| state.cache.set_node(node));
                    state.queue.wake(ClusterEvent::NodeAdded, now);
                }
            }
            drop(state);
            self.wake.notify_one();
        }
    }

    async fn follow_pods(self: Arc<Self>, shutdown: Shutdown) {
        let mut events = self.pods.subscribe();
        // Every uid that this task has told the state about, so that a resync finds what went away unseen.
        let mut known = std::collections::HashSet::new();
        while let Some(event) = next(&mut events, &shutdown).await {
            let mut state = self.state.lock();
            match event {
                Event::Added(pod) | Event::Updated { new: pod, .. } => {
                    known.insert(uid(&pod));
                    state.apply(&pod);
                }
                Event::Deleted(pod) => {
                    known.remove(&uid(&pod));
                    state.gone(&uid(&pod));
                }
                Event::Resync => {
                    let listed = self.pods.list();
                    let present: std::collections::HashSet<String> = listed.iter().map(|pod| uid(pod)).collect();
                    known.difference(&present).for_each(|uid| state.gone(uid));
                    listed.iter().for_each(|pod| state.apply(pod));
                    known = present;
                }
            }
            drop(state);
            self.wake.notify_one();
        }
    }

    async fn decide_all(self: &Arc<Self>, shutdown: &Shutdown) {
        let mut writes = JoinSet::new();
        let mut tie = 0_usize;
        loop {
            let (popped, deadline) = {
                let mut state = self.state.lock();
                (state.queue.pop(Instant::now()), state.queue.next_deadline())
            };
            let Some((uid, waiting)) = popped else {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    () = self.wake.notified() => {}
                    () = sleep_until(deadline) => {}
                    Some(_) = writes.join_next() => {}
                }
                continue;
            };
            tie = tie.wrapping_add(1);
            self.schedule_one(&uid, &waiting, tie, &mut writes);
            while writes.len() >= WRITES_MAX {
                writes.join_next().await;
            }
        }
        while writes.join_next().await.is_some() {}
    }

    fn schedule_one(self: &Arc<Self>, uid: &str, waiting: &Waiting, tie: usize, writes: &mut JoinSet<()>) {
        let mut state = self.state.lock();
        let snapshot = state.cache.snapshot();
        let scheduler = self.clone();
        let (uid, pod) = (uid.to_owned(), waiting.pod.clone());
        match decide(&pod, &snapshot, plugins::ALL, tie) {
            Decision::Node(node) => {
                state.cache.place(&uid, &node, &pod);
                writes.spawn(async move { scheduler.bind(&uid, &pod, &node).await });
            }
            Decision::Unschedulable(diagnosis) => {
                state.queue.put_back(&uid, diagnosis.plugins.clone(), Instant::now());
                writes.spawn(async move { scheduler.report(&pod, &diagnosis).await });
            }
        }
    }

    async fn bind(&self, uid: &str, pod: &Pod, node: &str) {
        let (namespace, name) = key(pod);
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.client.create_subresource::<Pod>(namespace, name, "binding", &body).await {
            Ok(_) => {
                self.state.lock().queue.remove(uid);
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.event(pod, EventType::Normal, "Scheduled", &message);
            }
            Err(error) => {
                let gone = error.is_not_found() || error.is_conflict();
                if !gone {
                    tracing::warn!(namespace, name, node, error = %base::chain(&error), "cannot bind a pod");
                    let message = format!("binding rejected: {error}");
                    self.recorder.event(pod, EventType::Warning, "FailedScheduling", &message);
                }
                {
                    let mut state = self.state.lock();
                    state.cache.forget(uid);
                    state.queue.put_back(uid, std::collections::BTreeSet::new(), Instant::now());
                    state.queue.wake(ClusterEvent::PodRemoved, Instant::now());
                    // The informer may have shown the pod bound (by another scheduler) before it was forgotten here.
                    match self.pods.get(namespace, name).filter(|seen| self::uid(seen) == uid) {
                        Some(seen) => state.apply(&seen),
                        None => state.queue.remove(uid),
                    }
                }
                self.wake.notify_one();
            }
        }
    }

    /// Tells the pod's owner why it waits: an event, and the `PodScheduled` condition when it says something new.
    async fn report(&self, pod: &Pod, diagnosis: &Diagnosis) {
        let (namespace, name) = key(pod);
        let message = diagnosis.message();
        self.recorder.event(pod, EventType::Warning, "FailedScheduling", &message);
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let held = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let same = |c: &client::k8s_openapi::api::core::v1::PodCondition| {
            c.status == "False"
                && c.reason.as_deref() == Some("Unschedulable")
                && c.message.as_deref() == Some(&message)
        };
        if held.is_some_and(same) {
            return;
        }
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "observedGeneration": pod.metadata.generation,
        });
        if held.is_none_or(|c| c.status != "False") {
            condition["lastTransitionTime"] = format!("{:.0}", self.clock.now()).into();
        }
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        if let Err(error) = self.client.patch_status::<Pod>(namespace, name, &patch).await
            && !error.is_not_found()
        {
            tracing::warn!(namespace, name, error = %base::chain(&error), "cannot report an unschedulable pod");
        }
    }
}

impl State {
    /// A pod as it is now: to be scheduled, running somewhere, or over.
    fn apply(&mut self, pod: &Arc<Pod>) {
        let (uid, now) = (uid(pod), Instant::now());
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
        if matches!(phase, "Succeeded" | "Failed") {
            return self.gone(&uid);
        }
        match node {
            Some(node) => {
                self.queue.remove(&uid);
                self.cache.place(&uid, node, pod);
                self.queue.wake(ClusterEvent::PodPlaced, now);
            }
            None if pod.metadata.deletion_timestamp.is_some() => self.queue.remove(&uid),
            // Assumed: its binding is on the way.
            None if self.cache.holds(&uid) => {}
            None => {
                let ours = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(SCHEDULER_NAME);
                if ours == SCHEDULER_NAME {
                    self.queue.update(&uid, pod.clone(), now);
                }
            }
        }
    }

    fn gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        if self.cache.holds(uid) {
            self.cache.forget(uid);
            self.queue.wake(ClusterEvent::PodRemoved, Instant::now());
        }
    }
}

/// Whether a node's change may let a pod in; heartbeats don't.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn key(pod: &Pod) -> (&str, &str) {
    let metadata = &pod.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

async fn next<K>(events: &mut client::Subscription<K>, shutdown: &Shutdown) -> Option<Event<K>> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        event = events.recv() => event,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
