//! `VolumeBinding`: a pod's claims must be usable on its node, and claims that wait for their first consumer are bound
//! or provisioned for the node that was chosen (upstream `plugins/volumebinding`).
//!
//! In-tree volume sources that upstream translates to CSI drivers are taken as they are.

mod bind;
mod find;

use std::collections::HashMap;
use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use client::k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity};

pub use bind::{BindError, Plan, bind};
pub(super) use find::{check_owned, class_of};

use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, MAX_SCORE, Plugin, Prepared, Rejection, Scorer, World};
use crate::listers::Listers;
use crate::pod_info::{PodInfo, claim_name};
use find::{PodClaims, Sized};

pub(super) struct VolumeBinding;

#[derive(Clone)]
struct Claims {
    claims: Arc<PodClaims>,
    listers: Arc<Listers>,
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        match find::claims(pod, world.listers) {
            Ok(claims) if claims.is_empty() => Prepared::Skip,
            Ok(claims) => {
                Prepared::Check(Box::new(Claims { claims: Arc::new(claims), listers: world.listers.clone() }))
            }
            Err(rejection) => Prepared::Rejected(rejection),
        }
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], world: World<'_>) -> Option<Box<dyn Scorer>> {
        let claims = find::claims(pod, world.listers).ok().filter(|claims| !claims.is_empty())?;
        Some(Box::new(Claims { claims: Arc::new(claims), listers: world.listers.clone() }))
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::StorageClass(change) => change
                .now()
                .is_some_and(|new| change.old().is_none_or(|old| old.allowed_topologies != new.allowed_topologies)),
            ClusterEvent::Claim(change) => change.now().is_some_and(|claim| uses(pod, claim)),
            ClusterEvent::Volume(change) => change.now().is_some(),
            ClusterEvent::Node(Change::Added(_)) | ClusterEvent::CsiNode(Change::Added(_)) => true,
            ClusterEvent::Node(Change::Updated { old, new }) => old.metadata.labels != new.metadata.labels,
            ClusterEvent::CsiNode(Change::Updated { old, new }) => {
                const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
                old.annotation(MIGRATED) != new.annotation(MIGRATED)
            }
            ClusterEvent::CsiDriver(Change::Updated { old, new }) => {
                let tracks = |driver: &CSIDriver| driver.spec.storage_capacity.unwrap_or_default();
                tracks(old) && !tracks(new) && has_inline(pod, new.name())
            }
            ClusterEvent::CsiStorageCapacity(Change::Added(_)) => true,
            ClusterEvent::CsiStorageCapacity(Change::Updated { old, new }) => grew(old, new),
            _ => false,
        }
    }
}

impl Check for Claims {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        find::volumes(&self.claims, node, &self.listers).map(|_| ())
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

impl Scorer for Claims {
    /// Prefers volumes that fit tightly, and room for those that must be made (`buildScorerFunction`): the less of a
    /// capacity is asked for, the better.
    fn score(&self, node: &NodeInfo) -> i64 {
        let Ok(found) = find::volumes(&self.claims, node, &self.listers) else { return 0 };
        let mut classes: HashMap<String, Sized> = HashMap::new();
        for (class, sized) in found.sizes() {
            let sum = classes.entry(class).or_default();
            sum.requested = sum.requested.saturating_add(sized.requested);
            sum.capacity =
                if found.bindings.is_empty() { sized.capacity } else { sum.capacity.saturating_add(sized.capacity) };
        }
        let of = |sized: &Sized| match sized.capacity {
            capacity if capacity == 0 || sized.requested > capacity => 0,
            capacity => {
                MAX_SCORE - i64::try_from(i128::from(sized.requested) * 100 / i128::from(capacity)).unwrap_or(100)
            }
        };
        match classes.len() {
            0 => 0,
            count => (classes.values().map(of).sum::<i64>() as f64 / count as f64).round() as i64,
        }
    }
}

/// What must be bound or provisioned once the pod has this node; `None` if everything is bound
/// (`volumeBinder.AssumePodVolumes`, the finding part).
///
/// # Errors
/// What changed since the node was chosen.
pub fn plan(pod: &PodInfo, node: &NodeInfo, listers: &Listers) -> Result<Option<Plan>, Rejection> {
    let claims = find::claims(pod, listers)?;
    if claims.is_empty() {
        return Ok(None);
    }
    let found = find::volumes(&claims, node, listers)?;
    Ok(Plan::new(found, node.name()))
}

/// Whether one of the pod's volumes stands for the claim.
pub(super) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    pod.namespace() == claim.namespace()
        && pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
            .filter_map(|volume| claim_name(pod, volume))
            .any(|(name, _)| name == claim.name())
}

fn has_inline(pod: &Pod, driver: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.csi.as_ref()).any(|csi| csi.driver == driver)
}

fn grew(old: &CSIStorageCapacity, new: &CSIStorageCapacity) -> bool {
    find::limit(new).is_some_and(|new| find::limit(old).is_none_or(|old| new > old))
}
