//! Keeps queue and cache in step with the API (upstream `eventhandlers.go`).

use std::collections::HashSet;
use std::sync::Arc;

use base::Shutdown;
use client::k8s_openapi::api::core::v1::{Node, Pod};
use client::{Event, Informer, Resource, Subscription};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Scheduler, State};
use crate::SCHEDULER_NAME;
use crate::framework::{Change, ClusterEvent};
use crate::listers::Listers;
use crate::pod_info::{PodInfo, assigned_node};

impl Scheduler {
    /// Starts one task a kind.
    pub(super) fn follow(self: &Arc<Self>, tasks: &mut JoinSet<()>, shutdown: &Shutdown) {
        tasks.spawn(self.clone().follow_nodes(shutdown.clone()));
        tasks.spawn(self.clone().follow_pods(shutdown.clone()));
        let listers = &self.listers;
        self.tell(tasks, shutdown, &listers.claims.informer, ClusterEvent::Claim);
        self.tell(tasks, shutdown, &listers.volumes.informer, ClusterEvent::Volume);
        self.tell(tasks, shutdown, &listers.classes, ClusterEvent::StorageClass);
        self.tell(tasks, shutdown, &listers.csi_nodes, ClusterEvent::CsiNode);
        self.tell(tasks, shutdown, &listers.csi_drivers, ClusterEvent::CsiDriver);
        self.tell(tasks, shutdown, &listers.capacities, ClusterEvent::CsiStorageCapacity);
        self.tell(tasks, shutdown, &listers.attachments, ClusterEvent::VolumeAttachment);
    }

    /// Tells the queue what happens to objects of a kind.
    fn tell<K: Resource>(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
        informer: &Informer<K>,
        event: fn(Change<K>) -> ClusterEvent,
    ) {
        let (scheduler, shutdown, mut events) = (self.clone(), shutdown.clone(), informer.subscribe());
        tasks.spawn(async move {
            while let Some(seen) = next(&mut events, &shutdown).await {
                {
                    let mut state = scheduler.state.lock();
                    match change(seen) {
                        Some(change) => state.queue.wake(&event(change), Instant::now(), &scheduler.listers),
                        None => state.queue.wake_all(Instant::now()),
                    }
                }
                scheduler.volumes_changed.send_modify(|count| *count = count.wrapping_add(1));
                scheduler.wake.notify_one();
            }
        });
    }

    async fn follow_nodes(self: Arc<Self>, shutdown: Shutdown) {
        let mut events = self.listers.nodes.subscribe();
        while let Some(event) = next(&mut events, &shutdown).await {
            {
                let mut state = self.state.lock();
                match change(event) {
                    Some(change) => state.node(change, &self.listers),
                    None => state.all_nodes(&self.listers),
                }
            }
            self.wake.notify_one();
        }
    }

