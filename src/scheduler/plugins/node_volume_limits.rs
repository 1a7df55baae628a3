//! `NodeVolumeLimits`: a node attaches no more volumes of a CSI driver than the driver said it can
//! (upstream `plugins/nodevolumelimits/csi.go`).

use std::collections::HashMap;
use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use client::k8s_openapi::api::storage::v1::CSINode;

use super::volume_binding::{check_owned, class_of, uses};
use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::{PodInfo, claim_name};

pub(super) struct NodeVolumeLimits;

#[derive(Clone)]
struct Limits {
    pod: Arc<PodInfo>,
    listers: Arc<Listers>,
}

/// Drivers by volume.
type Volumes = HashMap<String, String>;

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        if !has_claims(&pod.pod) {
            return Prepared::Skip;
        }
        Prepared::Check(Box::new(Limits { pod: pod.clone(), listers: world.listers.clone() }))
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::CsiNode(Change::Added(_)) => true,
            ClusterEvent::CsiNode(Change::Updated { old, new }) => {
                let old = limits(Some(old));
                limits(Some(new)).iter().any(|(driver, limit)| *limit > old.get(driver).copied().unwrap_or_default())
            }
            ClusterEvent::AssignedPod(Change::Deleted(gone)) => has_claims(gone),
            ClusterEvent::Claim(Change::Added(claim)) => uses(pod, claim),
            ClusterEvent::VolumeAttachment(Change::Deleted(_)) => {
                let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
                volumes.into_iter().any(|volume| volume.persistent_volume_claim.is_some())
            }
            _ => false,
        }
    }
}

impl Check for Limits {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let csi_node = self.listers.csi_nodes.get("", node.name());
        let mut wanted = Volumes::new();
        self.volumes_of(&self.pod, true, &mut wanted)?;
        if wanted.is_empty() {
            return Ok(());
        }
        for driver in wanted.values() {
            if !self.installed(driver, csi_node.as_deref()) {
                return Err(Rejection::new(format!("{driver} CSI driver is not installed on the node")));
            }
        }
        let limits = limits(csi_node.as_deref());
        if limits.is_empty() {
            return Ok(());
        }
        let mut attached = self.attachments(node.name());
        for other in &node.pods {
            self.volumes_of(other, false, &mut attached)?;
        }
        let count = |volumes: &Volumes, driver: &str| {
            i64::try_from(volumes.values().filter(|d| *d == driver).count()).unwrap_or(i64::MAX)
        };
        wanted.retain(|volume, _| !attached.contains_key(volume));
        for (driver, limit) in limits {
            let new = count(&wanted, &driver);
            if new > 0 && count(&attached, &driver) + new > limit {
                return Err(Rejection::new("node(s) exceed max volume count"));
            }
        }
        Ok(())
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

impl Limits {
    /// `filterAttachableVolumes`.
    fn volumes_of(&self, pod: &PodInfo, new: bool, into: &mut Volumes) -> Result<(), Rejection> {
        for volume in pod.volumes() {
            let Some((name, ephemeral)) = claim_name(&pod.pod, volume) else { continue };
            let Some(claim) = self.listers.claims.get(pod.namespace(), &name) else {
                if new {
                    let text = format!(
                        "looking up PVC {}/{name}: persistentvolumeclaim \"{name}\" not found",
                        pod.namespace()
                    );
                    return Err(Rejection::unresolvable(text));
                }
                continue;
            };
            if ephemeral {
                check_owned(pod, &claim).map_err(Rejection::error)?;
            }
            if let Some((driver, handle)) = self.driver_of(&claim) {
                into.insert(format!("{driver}/{handle}"), driver);
            }
        }
        Ok(())
    }

    /// The driver and handle of the claim's volume; of one that is still to be made, its class's driver
    /// (`getCSIDriverInfo`).
    fn driver_of(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        if let Some(volume) = self.listers.volumes.get("", name).filter(|_| !name.is_empty()) {
            let csi = volume.spec.as_ref()?.csi.as_ref()?;
            return Some((csi.driver.clone(), csi.volume_handle.clone()));
        }
        let class = self.listers.classes.get("", class_of(claim))?;
        // No real handle starts with a slash, so this one stands for the claim alone.
        Some((class.provisioner.clone(), format!("/{}/{}", claim.namespace(), claim.name())))
    }

    /// `checkCSIDriverOnNode`: false only if the driver asked not to be scheduled where it is missing.
    fn installed(&self, driver: &str, node: Option<&CSINode>) -> bool {
        let asked = self.listers.csi_drivers.get("", driver);
        if !asked.is_some_and(|d| d.spec.prevent_pod_scheduling_if_missing.unwrap_or_default()) {
            return true;
        }
        node.is_some_and(|node| node.spec.drivers.iter().any(|d| d.name == driver))
    }

    /// `getNodeVolumeAttachmentInfo`.
    fn attachments(&self, node: &str) -> Volumes {
        let mut attached = Volumes::new();
        for attachment in self.listers.attachments.list().iter().filter(|a| a.spec.node_name == node) {
            let Some(name) = &attachment.spec.source.persistent_volume_name else { continue };
            let volume = self.listers.volumes.get("", name);
            if let Some(csi) = volume.as_ref().and_then(|v| v.spec.as_ref()?.csi.as_ref()) {
                let attacher = &attachment.spec.attacher;
                attached.insert(format!("{attacher}/{}", csi.volume_handle), attacher.clone());
            }
        }
        attached
    }
}

fn has_claims(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

/// How many volumes a node attaches, by driver; none for drivers without a limit.
fn limits(node: Option<&CSINode>) -> HashMap<String, i64> {
    let drivers = node.map(|node| node.spec.drivers.as_slice()).unwrap_or_default();
    drivers
        .iter()
        .filter_map(|driver| Some((driver.name.clone(), i64::from(driver.allocatable.as_ref()?.count?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, claim: &str) -> Arc<PodInfo> {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        let metadata = json!({"name": uid, "namespace": "n", "uid": uid});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "volumes": volumes}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn check(limit: i32, running: &[&str], wanted: &str, expected: bool) {
        let listers = Listers::fake();
        let driver = json!({"name": "d", "nodeID": "a", "allocatable": {"count": limit}});
        let csi_node = json!({"metadata": {"name": "a"}, "spec": {"drivers": [driver]}});
        listers.csi_nodes.put(serde_json::from_value(csi_node).unwrap());
        for name in ["x", "y"] {
            let claim = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"volumeName": name}});
            listers.claims.informer.put(serde_json::from_value(claim).unwrap());
            let spec = json!({"csi": {"driver": "d", "volumeHandle": name}});
            listers
                .volumes
                .informer
                .put(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap());
        }
        let mut node = NodeInfo::new(Arc::new(serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap()));
        running.iter().for_each(|claim| node.add(pod(claim, claim)));
        let check = Limits { pod: pod("p", wanted), listers: Arc::new(listers) };
        assert_eq!(check.check(&node).is_ok(), expected, "{limit} {running:?} {wanted}");
    }

    #[test]
    fn volumes_of_a_driver_are_counted_once_each() {
        check(1, &[], "x", true);
        check(1, &["y"], "x", false);
        check(1, &["x"], "x", true);
        check(2, &["y"], "x", true);
    }
}
