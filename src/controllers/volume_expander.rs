//! Says on a claim that was made larger who is to expand it (`pkg/controller/volume/expand`). No in-tree plugin is built
//! in: that is always an external resizer.

use std::sync::Arc;

use api::names::ObjectKey;
use api::quantity::Quantity;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};

const MESSAGE: &str = "waiting for an external controller to expand this PVC";

pub(crate) fn start(context: Context) {
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let volumes = context.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&claims, &queue);
    context.feed(&claims, &add_all, {
        let queue = queue.clone();
        move |event| {
            // Growing is what is news here.
            if let Event::Updated { old, new } = event
                && requested(new) > requested(old)
            {
                queue.add(key_of(&**new));
            }
        }
    });
    let ready = all_synced(vec![synced(&claims), synced(&volumes)]);
    let reconciler = Reconciler { claims, volumes, context: context.parts_as("volume_expand") };
    context.work(Arc::new(reconciler), queue, 1, ready);
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Quantity::parse(&requests.get("storage")?.0).ok()
}

fn held(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::parse(&claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0).ok()
}

struct Reconciler {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(()) };
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let bound = self.volumes.get("", volume).is_some_and(|volume| {
            let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            reference.is_some_and(|r| r.uid.as_deref() == Some(claim.uid()))
        });
        if bound && requested(&claim) > held(&claim) {
            self.context.recorder.event(&*claim, EventType::Normal, "ExternalExpanding", MESSAGE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_compare_by_value() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"resources": {"requests": {"storage": "1Gi"}}}, "status": {"capacity": {"storage": "1024Mi"}}}))
        .unwrap();
        assert_eq!(requested(&claim), held(&claim));
        assert!(requested(&claim) > None, "what has no size yet is to get one");
    }
}
