//! `VolumeZone`: bound volumes that carry zone labels keep their pods in those zones (upstream `plugins/volumezone`).

use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::core::v1::{PersistentVolume, Pod};

use super::volume_binding::{class_of, uses};
use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct VolumeZone;

/// Each label with the one that replaced it.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// A label of a volume, with the values that do (several are written `a__b`).
#[derive(Clone, PartialEq, Eq)]
struct Topology {
    label: &'static str,
    current: &'static str,
    values: Vec<String>,
}

#[derive(Clone)]
struct Zones(Arc<Vec<Topology>>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        match of_pod(pod, world.listers) {
            Ok(zones) if zones.is_empty() => Prepared::Skip,
            Ok(zones) => Prepared::Check(Box::new(Zones(Arc::new(zones)))),
            Err(rejection) => Prepared::Rejected(rejection),
        }
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::StorageClass(Change::Added(class)) => {
                class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
            }
            ClusterEvent::Node(Change::Added(_)) => true,
            ClusterEvent::Node(Change::Updated { old, new }) => old.metadata.labels != new.metadata.labels,
            ClusterEvent::Claim(change) => change.now().is_some_and(|claim| uses(pod, claim)),
            ClusterEvent::Volume(change) => {
                change.now().is_some_and(|new| change.old().is_none_or(|old| topologies(old) != topologies(new)))
            }
            _ => false,
        }
    }
}

impl Check for Zones {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        // A node without zones (one box, mostly) is not held to them.
        if LABELS.iter().all(|(label, _)| node.label(label).is_none()) {
            return Ok(());
        }
        let fits = |topology: &Topology| {
            let value = node.label(topology.label).or_else(|| node.label(topology.current));
            value.is_some_and(|value| topology.values.iter().any(|v| v == value))
        };
        if self.0.iter().all(fits) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) had no available volume zone"))
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

/// `getPVbyPod`.
fn of_pod(pod: &PodInfo, listers: &Listers) -> Result<Vec<Topology>, Rejection> {
    let mut all = Vec::new();
    for claimed in pod.volumes().iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
        let name = &claimed.claim_name;
        let missing = |text: String| Rejection::unresolvable(text);
        let claim = listers
            .claims
            .get(pod.namespace(), name)
            .ok_or_else(|| missing(format!("persistentvolumeclaim \"{name}\" not found")))?;
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        if !volume.is_empty() {
            let volume = listers
                .volumes
                .get("", volume)
                .ok_or_else(|| missing(format!("persistentvolume \"{volume}\" not found")))?;
            all.extend(topologies(&volume));
            continue;
        }
        let class = class_of(&claim);
        if class.is_empty() {
            return Err(missing("PersistentVolumeClaim had no pv name and storageClass name".to_owned()));
        }
        let found = listers
            .classes
            .get("", class)
            .ok_or_else(|| missing(format!("storageclass.storage.k8s.io \"{class}\" not found")))?;
        match found.volume_binding_mode.as_deref() {
            Some("WaitForFirstConsumer") => {}
            Some(_) => return Err(missing("PersistentVolume had no name".to_owned())),
            None => return Err(missing(format!("VolumeBindingMode not set for StorageClass \"{class}\""))),
        }
    }
    Ok(all)
}

fn topologies(volume: &PersistentVolume) -> Vec<Topology> {
    let of = |(label, current): (&'static str, &'static str)| {
        let values: Vec<String> = volume.label(label)?.split("__").map(str::trim).map(str::to_owned).collect();
        // An empty zone makes the label meaningless, and upstream ignores it.
        (!values.iter().any(String::is_empty)).then_some(Topology { label, current, values })
    };
    LABELS.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(volume_labels: Value, node_labels: Value, expected: bool) {
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"labels": volume_labels}})).unwrap();
        let node = json!({"metadata": {"name": "a", "labels": node_labels}});
        let node = NodeInfo::new(Arc::new(serde_json::from_value(node).unwrap()));
        assert_eq!(Zones(Arc::new(topologies(&volume))).check(&node).is_ok(), expected, "{volume_labels}");
    }

    #[test]
    fn zones_of_volume_and_node_must_meet() {
        let zone = "topology.kubernetes.io/zone";
        let beta = "failure-domain.beta.kubernetes.io/zone";
        check(json!({zone: "a"}), json!({zone: "a"}), true);
        check(json!({zone: "a"}), json!({zone: "b"}), false);
        check(json!({zone: "a__b"}), json!({zone: "b"}), true);
        check(json!({beta: "a"}), json!({zone: "a"}), true);
        check(json!({zone: "a"}), json!({}), true);
    }
}
