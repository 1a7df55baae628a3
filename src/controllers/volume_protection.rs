//! Keeps claims that pods use, and volumes that are bound, from being deleted under them
//! (`pkg/controller/volume/pvcprotection`, `pvprotection`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, ListParams, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::pods;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

pub(crate) fn start_claims(context: Context) {
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&claims, &queue);
    context.feed(&pods, &add_all, {
        let queue = queue.clone();
        move |event| {
            let pod = match event {
                Event::Deleted(pod) => pod,
                Event::Added(pod) | Event::Updated { new: pod, .. } if !uses_claims(pod) => pod,
                _ => return,
            };
            for claim in pods::claims(pod) {
                queue.add(ObjectKey::new(pod.namespace(), claim));
            }
        }
    });
    let ready = all_synced(vec![synced(&claims), synced(&pods)]);
    let reconciler = Arc::new(Claims { claims, pods, context: context.parts() });
    context.work(reconciler, queue, 1, ready);
}

pub(crate) fn start_volumes(context: Context) {
    let volumes = context.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::new();
    context.feed_own(&volumes, &queue);
    let reconciler = Arc::new(Volumes { volumes: volumes.clone(), context: context.parts() });
    context.work(reconciler, queue, 1, all_synced(vec![synced(&volumes)]));
}

/// A pod that ended, or never started, uses nothing.
fn uses_claims(pod: &Pod) -> bool {
    !pods::is_terminal(pod) && !pods::node(pod).is_empty()
}

fn is_used(pods: &[impl AsRef<Pod>], claim: &str) -> bool {
    pods.iter().any(|pod| uses_claims(pod.as_ref()) && pods::claims(pod.as_ref()).any(|name| name == claim))
}

pub(crate) fn has_finalizer(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    finalizer: &str,
) -> bool {
    metadata.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// The object with or without a finalizer, at the version that was looked at: the accounts here may update, not patch.
pub(crate) fn with_finalizer<K: Resource>(object: &K, finalizer: &str, add: bool) -> K {
    let mut object = object.clone();
    let finalizers = object.metadata_mut().finalizers.get_or_insert_default();
    finalizers.retain(|f| f != finalizer);
    if add {
        finalizers.push(finalizer.to_owned());
    }
    object
}

/// Writes an object back; one that is gone needs no finalizer more.
pub(crate) async fn update_if_there<K: Resource>(context: &Parts, change: &K) -> Result<(), Error> {
    match context.client.update(change).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

struct Claims {
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    context: Parts,
}

struct Owned(Pod);
impl AsRef<Pod> for Owned {
    fn as_ref(&self) -> &Pod {
        &self.0
    }
}

#[async_trait]
impl Reconcile for Claims {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(()) };
        let protected = has_finalizer(&claim.metadata, CLAIM);
        let change = match (claim.is_deleting(), protected) {
            (true, true) => with_finalizer(&*claim, CLAIM, false),
            (false, false) => with_finalizer(&*claim, CLAIM, true),
            _ => return Ok(()),
        };
        if claim.is_deleting() {
            if is_used(&self.pods.namespace(&key.namespace), &key.name) {
                return Ok(());
            }
            // The cache may miss a pod that was just made.
            let live = self.context.client.list::<Pod>(&key.namespace, &ListParams::default()).await?;
            let live: Vec<Owned> = live.into_iter().map(Owned).collect();
            if is_used(&live, &key.name) {
                return Ok(());
            }
        }
        update_if_there(&self.context, &change).await
    }
}

struct Volumes {
    volumes: Informer<PersistentVolume>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Volumes {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(()) };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let change = match (volume.is_deleting(), has_finalizer(&volume.metadata, VOLUME)) {
            (true, true) if !bound => with_finalizer(&*volume, VOLUME, false),
            (false, false) => with_finalizer(&*volume, VOLUME, true),
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
    fn a_claim_is_used_by_pods_that_run() {
        let pod = |phase: &str, node: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": "p", "namespace": "n"},
                    "spec": {"nodeName": node, "containers": [], "volumes": [
                        {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]},
                    "status": {"phase": phase},
                }))
                .unwrap(),
            )
        };
        assert!(is_used(&[pod("Running", "x")], "c"));
        assert!(is_used(&[pod("Running", "x")], "p-e"));
        assert!(!is_used(&[pod("Succeeded", "x")], "c"));
        assert!(!is_used(&[pod("Pending", "")], "c"));
    }
}
