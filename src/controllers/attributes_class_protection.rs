//! Keeps a VolumeAttributesClass that volumes or claims name from going (`pkg/controller/volume/vacprotection`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::volume_protection::{has_finalizer, update_if_there, with_finalizer};

const FINALIZER: &str = "kubernetes.io/vac-protection";

pub(crate) fn start(context: Context) {
    let classes = context.informers.informer::<VolumeAttributesClass>();
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let volumes = context.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&classes, &queue);
    context.feed(&claims, &add_all, let_go(&queue, of_claim));
    context.feed(&volumes, &add_all, let_go(&queue, of_volume));
    let ready = all_synced(vec![synced(&classes), synced(&claims), synced(&volumes)]);
    let reconciler = Reconciler { classes, claims, volumes, context: context.parts() };
    context.work(Arc::new(reconciler), queue, 1, ready);
}

/// Queues the classes that an object names no more.
fn let_go<K: Resource>(
    queue: &WorkQueue<ObjectKey>,
    names: fn(&K) -> Vec<&str>,
) -> impl Fn(&Event<K>) + Send + 'static {
    let queue = queue.clone();
    move |event| {
        let (before, after) = match event {
            Event::Deleted(object) => (names(object), Vec::new()),
            Event::Updated { old, new } => (names(old), names(new)),
            _ => return,
        };
        for name in before.into_iter().filter(|name| !after.contains(name)) {
            queue.add(ObjectKey::new("", name));
        }
    }
}

fn of_claim(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let now = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [wanted, now, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> Vec<&str> {
    let name = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

struct Reconciler {
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `processVAC`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(class) = self.classes.get("", &key.name) else { return Ok(()) };
        let used = || {
            self.volumes.list().iter().any(|v| of_volume(v).contains(&class.name()))
                || self.claims.list().iter().any(|c| of_claim(c).contains(&class.name()))
        };
        let change = match (class.is_deleting(), has_finalizer(&class.metadata, FINALIZER)) {
            (true, true) if !used() => with_finalizer(&*class, FINALIZER, false),
            (false, false) => with_finalizer(&*class, FINALIZER, true),
            _ => return Ok(()),
        };
        update_if_there(&self.context, &change).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_names_what_it_has_wants_and_moves_to() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "a"},
            "status": {"currentVolumeAttributesClassName": "b",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "c"}}}))
        .unwrap();
        assert_eq!(of_claim(&claim), ["a", "b", "c"]);
        assert!(of_volume(&PersistentVolume::default()).is_empty());
    }
}
