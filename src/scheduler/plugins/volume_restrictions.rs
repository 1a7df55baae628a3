//! `VolumeRestrictions`: volumes that only one pod may use (upstream `plugins/volumerestrictions`).

use std::collections::BTreeSet;
use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::core::v1::{Pod, Volume};

use super::volume_binding::uses;
use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct VolumeRestrictions;

#[derive(Clone)]
struct Restricted {
    pod: Arc<PodInfo>,
    /// Claims of the pod that allow one pod in the whole cluster.
    exclusive: Arc<BTreeSet<String>>,
    /// How often other pods use one of them.
    conflicts: i64,
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        let mut exclusive = BTreeSet::new();
        for name in claims(&pod.pod) {
            let Some(claim) = world.listers.claims.get(pod.namespace(), name) else {
                return Prepared::Rejected(Rejection::unresolvable(format!(
                    "persistentvolumeclaim \"{name}\" not found"
                )));
            };
            let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                exclusive.insert(name.to_owned());
            }
        }
        let mut state = Restricted { pod: pod.clone(), exclusive: Arc::new(exclusive), conflicts: 0 };
        if !state.exclusive.is_empty() {
            let running = world.snapshot.nodes().iter().flat_map(|node| &node.pods);
            let used: BTreeSet<&str> = running
                .filter(|other| other.namespace() == pod.namespace())
                .flat_map(|other| claims(&other.pod))
                .filter(|name| state.exclusive.contains(*name))
                .collect();
            state.conflicts = i64::try_from(used.len()).unwrap_or(i64::MAX);
        }
        if state.conflicts == 0 && !pod.volumes().iter().any(is_restricted) {
            return Prepared::Skip;
        }
        Prepared::Check(Box::new(state))
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::AssignedPod(Change::Deleted(gone)) => {
                gone.namespace() == pod.namespace()
                    && (volumes(pod).iter().any(|volume| conflicts(volume, gone))
                        || claims(gone).any(|held| claims(pod).any(|wanted| wanted == held)))
            }
            ClusterEvent::Node(Change::Added(_)) => true,
            ClusterEvent::Claim(Change::Added(claim)) => uses(pod, claim),
            _ => false,
        }
    }
}

impl Restricted {
    fn shift(&mut self, pod: &PodInfo, by: i64) {
        if pod.namespace() == self.pod.namespace() {
            let held = claims(&pod.pod).filter(|name| self.exclusive.contains(*name)).count();
            self.conflicts += by * i64::try_from(held).unwrap_or(i64::MAX);
        }
    }
}

impl Check for Restricted {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let mut restricted = self.pod.volumes().iter().filter(|volume| is_restricted(volume));
        if restricted.any(|volume| node.pods.iter().any(|other| conflicts(volume, &other.pod))) {
            return Err(Rejection::new("node(s) had no available disk"));
        }
        if self.conflicts > 0 {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already \
                          in-use by another pod";
            return Err(Rejection::new(reason));
        }
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.shift(pod, 1);
    }

    fn remove_pod(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.shift(pod, -1);
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default()
}

fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    volumes(pod).iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()).map(|c| c.claim_name.as_str())
}

fn is_restricted(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.rbd.is_some()
        || volume.iscsi.is_some()
}

/// `isVolumeConflict`: the same disk, unless both only read (and the kind can share then).
fn conflicts(volume: &Volume, pod: &Pod) -> bool {
    let both = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    volumes(pod).iter().any(|other| {
        let gce = volume.gce_persistent_disk.as_ref().zip(other.gce_persistent_disk.as_ref());
        let aws = volume.aws_elastic_block_store.as_ref().zip(other.aws_elastic_block_store.as_ref());
        let iscsi = volume.iscsi.as_ref().zip(other.iscsi.as_ref());
        let rbd = volume.rbd.as_ref().zip(other.rbd.as_ref());
        gce.is_some_and(|(a, b)| a.pd_name == b.pd_name && !both(a.read_only, b.read_only))
            || aws.is_some_and(|(a, b)| a.volume_id == b.volume_id)
            || iscsi.is_some_and(|(a, b)| a.iqn == b.iqn && !both(a.read_only, b.read_only))
            || rbd.is_some_and(|(a, b)| {
                a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
                    && a.pool == b.pool
                    && a.image == b.image
                    && !both(a.read_only, b.read_only)
            })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{Cache, Snapshot};

    fn pod(uid: &str, volume: Value) -> Arc<PodInfo> {
        let metadata = json!({"name": uid, "namespace": "n", "uid": uid});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "volumes": [volume]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn check(wanted: Value, held: Value, expected: Option<&str>) {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        cache.set_node(&Arc::new(serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap()));
        cache.place("a", pod("held", held));
        cache.update(&mut snapshot);
        let listers = Arc::new(Listers::fake());
        let claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"accessModes": ["ReadWriteOncePod"]}});
        listers.claims.informer.put(serde_json::from_value(claim).unwrap());
        let world = World { snapshot: &snapshot, listers: &listers };
        let reason = match VolumeRestrictions.prepare(&pod("p", wanted.clone()), world) {
            Prepared::Check(check) => check.check(&snapshot.nodes()[0]).err().map(|r| r.reasons[0].clone()),
            _ => None,
        };
        assert_eq!(reason.is_some(), expected.is_some(), "{wanted}");
        assert!(reason.unwrap_or_default().contains(expected.unwrap_or_default()));
    }

    #[test]
    fn exclusive_claims_and_disks_are_used_once() {
        let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        check(claim.clone(), claim.clone(), Some("ReadWriteOncePod"));
        check(claim, json!({"name": "v", "emptyDir": {}}), None);
        let disk = |read_only: bool| json!({"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}});
        check(disk(false), disk(true), Some("no available disk"));
        check(disk(true), disk(true), None);
    }
}