    async fn follow_pods(self: Arc<Self>, shutdown: Shutdown) {
        let mut events = self.listers.pods.subscribe();
        // Every uid that this task has told the state about, so that a resync finds what went away unseen.
        let mut known: HashSet<String> = HashSet::new();
        while let Some(event) = next(&mut events, &shutdown).await {
            let mut state = self.state.lock();
            match event {
                Event::Added(pod) => {
                    known.insert(pod.uid().to_owned());
                    state.pod(None, &pod, &self.listers);
                }
                Event::Updated { old, new } => {
                    // Deleted and made again under the same name between two looks.
                    if old.uid() != new.uid() {
                        known.remove(old.uid());
                        known.insert(new.uid().to_owned());
                        state.gone(&old, &self.listers);
                    }
                    state.pod(Some(&old).filter(|old| old.uid() == new.uid()), &new, &self.listers);
                }
                Event::Deleted(pod) => {
                    known.remove(pod.uid());
                    state.gone(&pod, &self.listers);
                }
                Event::Resync => {
                    let listed = self.listers.pods.list();
                    let present: HashSet<String> = listed.iter().map(|pod| pod.uid().to_owned()).collect();
                    known.difference(&present).for_each(|uid| state.forget(uid));
                    listed.iter().for_each(|pod| state.pod(None, pod, &self.listers));
                    state.queue.wake_all(Instant::now());
                    known = present;
                }
            }
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl State {
    fn node(&mut self, change: Change<Node>, listers: &Listers) {
        match &change {
            Change::Added(node) => self.cache.set_node(node),
            Change::Updated { old, new } => {
                if !matters(old, new) {
                    return;
                }
                self.cache.set_node(new);
            }
            Change::Deleted(node) => self.cache.remove_node(node.name()),
        }
        self.queue.wake(&ClusterEvent::Node(change), Instant::now(), listers);
    }

    fn all_nodes(&mut self, listers: &Listers) {
        let listed = listers.nodes.list();
        let present: HashSet<&str> = listed.iter().map(|node| node.name()).collect();
        for name in self.cache.node_names().iter().filter(|name| !present.contains(name.as_str())) {
            self.cache.remove_node(name);
        }
        listed.iter().for_each(|node| self.cache.set_node(node));
        self.queue.wake_all(Instant::now());
    }

    /// A pod as it is now: to be scheduled, running somewhere, or over.
    pub(super) fn pod(&mut self, old: Option<&Arc<Pod>>, pod: &Arc<Pod>, listers: &Listers) {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return self.gone(pod, listers);
        }
        match assigned_node(pod) {
            Some(node) => self.assigned(old, pod, node, listers),
            None if pod.is_deleting() => {
                self.queue.remove(pod.uid());
                self.nominator.remove(pod.uid());
            }
            None => {
                let wanted = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(SCHEDULER_NAME);
                if wanted == SCHEDULER_NAME {
                    self.waiting(pod, listers);
                }
            }
        }
    }

    fn waiting(&mut self, pod: &Arc<Pod>, listers: &Listers) {
        let info = Arc::new(PodInfo::new(pod.clone()));
        let assumed = self.cache.is_assumed(pod.uid());
        // Assumed: its binding is on the way.
        if assumed && !self.queue.contains(pod.uid()) {
            return;
        }
        let old = self.queue.update(info.clone(), Instant::now(), listers);
        if !assumed {
            self.nominator.update(old.as_deref(), info);
        }
    }

    fn assigned(&mut self, old: Option<&Arc<Pod>>, pod: &Arc<Pod>, node: &str, listers: &Listers) {
        self.queue.remove(pod.uid());
        self.nominator.remove(pod.uid());
        let info = Arc::new(PodInfo::new(pod.clone()));
        let known = old.filter(|old| assigned_node(old).is_some());
        let event = match known {
            None => Some(Change::Added(pod.clone())),
            Some(old) => concerns(old, &info).then(|| Change::Updated { old: old.clone(), new: pod.clone() }),
        };
        self.cache.place(node, info);
        if let Some(change) = event {
            self.queue.wake(&ClusterEvent::AssignedPod(change), Instant::now(), listers);
        }
    }

    pub(super) fn gone(&mut self, pod: &Arc<Pod>, listers: &Listers) {
        if self.forget_known(pod.uid()) {
            let event = ClusterEvent::AssignedPod(Change::Deleted(pod.clone()));
            self.queue.wake(&event, Instant::now(), listers);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.forget_known(uid);
    }

    /// Whether the pod had a node.
    fn forget_known(&mut self, uid: &str) -> bool {
        self.queue.remove(uid);
        self.nominator.remove(uid);
        self.cache.forget(uid)
    }
}

/// Whether a node's change is one that decisions look at; heartbeats are not (`NodeSchedulingPropertiesChange`).
fn matters(old: &Node, new: &Node) -> bool {
    let status = |node: &Node| {
        let status = node.status.clone().unwrap_or_default();
        (status.allocatable, status.images)
    };
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || status(old) != status(new)
}

/// Whether a running pod's change may concern pods that wait (`PodSchedulingPropertiesChange`).
fn concerns(old: &Arc<Pod>, new: &PodInfo) -> bool {
    old.metadata.labels != new.pod.metadata.labels || PodInfo::new(old.clone()).requests != new.requests
}

/// `None` if only a new look at everything says what happened.
fn change<K>(event: Event<K>) -> Option<Change<K>> {
    match event {
        Event::Added(object) => Some(Change::Added(object)),
        Event::Updated { old, new } => Some(Change::Updated { old, new }),
        Event::Deleted(object) => Some(Change::Deleted(object)),
        Event::Resync => None,
    }
}

async fn next<K>(events: &mut Subscription<K>, shutdown: &Shutdown) -> Option<Event<K>> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        event = events.recv() => event,
    }
}
