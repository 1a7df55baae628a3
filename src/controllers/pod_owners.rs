//! From a pod's change to the object that manages it (`addPod`, `updatePod`, `deletePod` of upstream's controllers).

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use client::{Event, Informer, Resource, WorkQueue, controller_of};
use k8s_openapi::api::core::v1::Pod;

use crate::expectations::Expectations;
use crate::harness::key_of;
use crate::pods;
use crate::selector::Selector;

pub(crate) struct PodOwners<K> {
    pub owners: Informer<K>,
    pub queue: WorkQueue<ObjectKey>,
    pub expectations: Arc<Expectations>,
    /// Which orphans an owner would take.
    pub selector: fn(&K) -> Option<Selector>,
    /// A pod that becomes ready is looked at again after so many seconds.
    pub min_ready_seconds: fn(&K) -> i32,
}

impl<K: Resource> PodOwners<K> {
    pub(crate) fn handle(&self, event: &Event<Pod>) {
        match event {
            Event::Added(pod) if pod.is_deleting() => self.deleted(pod),
            Event::Added(pod) => self.added(pod),
            Event::Updated { old, new } => self.updated(old, new),
            Event::Deleted(pod) => self.deleted(pod),
            Event::Resync => {}
        }
    }

    fn owner(&self, pod: &Pod) -> Option<Arc<K>> {
        let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == K::KIND)?;
        self.owners.get(pod.namespace(), &owner.name).filter(|set| set.uid() == owner.uid)
    }

    fn added(&self, pod: &Pod) {
        if let Some(owner) = self.owner(pod) {
            let key = key_of(&*owner);
            self.expectations.creation_observed(&key);
            self.queue.add(key);
        } else if controller_of(&pod.metadata).is_none() {
            self.add_selecting(pod);
        }
    }

    fn updated(&self, old: &Pod, new: &Pod) {
        let labels_changed = old.metadata.labels != new.metadata.labels;
        if new.is_deleting() {
            self.deleted(new);
            if labels_changed {
                self.deleted(old);
            }
            return;
        }
        let owner_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
        if owner_changed && let Some(owner) = self.owner(old) {
            self.queue.add(key_of(&*owner));
        }
        if let Some(owner) = self.owner(new) {
            let key = key_of(&*owner);
            let seconds = (self.min_ready_seconds)(&owner);
            if !pods::is_ready(old) && pods::is_ready(new) && seconds > 0 {
                self.queue.add_after(key.clone(), Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
            }
            self.queue.add(key);
        } else if controller_of(&new.metadata).is_none() && (labels_changed || owner_changed) {
            self.add_selecting(new);
        }
    }

    fn deleted(&self, pod: &Pod) {
        if let Some(owner) = self.owner(pod) {
            let key = key_of(&*owner);
            self.expectations.deletion_observed(&key, &key_of(pod));
            self.queue.add(key);
        }
    }

    /// An orphan may be wanted by any owner that selects it.
    fn add_selecting(&self, pod: &Pod) {
        for owner in self.owners.namespace(pod.namespace()) {
            if (self.selector)(&owner).is_some_and(|s| !s.is_empty() && s.matches(pod.metadata.labels.as_ref())) {
                self.queue.add(key_of(&*owner));
            }
        }
    }
}
