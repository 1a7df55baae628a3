//! Makes the claims of pods' generic ephemeral volumes (`pkg/controller/volume/ephemeral`). The garbage collector deletes
//! them after their pods.

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Resource, WorkQueue, is_controlled_by, owner_ref};
use k8s_openapi::api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::pods;

pub(crate) fn start(context: Context) {
    let pods = context.informers.informer::<Pod>();
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&pods, &queue);
    context.feed(&pods, &add_all, {
        let queue = queue.clone();
        move |event| {
            // A pod's volumes never change.
            if let Event::Added(pod) = event {
                add(&queue, pod);
            }
        }
    });
    context.feed(&claims, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            let Event::Deleted(claim) = event else { return };
            for pod in pods.namespace(claim.namespace()) {
                if pods::claims(&pod).any(|name| name == claim.name()) {
                    add(&queue, &pod);
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&pods), synced(&claims)]);
    let reconciler = Reconciler { pods, claims, context: context.parts_as("ephemeral_volume") };
    context.work(Arc::new(reconciler), queue, 5, ready);
}

fn add(queue: &WorkQueue<ObjectKey>, pod: &Pod) {
    if !pod.is_deleting() && ephemeral(pod).next().is_some() {
        queue.add(key_of(pod));
    }
}

/// The generic ephemeral volumes of a pod, by name.
fn ephemeral(pod: &Pod) -> impl Iterator<Item = (&str, &EphemeralVolumeSource)> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| Some((volume.name.as_str(), volume.ephemeral.as_ref()?)))
}

struct Reconciler {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|p| !p.is_deleting()) else { return Ok(()) };
        for (name, source) in ephemeral(&pod) {
            if let Err(error) = self.handle(&pod, name, source).await {
                let message = format!("ephemeral volume {name}: {}", base::chain(&error));
                self.context.recorder.event(&*pod, EventType::Warning, "FailedBinding", &message);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Reconciler {
    async fn handle(&self, pod: &Pod, volume: &str, source: &EphemeralVolumeSource) -> Result<(), Error> {
        let Some(template) = &source.volume_claim_template else { return Ok(()) };
        let name = format!("{}-{volume}", pod.name());
        if let Some(claim) = self.claims.get(pod.namespace(), &name) {
            return check_owner(pod, &claim);
        }
        let metadata = template.metadata.clone().unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: pod.metadata.namespace.clone(),
                owner_references: Some(vec![owner_ref(pod)]),
                annotations: metadata.annotations,
                labels: metadata.labels,
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        };
        match self.context.client.create(&claim).await {
            // The cache may be behind: whose it is decides.
            Err(error) if error.is_already_exists() => {
                match self.context.client.get_opt::<PersistentVolumeClaim>(pod.namespace(), &name).await? {
                    Some(claim) => check_owner(pod, &claim),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}

/// `VolumeIsForPod`.
fn check_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), Error> {
    if is_controlled_by(&claim.metadata, pod.uid()) {
        return Ok(());
    }
    Err(Error::Object {
        kind: "PVC",
        key: format!("{}/{}", claim.namespace(), claim.name()),
        problem: format!("was not created for pod {}/{} (pod is not owner)", pod.namespace(), pod.name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_of_somebody_else_is_refused() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "a"}, {"name": "b", "ephemeral": {}}]}}))
        .unwrap();
        assert_eq!(ephemeral(&pod).map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("p-b".to_owned());
        claim.metadata.namespace = Some("n".to_owned());
        let refused = check_owner(&pod, &claim).unwrap_err().to_string();
        assert_eq!(refused, "PVC n/p-b: was not created for pod n/p (pod is not owner)");
        claim.metadata.owner_references = Some(vec![owner_ref(&pod)]);
        assert!(check_owner(&pod, &claim).is_ok());
    }
}
