//! Binds or has provisioned the volumes of a pod that got a node, before the pod itself is bound (upstream `binder.go`,
//! `AssumePodVolumes` and `BindPodVolumes`).

use std::sync::Arc;
use std::time::Duration;

use client::k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use client::{Client, Resource};
use thiserror::Error;
use tokio::sync::watch;

use super::find::{BIND_COMPLETED, PodVolumes, SELECTED_NODE, promised, reachable, volume_of};
use crate::listers::Listers;

const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// `VolumeBindingArgs.bindTimeoutSeconds`.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Why a pod's volumes were not bound.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("{0}")]
    Api(#[from] client::Error),
    #[error("binding volumes: {0}")]
    Lost(String),
    #[error("binding volumes: context deadline exceeded")]
    Timeout,
}

/// What is to be written for a pod's volumes.
#[derive(Debug)]
pub struct Plan {
    node: String,
    /// Volumes that name their claim now.
    volumes: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims that name the node now.
    claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl Plan {
    /// `None` if nothing waits to be bound.
    pub(super) fn new(found: PodVolumes, node: &str) -> Option<Self> {
        if found.bindings.is_empty() && found.provisions.is_empty() {
            return None;
        }
        let volumes = found.bindings.into_iter().map(|(volume, claim)| (bound_to(&volume, &claim), claim)).collect();
        let claims = found.provisions.into_iter().map(|(claim, _)| selected(&claim, node)).collect();
        Some(Self { node: node.to_owned(), volumes, claims })
    }

    /// Shows the changes to the next decisions before the API does.
    pub fn assume(&self, listers: &Listers) {
        self.volumes.iter().for_each(|(volume, _)| listers.volumes.assume(volume.clone()));
        self.claims.iter().for_each(|claim| listers.claims.assume(claim.clone()));
    }

    /// Takes back what [`Plan::assume`] showed.
    pub fn revert(&self, listers: &Listers) {
        self.volumes.iter().for_each(|(volume, _)| listers.volumes.restore("", volume.name()));
        self.claims.iter().for_each(|claim| listers.claims.restore(claim.namespace(), claim.name()));
    }

    /// Whether the API shows everything bound (`checkBindings`). `written` holds the versions that the writes made, so
    /// that an informer that lags is waited for.
    fn done(&self, pod: &Pod, listers: &Listers, written: &Written) -> Result<bool, BindError> {
        let lost = |text: String| Err(BindError::Lost(text));
        if listers.pods.get(pod.namespace(), pod.name()).is_none_or(|seen| seen.uid() != pod.uid()) {
            return lost(format!("pod does not exist any more: pod \"{}\" not found", pod.name()));
        }
        for ((volume, claim), version) in self.volumes.iter().zip(&written.volumes) {
            let Some(seen) = listers.volumes.informer.get("", volume.name()) else {
                return lost(format!("failed to check binding: could not find pv \"{}\"", volume.name()));
            };
            if self::version(&*seen) < *version {
                return Ok(false);
            }
            if !promised(&seen, claim) {
                return lost(format!("ClaimRef got reset for pv \"{}\"", volume.name()));
            }
            if !bound(listers, claim)? {
                return Ok(false);
            }
        }
        for (claim, version) in self.claims.iter().zip(&written.claims) {
            let Some(seen) = listers.claims.informer.get(claim.namespace(), claim.name()) else {
                return lost(format!("failed to check provisioning pvc: could not find \"{}\"", claim.name()));
            };
            if self::version(&*seen) < *version {
                return Ok(false);
            }
            // A provisioner that cannot serve the node takes the annotation away again.
            if seen.annotation(SELECTED_NODE) != Some(self.node.as_str()) {
                return lost(format!("provisioning failed for PVC \"{}\"", claim.name()));
            }
            if !bound(listers, claim)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Versions after the writes, in the plan's order.
#[derive(Debug, Default)]
struct Written {
    volumes: Vec<u64>,
    claims: Vec<u64>,
}

fn version(object: &impl Resource) -> u64 {
    object.resource_version().parse().unwrap_or_default()
}

fn bound(listers: &Listers, claim: &PersistentVolumeClaim) -> Result<bool, BindError> {
    match listers.claims.informer.get(claim.namespace(), claim.name()) {
        Some(seen) => Ok(volume_of(&seen).is_some() && seen.annotation(BIND_COMPLETED).is_some()),
        None => Err(BindError::Lost(format!("failed to check binding: could not find \"{}\"", claim.name()))),
    }
}

/// `volume.GetBindVolumeToClaim`.
fn bound_to(volume: &Arc<PersistentVolume>, claim: &PersistentVolumeClaim) -> Arc<PersistentVolume> {
    let mut changed = (**volume).clone();
    let by_controller = !promised(volume, claim);
    if let Some(spec) = &mut changed.spec {
        spec.claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: Some(claim.namespace().to_owned()),
            name: Some(claim.name().to_owned()),
            uid: Some(claim.uid().to_owned()),
            resource_version: Some(claim.resource_version().to_owned()),
            ..ObjectReference::default()
        });
    }
    if by_controller {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Arc::new(changed)
}

fn selected(claim: &Arc<PersistentVolumeClaim>, node: &str) -> Arc<PersistentVolumeClaim> {
    let mut changed = (**claim).clone();
    changed.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), node.to_owned());
    Arc::new(changed)
}

/// Writes the plan and returns when the volume controller and provisioners have done their part. `changes` tells of
/// every change of a volume or claim.
///
/// # Errors
/// A write was refused, an object went away, or ten minutes passed. What was assumed is taken back.
pub async fn bind(
    client: &Client,
    listers: &Listers,
    pod: &Pod,
    plan: &Plan,
    mut changes: watch::Receiver<u64>,
) -> Result<(), BindError> {
    let work = async {
        let mut written = Written::default();
        for (volume, _) in &plan.volumes {
            written.volumes.push(version(&client.update(&**volume).await?));
        }
        for claim in &plan.claims {
            written.claims.push(version(&client.update(&**claim).await?));
        }
        loop {
            changes.mark_unchanged();
            if plan.done(pod, listers, &written)? {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(BindError::Lost("the scheduler is stopping".to_owned()));
            }
        }
    };
    let result = tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(BindError::Timeout));
    if result.is_err() {
        plan.revert(listers);
    }
    result.and_then(|()| reachable_volumes(plan, listers))
}

/// The volumes that were made must be within the node's reach.
fn reachable_volumes(plan: &Plan, listers: &Listers) -> Result<(), BindError> {
    let Some(node) = listers.nodes.get("", &plan.node) else {
        return Err(BindError::Lost(format!("failed to get node \"{0}\": node \"{0}\" not found", plan.node)));
    };
    for claim in &plan.claims {
        let seen = listers.claims.informer.get(claim.namespace(), claim.name());
        let name = seen.as_deref().and_then(volume_of).unwrap_or_default();
        if listers.volumes.informer.get("", name).is_some_and(|volume| !reachable(&volume, &node)) {
            let text = format!(
                "pv \"{name}\" node affinity doesn't match node \"{}\": no matching NodeSelectorTerms",
                plan.node
            );
            return Err(BindError::Lost(text));
        }
    }
    Ok(())
}
