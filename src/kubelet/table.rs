//! The pods of this node: one slot per uid, which the informer fills and the pod's task reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::resize::allocation::Allocation;
use crate::spec;

/// Why the node agent ends a pod by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// `Evicted`, `DeadlineExceeded`, `Terminated` and so on.
    pub reason: String,
    pub message: String,
    /// Seconds; `None` leaves the pod's own.
    pub grace_seconds: Option<i64>,
    /// Reason and message of a `DisruptionTarget` condition.
    pub disruption: Option<(String, String)>,
}

/// What is wanted of a pod.
pub struct Wanted {
    pub pod: Arc<Pod>,
    /// No longer in the API (or no longer in the manifests folder).
    pub gone: bool,
    pub eviction: Option<Eviction>,
}

/// One pod of this node.
pub struct Slot {
    pub uid: String,
    /// Something changed: the pod, its containers, an object it uses, a probe's result.
    pub changed: Notify,
    /// The status to publish changed.
    pub status_changed: Notify,
    /// Something changed while a step was under way.
    pub again: AtomicBool,
    wanted: Mutex<Wanted>,
    status: Mutex<Option<PodStatus>>,
    allocation: Mutex<Option<Allocation>>,
    ended: watch::Sender<bool>,
}

impl Slot {
    fn new(uid: &str, pod: Arc<Pod>) -> Self {
        Self {
            uid: uid.to_owned(),
            changed: Notify::new(),
            status_changed: Notify::new(),
            again: AtomicBool::new(false),
            wanted: Mutex::new(Wanted { pod, gone: false, eviction: None }),
            status: Mutex::new(None),
            allocation: Mutex::new(None),
            ended: watch::Sender::new(false),
        }
    }

    pub fn pod(&self) -> Arc<Pod> {
        self.wanted.lock().pod.clone()
    }

    /// The pod's containers are gone, and what it had is given back.
    pub fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    pub async fn ended(&self) {
        // The sender lives as long as the slot.
        let mut ended = self.ended.subscribe();
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    /// What the pod was granted; `None` before its first step.
    pub fn allocation(&self) -> Option<Allocation> {
        self.allocation.lock().clone()
    }

    pub fn set_allocation(&self, allocation: Allocation) {
        *self.allocation.lock() = Some(allocation);
    }

    /// The pod with the resources that it was granted.
    pub fn granted_pod(&self) -> Arc<Pod> {
        let granted = self.allocation.lock().as_ref().and_then(Allocation::pod);
        granted.unwrap_or_else(|| self.pod())
    }

    pub fn is_gone(&self) -> bool {
        self.wanted.lock().gone
    }

    pub fn eviction(&self) -> Option<Eviction> {
        self.wanted.lock().eviction.clone()
    }

    /// Ends the pod; the first reason stays.
    pub fn evict(&self, eviction: Eviction) {
        let mut wanted = self.wanted.lock();
        if wanted.eviction.is_none() {
            wanted.eviction = Some(eviction);
            drop(wanted);
            self.changed.notify_one();
        }
    }

    /// The status last computed.
    pub fn status(&self) -> Option<PodStatus> {
        self.status.lock().clone()
    }

    pub fn set_status(&self, new: PodStatus) {
        let mut status = self.status.lock();
        if status.as_ref() != Some(&new) {
            *status = Some(new);
            drop(status);
            self.status_changed.notify_one();
        }
    }
}

/// All slots, by uid.
#[derive(Default)]
pub struct PodTable {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl PodTable {
    /// The pod is wanted as it is here. Returns the slot when it is new, and a task must be started for it.
    pub fn upsert(&self, pod: Arc<Pod>) -> Option<Arc<Slot>> {
        let uid = spec::uid(&pod).to_owned();
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&uid) {
            slot.wanted.lock().pod = pod;
            slot.changed.notify_one();
            slot.status_changed.notify_one();
            return None;
        }
        let slot = Arc::new(Slot::new(&uid, pod));
        slots.insert(uid, slot.clone());
        Some(slot)
    }

    /// The pod is no longer in the API.
    pub fn gone(&self, uid: &str) {
        if let Some(slot) = self.get(uid) {
            slot.wanted.lock().gone = true;
            slot.changed.notify_one();
        }
    }

    /// Something that the pod depends on changed.
    pub fn wake(&self, uid: &str) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.changed.notify_one();
        }
    }

    pub fn get(&self, uid: &str) -> Option<Arc<Slot>> {
        self.slots.lock().get(uid).cloned()
    }

    pub fn remove(&self, uid: &str) {
        self.slots.lock().remove(uid);
    }

    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    /// The pods that this node has taken and that have not ended.
    pub fn taken(&self) -> Vec<Arc<Slot>> {
        let mut slots = self.all();
        slots.retain(|slot| {
            let status = slot.status();
            let taken = status.is_some() || spec::status(&slot.pod()).start_time.is_some();
            let phase = status.and_then(|s| s.phase);
            slot.eviction().is_none() && taken && !spec::is_terminal_phase(phase.as_deref())
        });
        slots
    }

    /// The newest pod of this name; static pods are found by their full name too.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Slot>> {
        let slots = self.slots.lock();
        slots
            .values()
            .filter(|slot| {
                let wanted = slot.wanted.lock();
                spec::namespace(&wanted.pod) == namespace && spec::name(&wanted.pod) == name
            })
            .max_by_key(|slot| {
                let wanted = slot.wanted.lock();
                (!wanted.gone, wanted.pod.metadata.creation_timestamp.clone())
            })
            .cloned()
    }
}
